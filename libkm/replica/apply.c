/* SPDX-License-Identifier: MIT */
#include "libkm/replica/apply.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- what stands refused ---- */

#define MORE_MAX 32 /* bytes of "; and N more" */

static void refuse(struct refusals *f, int error, const char *what, const char *why)
{
	size_t left = sizeof f->text - MORE_MAX - f->len;
	int n;

	if (!f->n++)
		f->first = error;
	if (f->held) {
		f->held++;
		return;
	}
	n = snprintf(f->text + f->len, left, "%s%s%s", f->len ? "; " : "", what, why);
	if (n > 0 && (size_t)n < left) {
		f->len += (size_t)n;
	} else {
		f->text[f->len] = 0;
		f->held = 1;
	}
}

static void refuse_item(struct refusals *f, enum kind kind, const struct item *item)
{
	char what[KM_UUID_STRLEN + 32];

	snprintf(what, sizeof what, "%s %s: ", km_item_kinds[kind].name, item->id);
	refuse(f, item->error, what, item->why ? item->why : km_strerror(item->error));
}

void km_apply_refusals(struct km_replica *r, struct refusals *f)
{
	const struct malformed *m;
	const struct item *item;

	bool found = false;

	memset(f, 0, sizeof *f);
	for (m = r->malformed; m; m = m->next)
		refuse(f, KM_EINVAL, "", m->text);
	for (enum kind k = N_KINDS; k-- > 0 && r->refused;)
		for (item = r->maps[k]; item; item = item->hh.next)
			if (item->error) {
				refuse_item(f, k, item);
				found = true;
			}
	r->refused = found;
	if (r->unsettled_error)
		refuse(f, r->unsettled_error, "", r->unsettled.text);
	if (f->held)
		f->len += (size_t)snprintf(f->text + f->len, MORE_MAX, "%sand %zu more",
					   f->len ? "; " : "", f->held);
}

/* Takes the entries of this id, or all where id is NULL, out of the list. */
static void forget_malformed(struct km_replica *r, const char *id)
{
	struct malformed **at = &r->malformed, *m;

	while ((m = *at)) {
		if (id && strcmp(m->id, id)) {
			at = &m->next;
			continue;
		}
		*at = m->next;
		r->n_malformed--;
		free(m);
	}
}

void km_apply_forget_malformed(struct km_replica *r)
{
	forget_malformed(r, NULL);
}

/* id NULL: not known. The oldest makes room; without memory it is not remembered. */
__attribute__((format(printf, 3, 4))) static void
note_malformed(struct km_replica *r, const char *id, const char *fmt, ...)
{
	struct malformed **at, *m;
	va_list ap;

	if (id)
		forget_malformed(r, id);
	if (r->n_malformed >= REPLICA_MALFORMED_MAX) {
		m = r->malformed;
		r->malformed = m->next;
		r->n_malformed--;
		free(m);
	}
	m = calloc(1, sizeof *m);
	if (!m)
		return;
	snprintf(m->id, sizeof m->id, "%s", id ? id : "");
	va_start(ap, fmt);
	vsnprintf(m->text, sizeof m->text, fmt, ap);
	va_end(ap);
	for (at = &r->malformed; *at; at = &(*at)->next)
		;
	*at = m;
	r->n_malformed++;
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
static void give(struct km_replica *r, enum kind kind, struct item *item)
{
	struct km_errtext why = {""};
	int e;

	if (!r->loading && item->applied != item->now) {
		e = call_hook(r, kind, item->applied, item->now, &why);
		if (e) {
			km_item_refused(item, e, why.text[0] ? why.text : NULL);
			r->refused = true;
		} else {
			km_item_taken(kind, item);
		}
	}
	if (!item->now && (r->loading || !item->applied))
		km_item_remove(kind, &r->maps[kind], item);
}

/* What comes or changes; what goes has been given by then. */
static void give_all(struct km_replica *r, enum kind kind)
{
	struct item *item, *next;

	HASH_ITER (hh, r->maps[kind], item, next) {
		if (item->now)
			give(r, kind, item);
	}
}

static void settle(struct km_replica *r)
{
	struct km_errtext why = {""};
	int e = !r->loading && r->hooks.settled ? r->hooks.settled(r->arg, &why) : 0;

	r->unsettled_error = e;
	if (e)
		km_errtext_set(&r->unsettled, e, "%s", why.text[0] ? why.text : km_strerror(e));
}

/* ---- a whole configuration ---- */

static void go_before(struct km_replica *r, struct item *const fresh[N_KINDS], size_t *differ)
{
	struct item *item, *next;

	for (enum kind k = 0; k < N_KINDS; k++) {
		HASH_ITER (hh, r->maps[k], item, next) {
			if (km_item_find(fresh[k], item->id))
				continue;
			*differ += km_item_want(k, item, NULL);
			give(r, k, item);
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

/* NULL: it has none that could be one. */
static const char *id_of(const json_t *v)
{
	const char *id = json_string_value(json_object_get(v, "id"));

	return id && km_uuid_ok(id) ? id : NULL;
}

/* What we want of the thing so far, as JSON; NULL: nothing. */
static json_t *thing_so_far(const struct km_replica *r, enum kind kind, const json_t *v)
{
	const char *id = id_of(v);
	const struct item *item = id ? km_item_find(r->maps[kind], id) : NULL;

	return item && item->now ? km_msg_format(km_item_kinds[kind].desc, item->now) : NULL;
}

/* A `config` in which each thing that is malformed has become what it was so far, or is left out:
 * control may be newer than we are, and one thing that we do not understand shall not keep us from
 * the others. NULL: no memory. */
static json_t *salvage(struct km_replica *r, const json_t *data)
{
	json_t *out = json_copy((json_t *)data);

	json_object_del(out, "certificates"); /* not ours */
	forget_malformed(r, NULL);
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
			note_malformed(r, id_of(v), "%s[%zu].%s", info->json, i, why.text);
			old = thing_so_far(r, k, v);
			if (old)
				json_array_append_new(good, old);
		}
		json_object_set_new(out, info->json, good);
	}
	return out;
}

static int parse_config(struct km_replica *r, struct km_msg_config *c, const json_t *data,
			struct km_errtext *err)
{
	int e = km_msg_parse(&km_msg_desc_config, c, data, err);
	json_t *rest;

	if (!e)
		forget_malformed(r, NULL);
	if (e != KM_EINVAL || !json_is_object(data))
		return e;
	rest = salvage(r, data);
	e = rest ? km_msg_parse(&km_msg_desc_config, c, rest, err) : KM_ENOMEM;
	json_decref(rest);
	return e;
}

int km_apply_config(struct km_replica *r, const json_t *data, size_t *differ,
		    struct km_errtext *err)
{
	struct item *fresh[N_KINDS] = {NULL};
	struct km_msg_config c;
	int e;

	e = parse_config(r, &c, data, err);
	if (e)
		return e;
	e = config_check(&c, err);
	for (enum kind k = 0; k < N_KINDS && !e; k++)
		e = km_item_map_from_config(k, &fresh[k], &c, err);
	if (e)
		goto out;

	*differ = strcmp(r->epoch, c.epoch) || r->revision != c.revision;
	go_before(r, fresh, differ);
	for (enum kind k = 0; k < N_KINDS; k++) {
		*differ += km_item_merge(k, &fresh[k], &r->maps[k]);
		r->maps[k] = fresh[k];
		fresh[k] = NULL;
	}
	for (enum kind k = N_KINDS; k-- > 0;)
		give_all(r, k);
	snprintf(r->epoch, sizeof r->epoch, "%s", c.epoch);
	r->revision = c.revision;
	settle(r);
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
	       struct km_errtext *err)
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
	give(r, kind, item);
	return 0;
}

static void take_away(struct km_replica *r, enum kind kind, const char *id)
{
	struct item *item = km_item_find(r->maps[kind], id);

	if (!item)
		return;
	km_item_want(kind, item, NULL);
	give(r, kind, item);
}

static const char *id_in_change(const struct verb *v, const json_t *data)
{
	const json_t *thing = json_object_get(data, km_item_kinds[v->kind].name);

	return id_of(v->gone ? data : thing);
}

/* A change that is malformed counts as refused, so that those after it fit, as long as it says
 * where it belongs. *err says what is wrong with it. */
static int skip_change(struct km_replica *r, const struct verb *v, const json_t *data,
		       size_t *differ, struct km_errtext *err)
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
		note_malformed(r, id_in_change(v, data), "%s: %s", v->type, why.text);
		r->revision = c.revision;
		*differ = 1;
	}
	km_msg_clear(&km_msg_desc_change, &c);
out:
	json_decref(place);
	return e;
}

int km_apply_change(struct km_replica *r, const char *type, const json_t *data, json_t **clean,
		    size_t *differ, struct km_errtext *err)
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
		return e == KM_EINVAL ? skip_change(r, v, data, differ, err) : e;
	which = change_id(&c, v, err);
	e = which ? change_fits(r, &c, err) : skip_change(r, v, data, differ, err);
	if (e || !which || c.revision <= r->revision)
		goto out;
	snprintf(id, sizeof id, "%s", which);
	line = km_msg_format(&km_msg_desc_change, &c);
	e = line ? 0 : km_errtext_set(err, KM_ENOMEM, "no memory for a change");
	if (!e && v->gone)
		take_away(r, v->kind, id);
	else if (!e)
		e = put(r, v->kind, id, change_thing(&c, v->kind), err);
	if (e)
		goto out;
	forget_malformed(r, id);
	r->revision = c.revision;
	settle(r);
	*clean = line;
	line = NULL;
out:
	json_decref(line);
	km_msg_clear(&km_msg_desc_change, &c);
	return e;
}

/* ---- everything ---- */

void km_apply_all(struct km_replica *r)
{
	struct item *item, *next;

	for (enum kind k = N_KINDS; k-- > 0;) {
		HASH_ITER (hh, r->maps[k], item, next) {
			if (!item->now) {
				km_item_remove(k, &r->maps[k], item);
				continue;
			}
			km_item_forget(k, item);
			give(r, k, item);
		}
	}
	settle(r);
}
