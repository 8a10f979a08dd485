/* SPDX-License-Identifier: MIT */
/* A host changes its WireGuard key: the next one is certified (or asked for, where the CA is offline), its
 * peers are told by a change of the host, and when those that are connected have applied it, or have not in
 * 10 s, the host is told that it may switch. When it has, the next key is the present one. */
#include "controld/hub/client.h"
#include "controld/pki/authority.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATIENCE_MS 10000

static void failed(struct client *c, const char *what, const struct store_error *error)
{
	/* The host tells its key again with its next look. */
	km_warn(what, km_ks("type", client_kind(c)), km_ks("id", c->id), km_ks("name", c->name),
		km_ks("why", error->message));
}

/* ---- the wish ---- */

/* clang-format off */

/* $1 id, $2 key, $3 certificate or NULL. Nothing of the transaction stays when it may not be. */
#define WISH(table)                                                                                \
	"WITH wish AS (UPDATE " table " SET next_public_key = $2, next_certificate = $3 "          \
	"WHERE id = $1::uuid AND wireguard_public_key <> $2 AND revoked_at IS NULL RETURNING 1) "  \
	"SELECT km_must_find(EXISTS (SELECT FROM wish), 'it has this key already, or is revoked')"
#define ASK                                                                                        \
	"INSERT INTO enrolments (kind, host_id, public_key, reason) VALUES ($1, $2::uuid, $3, "    \
	"'rotation') ON CONFLICT (public_key) DO NOTHING"
/* $1 id, $2 key. */
#define PROMOTE(table)                                                                             \
	"UPDATE " table " h SET wireguard_public_key = next_public_key, "                          \
	"certificate = next_certificate, certificate_fingerprint = c.fingerprint, "                \
	"certificate_not_after = c.not_after, certificate_due = false, next_public_key = NULL, "   \
	"next_certificate = NULL, pending_public_key = NULL FROM host_certificates c "             \
	"WHERE h.id = $1::uuid AND h.next_public_key = $2 AND c.host_id = h.id "                   \
	"AND c.certificate = h.next_certificate"
#define LOOK(table)                                                                                \
	"SELECT wireguard_public_key, next_public_key, next_certificate IS NOT NULL FROM " table   \
	" WHERE id = $1::uuid AND revoked_at IS NULL"

/* clang-format on */

static void wished(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct client *c = arg;

	(void)res, (void)n;
	c->db_key = NULL;
	if (error && error->err == KM_EEXIST)
		client_send_error(c, "KEY_IN_USE", "this WireGuard key belongs to another host");
	if (error)
		failed(c, "next WireGuard key not taken", error);
	else
		km_info("host changes its WireGuard key", km_ks("type", client_kind(c)),
			km_ks("id", c->id), km_ks("name", c->name));
}

/* Each next key costs a certificate, and its peers a change. */
static bool may_wish(struct client *c)
{
	int64_t now = km_now_ms();

	if (limit_wait_ms(c->hub->wishes, c->id, now) > 0) {
		km_warn("too many WireGuard keys", km_ks("type", client_kind(c)),
			km_ks("id", c->id), km_ks("name", c->name));
		client_send_error(c, "TOO_MANY", "too many next WireGuard keys; try again later");
		return false;
	}
	limit_failed(c->hub->wishes, c->id, now);
	return true;
}

static void wish(struct client *c)
{
	struct authority_host h = {c->gateway, c->id, c->name, c->place, NULL};
	const char *kind = client_kind(c);
	struct issued cert = {.pem = NULL};
	struct km_errtext err = {""};
	uint8_t key[KM_WG_KEY_LEN];
	struct store_stmt s[4];
	size_t n = 0;

	h.key = key;
	if (km_wg_key_parse(key, c->rotation_key) || !may_wish(c))
		return;
	if (authority_signs(c->hub->authority) &&
	    authority_issue(c->hub->authority, &cert, &h, &err)) {
		km_error("certificate not issued", km_ks("type", kind), km_ks("id", c->id),
			 km_ks("why", err.text));
		return;
	}
	s[n++] = (struct store_stmt){
	    .sql = "SELECT km_before($1, $2::uuid)", .n = 2, .params = {kind, c->id}};
	s[n++] = (struct store_stmt){.sql = c->gateway ? WISH("gateways") : WISH("agents"),
				     .n = 3,
				     .params = {c->id, c->rotation_key, cert.pem}};
	if (cert.pem)
		s[n++] = issued_insert(&cert, c->gateway, c->id);
	else
		s[n++] = (struct store_stmt){
		    .sql = ASK, .n = 3, .params = {kind, c->id, c->rotation_key}};
	s[n++] = (struct store_stmt){
	    .sql = "SELECT km_change($1, 'update', $2::uuid)", .n = 2, .params = {kind, c->id}};
	if (store_run(c->hub->store, s, n, wished, c, &c->db_key))
		c->db_key = NULL;
	issued_free(&cert);
}

static void looked(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct client *c = arg;

	(void)n;
	c->db_key = NULL;
	if (error) {
		failed(c, "next WireGuard key not taken", error);
		return;
	}
	if (PQntuples(res[0]) == 0)
		return;
	if (strcmp(PQgetvalue(res[0], 0, 0), c->rotation_key) == 0)
		return; /* it is the present one already */
	if (strcmp(PQgetvalue(res[0], 0, 1), c->rotation_key) != 0)
		wish(c);
	else if (strcmp(PQgetvalue(res[0], 0, 2), "t") == 0) /* told again: after a new link */
		rotate_told(c, c->looked);
}

static void promoted(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct client *c = arg;

	(void)n;
	c->db_key = NULL;
	if (error) { /* the next tick tries again */
		failed(c, "next WireGuard key not made the present one", error);
		return;
	}
	c->switched_key[0] = 0;
	if (strcmp(PQcmdTuples(res[1]), "0") == 0)
		return;
	km_info("host has changed its WireGuard key", km_ks("type", client_kind(c)),
		km_ks("id", c->id), km_ks("name", c->name));
	km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_key_rotations_total", "",
				"WireGuard keys that hosts have changed"),
		      1);
}

struct store_stmt rotate_promote(const struct client *c, const char *key)
{
	return (struct store_stmt){.sql = c->gateway ? PROMOTE("gateways") : PROMOTE("agents"),
				   .n = 2,
				   .params = {c->id, key}};
}

/* The host says once that it has switched: this is tried until it is written down. */
static void promote(struct client *c)
{
	const char *kind = client_kind(c);
	struct store_stmt s[] = {
	    {.sql = "SELECT km_before($1, $2::uuid)", .n = 2, .params = {kind, c->id}},
	    rotate_promote(c, c->switched_key),
	    {.sql = "SELECT km_change($1, 'update', $2::uuid)", .n = 2, .params = {kind, c->id}},
	};

	c->rotation_revision = 0;
	if (store_run(c->hub->store, s, KM_ARRAY_LEN(s), promoted, c, &c->db_key))
		c->db_key = NULL;
}

void rotate_update(struct client *c, const struct km_msg_key_update *m)
{
	struct store_stmt s = {.sql = c->gateway ? LOOK("gateways") : LOOK("agents"),
			       .n = 1,
			       .params = {c->id}};

	if (m->has_switched && m->switched)
		snprintf(c->switched_key, sizeof(c->switched_key), "%s", m->wireguard_public_key);
	if (c->db_key)
		return; /* a wish is told again */
	snprintf(c->rotation_key, sizeof(c->rotation_key), "%s", m->wireguard_public_key);
	if (c->switched_key[0])
		promote(c);
	else if (store_read(c->hub->store, &s, 1, looked, c, &c->db_key))
		c->db_key = NULL;
}

/* ---- until the peers know it ---- */

void rotate_told(struct client *c, int64_t revision)
{
	c->rotation_revision = revision ? revision : 1;
	c->rotation_ms = km_now_ms();
}

static void ready(struct client *c)
{
	c->rotation_revision = 0;
	client_send(c, "key_ready", json_pack("{s:s}", "wireguardPublicKey", c->rotation_key));
}

static void counted(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct client *c = arg;

	(void)n;
	c->db_key = NULL;
	if (!error && c->rotation_revision && strcmp(PQgetvalue(res[0], 0, 0), "0") == 0)
		ready(c);
}

/* Gateways hear of agents; agents and other gateways of a gateway. */
#define BEHIND(table)                                                                              \
	"(SELECT count(*) FROM " table " WHERE status = 'online' AND id <> $2::uuid "              \
	"AND revoked_at IS NULL AND last_seen_at > now() - interval '60 seconds' "                 \
	"AND (acked_revision IS NULL OR acked_revision < $1::bigint))"

void rotate_tick(struct client *c, int64_t now_ms)
{
	char revision[24];

	if (c->switched_key[0] && !c->db_key)
		promote(c);
	if (!c->rotation_revision || c->db_key || c->step != STEP_LIVE)
		return;
	if (now_ms - c->rotation_ms > PATIENCE_MS) {
		km_warn("not every peer has acknowledged a host's next key", km_ks("id", c->id),
			km_ks("name", c->name));
		ready(c);
		return;
	}
	snprintf(revision, sizeof(revision), "%lld", (long long)c->rotation_revision);
	struct store_stmt s = {.sql = c->gateway
					  ? "SELECT " BEHIND("gateways") " + " BEHIND("agents")
					  : "SELECT " BEHIND("gateways"),
			       .n = 2,
			       .params = {revision, c->id}};
	if (store_read(c->hub->store, &s, 1, counted, c, &c->db_key))
		c->db_key = NULL;
}
