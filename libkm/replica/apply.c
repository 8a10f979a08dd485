/* SPDX-License-Identifier: MIT */
#include "libkm/replica/apply.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

__attribute__((format(printf, 3, 4))) static void refuse(struct refusals *f, int error,
							 const char *fmt, ...)
{
	size_t left = sizeof f->text - f->len;
	va_list ap;
	int n;

	if (!f->n++)
		f->first = error;
	if (f->len && left > 3) {
		memcpy(f->text + f->len, "; ", 3);
		f->len += 2;
		left -= 2;
	}
	va_start(ap, fmt);
	n = vsnprintf(f->text + f->len, left, fmt, ap);
	va_end(ap);
	f->len = n > 0 && (size_t)n < left ? f->len + (size_t)n : sizeof f->text - 1;
}

/* ---- the hooks ---- */

static int call_hook(const struct km_replica *r, enum kind kind, const void *was, const void *is,
		     struct km_errtext *err)
{
	const struct km_replica_hooks *h = &r->hooks;

	switch (kind) {
	case KIND_TUNNEL:
		return h->tunnel ? h->tunnel(r->arg, was, is, err) : 0;
	case KIND_AGENT:
		return h->agent ? h->agent(r->arg, was, is, err) : 0;
	case KIND_GATEWAY:
		return h->gateway ? h->gateway(r->arg, was, is, err) : 0;
	case KIND_GATEWAY_SELF:
		return h->gateway_self ? h->gateway_self(r->arg, was, is, err) : 0;
	case KIND_AGENT_SELF:
		return h->agent_self ? h->agent_self(r->arg, was, is, err) : 0;
	}
	return 0;
}

/* Brings the hook from what it took last to what is wanted, and forgets an item that has gone. */
static void give(struct km_replica *r, enum kind kind, struct item *item, struct refusals *f)
{
	struct km_errtext why = {""};
	int e;

	if (!r->loading && item->applied != item->now) {
		e = call_hook(r, kind, item->applied, item->now, &why);
		if (e)
			refuse(f, e, "%s %s: %s", km_item_kinds[kind].name, item->id,
			       why.text[0] ? why.text : km_strerror(e));
		else
			km_item_taken(kind, item);
	}
	if (!item->now && (r->loading || !item->applied))
		km_item_remove(kind, &r->maps[kind], item);
}

/* What comes or changes; what goes has been given by then. */
static void give_all(struct km_replica *r, enum kind kind, struct refusals *f)
{
	struct item *item, *next;

	HASH_ITER (hh, r->maps[kind], item, next) {
		if (item->now)
			give(r, kind, item, f);
	}
}

static void settle(struct km_replica *r, struct refusals *f)
{
	struct km_errtext why = {""};
	int e = !r->loading && r->hooks.settled ? r->hooks.settled(r->arg, &why) : 0;

	if (e)
		refuse(f, e, "%s", why.text[0] ? why.text : km_strerror(e));
}

/* ---- a whole configuration ---- */

static void go_before(struct km_replica *r, struct item *const fresh[N_KINDS], size_t *differ,
		      struct refusals *f)
{
	struct item *item, *next;

	for (enum kind k = 0; k < N_KINDS; k++) {
		HASH_ITER (hh, r->maps[k], item, next) {
			if (km_item_find(fresh[k], item->id))
				continue;
			*differ += km_item_want(k, item, NULL);
			give(r, k, item, f);
		}
	}
}

static int config_check(const struct km_msg_config *c, struct km_errtext *err)
{
	if (!c->epoch[0])
		return km_errtext_set(err, KM_EINVAL, "epoch: empty");
	if (!c->agent == !c->gateway)
		return km_errtext_set(err, KM_EINVAL,
				      "names %s agent and gateway, it must name one of them",
				      c->agent ? "both" : "neither");
	return 0;
}

static bool thing_ok(enum kind kind, const json_t *v, struct km_errtext *why)
{
	union {
		struct km_msg_tunnel tunnel;
		struct km_msg_agent agent;
		struct km_msg_gateway gateway;
	} thing;
	int e = km_msg_parse(km_item_kinds[kind].desc, &thing, v, why);

	if (!e)
		km_msg_clear(km_item_kinds[kind].desc, &thing);
	return !e;
}

/* What we want of the thing so far, as JSON; NULL: nothing. */
static json_t *thing_so_far(const struct km_replica *r, enum kind kind, const json_t *v)
{
	const char *id = json_string_value(json_object_get(v, "id"));
	const struct item *item = id ? km_item_find(r->maps[kind], id) : NULL;

	return item && item->now ? km_msg_format(km_item_kinds[kind].desc, item->now) : NULL;
}

/* A `config` in which each thing that is malformed has become what it was so far, or is left out:
 * control may be newer than we are, and one thing that we do not understand shall not keep us from
 * the others. NULL: no memory. */
static json_t *salvage(const struct km_replica *r, const json_t *data, struct refusals *f)
{
	json_t *out = json_copy((json_t *)data);

	json_object_del(out, "certificates"); /* not ours */
	for (enum kind k = 0; k < N_KINDS; k++) {
		const struct kind_info *info = &km_item_kinds[k];
		json_t *list = json_object_get(data, info->json), *good, *v, *old;
		struct km_errtext why;
		size_t i;

		if (!info->n_in_config || !json_is_array(list))
			continue;
		good = json_array();
		json_array_foreach(list, i, v)
		{
			if (thing_ok(k, v, &why)) {
				json_array_append(good, v);
				continue;
			}
			refuse(f, KM_EINVAL, "%s[%zu].%s", info->json, i, why.text);
			old = thing_so_far(r, k, v);
			if (old)
				json_array_append_new(good, old);
		}
		json_object_set_new(out, info->json, good);
	}
	return out;
}

static int parse_config(const struct km_replica *r, struct km_msg_config *c, const json_t *data,
			struct refusals *f, struct km_errtext *err)
{
	int e = km_msg_parse(&km_msg_desc_config, c, data, err);
	json_t *rest;

	if (e != KM_EINVAL || !json_is_object(data))
		return e;
	rest = salvage(r, data, f);
	e = rest ? km_msg_parse(&km_msg_desc_config, c, rest, err) : KM_ENOMEM;
	json_decref(rest);
	return e;
}

int km_apply_config(struct km_replica *r, const json_t *data, size_t *differ, struct refusals *f,
		    struct km_errtext *err)
{
	struct item *fresh[N_KINDS] = {NULL};
	struct km_msg_config c;
	int e;

	e = parse_config(r, &c, data, f, err);
	if (e)
		return e;
	e = config_check(&c, err);
	for (enum kind k = 0; k < N_KINDS && !e; k++)
		e = km_item_map_from_config(k, &fresh[k], &c, err);
	if (e)
		goto out;

	*differ = strcmp(r->epoch, c.epoch) || r->revision != c.revision;
	go_before(r, fresh, differ, f);
	for (enum kind k = 0; k < N_KINDS; k++) {
		*differ += km_item_merge(k, &fresh[k], &r->maps[k]);
		r->maps[k] = fresh[k];
		fresh[k] = NULL;
	}
	for (enum kind k = N_KINDS; k-- > 0;)
		give_all(r, k, f);
	snprintf(r->epoch, sizeof r->epoch, "%s", c.epoch);
	r->revision = c.revision;
	settle(r, f);
out:
	for (enum kind k = 0; k < N_KINDS; k++)
		km_item_map_free(k, &fresh[k]);
	km_msg_clear(&km_msg_desc_config, &c);
	return e;
}

/* ---- one change ---- */

static const struct verb {
	const char *type;
	enum kind kind;
	bool gone;
} verbs[] = {
    {"tunnel_create", KIND_TUNNEL, false},   {"tunnel_update", KIND_TUNNEL, false},
    {"tunnel_delete", KIND_TUNNEL, true},    {"agent_create", KIND_AGENT, false},
    {"agent_update", KIND_AGENT, false},     {"agent_delete", KIND_AGENT, true},
    {"gateway_create", KIND_GATEWAY, false}, {"gateway_update", KIND_GATEWAY, false},
    {"gateway_delete", KIND_GATEWAY, true},
};

static const struct verb *verb_find(const char *type)
{
	for (size_t i = 0; i < KM_ARRAY_LEN(verbs); i++) {
		if (!strcmp(verbs[i].type, type))
			return &verbs[i];
	}
	return NULL;
}

static void **change_thing(struct km_msg_change *c, enum kind kind)
{
	return (void **)((char *)c + km_item_kinds[kind].in_change);
}

/* The id that the change is about; NULL: malformed, err says how. */
static const char *change_id(struct km_msg_change *c, const struct verb *v, struct km_errtext *err)
{
	const char *name = km_item_kinds[v->kind].name;
	void *thing = *change_thing(c, v->kind);
	const char *id = v->gone ? c->id : NULL;

	if (thing)
		id = *(char **)thing;
	if (!!c->tunnel + !!c->agent + !!c->gateway != !!thing)
		km_errtext_set(err, KM_EINVAL, "names another thing than the %s of its type", name);
	else if (!v->gone && !thing)
		km_errtext_set(err, KM_EINVAL, "%s: missing", name);
	else if (!id)
		km_errtext_set(err, KM_EINVAL, "id: missing");
	else if (c->id && strcmp(c->id, id))
		km_errtext_set(err, KM_EINVAL, "id: another than that of the %s", name);
	else if (c->revision <= c->previous)
		km_errtext_set(err, KM_EINVAL, "revision: %lld does not follow the previous %lld",
			       (long long)c->revision, (long long)c->previous);
	else
		return id;
	return NULL;
}

/* previous is the last revision that was sent to us: all between it and revision concerns others.
 * So a change fits when we have at least previous. */
static int change_fits(const struct km_replica *r, const struct km_msg_change *c,
		       struct km_errtext *err)
{
	if (!r->epoch[0] || strcmp(r->epoch, c->epoch))
		return km_errtext_set(err, KM_EGAP, "a change of epoch %s, ours is %s", c->epoch,
				      r->epoch[0] ? r->epoch : "not known");
	if (c->previous > r->revision)
		return km_errtext_set(err, KM_EGAP, "revision %lld follows %lld, ours is %lld",
				      (long long)c->revision, (long long)c->previous,
				      (long long)r->revision);
	return 0;
}

static int put(struct km_replica *r, enum kind kind, const char *id, void **thing,
	       struct refusals *f, struct km_errtext *err)
{
	struct item **map = &r->maps[kind], *item = km_item_find(*map, id);

	if (item) {
		km_item_want(kind, item, *thing);
	} else {
		if (HASH_COUNT(*map) >= km_item_kinds[kind].max)
			return km_errtext_set(err, KM_EFULL, "more than %zu %s",
					      km_item_kinds[kind].max, km_item_kinds[kind].json);
		item = km_item_add(map, id, *thing);
		if (!item)
			return km_errtext_set(err, KM_ENOMEM, "no memory for a %s",
					      km_item_kinds[kind].name);
	}
	*thing = NULL;
	give(r, kind, item, f);
	return 0;
}

static void take_away(struct km_replica *r, enum kind kind, const char *id, struct refusals *f)
{
	struct item *item = km_item_find(r->maps[kind], id);

	if (!item)
		return;
	km_item_want(kind, item, NULL);
	give(r, kind, item, f);
}

/* A change that is malformed counts as refused, so that those after it fit, as long as it says
 * where it belongs. *err says what is wrong with it. */
static int skip_change(struct km_replica *r, const struct verb *v, const json_t *data,
		       size_t *differ, struct refusals *f, struct km_errtext *err)
{
	json_t *place = json_pack("{s:O*, s:O*, s:O*}", "epoch", json_object_get(data, "epoch"),
				  "previous", json_object_get(data, "previous"), "revision",
				  json_object_get(data, "revision"));
	struct km_errtext why = *err;
	struct km_msg_change c;
	int e = KM_EINVAL;

	if (!place || km_msg_parse(&km_msg_desc_change, &c, place, NULL))
		goto out;
	if (c.revision > c.previous)
		e = change_fits(r, &c, err);
	if (!e && c.revision > r->revision) {
		refuse(f, KM_EINVAL, "%s: %s", v->type, why.text);
		r->revision = c.revision;
		*differ = 1;
	}
	km_msg_clear(&km_msg_desc_change, &c);
out:
	json_decref(place);
	return e;
}

int km_apply_change(struct km_replica *r, const char *type, const json_t *data, json_t **clean,
		    size_t *differ, struct refusals *f, struct km_errtext *err)
{
	const struct verb *v = verb_find(type);
	struct km_msg_change c;
	json_t *line = NULL;
	char id[KM_UUID_STRLEN];
	const char *which;
	int e;

	*clean = NULL;
	if (!v)
		return km_errtext_set(err, KM_ENOTFOUND, "%s is not a change", type);
	e = km_msg_parse(&km_msg_desc_change, &c, data, err);
	if (e)
		return e == KM_EINVAL ? skip_change(r, v, data, differ, f, err) : e;
	which = change_id(&c, v, err);
	e = which ? change_fits(r, &c, err) : skip_change(r, v, data, differ, f, err);
	if (e || !which || c.revision <= r->revision)
		goto out;
	snprintf(id, sizeof id, "%s", which);
	line = km_msg_format(&km_msg_desc_change, &c);
	e = line ? 0 : km_errtext_set(err, KM_ENOMEM, "no memory for a change");
	if (!e && v->gone)
		take_away(r, v->kind, id, f);
	else if (!e)
		e = put(r, v->kind, id, change_thing(&c, v->kind), f, err);
	if (e)
		goto out;
	r->revision = c.revision;
	settle(r, f);
	*clean = line;
	line = NULL;
out:
	json_decref(line);
	km_msg_clear(&km_msg_desc_change, &c);
	return e;
}

/* ---- everything ---- */

void km_apply_all(struct km_replica *r, struct refusals *f)
{
	struct item *item, *next;

	for (enum kind k = N_KINDS; k-- > 0;) {
		HASH_ITER (hh, r->maps[k], item, next) {
			if (!item->now) {
				km_item_remove(k, &r->maps[k], item);
				continue;
			}
			km_item_forget(k, item);
			give(r, k, item, f);
		}
	}
	settle(r, f);
}
