/* SPDX-License-Identifier: MIT */
#include "controld/api/hosts.h"
#include "controld/api/request.h"
#include "controld/api/route.h"
#include "controld/api/sql.h"
#include <stdlib.h>
#include <string.h>

struct host_kind {
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
};

/* clang-format off */

/* What the views of both begin with, and end with. */
#define VIEW_HEAD(t)                                                                               \
	"json_build_object('id', " t ".id, 'name', " t ".name, 'apiKeyPrefix', " t                 \
	".api_key_prefix, 'wireguardPublicKey', " t ".wireguard_public_key, "                      \
	"'pendingPublicKey', " t ".pending_public_key, 'status', " SQL_STATUS(t) ", "              \
	"'version', " t ".version, 'hostname', " t ".hostname, "                                   \
	"'lastSeenAt', km_time(" t ".last_seen_at), "
#define VIEW_TAIL(t)                                                                               \
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
#define STATEMENTS(kind, table, t, view)                                                           \
	.list = SQL_LIST(view, table, t, ""),                                                      \
	.count = "SELECT count(*) FROM " table,                                                    \
	.one = "SELECT " view " FROM " table " " t " WHERE id = $1::uuid",                         \
	.created = "SELECT km_change('" kind "', 'create', $1::uuid)",                             \
	.before = "SELECT km_before('" kind "', $1::uuid)",                                        \
	.changed = "SELECT km_change('" kind "', 'update', $1::uuid)",                             \
	.deleted = "SELECT km_change('" kind "', 'delete', $1::uuid)",                             \
	.create_action = kind ".create",                                                           \
	.update_action = kind ".update",                                                           \
	.drop = "DELETE FROM " table " WHERE id = $1::uuid",                                       \
	.drop_audit = AUDIT_OF(kind ".delete", "jsonb_build_object('name', name)", table),         \
	.approve = "UPDATE " table " SET wireguard_public_key = pending_public_key, "              \
		   "pending_public_key = NULL, updated_at = now() WHERE id = $1::uuid "            \
		   "AND pending_public_key IS NOT NULL RETURNING wireguard_public_key",            \
	.approve_audit = AUDIT_OF(kind ".approve-key",                                             \
				  "jsonb_build_object('wireguardPublicKey', "                      \
				  "wireguard_public_key)", table) " AND updated_at = now()"

const struct host_kind host_agent = {
	STATEMENTS("agent", "agents", "a", AGENT_VIEW),
	.key_prefix = "agt_",
	.input = input_agent,
	.insert = "INSERT INTO agents (id, name, api_key_hash, api_key_prefix) "
		  "VALUES ($1::uuid, $2, $3::bytea, $4)",
	.n_insert = 4,
	.update = "UPDATE agents SET name = coalesce($2, name), updated_at = now() "
		  "WHERE id = $1::uuid",
	.n_update = 2,
};
const struct host_kind host_gateway = {
	STATEMENTS("gateway", "gateways", "g", GATEWAY_VIEW),
	.key_prefix = "gtw_",
	.input = input_gateway,
	.insert = "INSERT INTO gateways (id, name, api_key_hash, api_key_prefix, public_ip, region) "
		  "VALUES ($1::uuid, $2, $3::bytea, $4, $5::text[], $6)",
	.n_insert = 6,
	.update = "UPDATE gateways SET name = coalesce($2, name), "
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

static void host_created(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_secret(rq, 201, res[2], "apiKey");
}

void hosts_create(struct req *rq)
{
	const struct host_kind *k = rq->route->host;
	struct host_input in;
	struct details d = {NULL};
	struct tx tx = {.n = 0};
	char hash[HASH_TEXT_LEN], prefix[SECRET_PREFIX_LEN + 1], ips[IP_ARRAY_LEN];
	if (k->input(&in, rq->body, true, &d) < 0) {
		req_invalid(rq, &d);
		return;
	}
	km_uuid_new(rq->id);
	req_new_secret(rq, k->key_prefix, hash, prefix);
	ip_array(ips, sizeof(ips), &in);
	const char *const params[] = {rq->id, in.name, hash, prefix, ips, in.region};
	char *details = json_dumps(rq->body, JSON_COMPACT);
	tx_add_(&tx, k->insert, params, k->n_insert);
	tx_audit(&tx, rq, k->create_action, details);
	tx_add(&tx, k->one, rq->id);
	tx_add(&tx, k->created, rq->id);
	req_run(rq, &tx, host_created);
	free(details);
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
