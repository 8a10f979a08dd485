/* SPDX-License-Identifier: MIT */
#include "libkm/replica/replica.h"

#include "libkm/base/log.h"
#include "libkm/replica/apply.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

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
	e = km_disk_snapshot_begin(&r->disk, &text, id);
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
			      (long long)r->revision, r->disk.snapshot, km_why(e));
}

/* ---- start ---- */

static int load_snapshot(void *arg, const json_t *config, struct km_errtext *err)
{
	size_t differ;

	return km_apply_config(arg, config, &differ, err);
}

static int load_change(void *arg, const char *type, const json_t *data, struct km_errtext *err)
{
	json_t *clean = NULL;
	size_t differ;
	int e = km_apply_change(arg, type, data, &clean, &differ, err);

	json_decref(clean);
	return e;
}

/* Only another version of the program can have written what is not understood now. */
static void warn_malformed(struct km_replica *r)
{
	struct refusals f;

	km_apply_refusals(r, &f);
	if (f.n)
		km_warn("part of the configuration on disk is not understood",
			km_ks("why", f.text));
}

/* What this program understands of a configuration: a digest of its schema. */
static int own_form(char form[static DISK_FORM_LEN + 1])
{
	json_t *schema = km_msg_schema(&km_msg_desc_config);
	char *text = schema ? json_dumps(schema, JSON_COMPACT) : NULL;
	uint8_t digest[32];

	if (text) {
		km_sha256(digest, text, strlen(text));
		km_hex(digest, DISK_FORM_LEN / 2, form);
	}
	json_decref(schema);
	free(text);
	return text ? 0 : KM_ENOMEM;
}

int km_replica_open(struct km_replica **out, const char *dir, const struct km_replica_hooks *hooks,
		    void *arg, struct km_errtext *err)
{
	struct km_replica *r = calloc(1, sizeof *r);
	char form[DISK_FORM_LEN + 1];
	struct km_errtext why;
	int e;

	*out = NULL;
	if (!r || own_form(form)) {
		free(r);
		return km_errtext_set(err, KM_ENOMEM, "no memory for the configuration");
	}
	if (hooks)
		r->hooks = *hooks;
	r->arg = arg;
	r->loading = true;
	e = km_disk_open(&r->disk, dir, form, load_snapshot, load_change, r, err);
	if (e) {
		km_replica_free(r);
		return e;
	}
	r->loading = false;
	warn_malformed(r);
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
	struct refusals f;

	km_apply_all(r);
	km_apply_refusals(r, &f);
	return f.n ? km_errtext_set(err, f.first, "%s", f.text) : 0;
}

void km_replica_free(struct km_replica *r)
{
	if (!r)
		return;
	for (enum kind k = 0; k < N_KINDS; k++)
		km_item_map_free(k, &r->maps[k]);
	km_apply_forget_malformed(r);
	km_disk_close(&r->disk);
	free(r);
}

/* ---- a message ---- */

static int make_ack(struct km_replica *r, json_t **out, struct km_errtext *err)
{
	struct km_msg_config_ack ack = {.epoch = (char *)r->epoch, .revision = r->revision};
	struct refusals f;

	km_apply_refusals(r, &f);
	ack.success = !f.n;
	if (f.n) {
		/* A hook's sentence may be cut in the middle of a character. */
		for (size_t i = 0; i < f.len; i++)
			f.text[i] = (f.text[i] & 0x80) ? '?' : f.text[i];
		ack.error = f.text;
	}
	*out = km_msg_format(&km_msg_desc_config_ack, &ack);
	return *out ? 0 : km_errtext_set(err, KM_ENOMEM, "no memory for config_ack");
}

int km_replica_take(struct km_replica *r, const char *type, const json_t *data, json_t **ack,
		    struct km_errtext *err)
{
	bool whole = !strcmp(type, "config");
	json_t *clean = NULL;
	size_t differ = 0;
	int e;

	*ack = NULL;
	if (!whole)
		e = km_apply_change(r, type, data, &clean, &differ, err);
	else
		e = km_apply_config(r, data, &differ, err);
	if (!e && whole && r->disk.foreign) {
		r->disk.foreign = false;
		differ++;
	}
	if (!e) {
		e = persist(r, type, clean, differ > 0, err);
		r->ack_owed = e != 0;
	}
	if (!e)
		e = make_ack(r, ack, err);
	json_decref(clean);
	return e;
}

int km_replica_retry(struct km_replica *r, json_t **ack, struct km_errtext *err)
{
	int e = 0;

	*ack = NULL;
	if (r->epoch[0] && (r->ack_owed || r->disk.bad))
		e = persist(r, NULL, NULL, false, err);
	if (e || !r->ack_owed)
		return e;
	r->ack_owed = false;
	return make_ack(r, ack, err);
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

bool km_replica_partial(const struct km_replica *r)
{
	return r->disk.foreign;
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
