/* SPDX-License-Identifier: MIT */
#include "controld/api/hosts.h"
#include "controld/api/request.h"
#include "controld/api/route.h"
#include "controld/api/server.h"
#include "controld/api/sql.h"
#include "controld/pki/authority.h"
#include "libkm/join/token.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct host_kind {
	const char *kind;
	const char *key_prefix; /* of its API keys, four characters */
	int (*input)(struct host_input *in, const json_t *body, bool create, struct details *d);
	const char *list, *count, *one;
	/* Parameters: host_params, of which it takes the first n. */
	const char *insert, *update;
	int n_insert, n_update;
	const char *created, *before, *changed, *deleted; /* for the hub */
	const char *create_action, *update_action;
	const char *drop, *drop_audit;
	const char *approve, *approve_audit;
	const char *revoke, *revoke_audit, *token, *token_audit;
};

/* clang-format off */

/* What the views of both begin with, and end with. */
#define VIEW_HEAD(t)                                                                               \
	"json_build_object('id', " t ".id, 'name', " t ".name, 'apiKeyPrefix', " t                 \
	".api_key_prefix, 'wireguardPublicKey', " t ".wireguard_public_key, "                      \
	"'pendingPublicKey', " t ".pending_public_key, 'status', CASE WHEN " t             \
	".revoked_at IS NOT NULL THEN 'revoked' ELSE " SQL_STATUS(t) " END, "              \
	"'version', " t ".version, 'hostname', " t ".hostname, "                                   \
	"'lastSeenAt', km_time(" t ".last_seen_at), "
#define VIEW_TAIL(t)                                                                               \
	"'certificate', " t ".certificate, 'certificateFingerprint', " t                           \
	".certificate_fingerprint, 'certificateNotAfter', km_time(" t ".certificate_not_after), "  \
	"'nextPublicKey', " t ".next_public_key, 'joinTokenExpiresAt', CASE WHEN " t               \
	".join_token_expires_at > now() AND " t ".join_key IS NULL THEN km_time(" t                \
	".join_token_expires_at) END, "                                                            \
	"'peers', " SQL_REPORT_LIST(t, "peers") ", " SQL_APPLIED(t) SQL_TIMES(t) ")"

#define AGENT_VIEW                                                                                 \
	VIEW_HEAD("a")                                                                             \
	"'virtualIp', host(a.virtual_ip), 'subnet', a.subnet::text, 'lastHandshakeAt', "           \
	"(SELECT max(g.report->'peers'->(a.id::text)->>'lastHandshakeAt') FROM gateways g), "      \
	VIEW_TAIL("a")
#define GATEWAY_VIEW                                                                               \
	VIEW_HEAD("g")                                                                             \
	"'publicIp', "                                                                             \
	"to_json(CASE WHEN g.public_ip = '{}' THEN g.reported_ip ELSE g.public_ip END), "          \
	"'configuredPublicIp', to_json(g.public_ip), 'region', g.region, "                         \
	"'wireguardPort', g.wireguard_port, "                                                      \
	"'virtualIps', json_build_array(host(g.virtual_ip)), "                                     \
	VIEW_TAIL("g")

#define AUDIT_OF(action, details, table)                                                           \
	"INSERT INTO audit_log (actor, address, action, entity_id, details) "                      \
	"SELECT $1, $2::inet, '" action "', id, " details " FROM " table " WHERE id = $3::uuid"

/* The statements that differ in names only. */
#define STATEMENTS(what, table, t, view)                                                           \
	.kind = what,                                                                              \
	.list = SQL_LIST(view, table, t, ""),                                                      \
	.count = "SELECT count(*) FROM " table,                                                    \
	.one = "SELECT " view " FROM " table " " t " WHERE id = $1::uuid",                         \
	.created = "SELECT km_change('" what "', 'create', $1::uuid)",                             \
	.before = "SELECT km_before('" what "', $1::uuid)",                                        \
	.changed = "SELECT km_change('" what "', 'update', $1::uuid)",                             \
	.deleted = "SELECT km_change('" what "', 'delete', $1::uuid)",                             \
	.create_action = what ".create",                                                           \
	.update_action = what ".update",                                                           \
	.drop = "DELETE FROM " table " WHERE id = $1::uuid",                                       \
	.drop_audit = AUDIT_OF(what ".delete", "jsonb_build_object('name', name)", table),         \
	.approve = "UPDATE " table " SET wireguard_public_key = pending_public_key, "              \
		   "pending_public_key = NULL, certificate = NULL, certificate_fingerprint = NULL, " \
		   "certificate_not_after = NULL, next_public_key = NULL, "                       \
		   "next_certificate = NULL, updated_at = now() "                                 \
		   "WHERE id = $1::uuid "            \
		   "AND pending_public_key IS NOT NULL RETURNING wireguard_public_key",            \
	.approve_audit = AUDIT_OF(what ".approve-key",                                             \
				  "jsonb_build_object('wireguardPublicKey', "                      \
				  "wireguard_public_key)", table) " AND updated_at = now()",       \
	.revoke = "UPDATE " table " SET revoked_at = now(), updated_at = now(), "                  \
		  "api_key_hash = sha256(gen_random_uuid()::text::bytea), "                        \
		  "join_token_hash = NULL, join_token_prefix = NULL, join_key = NULL, "            \
		  "wireguard_public_key = NULL, pending_public_key = NULL, "                       \
		  "next_public_key = NULL, next_certificate = NULL, certificate = NULL, "          \
		  "certificate_fingerprint = NULL, certificate_not_after = NULL "                  \
		  "WHERE id = $1::uuid",                                                           \
	.revoke_audit = AUDIT_OF(what ".revoke", "jsonb_build_object('name', name)", table),       \
	.token = "UPDATE " table " SET join_token_hash = $2::bytea, join_token_prefix = $3, "      \
		 "join_token_expires_at = now() + interval '1 day', join_key = NULL, "             \
		 "updated_at = now() WHERE id = $1::uuid",                                         \
	.token_audit = AUDIT_OF(what ".join-token", "jsonb_build_object('name', name)", table)

const struct host_kind host_agent = {
	STATEMENTS("agent", "agents", "a", AGENT_VIEW),
	.key_prefix = "agt_",
	.input = input_agent,
	.insert = "INSERT INTO agents (id, name, api_key_hash, api_key_prefix, number, "
		  "join_token_hash, join_token_prefix, join_token_expires_at) "
		  "VALUES ($1::uuid, $2, $3::bytea, $4, $5::int, $6::bytea, $7, "
		  "now() + interval '1 day')",
	.n_insert = 7,
	.update = "UPDATE agents SET certificate_due = certificate_due OR name <> coalesce($2, name), "
		  "name = coalesce($2, name), updated_at = now() "
		  "WHERE id = $1::uuid",
	.n_update = 2,
};
const struct host_kind host_gateway = {
	STATEMENTS("gateway", "gateways", "g", GATEWAY_VIEW),
	.key_prefix = "gtw_",
	.input = input_gateway,
	.insert = "INSERT INTO gateways (id, name, api_key_hash, api_key_prefix, number, "
		  "join_token_hash, join_token_prefix, join_token_expires_at, public_ip, region) "
		  "VALUES ($1::uuid, $2, $3::bytea, $4, $5::int, $6::bytea, $7, "
		  "now() + interval '1 day', $8::text[], $9)",
	.n_insert = 9,
	.update = "UPDATE gateways SET certificate_due = certificate_due OR name <> coalesce($2, name), "
		  "name = coalesce($2, name), "
		  "public_ip = coalesce($3::text[], public_ip), "
		  "region = CASE WHEN $4::boolean THEN $5 ELSE region END, updated_at = now() "
		  "WHERE id = $1::uuid",
	.n_update = 5,
};

/* clang-format on */

#define IP_ARRAY_LEN (INPUT_IPS * 255 + 4)

/* A PostgreSQL array; the elements were checked and need no quotes. */
static void ip_array(char *out, size_t room, const struct host_input *in)
{
	size_t used = 1;
	out[0] = '{';
	for (size_t i = 0; i < in->n_public_ip; i++) {
		size_t n = strlen(in->public_ip[i]);
		if (used + n + 3 > room)
			break;
		if (i)
			out[used++] = ',';
		memcpy(out + used, in->public_ip[i], n);
		used += n;
	}
	memcpy(out + used, "}", 2);
}

/* ---- lists and single ones ---- */

void hosts_list(struct req *rq)
{
	req_list(rq, rq->route->host->list, rq->route->host->count);
}

void hosts_get(struct req *rq)
{
	req_get(rq, rq->route->host->one, rq->id);
}

/* ---- made, changed, deleted ---- */

/* The join token whose secret this is; NULL: nobody could use one. */
static char *join_text(const struct req *rq, const char *secret)
{
	const struct api *api = rq->api;
	struct km_join_token t = {.gateway = rq->route->host == &host_gateway, .pin = (char *)api->pin};
	char *text;
	if (!api->link_urls || api->link_urls->n == 0 || !api->pin)
		return NULL;
	snprintf(t.secret, sizeof(t.secret), "%s", secret);
	t.urls = *api->link_urls;
	if (t.urls.n > KM_JOIN_URLS_MAX)
		t.urls.n = KM_JOIN_URLS_MAX;
	authority_fingerprints(api->authority, &t.cas);
	text = km_join_token_format(&t);
	t.pin = NULL;
	t.urls = (struct km_strlist){0};
	km_join_token_free(&t);
	return text;
}

/* A new secret with its digest and the first characters, as the database keeps it. */
struct stored_secret {
	char text[SECRET_STRLEN], hash[VAULT_TEXT_LEN], prefix[SECRET_PREFIX_LEN + 1];
};

static void join_secret(struct req *rq, const char *number, struct stored_secret *s)
{
	req_new_secret(s->text, "kmj_", s->prefix);
	vault_digest_text(rq->api->vault, s->hash,
			  VAULT_JOIN_TOKEN(rq->route->host->kind, rq->id, number, s->text));
	rq->join_token = join_text(rq, s->text);
}

static void host_created(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_secret(rq, 201, res[2], "apiKey");
}

/* Its number is known: the row can be made. */
static void number_given(struct req *rq, PGresult *const *res, size_t n)
{
	const struct host_kind *k = rq->route->host;
	const char *number = PQgetvalue(res[0], 0, 0);
	struct host_input in;
	struct details d = {NULL};
	struct tx tx = {.n = 0};
	struct stored_secret api, join;
	char ips[IP_ARRAY_LEN];
	(void)n;
	if (k->input(&in, rq->body, true, &d) < 0) {
		req_invalid(rq, &d);
		return;
	}
	req_new_secret(api.text, k->key_prefix, api.prefix);
	vault_digest_text(rq->api->vault, api.hash,
			  VAULT_API_KEY(k->kind, rq->id, number, api.text));
	memcpy(rq->secret, api.text, sizeof(rq->secret));
	join_secret(rq, number, &join);
	ip_array(ips, sizeof(ips), &in);
	const char *const params[] = {rq->id,	 in.name,     api.hash, api.prefix, number,
				      join.hash, join.prefix, ips,	in.region};
	char *details = json_dumps(rq->body, JSON_COMPACT);
	tx_add_(&tx, k->insert, params, k->n_insert);
	tx_audit(&tx, rq, k->create_action, details);
	tx_add(&tx, k->one, rq->id);
	tx_add(&tx, k->created, rq->id);
	req_run(rq, &tx, host_created);
	km_wipe(&api, sizeof(api));
	km_wipe(&join, sizeof(join));
	free(details);
}

void hosts_create(struct req *rq)
{
	const struct host_kind *k = rq->route->host;
	struct host_input in;
	struct details d = {NULL};
	struct tx tx = {.n = 0};
	if (k->input(&in, rq->body, true, &d) < 0) {
		req_invalid(rq, &d);
		return;
	}
	km_uuid_new(rq->id);
	tx_add(&tx, "SELECT km_next_number($1, $2)", k->kind, in.name);
	req_run(rq, &tx, number_given);
}

static void host_updated(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_row(rq, 200, res[3]);
}

void hosts_update(struct req *rq)
{
	const struct host_kind *k = rq->route->host;
	struct host_input in;
	struct details d = {NULL};
	struct tx tx = {.n = 0};
	char ips[IP_ARRAY_LEN];
	if (k->input(&in, rq->body, false, &d) < 0) {
		req_invalid(rq, &d);
		return;
	}
	ip_array(ips, sizeof(ips), &in);
	const char *const params[] = {rq->id, in.name, in.has_public_ip ? ips : NULL,
				      in.has_region ? "true" : "false", in.region};
	char *details = json_dumps(rq->body, JSON_COMPACT);
	tx_add(&tx, k->before, rq->id);
	tx_add_(&tx, k->update, params, k->n_update);
	tx_audit(&tx, rq, k->update_action, details);
	tx_add(&tx, k->one, rq->id);
	tx_add(&tx, k->changed, rq->id);
	req_run(rq, &tx, host_updated);
	free(details);
}

static void host_deleted(struct req *rq, PGresult *const *res, size_t n)
{
	(void)res, (void)n;
	req_reply_empty(rq, 204);
}

void hosts_delete(struct req *rq)
{
	const struct host_kind *k = rq->route->host;
	struct tx tx = {.n = 0};
	tx_add(&tx, k->before, rq->id);
	tx_add(&tx, k->drop_audit, rq->actor, rq->peer, rq->id);
	tx_add(&tx, "SELECT km_block($1::uuid)", rq->id);
	tx_add(&tx, k->drop, rq->id);
	tx_add(&tx, k->deleted, rq->id);
	req_run(rq, &tx, host_deleted);
}

/* ---- a new WireGuard key ---- */

static void key_approved(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	if (PQntuples(res[1]) == 0)
		req_error(rq, 409, "CONFLICT", NULL, "no key waits for approval");
	else
		req_reply_row(rq, 200, res[3]);
}

void hosts_approve_key(struct req *rq)
{
	const struct host_kind *k = rq->route->host;
	struct tx tx = {.n = 0};
	tx_add(&tx, k->before, rq->id);
	tx_add(&tx, k->approve, rq->id);
	tx_add(&tx, k->approve_audit, rq->actor, rq->peer, rq->id);
	tx_add(&tx, k->one, rq->id);
	tx_add(&tx, k->changed, rq->id);
	req_run(rq, &tx, key_approved);
}

/* ---- cut off, and let in again ---- */

static void host_revoked(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_row(rq, 200, res[4]);
}

void hosts_revoke(struct req *rq)
{
	const struct host_kind *k = rq->route->host;
	struct tx tx = {.n = 0};
	tx_add(&tx, k->before, rq->id);
	tx_add(&tx, k->revoke, rq->id);
	tx_add(&tx, "SELECT km_block($1::uuid)", rq->id);
	tx_add(&tx, k->revoke_audit, rq->actor, rq->peer, rq->id);
	tx_add(&tx, k->one, rq->id);
	tx_add(&tx, k->deleted, rq->id);
	req_run(rq, &tx, host_revoked);
}

static void token_made(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_row(rq, 201, res[3]);
}

static void number_read(struct req *rq, PGresult *const *res, size_t n)
{
	const struct host_kind *k = rq->route->host;
	struct stored_secret join;
	struct tx tx = {.n = 0};
	(void)n;
	if (PQntuples(res[0]) == 0) {
		req_error(rq, 404, "NOT_FOUND", NULL, "no such %s", k->kind);
		return;
	}
	join_secret(rq, PQgetvalue(res[0], 0, 0), &join);
	if (!rq->join_token) {
		km_wipe(&join, sizeof(join));
		req_error(rq, 503, "UNAVAILABLE", NULL,
			  "control does not know under which name hosts reach it: set names or link_urls");
		return;
	}
	tx_add(&tx, k->before, rq->id);
	tx_add(&tx, k->token, rq->id, join.hash, join.prefix);
	tx_add(&tx, k->token_audit, rq->actor, rq->peer, rq->id);
	tx_add(&tx,
	       "SELECT json_build_object('joinToken', $1::text, 'expiresAt', "
	       "km_time(now() + interval '1 day'))",
	       rq->join_token);
	req_run(rq, &tx, token_made);
	km_wipe(&join, sizeof(join));
}

void hosts_join_token(struct req *rq)
{
	struct tx tx = {.n = 0};
	tx_add(&tx,
	       rq->route->host == &host_gateway ? "SELECT number FROM gateways WHERE id = $1::uuid"
						: "SELECT number FROM agents WHERE id = $1::uuid",
	       rq->id);
	req_read(rq, &tx, number_read);
}
