/* SPDX-License-Identifier: MIT */
#include "controld/api/request.h"
#include "controld/api/route.h"
#include "controld/api/sql.h"
#include <stdlib.h>

/* clang-format off */

/* One number of the gateways' reports, added up. */
#define TRAFFIC(key)                                                                               \
	"(SELECT coalesce(sum((w.report->'tunnels'->(t.id::text)->>'" key "')::bigint), 0) "       \
	"FROM gateways w)"
#define REPORTED "(a.report->'tunnels'->(t.id::text))"
/* What the agent's probes say; nothing is known of an agent that is away. */
#define VIEW                                                                                       \
	"json_build_object('id', t.id, 'domain', t.domain, 'agentId', g.agent_id, "                \
	"'target', g.address, 'targetId', g.id, 'enabled', t.enabled, "                            \
	"'description', t.description, 'protocol', t.protocol, 'tls', t.tls, "                     \
	"'match', json_build_object('domain', t.domain, 'path', t.path, 'port', t.port, "          \
	"'protocol', t.protocol), "                                                                \
	"'targets', json_build_array(json_build_object('id', g.id, 'agentId', g.agent_id, "        \
	"'target', g.address, 'protocol', g.protocol, 'weight', g.weight, "                        \
	"'priority', g.priority, 'enabled', g.enabled, 'draining', g.draining)), "                 \
	"'status', CASE WHEN " SQL_ONLINE("a")                                                     \
	" THEN coalesce(" REPORTED "->>'status', 'unknown') ELSE 'unknown' END, "                  \
	"'statusError', CASE WHEN " SQL_ONLINE("a") " THEN " REPORTED "->>'error' END, "           \
	"'traffic', json_build_object('requests', " TRAFFIC("requests") ", "                       \
	"'bytesIn', " TRAFFIC("bytesIn") ", 'bytesOut', " TRAFFIC("bytesOut") ", "                 \
	"'errors', " TRAFFIC("errors") "), " SQL_TIMES("t") ")"
#define JOINS                                                                                      \
	"JOIN LATERAL (SELECT * FROM targets x WHERE x.tunnel_id = t.id "                          \
	"ORDER BY NOT x.enabled, x.priority, x.created_at, x.id LIMIT 1) g ON true "               \
	"JOIN agents a ON a.id = g.agent_id"
#define SELECT_ONE "SELECT " VIEW " FROM tunnels t " JOINS " WHERE t.id = $1::uuid"

/* clang-format on */

void tunnels_list(struct req *rq)
{
	req_list(rq, SQL_LIST(VIEW, "tunnels", "t", JOINS), "SELECT count(*) FROM tunnels");
}

void tunnels_get(struct req *rq)
{
	req_get(rq, SELECT_ONE, rq->id);
}

/* For the audit log, with the values as they are stored. */
static char *details_of(const struct tunnel_input *in)
{
	json_t *o = json_object();
	if (in->has_domain)
		json_object_set_new(o, "domain", json_string(in->domain));
	if (in->has_agent_id)
		json_object_set_new(o, "agentId", json_string(in->agent_id));
	if (in->has_target)
		json_object_set_new(o, "target", json_string(in->target));
	if (in->has_enabled)
		json_object_set_new(o, "enabled", json_boolean(in->enabled));
	if (in->has_description)
		json_object_set_new(o, "description", json_string(in->description));
	if (in->has_tls)
		json_object_set_new(o, "tls", json_string(in->tls));
	char *text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return text;
}

static void tunnel_created(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_row(rq, 201, res[3]);
}

void tunnels_create(struct req *rq)
{
	struct tunnel_input in;
	struct details d = {NULL};
	struct tx tx = {.n = 0};
	if (input_tunnel(&in, rq->body, true, &d) < 0) {
		req_invalid(rq, &d);
		return;
	}
	km_uuid_new(rq->id);
	km_uuid_new(rq->child);
	char *details = details_of(&in);
	tx_add(&tx,
	       "INSERT INTO tunnels (id, domain, enabled, description, tls) "
	       "VALUES ($1::uuid, $2, $3::boolean, $4, $5)",
	       rq->id, in.domain, in.enabled ? "true" : "false", in.description, in.tls);
	tx_add(&tx,
	       "INSERT INTO targets (id, tunnel_id, agent_id, address) "
	       "VALUES ($1::uuid, $2::uuid, $3::uuid, $4)",
	       rq->child, rq->id, in.agent_id, in.target);
	tx_audit(&tx, rq, "tunnel.create", details);
	tx_add(&tx, SELECT_ONE, rq->id);
	tx_add(&tx, "SELECT km_change('tunnel', 'create', $1::uuid)", rq->id);
	req_run(rq, &tx, tunnel_created);
	free(details);
}

static void tunnel_updated(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_row(rq, 200, res[4]);
}

void tunnels_update(struct req *rq)
{
	struct tunnel_input in;
	struct details d = {NULL};
	struct tx tx = {.n = 0};
	if (input_tunnel(&in, rq->body, false, &d) < 0) {
		req_invalid(rq, &d);
		return;
	}
	char *details = details_of(&in);
	tx_add(&tx, "SELECT km_before('tunnel', $1::uuid)", rq->id);
	tx_add(&tx,
	       "UPDATE tunnels SET domain = coalesce($2, domain), "
	       "enabled = coalesce($3::boolean, enabled), description = coalesce($4, description), "
	       "tls = coalesce($5, tls), updated_at = now() WHERE id = $1::uuid",
	       rq->id, in.has_domain ? in.domain : NULL,
	       !in.has_enabled ? NULL
	       : in.enabled    ? "true"
			       : "false",
	       in.has_description ? in.description : NULL, in.has_tls ? in.tls : NULL);
	tx_add(&tx,
	       /* Another place is another target: connections that gateways keep to the old one
		* carry its id, and an agent that has not heard yet does not know the new one. */
	       "UPDATE targets SET agent_id = coalesce($2::uuid, agent_id), "
	       "address = coalesce($3, address), id = CASE WHEN (agent_id, address) = "
	       "(coalesce($2::uuid, agent_id), coalesce($3, address)) THEN id "
	       "ELSE gen_random_uuid() END WHERE tunnel_id = $1::uuid",
	       rq->id, in.agent_id, in.target);
	tx_audit(&tx, rq, "tunnel.update", details);
	tx_add(&tx, SELECT_ONE, rq->id);
	tx_add(&tx, "SELECT km_change('tunnel', 'update', $1::uuid)", rq->id);
	req_run(rq, &tx, tunnel_updated);
	free(details);
}

static void tunnel_deleted(struct req *rq, PGresult *const *res, size_t n)
{
	(void)res, (void)n;
	req_reply_empty(rq, 204);
}

void tunnels_delete(struct req *rq)
{
	struct tx tx = {.n = 0};
	tx_add(&tx, "SELECT km_before('tunnel', $1::uuid)", rq->id);
	tx_add(&tx,
	       "INSERT INTO audit_log (actor, address, action, entity_id, details) SELECT $1, "
	       "$2::inet, "
	       "'tunnel.delete', id, jsonb_build_object('domain', domain) FROM tunnels "
	       "WHERE id = $3::uuid",
	       rq->actor, rq->peer, rq->id);
	tx_add(&tx, "DELETE FROM tunnels WHERE id = $1::uuid", rq->id);
	tx_add(&tx, "SELECT km_change('tunnel', 'delete', $1::uuid)", rq->id);
	req_run(rq, &tx, tunnel_deleted);
}
