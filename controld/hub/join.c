/* SPDX-License-Identifier: MIT */
/* A host that has a join token instead of an API key: the token is used up, the host's WireGuard
 * key bound and certified (or asked for, where the CA is offline), and a new API key answered. A
 * join whose answer was lost may be repeated by the same key while the token lasts. */
#include "controld/hub/client.h"
#include "controld/pki/authority.h"
#include "controld/pki/vault.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/join/token.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX_LEN 8

static void count(const char *result)
{
	char labels[64];

	snprintf(labels, sizeof(labels), "result=\"%s\"", result);
	km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_joins_total", labels,
				"Hosts that came with a join token"),
		      1);
}

static void refuse(struct client *c, const char *code, const char *message)
{
	char peer[KM_ADDR_STRLEN];

	km_warn("join refused", km_ks("type", client_kind(c)), km_ks("name", c->name),
		km_ks("peer", km_addr_str(&c->peer, peer)), km_ks("why", message));
	count("refused");
	client_send(c, "join_error", json_pack("{s:s, s:s}", "code", code, "message", message));
	client_close(c, message);
}

/* Unknown tokens of one address are slowed down, as unknown keys are. */
static void refuse_unknown(struct client *c)
{
	int64_t now = km_now_ms();
	char peer[KM_ADDR_STRLEN];
	bool wait = limit_wait_ms(c->hub->failures, km_addr_str(&c->peer, peer), now) > 0;

	if (wait) {
		refuse(c, "TOO_MANY",
		       "too many failed attempts from this address; try again later");
		return;
	}
	limit_failed(c->hub->failures, peer, now);
	refuse(c, "INVALID_TOKEN",
	       "this join token is not known: it was replaced, or its host was deleted");
}

void join_message(struct client *c, const json_t *data)
{
	struct km_errtext err;

	if (km_msg_parse(&km_msg_desc_join, &c->join, data, &err) < 0 ||
	    auth_check_ips(c->join.public_ip, c->join.n_public_ip, &err) < 0) {
		refuse(c, "INVALID_MESSAGE", err.text);
		return;
	}
	client_go(c, STEP_JOIN_FIND);
}

/* ---- JOIN_FIND ---- */

static int matching_row(const struct client *c, const PGresult *res)
{
	for (int i = 0; i < PQntuples(res); i++)
		if (vault_digest_is(c->hub->vault, PQgetvalue(res, i, 2),
				    VAULT_JOIN_TOKEN(client_kind(c), PQgetvalue(res, i, 0),
						     PQgetvalue(res, i, 3), c->join.token)))
			return i;
	return -1;
}

static void token_found(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct client *c = arg;
	int row;

	(void)n;
	c->db = NULL;
	if (error) {
		client_failed(c, error);
		return;
	}
	row = matching_row(c, res[0]);
	if (row < 0) {
		refuse_unknown(c);
		return;
	}
	snprintf(c->id, sizeof(c->id), "%s", PQgetvalue(res[0], row, 0));
	snprintf(c->name, sizeof(c->name), "%s", PQgetvalue(res[0], row, 1));
	c->place = strtoll(PQgetvalue(res[0], row, 3), NULL, 10);
	const char *user = PQgetvalue(res[0], row, 5);
	if (user[0] && strcmp(user, c->join.wireguard_public_key) != 0)
		refuse(c, "USED",
		       "this join token has been used already, by another key; have a new one made "
		       "(POST …/join-token)");
	else if (strcmp(PQgetvalue(res[0], row, 4), "t") != 0)
		refuse(c, "EXPIRED",
		       "this join token has expired; have a new one made (POST …/join-token)");
	else
		client_go(c, STEP_JOIN_BIND);
}

#define FIND(table)                                                                                \
	"SELECT id, name, encode(join_token_hash, 'hex'), number, join_token_expires_at > now(), " \
	"join_key FROM " table " WHERE join_token_prefix = $1"

void join_find(struct client *c)
{
	char prefix[PREFIX_LEN + 1];

	snprintf(prefix, sizeof(prefix), "%.*s", PREFIX_LEN, c->join.token);
	struct store_stmt s = {
	    .sql = c->gateway ? FIND("gateways") : FIND("agents"), .n = 1, .params = {prefix}};
	client_read(c, &s, 1, token_found);
}

/* ---- JOIN_BIND ---- */

static void joined(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct client *c = arg;
	char peer[KM_ADDR_STRLEN];
	json_t *m;

	c->db = NULL;
	if (error && error->err == KM_ENOTFOUND) { /* the token was used, replaced or taken away meanwhile */
		client_go(c, STEP_JOIN_FIND);
		return;
	}
	if (error && error->err == KM_EEXIST) {
		refuse(c, "KEY_IN_USE", "this WireGuard key belongs to another host");
		return;
	}
	if (error) {
		client_failed(c, error);
		return;
	}
	(void)n;
	m = json_pack("{s:s, s:s, s:s, s:s}", "id", c->id, "name", c->name, "apiKey", c->new_key,
		      "bundle", authority_signed_bundle(c->hub->authority));
	if (!PQgetisnull(res[1], 0, 0))
		json_object_set_new(m, "certificate", json_string(PQgetvalue(res[1], 0, 0)));
	km_info("host joined", km_ks("type", client_kind(c)), km_ks("id", c->id),
		km_ks("name", c->name), km_ks("peer", km_addr_str(&c->peer, peer)),
		km_ks("certificate", PQgetisnull(res[1], 0, 0) ? "waits for the CA" : "issued"));
	count("joined");
	client_send(c, "join_success", m);
	client_close(c, "joined");
}

/* A host that joins anew has another key: certificates for the one before are revoked. */
#define BLOCK_OTHERS                                                                               \
	"WITH gone AS (UPDATE host_certificates SET blocked_at = now() WHERE host_id = $1::uuid "  \
	"AND public_key <> $2 AND blocked_at IS NULL RETURNING 1) "                                \
	"SELECT km_trust_wanted() FROM (SELECT count(*) AS n FROM gone) x WHERE n > 0"
/* What was asked for with a key that it no longer has is of no use. */
#define FORGET_OTHERS "DELETE FROM enrolments WHERE host_id = $1::uuid AND public_key <> $2"
#define ASK(table)                                                                                 \
	"INSERT INTO enrolments (kind, host_id, public_key, reason) SELECT $1, id, $3, 'join' "    \
	"FROM " table " WHERE id = $2::uuid AND certificate IS NULL "                              \
	"ON CONFLICT (public_key) DO NOTHING"
#define AUDIT                                                                                      \
	"INSERT INTO audit_log (actor, address, action, entity_id, details) VALUES ($1 || ' ' || " \
	"$2, $3::inet, $1 || '.join', $4::uuid, jsonb_build_object('wireguardPublicKey', "         \
	"$5::text))"
/* $1 id, $2 key, $3 and $4 the API key's digest and prefix, $5 version, $6 host name, $7 to $9 the
 * certificate or NULL, $10 the token's digest: it may have been taken away since it was found. Without
 * a new certificate the same key keeps the one that it has. */
#define KEPT(column, value)                                                                        \
	column " = CASE WHEN $7::text IS NULL AND wireguard_public_key = $2 THEN " column " ELSE " value \
	       " END, "
#define BIND_COMMON                                                                                \
	"wireguard_public_key = $2, pending_public_key = NULL, next_public_key = NULL, "           \
	"next_certificate = NULL, api_key_hash = $3::bytea, api_key_prefix = $4, join_key = $2, "  \
	"version = $5, hostname = $6, " KEPT("certificate", "$7")                                  \
	KEPT("certificate_fingerprint", "$8")                                                      \
	KEPT("certificate_not_after", "$9::timestamptz")                                           \
	"certificate_due = false, revoked_at = NULL, updated_at = now()"
/* Nothing of the transaction stays when it is not so. */
#define BIND(table, more)                                                                          \
	"WITH bound AS (UPDATE " table " SET " BIND_COMMON more                                    \
	" WHERE id = $1::uuid AND join_token_hash = $10::bytea AND join_token_expires_at > now() " \
	"AND (join_key IS NULL OR join_key = $2) RETURNING certificate) "                          \
	"SELECT (SELECT certificate FROM bound), "                                                 \
	"km_must_find(EXISTS (SELECT FROM bound), 'the join token is gone')"

static const char *const bind_agent = BIND("agents", "");
static const char *const bind_gateway = BIND(
    "gateways",
    ", reported_ip = $11::text[], wireguard_port = coalesce($12::int, wireguard_port)");

/* false: it has been answered, or waits. */
static bool certify(struct client *c, struct issued *cert, const uint8_t *key)
{
	struct authority_host h = {c->gateway, c->id, c->name, c->place, key};
	struct km_errtext err = {""};
	int rc;

	if (authority_number(c->hub->authority) == 0 && authority_signs(c->hub->authority)) {
		c->waiting = true; /* for the first bundle, which is being made */
		return false;
	}
	if (!authority_signs(c->hub->authority))
		return true;
	rc = authority_issue(c->hub->authority, cert, &h, &err);
	if (!rc)
		return true;
	km_error("certificate not issued", km_ks("type", client_kind(c)), km_ks("id", c->id),
		 km_ks("why", err.text));
	refuse(c, "INTERNAL_ERROR", "control cannot issue a certificate now");
	return false;
}

void join_bind(struct client *c)
{
	const struct km_msg_join *m = &c->join;
	const char *kind = client_kind(c);
	struct issued cert = {.pem = NULL};
	uint8_t key[KM_WG_KEY_LEN], random[32];
	char hash[VAULT_TEXT_LEN], token[VAULT_TEXT_LEN], prefix[PREFIX_LEN + 1], number[24], port[24];
	char peer[KM_ADDR_STRLEN], *ips;

	if (km_wg_key_parse(key, m->wireguard_public_key)) {
		refuse(c, "INVALID_MESSAGE", "wireguardPublicKey: malformed");
		return;
	}
	if (!certify(c, &cert, key))
		return;
	km_random(random, sizeof(random));
	snprintf(c->new_key, sizeof(c->new_key), "%s", c->gateway ? "gtw_" : "agt_");
	km_b64url(random, sizeof(random), c->new_key + 4);
	km_wipe(random, sizeof(random));
	snprintf(prefix, sizeof(prefix), "%.*s", PREFIX_LEN, c->new_key);
	snprintf(number, sizeof(number), "%lld", (long long)c->place);
	snprintf(port, sizeof(port), "%lld", (long long)m->wireguard_port);
	vault_digest_text(c->hub->vault, hash, VAULT_API_KEY(kind, c->id, number, c->new_key));
	vault_digest_text(c->hub->vault, token, VAULT_JOIN_TOKEN(kind, c->id, number, m->token));
	km_addr_str(&c->peer, peer);
	ips = auth_reported_ips(m->public_ip, m->n_public_ip, &c->peer);

	struct store_stmt s[8] = {
	    {.sql = "SELECT km_before($1, $2::uuid)", .n = 2, .params = {kind, c->id}},
	    {.sql = c->gateway ? bind_gateway : bind_agent,
	     .n = c->gateway ? 12 : 10,
	     .params = {c->id, m->wireguard_public_key, hash, prefix, m->version, m->hostname,
			cert.pem, cert.pem ? cert.fingerprint : NULL,
			cert.pem ? cert.not_after : NULL, token, ips,
			m->has_wireguard_port ? port : NULL}},
	    {.sql = AUDIT, .n = 5, .params = {kind, c->name, peer, c->id, m->wireguard_public_key}},
	    {.sql = BLOCK_OTHERS, .n = 2, .params = {c->id, m->wireguard_public_key}},
	    {.sql = FORGET_OTHERS, .n = 2, .params = {c->id, m->wireguard_public_key}},
	};
	size_t n = 5;
	if (cert.pem)
		s[n++] = issued_insert(&cert, c->gateway, c->id);
	else
		s[n++] = (struct store_stmt){
		    .sql = c->gateway ? ASK("gateways") : ASK("agents"),
		    .n = 3,
		    .params = {kind, c->id, m->wireguard_public_key}};
	s[n++] = (struct store_stmt){
	    .sql = "SELECT km_change($1, 'update', $2::uuid)", .n = 2, .params = {kind, c->id}};
	client_run(c, s, n, joined);
	issued_free(&cert);
	free(ips);
}
