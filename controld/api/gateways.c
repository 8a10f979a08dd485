/* SPDX-License-Identifier: MIT */
#include "controld/api/request.h"
#include "controld/api/route.h"
#include "controld/api/sql.h"
#include <stdlib.h>
#include <string.h>

#define VIEW                                                                                       \
	"json_build_object('id', g.id, 'name', g.name, 'publicIp', "                               \
	"to_json(CASE WHEN g.public_ip = '{}' THEN g.reported_ip ELSE g.public_ip END), "          \
	"'configuredPublicIp', to_json(g.public_ip), "                                             \
	"'region', g.region, 'wireguardPort', g.wireguard_port, "                                  \
	"'virtualIps', json_build_array(host(g.virtual_ip)), 'apiKeyPrefix', g.api_key_prefix, "   \
	"'wireguardPublicKey', g.wireguard_public_key, 'pendingPublicKey', g.pending_public_key, " \
	"'status', " SQL_STATUS("g") ", 'version', g.version, 'hostname', g.hostname, "            \
				     "'lastSeenAt', km_time(g.last_seen_at), "                     \
				     "'peers', " SQL_REPORT_LIST("g", "peers") ", " SQL_APPLIED(   \
					 "g") SQL_TIMES("g") ")"

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
#define IP_ARRAY_LEN (INPUT_IPS * 255 + 4)

void gateways_list(struct req *rq)
{
	req_list(rq, SQL_LIST(VIEW, "gateways", "g", ""), "SELECT count(*) FROM gateways");
}

static void gateway_read(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_row(rq, 200, res[0]);
}

void gateways_get(struct req *rq)
{
	struct tx tx = {.n = 0};
	tx_add(&tx, "SELECT " VIEW " FROM gateways g WHERE id = $1::uuid", rq->id);
	req_read(rq, &tx, gateway_read);
}

static void gateway_created(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_secret(rq, 201, res[2], "apiKey");
}

void gateways_create(struct req *rq)
{
	struct host_input in;
	struct details d = {NULL};
	struct tx tx = {.n = 0};
	char hash[HASH_TEXT_LEN], prefix[SECRET_PREFIX_LEN + 1], ips[IP_ARRAY_LEN];
	if (input_gateway(&in, rq->body, true, &d) < 0) {
		req_invalid(rq, &d);
		return;
	}
	km_uuid_new(rq->id);
	req_new_secret(rq, "gtw_", hash, prefix);
	ip_array(ips, sizeof(ips), &in);
	char *details = json_dumps(rq->body, JSON_COMPACT);
	tx_add(&tx,
	       "INSERT INTO gateways (id, name, api_key_hash, api_key_prefix, public_ip, region) "
	       "VALUES ($1::uuid, $2, $3::bytea, $4, $5::text[], $6)",
	       rq->id, in.name, hash, prefix, ips, in.region);
	tx_audit(&tx, rq, "gateway.create", details);
	tx_add(&tx, "SELECT " VIEW " FROM gateways g WHERE id = $1::uuid", rq->id);
	tx_add(&tx, "SELECT km_change('gateway', 'create', $1::uuid)", rq->id);
	req_run(rq, &tx, gateway_created);
	free(details);
}

static void gateway_updated(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_row(rq, 200, res[3]);
}

void gateways_update(struct req *rq)
{
	struct host_input in;
	struct details d = {NULL};
	struct tx tx = {.n = 0};
	char ips[IP_ARRAY_LEN];
	if (input_gateway(&in, rq->body, false, &d) < 0) {
		req_invalid(rq, &d);
		return;
	}
	ip_array(ips, sizeof(ips), &in);
	char *details = json_dumps(rq->body, JSON_COMPACT);
	tx_add(&tx, "SELECT km_before('gateway', $1::uuid)", rq->id);
	tx_add(&tx,
	       "UPDATE gateways SET name = coalesce($2, name), "
	       "public_ip = coalesce($3::text[], public_ip), "
	       "region = CASE WHEN $4::boolean THEN $5 ELSE region END, updated_at = now() "
	       "WHERE id = $1::uuid",
	       rq->id, in.name, in.has_public_ip ? ips : NULL, in.has_region ? "true" : "false",
	       in.region);
	tx_audit(&tx, rq, "gateway.update", details);
	tx_add(&tx, "SELECT " VIEW " FROM gateways g WHERE id = $1::uuid", rq->id);
	tx_add(&tx, "SELECT km_change('gateway', 'update', $1::uuid)", rq->id);
	req_run(rq, &tx, gateway_updated);
	free(details);
}

static void gateway_deleted(struct req *rq, PGresult *const *res, size_t n)
{
	(void)res, (void)n;
	req_reply_empty(rq, 204);
}

void gateways_delete(struct req *rq)
{
	struct tx tx = {.n = 0};
	tx_add(&tx, "SELECT km_before('gateway', $1::uuid)", rq->id);
	tx_add(&tx,
	       "INSERT INTO audit_log (actor, address, action, entity_id, details) SELECT $1, "
	       "$2::inet, "
	       "'gateway.delete', id, jsonb_build_object('name', name) FROM gateways WHERE id = "
	       "$3::uuid",
	       rq->actor, rq->peer, rq->id);
	tx_add(&tx, "DELETE FROM gateways WHERE id = $1::uuid", rq->id);
	tx_add(&tx, "SELECT km_change('gateway', 'delete', $1::uuid)", rq->id);
	req_run(rq, &tx, gateway_deleted);
}

static void key_approved(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	if (PQntuples(res[1]) == 0)
		req_error(rq, 409, "CONFLICT", NULL, "no key waits for approval");
	else
		req_reply_row(rq, 200, res[3]);
}

void gateways_approve_key(struct req *rq)
{
	struct tx tx = {.n = 0};
	tx_add(&tx, "SELECT km_before('gateway', $1::uuid)", rq->id);
	tx_add(
	    &tx,
	    "UPDATE gateways SET wireguard_public_key = pending_public_key, "
	    "pending_public_key = NULL, updated_at = now() "
	    "WHERE id = $1::uuid AND pending_public_key IS NOT NULL RETURNING wireguard_public_key",
	    rq->id);
	tx_add(&tx,
	       "INSERT INTO audit_log (actor, address, action, entity_id, details) SELECT $1, "
	       "$2::inet, "
	       "'gateway.approve-key', id, jsonb_build_object('wireguardPublicKey', "
	       "wireguard_public_key) FROM gateways WHERE id = $3::uuid AND updated_at = now()",
	       rq->actor, rq->peer, rq->id);
	tx_add(&tx, "SELECT " VIEW " FROM gateways g WHERE id = $1::uuid", rq->id);
	tx_add(&tx, "SELECT km_change('gateway', 'update', $1::uuid)", rq->id);
	req_run(rq, &tx, key_approved);
}
