/* SPDX-License-Identifier: MIT */
#include "libkm/replica/replica.h"

#include "libkm/base/log.h"
#include "libkm/replica/disk.h"
#include "libkm/replica/item.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define EPOCH_MAX 64 /* bytes, as in messages.def */

struct km_replica {
	struct km_replica_hooks hooks;
	void *arg;
	bool loading; /* from disk: the hooks get everything together at the end */
	char epoch[EPOCH_MAX + 1];
	int64_t revision;
	struct item *maps[N_KINDS];
	struct disk disk;
};

/* What the hooks refused during one message: for config_ack. */
struct refusals {
	char text[2049];
	size_t len, n;
	int first; /* its error */
};

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

/* *differ: how much was new in it, the epoch and the revision included. */
static int apply_config(struct km_replica *r, const json_t *data, size_t *differ,
			struct refusals *f, struct km_errtext *err)
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

/* *clean: the change as it goes into the journal, the caller's reference; NULL: it was applied
 * already, or refused as a whole, and then *differ is set: a new snapshot must tell of it. */
static int apply_change(struct km_replica *r, const struct verb *v, const json_t *data,
			json_t **clean, size_t *differ, struct refusals *f, struct km_errtext *err)
{
	struct km_msg_change c;
	json_t *line = NULL;
	char id[KM_UUID_STRLEN];
	const char *which;
	int e;

	*clean = NULL;
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

/* ---- to disk ---- */

static int add_json(struct km_buf *out, json_t *v)
{
	char *text = v ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
	int e = text ? km_buf_adds(out, text) : KM_ENOMEM;

	free(text);
	json_decref(v);
	return e;
}

/* `"tunnels": [` one line for each `]`, or `"agent": {…}`, behind a comma. */
static int add_kind(const struct km_replica *r, enum kind kind, struct km_buf *out)
{
	const struct kind_info *info = &km_item_kinds[kind];
	const char *part = info->n_in_config ? "[\n" : "";
	const struct item *item;
	int e = 0;

	if (!r->maps[kind])
		return 0;
	e = km_buf_addf(out, ",\n\"%s\": ", info->json);
	for (item = r->maps[kind]; item && !e; item = item->hh.next) {
		if (!item->now)
			continue;
		e = km_buf_adds(out, part);
		if (!e)
			e = add_json(out, km_msg_format(info->desc, item->now));
		part = ",\n";
	}
	if (!e && info->n_in_config)
		e = km_buf_adds(out, part[0] == '[' ? "[]" : "]");
	return e;
}

static int write_snapshot(struct km_replica *r)
{
	char id[KM_UUID_STRLEN];
	struct km_buf text;
	int e;

	km_buf_init(&text, REPLICA_SNAPSHOT_MAX);
	e = km_disk_snapshot_begin(&text, id);
	if (!e)
		e = km_buf_adds(&text, "\"epoch\": ");
	if (!e)
		e = add_json(&text, json_string(r->epoch));
	if (!e)
		e = km_buf_addf(&text, ", \"revision\": %lld", (long long)r->revision);
	for (enum kind k = N_KINDS; k-- > 0 && !e;)
		e = add_kind(r, k, &text);
	if (!e)
		e = km_buf_adds(&text, "}\n");
	if (!e)
		e = km_disk_snapshot_write(&r->disk, &text, id);
	else
		r->disk.bad = true;
	km_buf_free(&text);
	return e;
}

/* change NULL: only what an earlier message could not write; whole: a snapshot in any case. */
static int persist(struct km_replica *r, const char *type, const json_t *change, bool whole,
		   struct km_errtext *err)
{
	int e = 0;

	if (whole || r->disk.bad || km_disk_is_long(&r->disk))
		e = write_snapshot(r);
	else if (change)
		e = km_disk_append(&r->disk, type, change);
	if (!e)
		return 0;
	return km_errtext_set(err, KM_EIO, "revision %lld is applied but not on disk: %s: %s",
			      (long long)r->revision, r->disk.snapshot,
			      e == KM_EIO ? strerror(errno) : km_strerror(e));
}

/* ---- start ---- */

/* Only another version of the program can have written what is not understood now. */
static void warn_refused(const struct refusals *f)
{
	if (f->n)
		km_warn("part of the configuration on disk is not understood",
			km_ks("why", f->text));
}

static int load_snapshot(void *arg, const json_t *config, struct km_errtext *err)
{
	struct refusals f = {.n = 0};
	size_t differ;
	int e = apply_config(arg, config, &differ, &f, err);

	if (!e)
		warn_refused(&f);
	return e;
}

static int load_change(void *arg, const char *type, const json_t *data, struct km_errtext *err)
{
	const struct verb *v = verb_find(type);
	struct refusals f = {.n = 0};
	json_t *clean = NULL;
	size_t differ;
	int e;

	if (!v)
		return km_errtext_set(err, KM_EINVAL, "unknown change %s", type);
	e = apply_change(arg, v, data, &clean, &differ, &f, err);
	if (!e)
		warn_refused(&f);
	json_decref(clean);
	return e;
}

int km_replica_open(struct km_replica **out, const char *dir, const struct km_replica_hooks *hooks,
		    void *arg, struct km_errtext *err)
{
	struct km_replica *r = calloc(1, sizeof *r);
	struct km_errtext why;
	int e;

	*out = NULL;
	if (!r)
		return km_errtext_set(err, KM_ENOMEM, "no memory for the configuration");
	if (hooks)
		r->hooks = *hooks;
	r->arg = arg;
	r->loading = true;
	e = km_disk_open(&r->disk, dir, load_snapshot, load_change, r, err);
	if (e) {
		km_replica_free(r);
		return e;
	}
	r->loading = false;
	if (r->epoch[0] && persist(r, NULL, NULL, false, &why))
		km_warn("cannot write the configuration", km_ks("why", why.text));
	if (r->epoch[0] && km_replica_replay(r, &why))
		km_warn("part of the configuration on disk could not be applied",
			km_ks("why", why.text));
	*out = r;
	return 0;
}

int km_replica_replay(struct km_replica *r, struct km_errtext *err)
{
	struct refusals f = {.n = 0};
	struct item *item, *next;

	for (enum kind k = N_KINDS; k-- > 0;) {
		HASH_ITER (hh, r->maps[k], item, next) {
			if (!item->now) {
				km_item_remove(k, &r->maps[k], item);
				continue;
			}
			km_item_forget(k, item);
			give(r, k, item, &f);
		}
	}
	settle(r, &f);
	return f.n ? km_errtext_set(err, f.first, "%s", f.text) : 0;
}

void km_replica_free(struct km_replica *r)
{
	if (!r)
		return;
	for (enum kind k = 0; k < N_KINDS; k++)
		km_item_map_free(k, &r->maps[k]);
	km_disk_close(&r->disk);
	free(r);
}

/* ---- a message ---- */

static json_t *make_ack(const struct km_replica *r, const struct refusals *f)
{
	struct km_msg_config_ack ack = {
	    .epoch = (char *)r->epoch, .revision = r->revision, .success = !f->n};
	char text[sizeof f->text];

	if (f->n) {
		/* A hook's sentence may be cut in the middle of a character. */
		for (size_t i = 0; i <= f->len; i++)
			text[i] = (f->text[i] & 0x80) ? '?' : f->text[i];
		ack.error = text;
	}
	return km_msg_format(&km_msg_desc_config_ack, &ack);
}

int km_replica_take(struct km_replica *r, const char *type, const json_t *data, json_t **ack,
		    struct km_errtext *err)
{
	const struct verb *v = verb_find(type);
	struct refusals f = {.n = 0};
	json_t *clean = NULL;
	size_t differ = 0;
	int e;

	*ack = NULL;
	if (!v && strcmp(type, "config"))
		return KM_ENOTFOUND;
	if (v)
		e = apply_change(r, v, data, &clean, &differ, &f, err);
	else
		e = apply_config(r, data, &differ, &f, err);
	if (!e)
		e = persist(r, type, clean, differ > 0, err);
	if (!e) {
		*ack = make_ack(r, &f);
		e = *ack ? 0 : km_errtext_set(err, KM_ENOMEM, "no memory for config_ack");
	}
	json_decref(clean);
	return e;
}

/* ---- what is wanted now ---- */

const char *km_replica_epoch(const struct km_replica *r)
{
	return r->epoch;
}

int64_t km_replica_revision(const struct km_replica *r)
{
	return r->revision;
}

static const void *now_of(const struct km_replica *r, enum kind kind, const char *id)
{
	const struct item *item = km_item_find(r->maps[kind], id);

	return item ? item->now : NULL;
}

const struct km_msg_agent_self *km_replica_agent_self(const struct km_replica *r)
{
	return now_of(r, KIND_AGENT_SELF, SELF);
}

const struct km_msg_gateway_self *km_replica_gateway_self(const struct km_replica *r)
{
	return now_of(r, KIND_GATEWAY_SELF, SELF);
}

const struct km_msg_tunnel *km_replica_tunnel(const struct km_replica *r, const char *id)
{
	return now_of(r, KIND_TUNNEL, id);
}

const struct km_msg_agent *km_replica_agent(const struct km_replica *r, const char *id)
{
	return now_of(r, KIND_AGENT, id);
}

const struct km_msg_gateway *km_replica_gateway(const struct km_replica *r, const char *id)
{
	return now_of(r, KIND_GATEWAY, id);
}

#define EACH(r, kind, each, arg)                                                                   \
	for (const struct item *item = (r)->maps[kind]; item; item = item->hh.next)                \
		if (item->now)                                                                     \
	(each)(arg, item->now)

void km_replica_each_tunnel(const struct km_replica *r,
			    void (*each)(void *arg, const struct km_msg_tunnel *t), void *arg)
{
	EACH(r, KIND_TUNNEL, each, arg);
}

void km_replica_each_agent(const struct km_replica *r,
			   void (*each)(void *arg, const struct km_msg_agent *a), void *arg)
{
	EACH(r, KIND_AGENT, each, arg);
}

void km_replica_each_gateway(const struct km_replica *r,
			     void (*each)(void *arg, const struct km_msg_gateway *g), void *arg)
{
	EACH(r, KIND_GATEWAY, each, arg);
}
