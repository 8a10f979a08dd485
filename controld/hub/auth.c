/* SPDX-License-Identifier: MIT */
/* The first message of a link: whose key it is, who had that id before, which WireGuard key. */
#include "controld/api/input.h"
#include "controld/hub/client.h"
#include "controld/pki/vault.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <stdio.h>
#include <stdlib.h>

#define PREFIX_LEN 8

static void count(const char *name, const char *help)
{
	km_metric_add(km_metric(KM_METRIC_COUNTER, name, "", help), 1);
}

/* Known keys of the same address are not shut out by unknown ones. */
static void refuse_key(struct client *c)
{
	static struct km_log_limit limit;
	uint32_t held;
	int64_t now = km_now_ms();
	char peer[KM_ADDR_STRLEN];
	bool wait = limit_wait_ms(c->hub->failures, km_addr_str(&c->peer, peer), now) > 0;
	if (!wait)
		limit_failed(c->hub->failures, peer, now);
	count("kakuremichi_link_auth_failures_total", "Links with a key that is not known");
	if (km_log_allow(&limit, now, 5, 10000, &held))
		km_warn("auth refused", km_ks("why", "unknown key"), km_ks("type", client_kind(c)),
			km_ks("peer", peer), km_ki("held", held));
	client_refuse(c, wait ? "too many failed attempts from this address; try again later"
			      : "this key is not known");
}

int auth_check_ips(char *const *named, size_t n, struct km_errtext *err)
{
	for (size_t i = 0; i < n; i++) {
		const char *why = input_host_check(named[i]);

		if (why)
			return km_errtext_set(err, KM_EINVAL, "publicIp[%zu]: %s", i, why);
	}
	return 0;
}

void auth_message(struct client *c, const json_t *data)
{
	struct km_errtext err;
	if (km_msg_parse(&km_msg_desc_auth, &c->auth, data, &err) < 0 ||
	    auth_check_ips(c->auth.public_ip, c->auth.n_public_ip, &err) < 0) {
		client_refuse(c, err.text);
		return;
	}
	client_go(c, STEP_FIND);
}

/* ---- FIND ---- */

/* old: who has the id here; NULL: it is at another controld. */
static void refuse_fighting(struct client *c, struct client *old, const char *id, const char *name)
{
	static struct km_log_limit limit;
	char a[KM_ADDR_STRLEN], b[KM_ADDR_STRLEN];
	uint32_t held;
	count("kakuremichi_link_conflicts_total", "Links refused because two hosts use one key");
	if (old ? !old->fight_logged : km_log_allow(&limit, km_now_ms(), 3, 60000, &held))
		km_warn("two hosts use one key", km_ks("id", id), km_ks("name", name),
			km_ks("one", old ? km_addr_str(&old->peer, a) : "at another controld"),
			km_ks("other", km_addr_str(&c->peer, b)));
	if (old)
		old->fight_logged = true;
	client_refuse(c, "another host uses this key too");
}

/* The newest connection of an id wins, but two hosts that take it from each other in turn do not go
 * on for ever: then the newcomer waits. */
static bool take_over(struct client *c, const char *id, const char *name)
{
	struct client *old = client_by_id(c->hub, id);
	int64_t now = km_now_ms();
	char b[KM_ADDR_STRLEN];
	if (old ? limit_wait_ms(c->hub->takeovers, id, now) > 0 : rival_fights(c->hub, id)) {
		refuse_fighting(c, old, id, name);
		return false;
	}
	if (!old)
		return true;
	limit_failed(c->hub->takeovers, id, now);
	count("kakuremichi_link_takeovers_total", "Links that took the place of an older one");
	c->fight_logged = old->fight_logged;
	km_info("newer link takes over", km_ks("id", id), km_ks("name", old->name),
		km_ks("peer", km_addr_str(&c->peer, b)));
	client_replaced(old);
	return true;
}

static int matching_row(const struct client *c, const PGresult *res)
{
	for (int i = 0; i < PQntuples(res); i++)
		if (vault_digest_is(c->hub->vault, PQgetvalue(res, i, 2),
				    VAULT_API_KEY(client_kind(c), PQgetvalue(res, i, 0),
						  PQgetvalue(res, i, 3), c->auth.api_key)))
			return i;
	return -1;
}

static void key_found(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct client *c = arg;
	(void)n;
	c->db = NULL;
	if (error) {
		client_failed(c, error);
		return;
	}
	int row = matching_row(c, res[0]);
	if (row < 0) {
		refuse_key(c);
		return;
	}
	if (!take_over(c, PQgetvalue(res[0], row, 0), PQgetvalue(res[0], row, 1)))
		return;
	snprintf(c->id, sizeof(c->id), "%s", PQgetvalue(res[0], row, 0));
	snprintf(c->name, sizeof(c->name), "%s", PQgetvalue(res[0], row, 1));
	c->place = strtoll(PQgetvalue(res[0], row, 3), NULL, 10);
	const char *bound_key = PQgetvalue(res[0], row, 4), *named = c->auth.wireguard_public_key;
	c->certify = named && PQgetvalue(res[0], row, 5)[0] == 't' &&
		     (!bound_key[0] || strcmp(bound_key, named) == 0);
	c->promote = named && strcmp(PQgetvalue(res[0], row, 6), named) == 0;
	HASH_ADD_KEYPTR(hh_id, c->hub->by_id, c->id, strlen(c->id), c);
	c->named = true;
	json_object_del(c->gateway ? c->hub->gone_gateways : c->hub->gone_agents, c->id);
	km_wipe(c->auth.api_key, strlen(c->auth.api_key));
	km_link_server_authenticated(c->hub->links, c->link);
	client_go(c, STEP_BIND);
}

void auth_find(struct client *c)
{
	char prefix[PREFIX_LEN + 1];
	snprintf(prefix, sizeof(prefix), "%s", c->auth.api_key);
	struct store_stmt s = {
	    .sql = c->gateway ? "SELECT id, name, encode(api_key_hash, 'hex'), number, "
				"wireguard_public_key, certificate IS NULL, next_public_key FROM gateways WHERE api_key_prefix = $1 AND revoked_at IS NULL"
			      : "SELECT id, name, encode(api_key_hash, 'hex'), number, "
				"wireguard_public_key, certificate IS NULL, next_public_key FROM agents WHERE api_key_prefix = $1 AND revoked_at IS NULL",
	    .n = 1,
	    .params = {prefix}};
	client_read(c, &s, 1, key_found);
}

/* ---- BIND ---- */

/* The bundles by which a host that was away comes to trust newer CAs, one after the other. */
static void tell_steps(struct client *c, const PGresult *steps)
{
	for (int i = 0; i < PQntuples(steps); i++)
		client_send(c, "trust",
			    json_pack("{s:s}", "bundle", PQgetvalue(steps, i, 0)));
}

static void bound(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct client *c = arg;
	char peer[KM_ADDR_STRLEN];
	c->db = NULL;
	if (error) {
		client_failed(c, error);
		return;
	}
	const PGresult *row = res[2], *own = res[n - 3];
	if (PQntuples(row) == 0) { /* since its key was found */
		client_refuse(c, "this key has been revoked");
		return;
	}
	c->number = strtoull(PQgetvalue(res[n - 1], 0, 0), NULL, 10);
	const char *key = c->auth.wireguard_public_key;
	bool pending = key && strcmp(PQgetvalue(row, 0, 0), key) != 0;
	km_info("link authenticated", km_ks("type", client_kind(c)), km_ks("id", c->id),
		km_ks("name", c->name), km_ks("peer", km_addr_str(&c->peer, peer)),
		km_ks("version", c->auth.version), km_ki("revision", c->auth.revision));
	c->heartbeat_ms = km_now_ms();
	client_send(c, "auth_success",
		    json_pack("{s:s, s:s}", c->gateway ? "gatewayId" : "agentId", c->id, "message",
			      c->name));
	tell_steps(c, res[n - 4]);
	auth_tell_trust(c);
	if (PQntuples(own) && !PQgetisnull(own, 0, 0)) {
		json_t *host = json_loads(PQgetvalue(own, 0, 0), 0, NULL);
		auth_tell_identity(c, host);
		if (json_object_get(host, "certificate"))
			c->certify = false;
		json_decref(host);
	}
	if (pending) {
		km_warn("another WireGuard key waits for approval", km_ks("type", client_kind(c)),
			km_ks("id", c->id), km_ks("name", c->name));
		client_send_error(c, "KEY_PENDING",
				  "this WireGuard key waits for an operator's approval "
				  "(POST approve-key); the one bound before stays in force");
	}
	c->sent = c->looked = c->auth.revision;
	c->whole =
	    c->auth.revision == 0 || !c->auth.epoch || strcmp(c->auth.epoch, c->hub->epoch) != 0;
	if (!c->whole)
		report_applied(c);
	client_go(c, STEP_SYNC);
}

char *auth_reported_ips(char *const *named, size_t n, const struct km_addr *from)
{
	char peer[KM_ADDR_STRLEN];
	if (n == 0)
		return km_xasprintf("{%s}", km_addr_str(from, peer));
	char *text = km_xstrdup("{");
	for (size_t i = 0; i < n; i++) {
		char *more = km_xasprintf("%s%s%s", text, i ? "," : "", named[i]);
		free(text);
		text = more;
	}
	char *all = km_xasprintf("%s}", text);
	free(text);
	return all;
}

void auth_tell_trust(struct client *c)
{
	const char *bundle = authority_bundle(c->hub->authority);
	if (bundle[0])
		client_send(c, "trust", json_pack("{s:s}", "bundle", bundle));
}

/* What of a host's own form its identity is. */
void auth_tell_identity(struct client *c, json_t *host)
{
	static const char *const fields[] = {"wireguardPublicKey", "certificate", "nextPublicKey",
					     "nextCertificate"};
	json_t *m = json_object(), *value;
	for (size_t i = 0; i < KM_ARRAY_LEN(fields); i++)
		if ((value = json_object_get(host, fields[i])))
			json_object_set(m, fields[i], value);
	client_send(c, "identity", m);
}

/* The certificate for a key that its host has just proven an API key with, when it has none yet and the
 * CA is here. */
static bool certificate_for(const struct client *c, struct issued *cert)
{
	struct authority_host h = {c->gateway, c->id, c->name, c->place, NULL};
	struct km_errtext err = {""};
	uint8_t key[KM_WG_KEY_LEN];
	if (!c->certify || !authority_signs(c->hub->authority) ||
	    km_wg_key_parse(key, c->auth.wireguard_public_key))
		return false;
	h.key = key;
	if (authority_issue(c->hub->authority, cert, &h, &err) == 0)
		return true;
	km_error("certificate not issued", km_ks("type", client_kind(c)), km_ks("id", c->id),
		 km_ks("why", err.text));
	return false;
}

/* $1 id, $2 key or NULL, $3 version, $4 host name. */
#define BIND_COMMON                                                                                \
	"wireguard_public_key = coalesce(wireguard_public_key, $2), pending_public_key = "         \
	"CASE WHEN $2 IS NULL THEN pending_public_key WHEN wireguard_public_key IS NULL "          \
	"OR wireguard_public_key = $2 THEN NULL ELSE $2 END, "                                     \
	"version = $3, hostname = $4, status = 'online', last_seen_at = now()"
#define BIND_AUDIT(kind)                                                                           \
	"INSERT INTO audit_log (actor, address, action, entity_id, details) SELECT '" kind         \
	" ' || name, $2::inet, '" kind ".bind-key', id, jsonb_build_object('wireguardPublicKey', " \
	"$3::text) FROM " kind "s WHERE id = $1::uuid AND wireguard_public_key IS NULL AND "       \
	"$3::text IS NOT NULL"

#define CERTIFY(table)                                                                              \
	"UPDATE " table " SET certificate = $2, certificate_fingerprint = $3, "                    \
	"certificate_not_after = $4::timestamptz, certificate_due = false WHERE id = $1::uuid "    \
	"AND wireguard_public_key = $5 AND certificate IS NULL"
#define ASK(table, kind)                                                                           \
	"INSERT INTO enrolments (kind, host_id, public_key, reason) SELECT '" kind "', id, "       \
	"wireguard_public_key, 'join' FROM " table " WHERE id = $1::uuid "                         \
	"AND wireguard_public_key = $2 AND certificate IS NULL ON CONFLICT (public_key) DO NOTHING"
#define OWN(kind) "SELECT km_" kind "_json($1::uuid)"

void auth_bind(struct client *c)
{
	const struct km_msg_auth *m = &c->auth;
	struct issued cert = {.pem = NULL};
	bool issued = certificate_for(c, &cert);
	char peer[KM_ADDR_STRLEN], port[24], trust[24];
	char *ips =
	    c->gateway ? auth_reported_ips(m->public_ip, m->n_public_ip, &c->peer) : NULL;
	km_addr_str(&c->peer, peer);
	snprintf(port, sizeof(port), "%lld", (long long)m->wireguard_port);
	snprintf(trust, sizeof(trust), "%lld", (long long)m->trust_number);
	struct store_stmt s[12] = {
	    {.sql = "SELECT km_before($1, $2::uuid)", .n = 2, .params = {client_kind(c), c->id}},
	    {.sql = c->gateway ? BIND_AUDIT("gateway") : BIND_AUDIT("agent"),
	     .n = 3,
	     .params = {c->id, peer, m->wireguard_public_key}},
	    {.sql = c->gateway ? "UPDATE gateways SET " BIND_COMMON ", reported_ip = $5::text[], "
				 "wireguard_port = coalesce($6::int, wireguard_port) "
				 "WHERE id = $1::uuid AND revoked_at IS NULL RETURNING wireguard_public_key"
			       : "UPDATE agents SET " BIND_COMMON
				 " WHERE id = $1::uuid AND revoked_at IS NULL RETURNING wireguard_public_key",
	     .n = c->gateway ? 6 : 4,
	     .params = {c->id, m->wireguard_public_key, m->version, m->hostname, ips,
			m->has_wireguard_port ? port : NULL}},
	};
	if (c->promote) /* nothing is bound then that the audit log should know */
		s[1] = rotate_promote(c, m->wireguard_public_key);
	size_t n = 3;
	if (issued) {
		s[n++] = (struct store_stmt){
		    .sql = c->gateway ? CERTIFY("gateways") : CERTIFY("agents"),
		    .n = 5,
		    .params = {c->id, cert.pem, cert.fingerprint, cert.not_after, cert.key}};
		s[n++] = issued_insert(&cert, c->gateway, c->id);
	} else if (c->certify) {
		s[n++] = (struct store_stmt){
		    .sql = c->gateway ? ASK("gateways", "gateway") : ASK("agents", "agent"),
		    .n = 2,
		    .params = {c->id, m->wireguard_public_key}};
	}
	s[n++] = (struct store_stmt){.sql = "SELECT bundle FROM (SELECT number, bundle FROM trust_steps "
					    "WHERE $1::bigint > 0 UNION ALL SELECT signed_number, "
					    "signed_bundle FROM trust WHERE NOT signed) AS b "
					    "WHERE number > $1::bigint ORDER BY number",
				     .n = 1,
				     .params = {trust}};
	s[n++] = (struct store_stmt){.sql = c->gateway ? OWN("gateway") : OWN("agent"),
				     .n = 1,
				     .params = {c->id}};
	s[n++] = (struct store_stmt){.sql = "SELECT km_change($1, 'update', $2::uuid)",
				     .n = 2,
				     .params = {client_kind(c), c->id}};
	s[n].sql = NULL;
	rival_bind(c, &s[n++]);
	client_run(c, s, n, bound);
	issued_free(&cert);
	free(ips);
}
