/* SPDX-License-Identifier: MIT */
/* What clients say of themselves, gathered and written once a second. */
#include "controld/hub/client.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <stdlib.h>

#define MAX_REPORTED 65536 /* tunnels, or peers, of one client */

void report_heartbeat(struct client *c)
{
	c->heartbeat_ms = km_now_ms();
	c->seen_dirty = true;
}

void report_ack(struct client *c, const struct km_msg_config_ack *m)
{
	char *error = m->success ? NULL : km_xstrdup(m->error ? m->error : "failed");
	/* Each ack names what stands refused, so the same comes again and again. */
	if (error && (!c->ack_error || strcmp(error, c->ack_error) != 0))
		km_warn("configuration not wholly applied", km_ks("type", client_kind(c)),
			km_ks("id", c->id), km_ks("name", c->name), km_ki("revision", m->revision),
			km_ks("what", error));
	memset(c->acked_epoch, 0, sizeof(c->acked_epoch));
	strncpy(c->acked_epoch, m->epoch, HUB_EPOCH_LEN);
	c->acked_revision = m->revision;
	free(c->ack_error);
	c->ack_by_auth = false;
	c->ack_error = error;
	c->ack_dirty = true;
}

void report_applied(struct client *c)
{
	memset(c->acked_epoch, 0, sizeof(c->acked_epoch));
	strncpy(c->acked_epoch, c->auth.epoch, HUB_EPOCH_LEN);
	c->acked_revision = c->auth.revision;
	c->ack_dirty = c->ack_by_auth = true;
}

/* ---- status ---- */

/* The object in c's report for one kind of thing. */
static json_t *section(struct client *c, const char *kind)
{
	if (!c->report)
		c->report = json_pack("{s:{}, s:{}}", "tunnels", "peers");
	return json_object_get(c->report, kind);
}

/* Lays what is new over what was reported on the same thing before. */
static void merge(struct client *c, const char *kind, const char *id, json_t *entry)
{
	json_t *all = section(c, kind), *old = json_object_get(all, id);
	c->report_dirty = true;
	if (old)
		json_object_update(old, entry);
	else if (json_object_size(all) < MAX_REPORTED)
		json_object_set(all, id, entry);
	json_decref(entry);
}

/* A row for the table of certificates; several of one gateway and domain become one, which keeps what
 * only the earlier ones say. */
static void certificate_row(struct client *c, const char *domain, json_t *row)
{
	char *key = km_xasprintf("%s %s", c->id, domain);
	json_object_set_new(row, "gatewayId", json_string(c->id));
	json_object_set_new(row, "domain", json_string(domain));
	json_t *old = json_object_get(c->hub->certificates, key);
	if (old)
		json_object_update(old, row);
	else if (json_object_size(c->hub->certificates) < 4 * MAX_REPORTED)
		json_object_set(c->hub->certificates, key, row);
	json_decref(row);
	free(key);
}

static void set_text(json_t *o, const char *key, const char *value)
{
	if (value)
		json_object_set_new(o, key, json_string(value));
}

static void set_or_null(json_t *o, const char *key, const char *value)
{
	json_object_set_new(o, key, value ? json_string(value) : json_null());
}

void report_status(struct client *c, const struct km_msg_status *m)
{
	for (size_t i = 0; i < m->n_tunnels; i++) {
		const struct km_msg_tunnel_status *t = &m->tunnels[i];
		json_t *entry = km_msg_format(&km_msg_desc_tunnel_status, t);
		if (t->status && !t->error) /* it was mended */
			json_object_set_new(entry, "error", json_null());
		merge(c, "tunnels", t->id, entry);
	}
	for (size_t i = 0; i < m->n_peers; i++) {
		const char *id = c->gateway ? m->peers[i].agent_id : m->peers[i].gateway_id;
		if (id)
			merge(c, "peers", id,
			      km_msg_format(&km_msg_desc_peer_status, &m->peers[i]));
	}
	for (size_t i = 0; c->gateway && i < m->n_certificates; i++) {
		const struct km_msg_certificate_status *s = &m->certificates[i];
		json_t *row = json_pack("{s:s}", "status", s->status);
		set_or_null(row, "notAfter", s->not_after);
		set_or_null(row, "error", s->error);
		set_or_null(row, "nextTryAt", s->next_try_at);
		certificate_row(c, s->domain, row);
	}
}

void report_certificate(struct client *c, const struct km_msg_certificate_obtained *m)
{
	struct chain_facts f;
	struct km_errtext err, text;
	char at[KM_ISO8601_LEN];
	if (!c->gateway) {
		client_send_error(c, "INVALID_MESSAGE", "certificate_obtained comes from gateways");
		return;
	}
	if (chain_read(&f, m->certificate, &err) < 0) {
		(void)km_errtext_set(&text, 0, "certificate_obtained.certificate: %s", err.text);
		client_send_error(c, "INVALID_MESSAGE", text.text);
		return;
	}
	json_t *row = json_pack("{s:s, s:s, s:s}", "status", "ready", "fingerprint", f.fingerprint,
				"notAfter", km_iso8601(f.not_after_ms, at));
	set_or_null(row, "error", NULL);
	set_or_null(row, "nextTryAt", NULL);
	set_text(row, "issuer", f.issuer);
	certificate_row(c, m->domain, row);
	km_info("certificate obtained", km_ks("gateway", c->name), km_ks("domain", m->domain),
		km_ks("notAfter", at));
}

void report_forget(struct client *c, const char *entity, const char *id)
{
	json_t *all =
	    json_object_get(c->report, strcmp(entity, "tunnel") == 0 ? "tunnels" : "peers");
	if (json_object_del(all, id) == 0)
		c->report_dirty = true;
}

void report_gone(struct client *c)
{
	char at[KM_ISO8601_LEN];
	json_object_set_new(c->gateway ? c->hub->gone_gateways : c->hub->gone_agents, c->id,
			    json_pack("{s:s, s:s, s:s}", "id", c->id, "status", "offline", "seen",
				      km_iso8601(km_wall_ms(), at)));
}

/* ---- the flush ---- */

static json_t *client_row(struct client *c)
{
	json_t *row = json_pack("{s:s, s:s, s:b}", "id", c->id, "status", "online", "acked",
				(int)c->ack_dirty);
	if (c->report_dirty)
		json_object_set(row, "report", c->report);
	if (c->ack_dirty) {
		set_text(row, "epoch", c->acked_epoch);
		json_object_set_new(row, "revision", json_integer(c->acked_revision));
		set_text(row, "ack_error", c->ack_error);
		json_object_set_new(row, "by_auth", json_boolean(c->ack_by_auth));
	}
	c->seen_dirty = c->report_dirty = c->ack_dirty = false;
	return row;
}

/* The rows of one table as JSON text, or NULL when there are none. */
static char *rows_text(struct hub *hub, bool gateways)
{
	struct client *c, *next;
	json_t *gone = gateways ? hub->gone_gateways : hub->gone_agents, *v, *rows = json_array();
	const char *id;
	json_object_foreach(gone, id, v) json_array_append(rows, v);
	HASH_ITER (hh_id, hub->by_id, c, next) {
		if (c->gateway == gateways && (c->seen_dirty || c->report_dirty || c->ack_dirty))
			json_array_append_new(rows, client_row(c));
	}
	char *text = json_array_size(rows) ? json_dumps(rows, JSON_COMPACT) : NULL;
	json_decref(rows);
	return text;
}

static char *certificates_text(struct hub *hub)
{
	const char *key;
	json_t *v, *rows = json_array();
	json_object_foreach(hub->certificates, key, v) json_array_append(rows, v);
	char *text = json_array_size(rows) ? json_dumps(rows, JSON_COMPACT) : NULL;
	json_decref(rows);
	json_object_update(hub->writing, hub->certificates);
	json_object_clear(hub->certificates);
	return text;
}

/* What a failed flush held is written by a later one; a row that the database refuses is not. */
static void flushed(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	static struct km_log_limit limit;
	struct hub *hub = arg;
	struct client *c;
	uint32_t held;
	(void)res, (void)n;
	hub->flush = NULL;
	if (error && store_error_passes(error)) {
		json_object_update_missing(hub->certificates, hub->writing);
		json_object_update_missing(hub->gone_agents, hub->going_agents);
		json_object_update_missing(hub->gone_gateways, hub->going_gateways);
	}
	json_object_clear(hub->writing);
	json_object_clear(hub->going_agents);
	json_object_clear(hub->going_gateways);
	if (error && error->err != KM_ECLOSED && km_log_allow(&limit, km_now_ms(), 3, 60000, &held))
		km_warn("status not written", km_ks("sqlstate", error->sqlstate),
			km_ks("what", error->message), km_ki("held_back", held));
	for (c = error ? hub->by_id : NULL; c; c = c->hh_id.next) {
		c->seen_dirty = true;
		c->report_dirty = c->report != NULL;
		c->ack_dirty = c->acked_epoch[0] != '\0';
	}
}

static void flush_ended(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	flushed(arg, error, res, n);
	hub_flushed(arg);
}

/* A client that left is marked only if no other control has seen it since. */
#define FLUSH_HOSTS(table)                                                                         \
	"UPDATE " table " t SET status = x.status, "                                               \
	"last_seen_at = CASE WHEN x.status = 'online' THEN now() ELSE t.last_seen_at END, "        \
	"report = coalesce(x.report, t.report), "                                                  \
	"acked_epoch = CASE WHEN x.acked THEN x.epoch ELSE t.acked_epoch END, "                    \
	"acked_revision = CASE WHEN x.acked THEN x.revision ELSE t.acked_revision END, "           \
	"ack_error = CASE WHEN x.acked AND NOT (x.by_auth AND t.acked_epoch = x.epoch "            \
	"AND t.acked_revision = x.revision) THEN x.ack_error ELSE t.ack_error END "                \
	"FROM jsonb_to_recordset($1::jsonb) AS x(id uuid, status text, seen timestamptz, "         \
	"report jsonb, acked boolean, epoch text, revision bigint, ack_error text, "               \
	"by_auth boolean) "                                                                        \
	"WHERE t.id = x.id AND (x.status = 'online' OR t.last_seen_at <= x.seen)"
/* It is of the certificate that the row is about now, by all that we know. */
#define FLUSH_SAME(column) "CASE WHEN c.not_after = excluded.not_after THEN c." column " END"
#define FLUSH_CERTIFICATES                                                                         \
	"INSERT INTO certificates AS c (gateway_id, domain, status, issuer, not_after, "           \
	"fingerprint, "                                                                            \
	"last_error, next_try_at) SELECT x.\"gatewayId\", x.domain, x.status, x.issuer, "          \
	"x.\"notAfter\", x.fingerprint, x.error, x.\"nextTryAt\" "                                 \
	"FROM jsonb_to_recordset($1::jsonb) AS x(\"gatewayId\" uuid, domain text, status text, "   \
	"issuer text, \"notAfter\" timestamptz, fingerprint text, error text, "                    \
	"\"nextTryAt\" timestamptz) JOIN gateways g ON g.id = x.\"gatewayId\" "                    \
	"AND g.revoked_at IS NULL "                                                                \
	"WHERE EXISTS (SELECT FROM tunnels t WHERE t.domain = x.domain) "                          \
	"ORDER BY x.domain, x.\"gatewayId\" "                                                      \
	"ON CONFLICT (gateway_id, domain) DO UPDATE SET status = excluded.status, "                \
	"not_after = excluded.not_after, "                                                         \
	"issuer = coalesce(excluded.issuer, " FLUSH_SAME("issuer") "), "                           \
	"fingerprint = coalesce(excluded.fingerprint, " FLUSH_SAME("fingerprint") "), "            \
	"last_error = excluded.last_error, next_try_at = excluded.next_try_at, updated_at = now()"

bool report_flush(struct hub *hub)
{
	struct store_stmt s[3];
	char *texts[3] = {NULL};
	static const char *const sql[3] = {FLUSH_HOSTS("agents"), FLUSH_HOSTS("gateways"),
					   FLUSH_CERTIFICATES};
	size_t n = 0;
	if (hub->flush || !store_ready(hub->store))
		return hub->flush != NULL;
	texts[0] = rows_text(hub, false);
	texts[1] = rows_text(hub, true);
	texts[2] = certificates_text(hub);
	json_object_update(hub->going_agents, hub->gone_agents);
	json_object_update(hub->going_gateways, hub->gone_gateways);
	json_object_clear(hub->gone_agents);
	json_object_clear(hub->gone_gateways);
	for (size_t i = 0; i < KM_ARRAY_LEN(texts); i++)
		if (texts[i])
			s[n++] = (struct store_stmt){.sql = sql[i], .n = 1, .params = {texts[i]}};
	if (n) {
		int rc = store_run(hub->store, s, n, flush_ended, hub, &hub->flush);
		if (rc < 0) {
			struct store_error e = {.err = KM_ECLOSED};
			flushed(hub, &e, NULL, 0);
		}
	}
	for (size_t i = 0; i < KM_ARRAY_LEN(texts); i++)
		free(texts[i]);
	return hub->flush != NULL;
}
