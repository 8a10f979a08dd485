/* SPDX-License-Identifier: MIT */
#include "controld/api/input_tunnel.h"
#include "controld/api/request.h"
#include "controld/api/route.h"
#include "controld/api/sql.h"
#include <stdlib.h>
#include <string.h>

/* clang-format off */

/* One number of the gateways' reports, added up. */
#define TRAFFIC(key)                                                                               \
	"(SELECT coalesce(sum((w.report->'tunnels'->(t.id::text)->>'" key "')::bigint), 0) "       \
	"FROM gateways w)"
#define REPORTED "(a.report->'tunnels'->(t.id::text))"
/* What the agent's probes say; nothing is known of an agent that is away. */
#define VIEW                                                                                       \
	"json_build_object('id', t.id, 'domain', t.domain, 'path', t.path, "                       \
	"'agentId', g.agent_id, 'target', g.address, 'targetProtocol', g.protocol, "               \
	"'targetId', g.id, 'enabled', t.enabled, 'options', km_options_view(t.options), "          \
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

#define OF_DOMAIN(p) p "::text IS NULL OR domain = " p

void tunnels_list(struct req *rq)
{
	req_list(rq, SQL_LIST_OF(VIEW, "tunnels", "t", JOINS, OF_DOMAIN("$4")),
		 "SELECT count(*) FROM tunnels WHERE " OF_DOMAIN("$1"));
}

void tunnels_get(struct req *rq)
{
	req_get(rq, SELECT_ONE, rq->id);
}

/* For the audit log, with the values as they are stored; of options the names alone, for header
 * rules may hold secrets. */
static char *details_of(const struct tunnel_input *in)
{
	json_t *o = json_object(), *names = json_array();
	const char *key;
	json_t *v;
	if (in->has_domain)
		json_object_set_new(o, "domain", json_string(in->domain));
	if (in->has_path)
		json_object_set_new(o, "path", in->path[0] ? json_string(in->path) : json_null());
	if (in->agent_id)
		json_object_set_new(o, "agentId", json_string(in->agent_id));
	if (in->target[0])
		json_object_set_new(o, "target", json_string(in->target));
	if (in->protocol)
		json_object_set_new(o, "targetProtocol", json_string(in->protocol));
	if (in->has_enabled)
		json_object_set_new(o, "enabled", json_boolean(in->enabled));
	if (in->has_description)
		json_object_set_new(o, "description", json_string(in->description));
	if (in->tls)
		json_object_set_new(o, "tls", json_string(in->tls));
	json_object_foreach(in->options, key, v) json_array_append_new(names, json_string(key));
	if (in->has_options)
		json_object_set(o, "options", in->options ? names : json_null());
	char *text = json_dumps(o, JSON_COMPACT);
	json_decref(names);
	json_decref(o);
	return text;
}

/* The other tunnels of the domain that a tunnel is to have. */
struct siblings {
	int n;
	const char *tls; /* of all of them; NULL: there are none */
	bool hsts;       /* one of them has that option */
};

static struct siblings siblings_of(const PGresult *res)
{
	return (struct siblings){.n = atoi(PQgetvalue(res, 0, 0)),
				 .tls = PQgetisnull(res, 0, 1) ? NULL : PQgetvalue(res, 0, 1),
				 .hsts = PQgetvalue(res, 0, 2)[0] == 't'};
}

/* $2 is the tunnel itself, or NULL. */
#define SIBLINGS(domain)                                                                           \
	"SELECT count(*), min(tls), bool_or(options ? 'hsts') FROM tunnels "                       \
	"WHERE domain = (" domain ") AND port IS NULL AND id IS DISTINCT FROM $2::uuid"

/* What a request wants, and the texts that its statements take. */
struct wish {
	struct tunnel_input in;
	struct options_tunnel is;
	char *details, *options;
	bool tls_for_all; /* the siblings get its tls too */
};

/* A handshake comes before any path: the tunnels of a domain have one tls. */
static void check_siblings(struct wish *w, const struct siblings *others, bool moves,
			   struct details *d)
{
	const char *tls = w->is.tls;
	if (!others->tls)
		return;
	if (strcmp(others->tls, "passthrough") == 0 && moves)
		details_add(d, "domain",
			    "another tunnel has the domain \"%s\", with tls "
			    "\"passthrough\", and so all of it",
			    w->is.domain);
	else if (strcmp(tls, "passthrough") == 0)
		details_add(d, "tls",
			    "with \"passthrough\" a domain has one tunnel; there are %d others "
			    "of \"%s\"",
			    others->n, w->is.domain);
	else if (strcmp(tls, others->tls) != 0 && moves)
		details_add(
		    d, "tls",
		    "is \"%s\", but \"%s\" for the other tunnels of \"%s\": all "
		    "tunnels of a domain have the same, and a PATCH of one changes it for all",
		    tls, others->tls, w->is.domain);
	else if (strcmp(tls, "off") == 0 && others->hsts)
		details_add(d, "tls",
			    "cannot be \"off\": another tunnel of \"%s\" has the option hsts",
			    w->is.domain);
	w->tls_for_all = strcmp(tls, others->tls) != 0;
}

/* Fills w, of a tunnel that was so (NULL: a new one). False: rq has been answered; w is to be
 * cleared in either case. */
static bool wish_read(struct wish *w, struct req *rq, const struct options_tunnel *was,
		      const struct siblings *others)
{
	struct details d = {NULL}, clash = {NULL};
	int rc = input_tunnel(&w->in, rq->body, !was, &d);
	w->is = input_tunnel_whole(&w->in, was);
	if (!was && !w->in.tls && others->tls && strcmp(others->tls, "passthrough") != 0)
		w->is.tls = others->tls;
	if (rc == 0 || !was) /* of a new one all mistakes at once */
		options_check(&w->is, &d);
	if (d.list) {
		req_invalid(rq, &d);
		return false;
	}
	check_siblings(w, others, !was || strcmp(was->domain, w->is.domain) != 0, &clash);
	if (clash.list) {
		req_error(rq, 409, "CONFLICT", &clash, "other tunnels have the domain \"%s\"",
			  w->is.domain);
		return false;
	}
	w->details = details_of(&w->in);
	w->options = json_dumps(w->is.options, JSON_COMPACT);
	free(rq->clash);
	rq->clash = w->is.path[0] ? km_xasprintf("the domain \"%s\" and the path \"%s\"",
						 w->is.domain, w->is.path)
				  : km_xasprintf("the domain \"%s\"", w->is.domain);
	return true;
}

static void wish_clear(struct wish *w)
{
	json_decref((json_t *)(uintptr_t)w->is.options);
	input_tunnel_clear(&w->in);
	free(w->details);
	free(w->options);
}

/* ---- what is written is judged by what there is: that is read, then written unless it has changed
 * meanwhile (SQLSTATE 40001, and all begins anew) ---- */

static void tunnel_created(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_row(rq, 201, res[5]);
}

static void create_run(struct req *rq, const struct wish *w)
{
	struct tx tx = {.n = 0};
	km_uuid_new(rq->id);
	km_uuid_new(rq->child);
	tx_add(&tx, "SELECT km_domain_lock($1)", w->is.domain);
	tx_add(&tx,
	       "INSERT INTO tunnels (id, domain, path, enabled, description, tls, options) "
	       "VALUES ($1::uuid, $2, nullif($3, ''), $4::boolean, $5, $6, $7::jsonb)",
	       rq->id, w->is.domain, w->is.path, w->in.enabled ? "true" : "false",
	       w->in.description, w->is.tls, w->options);
	tx_add(&tx,
	       "INSERT INTO targets (id, tunnel_id, agent_id, address, protocol) "
	       "VALUES ($1::uuid, $2::uuid, $3::uuid, $4, $5)",
	       rq->child, rq->id, w->in.agent_id, w->is.target, w->is.protocol);
	tx_audit(&tx, rq, "tunnel.create", w->details);
	tx_add(&tx, "SELECT km_domain_settle($1::uuid, false)", rq->id);
	tx_add(&tx, SELECT_ONE, rq->id);
	tx_add(&tx, "SELECT km_change('tunnel', 'create', $1::uuid)", rq->id);
	req_run(rq, &tx, tunnel_created);
}

static void create_read(struct req *rq, PGresult *const *res, size_t n)
{
	struct siblings others = siblings_of(res[0]);
	struct wish w = {.details = NULL};
	(void)n;
	if (wish_read(&w, rq, NULL, &others))
		create_run(rq, &w);
	wish_clear(&w);
}

void tunnels_create(struct req *rq)
{
	static const struct siblings nobody = {.n = 0};
	struct wish w = {.details = NULL};
	struct tx tx = {.n = 0};
	rq->again = tunnels_create;
	if (wish_read(&w, rq, NULL, &nobody)) {
		tx_add(&tx, SIBLINGS("$1"), w.is.domain, NULL);
		req_read(rq, &tx, create_read);
	}
	wish_clear(&w);
}

static void tunnel_updated(struct req *rq, PGresult *const *res, size_t n)
{
	(void)n;
	req_reply_row(rq, 200, res[7]);
}

static void update_run(struct req *rq, const struct wish *w, const char *version)
{
	struct tx tx = {.n = 0};
	tx_add(&tx, "SELECT km_domain_lock($1)", w->is.domain);
	tx_add(&tx, "SELECT km_before('tunnel', $1::uuid)", rq->id);
	tx_add(&tx, "SELECT km_tunnel_still($1::uuid, $2)", rq->id, version);
	tx_add(&tx,
	       "UPDATE tunnels SET domain = $2, path = nullif($3, ''), "
	       "enabled = coalesce($4::boolean, enabled), description = coalesce($5, description), "
	       "tls = $6, options = $7::jsonb, updated_at = now() WHERE id = $1::uuid",
	       rq->id, w->is.domain, w->is.path,
	       !w->in.has_enabled ? NULL
	       : w->in.enabled    ? "true"
				  : "false",
	       w->in.has_description ? w->in.description : NULL, w->is.tls, w->options);
	tx_add(&tx,
	       /* Another place is another target, and so is another way to speak to it: connections
		* that gateways keep to the old one carry its id, and an agent that has not heard
		* yet does not know the new one. */
	       "UPDATE targets SET agent_id = coalesce($2::uuid, agent_id), address = $3, "
	       "protocol = $4, id = CASE WHEN (agent_id, address, protocol) = "
	       "(coalesce($2::uuid, agent_id), $3, $4) THEN id "
	       "ELSE gen_random_uuid() END WHERE tunnel_id = $1::uuid",
	       rq->id, w->in.agent_id, w->is.target, w->is.protocol);
	tx_audit(&tx, rq, "tunnel.update", w->details);
	tx_add(&tx, "SELECT km_domain_settle($1::uuid, $2::boolean)", rq->id,
	       w->tls_for_all ? "true" : "false");
	tx_add(&tx, SELECT_ONE, rq->id);
	tx_add(&tx, "SELECT km_change('tunnel', 'update', $1::uuid)", rq->id);
	req_run(rq, &tx, tunnel_updated);
}

static void tunnel_read(struct req *rq, PGresult *const *res, size_t n)
{
	struct wish w = {.details = NULL};
	(void)n;
	if (PQntuples(res[0]) == 0) {
		req_error(rq, 404, "NOT_FOUND", NULL, "no such tunnel");
		return;
	}
	json_t *options = json_loads(PQgetvalue(res[0], 0, 5), 0, NULL);
	const struct options_tunnel was = {
	    .domain = PQgetvalue(res[0], 0, 0),
	    .path = PQgetvalue(res[0], 0, 1),
	    .tls = PQgetvalue(res[0], 0, 2),
	    .target = PQgetvalue(res[0], 0, 3),
	    .protocol = PQgetvalue(res[0], 0, 4),
	    .options = options,
	};
	struct siblings others = siblings_of(res[1]);
	if (wish_read(&w, rq, &was, &others))
		update_run(rq, &w, PQgetvalue(res[0], 0, 6));
	wish_clear(&w);
	json_decref(options);
}

void tunnels_update(struct req *rq)
{
	struct details unsaid = {NULL};
	struct tunnel_input in;
	struct tx tx = {.n = 0};
	rq->again = tunnels_update;
	/* For its domain; what is wrong with it is said when the whole is known. */
	(void)!input_tunnel(&in, rq->body, false, &unsaid);
	tx_add(&tx,
	       "SELECT t.domain, t.path, t.tls, g.address, g.protocol, t.options, t.xmin "
	       "FROM tunnels t JOIN targets g ON g.tunnel_id = t.id WHERE t.id = $1::uuid",
	       rq->id);
	if (in.has_domain)
		tx_add(&tx, SIBLINGS("$1"), in.domain, rq->id);
	else
		tx_add(&tx, SIBLINGS("(SELECT domain FROM tunnels WHERE id = $1::uuid)"), rq->id,
		       rq->id);
	req_read(rq, &tx, tunnel_read);
	json_decref(unsaid.list);
	input_tunnel_clear(&in);
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
