/* SPDX-License-Identifier: MIT */
#include "controld/api/request.h"
#include "controld/api/route.h"
#include "controld/api/sql.h"
#include <stdlib.h>

#define VIEW                                                                                       \
	"json_build_object('id', a.id, 'name', a.name, 'virtualIp', host(a.virtual_ip), "          \
	"'subnet', a.subnet::text, 'apiKeyPrefix', a.api_key_prefix, "                             \
	"'wireguardPublicKey', a.wireguard_public_key, 'pendingPublicKey', a.pending_public_key, " \
	"'status', " SQL_STATUS(                                                                   \
	    "a") ", 'version', a.version, 'hostname', a.hostname, "                                \
		 "'lastSeenAt', km_time(a.last_seen_at), 'lastHandshakeAt', "                      \
		 "(SELECT max(g.report->'peers'->(a.id::text)->>'lastHandshakeAt') FROM gateways " \
		 "g), "                                                                            \
		 "'peers', " SQL_REPORT_LIST("a", "peers") ", " SQL_APPLIED("a")                   \
		     SQL_TIMES("a") ")"

void agents_list(struct req *rq)
{
	req_list(rq, SQL_LIST(VIEW, "agents", "a", ""), "SELECT count(*) FROM agents");
}

static void agent_read(struct req *rq, PGresult *const *res, size_t n)
{
	req_reply_row(rq, 200, res[0]);
	(void)n;
}

void agents_get(struct req *rq)
{
	struct tx tx = {.n = 0};
	tx_add(&tx, "SELECT " VIEW " FROM agents a WHERE id = $1::uuid", rq->id);
	req_read(rq, &tx, agent_read);
}

static void agent_created(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_secret(rq, 201, res[2], "apiKey");
}

void agents_create(struct req *rq)
{
	struct host_input in;
	struct details d = {NULL};
	struct tx tx = {.n = 0};
	char hash[HASH_TEXT_LEN], prefix[SECRET_PREFIX_LEN + 1];
	if (input_agent(&in, rq->body, true, &d) < 0) {
		req_invalid(rq, &d);
		return;
	}
	km_uuid_new(rq->id);
	req_new_secret(rq, "agt_", hash, prefix);
	char *details = json_dumps(rq->body, JSON_COMPACT);
	tx_add(&tx,
	       "INSERT INTO agents (id, name, api_key_hash, api_key_prefix) "
	       "VALUES ($1::uuid, $2, $3::bytea, $4)",
	       rq->id, in.name, hash, prefix);
	tx_audit(&tx, rq, "agent.create", details);
	tx_add(&tx, "SELECT " VIEW " FROM agents a WHERE id = $1::uuid", rq->id);
	tx_add(&tx, "SELECT km_change('agent', 'create', $1::uuid)", rq->id);
	req_run(rq, &tx, agent_created);
	free(details);
}

static void agent_updated(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_row(rq, 200, res[3]);
}

void agents_update(struct req *rq)
{
	struct host_input in;
	struct details d = {NULL};
	struct tx tx = {.n = 0};
	if (input_agent(&in, rq->body, false, &d) < 0) {
		req_invalid(rq, &d);
		return;
	}
	char *details = json_dumps(rq->body, JSON_COMPACT);
	tx_add(&tx, "SELECT km_before('agent', $1::uuid)", rq->id);
	tx_add(
	    &tx,
	    "UPDATE agents SET name = coalesce($2, name), updated_at = now() WHERE id = $1::uuid",
	    rq->id, in.name);
	tx_audit(&tx, rq, "agent.update", details);
	tx_add(&tx, "SELECT " VIEW " FROM agents a WHERE id = $1::uuid", rq->id);
	tx_add(&tx, "SELECT km_change('agent', 'update', $1::uuid)", rq->id);
	req_run(rq, &tx, agent_updated);
	free(details);
}

static void agent_deleted(struct req *rq, PGresult *const *res, size_t n)
{
	(void)res, (void)n;
	req_reply_empty(rq, 204);
}

void agents_delete(struct req *rq)
{
	struct tx tx = {.n = 0};
	tx_add(&tx, "SELECT km_before('agent', $1::uuid)", rq->id);
	tx_add(
	    &tx,
	    "INSERT INTO audit_log (actor, address, action, entity_id, details) SELECT $1, "
	    "$2::inet, "
	    "'agent.delete', id, jsonb_build_object('name', name) FROM agents WHERE id = $3::uuid",
	    rq->actor, rq->peer, rq->id);
	tx_add(&tx, "DELETE FROM agents WHERE id = $1::uuid", rq->id);
	tx_add(&tx, "SELECT km_change('agent', 'delete', $1::uuid)", rq->id);
	req_run(rq, &tx, agent_deleted);
}

static void key_approved(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	if (PQntuples(res[1]) == 0)
		req_error(rq, 409, "CONFLICT", NULL, "no key waits for approval");
	else
		req_reply_row(rq, 200, res[3]);
}

void agents_approve_key(struct req *rq)
{
	struct tx tx = {.n = 0};
	tx_add(&tx, "SELECT km_before('agent', $1::uuid)", rq->id);
	tx_add(&tx,
	       "UPDATE agents SET wireguard_public_key = pending_public_key, pending_public_key = "
	       "NULL, "
	       "updated_at = now() WHERE id = $1::uuid AND pending_public_key IS NOT NULL "
	       "RETURNING wireguard_public_key",
	       rq->id);
	tx_add(&tx,
	       "INSERT INTO audit_log (actor, address, action, entity_id, details) SELECT $1, "
	       "$2::inet, "
	       "'agent.approve-key', id, jsonb_build_object('wireguardPublicKey', "
	       "wireguard_public_key) "
	       "FROM agents WHERE id = $3::uuid AND updated_at = now()",
	       rq->actor, rq->peer, rq->id);
	tx_add(&tx, "SELECT " VIEW " FROM agents a WHERE id = $1::uuid", rq->id);
	tx_add(&tx, "SELECT km_change('agent', 'update', $1::uuid)", rq->id);
	req_run(rq, &tx, key_approved);
}
