/* SPDX-License-Identifier: MIT */
/* What clients are sent: everything, what they missed, and each change as it comes. */
#include "controld/hub/client.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <stdio.h>
#include <stdlib.h>

#define FEED_ROWS 1000     /* changes read at once */
#define HOLD_MS 1000
#define CATCH_UP_ROWS 2000 /* a client that missed more gets everything */

/* revision, entity, verb, id, payload, agent before, agent after, whether a gateway's `config` says
 * something else of itself now */
#define CHANGE_COLUMNS                                                                             \
	"revision, entity, verb, id, payload, old->>'agentId', payload->>'agentId', "              \
	"entity = 'gateway' AND verb = 'update' AND (old->'name', old->'publicIp') "               \
	"IS DISTINCT FROM (payload->'name', payload->'publicIp')"

struct change {
	int64_t revision;
	const char *entity, *verb, *id;
	json_t *payload;      /* NULL for delete */
	const char *was, *is; /* the agent that a tunnel leads to; "" for none */
	bool self;
};

static void change_read(struct change *ch, const PGresult *res, int row)
{
	const char *payload = PQgetvalue(res, row, 4);
	*ch = (struct change){
	    .revision = strtoll(PQgetvalue(res, row, 0), NULL, 10),
	    .entity = PQgetvalue(res, row, 1),
	    .verb = PQgetvalue(res, row, 2),
	    .id = PQgetvalue(res, row, 3),
	    .payload = payload[0] ? json_loads(payload, 0, NULL) : NULL,
	    .was = PQgetvalue(res, row, 5),
	    .is = PQgetvalue(res, row, 6),
	    .self = PQgetvalue(res, row, 7)[0] == 't',
	};
}

/* The verb that c is to be told, or NULL when the change does not concern it. */
static const char *verb_for(const struct client *c, const struct change *ch)
{
	if (strcmp(ch->entity, "tunnel") == 0 && !c->gateway) {
		bool was = strcmp(ch->was, c->id) == 0, is = strcmp(ch->is, c->id) == 0;
		return was && is ? "update" : is ? "create" : was ? "delete" : NULL;
	}
	if (strcmp(ch->entity, "agent") == 0 && !c->gateway)
		return NULL;
	if (strcmp(ch->id, c->id) == 0) /* a gateway does not peer with itself */
		return NULL;
	return ch->verb;
}

/* Something about the host itself has changed. A key that an operator has approved gets its certificate
 * when the host comes again. */
static void tell_self(struct client *c, json_t *host, int64_t revision)
{
	const char *key = json_string_value(json_object_get(host, "wireguardPublicKey"));
	const char *next = json_string_value(json_object_get(host, "nextPublicKey"));
	auth_tell_identity(c, host);
	if (next && strcmp(next, c->rotation_key) == 0)
		rotate_told(c, revision);
	if (key && c->auth.wireguard_public_key && !json_object_get(host, "certificate") &&
	    !c->certify && strcmp(key, c->auth.wireguard_public_key) == 0 &&
	    authority_signs(c->hub->authority))
		c->come_again = true;
}

/* The thing that has changed, as c is told of it: options of tunnels concern gateways only. */
static json_t *payload_for(const struct client *c, const struct change *ch)
{
	if (c->gateway || strcmp(ch->entity, "tunnel") != 0)
		return json_incref(ch->payload);
	json_t *o = json_copy(ch->payload);
	json_object_del(o, "options");
	return o;
}

static void tell(struct client *c, const struct change *ch)
{
	const char *verb = verb_for(c, ch);
	char type[32];
	if (ch->revision <= c->looked)
		return;
	c->looked = ch->revision;
	if (strcmp(ch->id, c->id) == 0 && ch->payload) {
		tell_self(c, ch->payload, ch->revision);
		c->whole = c->whole || ch->self; /* no change tells a gateway of itself */
	}
	if (!verb)
		return;
	json_t *m = json_pack("{s:s, s:I, s:I}", "epoch", c->hub->epoch, "revision",
			      (json_int_t)ch->revision, "previous", (json_int_t)c->sent);
	if (strcmp(verb, "delete") == 0) {
		json_object_set_new(m, "id", json_string(ch->id));
		report_forget(c, ch->entity, ch->id);
	} else {
		json_object_set_new(m, ch->entity, payload_for(c, ch));
	}
	snprintf(type, sizeof(type), "%s_%s", ch->entity, verb);
	c->sent = ch->revision;
	client_send(c, type, m);
	km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_link_changes_sent_total", "",
				"Single changes sent to agents and gateways"),
		      1);
}

/* ---- SYNC ---- */

static void synced(struct client *c)
{
	if (c->whole || c->looked < c->hub->seen) /* more came meanwhile */
		client_go(c, STEP_SYNC);
	else
		c->step = STEP_LIVE;
}

/* One JSON text per row, gathered in an array. */
static json_t *rows_of(const PGresult *res)
{
	json_t *list = json_array();
	for (int i = 0; i < PQntuples(res); i++)
		if (!PQgetisnull(res, i, 0))
			json_array_append_new(list, json_loads(PQgetvalue(res, i, 0), 0, NULL));
	return list;
}

static void whole_read(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct client *c = arg;
	(void)n;
	c->db = NULL;
	if (error) {
		client_failed(c, error);
		return;
	}
	if (PQntuples(res[1]) == 0) {
		client_refuse(c, "this key has been revoked");
		return;
	}
	int64_t revision = strtoll(PQgetvalue(res[0], 0, 1), NULL, 10);
	json_t *m = json_pack("{s:s, s:I}", "epoch", PQgetvalue(res[0], 0, 0), "revision",
			      (json_int_t)revision);
	json_object_set_new(m, client_kind(c), json_loads(PQgetvalue(res[1], 0, 0), 0, NULL));
	json_object_set_new(m, "gateways", rows_of(res[2]));
	json_object_set_new(m, "tunnels", rows_of(res[3]));
	if (c->gateway) {
		json_object_set_new(m, "agents", rows_of(res[4]));
		json_object_set_new(m, "certificates", rows_of(res[5]));
	}
	c->sent = c->looked = revision;
	c->whole = false;
	client_send(c, "config", m);
	km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_link_configs_sent_total", "",
				"Whole configurations sent to agents and gateways"),
		      1);
	synced(c);
}

/* The same as km_tunnel_json and km_agent_json, which are made for one thing, for all at once: a
 * hundred thousand tunnels must fit into the time of one request. */
/* clang-format off */
#define TUNNELS_JSON(options, which)                                                               \
	"SELECT jsonb_strip_nulls(jsonb_build_object('id', t.id, 'domain', t.domain, "             \
	"'path', t.path, 'protocol', t.protocol, 'enabled', t.enabled, 'agentId', g.agent_id, "    \
	"'agentVirtualIp', host(a.virtual_ip), 'targetId', g.id, 'target', g.address, "            \
	"'targetProtocol', nullif(g.protocol, 'http'), 'tls', t.tls, 'options', " options ")) "    \
	"FROM (SELECT DISTINCT ON (x.tunnel_id) x.* FROM targets x " which                         \
	"ORDER BY x.tunnel_id, NOT x.enabled, x.priority, x.created_at, x.id) g "                  \
	"JOIN tunnels t ON t.id = g.tunnel_id JOIN agents a ON a.id = g.agent_id"
#define AGENTS_JSON                                                                                \
	"SELECT jsonb_strip_nulls(jsonb_build_object('id', id, 'name', name, "                     \
	"'virtualIp', host(virtual_ip), 'subnet', subnet::text, "                                  \
	"'wireguardPublicKey', wireguard_public_key, 'certificate', certificate, "                 \
	"'nextPublicKey', CASE WHEN next_certificate IS NOT NULL THEN next_public_key END, "       \
	"'nextCertificate', next_certificate)) FROM agents WHERE revoked_at IS NULL"
/* clang-format on */

static void read_whole(struct client *c)
{
	struct store_stmt agent[] = {
	    {.sql = "SELECT e.id, r.value FROM epoch e, revision r"},
	    {.sql = "SELECT json_build_object('id', id, 'name', name, 'virtualIp', "
		    "host(virtual_ip), 'subnet', subnet::text) FROM agents "
		    "WHERE id = $1::uuid AND revoked_at IS NULL",
	     .n = 1,
	     .params = {c->id}},
	    {.sql = "SELECT km_gateway_json(id) FROM gateways WHERE revoked_at IS NULL "
		    "ORDER BY number"},
	    {.sql = TUNNELS_JSON("NULL::jsonb", "WHERE x.tunnel_id IN (SELECT y.tunnel_id FROM targets y "
				 "WHERE y.agent_id = $1::uuid) ") " WHERE g.agent_id = $1::uuid",
	     .n = 1,
	     .params = {c->id}},
	};
	struct store_stmt gateway[] = {
	    {.sql = "SELECT e.id, r.value FROM epoch e, revision r"},
	    {.sql = "SELECT json_build_object('id', id, 'name', name, 'virtualIps', "
		    "json_build_array(host(virtual_ip)), 'publicIp', to_json(CASE WHEN public_ip = '{}' "
		    "THEN reported_ip ELSE public_ip END)) FROM gateways "
		    "WHERE id = $1::uuid AND revoked_at IS NULL",
	     .n = 1,
	     .params = {c->id}},
	    {.sql = "SELECT km_gateway_json(id) FROM gateways WHERE id <> $1::uuid "
		    "AND revoked_at IS NULL ORDER BY number",
	     .n = 1,
	     .params = {c->id}},
	    {.sql = TUNNELS_JSON("nullif(t.options, '{}')", "")},
	    {.sql = AGENTS_JSON},
	    {.sql = "SELECT json_build_object('domain', domain, 'expiresAt', "
		    "km_time(max(not_after))) FROM certificates "
		    "WHERE status IN ('ready', 'renewal_due') AND not_after IS NOT NULL "
		    "GROUP BY domain"},
	};
	if (c->gateway)
		client_read(c, gateway, KM_ARRAY_LEN(gateway), whole_read);
	else
		client_read(c, agent, KM_ARRAY_LEN(agent), whole_read);
}

static void missed_read(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct client *c = arg;
	(void)n;
	c->db = NULL;
	if (error) {
		client_failed(c, error);
		return;
	}
	int64_t newest = strtoll(PQgetvalue(res[0], 0, 1), NULL, 10);
	int rows = PQntuples(res[1]);
	int64_t first = rows ? strtoll(PQgetvalue(res[1], 0, 0), NULL, 10) : newest + 1;
	if (strcmp(PQgetvalue(res[0], 0, 0), c->hub->epoch) != 0 || first != c->looked + 1 ||
	    rows > CATCH_UP_ROWS) {
		c->whole = true;
		read_whole(c);
		return;
	}
	for (int i = 0; i < rows; i++) {
		struct change ch;
		change_read(&ch, res[1], i);
		tell(c, &ch);
		json_decref(ch.payload);
	}
	synced(c);
}

void feed_sync(struct client *c)
{
	char looked[24], limit[16];
	if (c->whole) {
		read_whole(c);
		return;
	}
	snprintf(looked, sizeof(looked), "%lld", (long long)c->looked);
	snprintf(limit, sizeof(limit), "%d", CATCH_UP_ROWS + 1);
	struct store_stmt s[] = {
	    {.sql = "SELECT e.id, r.value FROM epoch e, revision r"},
	    {.sql = "SELECT " CHANGE_COLUMNS " FROM changes WHERE revision > $1::bigint "
		    "ORDER BY revision LIMIT $2::int",
	     .n = 2,
	     .params = {looked, limit}},
	};
	client_read(c, s, KM_ARRAY_LEN(s), missed_read);
}

/* ---- LIVE ---- */

static void everyone_anew(struct hub *hub, const char *why)
{
	struct client *c, *next;
	km_warn("whole configuration for every link", km_ks("why", why),
		km_ki("links", HASH_CNT(hh_id, hub->by_id)));
	HASH_ITER (hh_id, hub->by_id, c, next) {
		if (c->step != STEP_LIVE && c->step != STEP_SYNC)
			continue;
		store_cancel(c->db);
		c->db = NULL;
		c->whole = true;
		client_go(c, STEP_SYNC);
	}
}

/* A tunnel leads to another agent now. The old one would end it at once, while gateways that have not heard
 * yet still send requests there: it hears later, of this and of what comes after. */
static void feed_hold(struct client *c)
{
	if (c && !c->held_ms)
		c->held_ms = km_now_ms() + HOLD_MS;
}

static void let_go(struct client *c)
{
	c->held_ms = 0;
	if (c->step == STEP_LIVE)
		client_go(c, STEP_SYNC);
}

void feed_tick(struct client *c, int64_t now_ms)
{
	if (c->held_ms && now_ms >= c->held_ms)
		let_go(c);
}

static void tell_live(struct client *c, const struct change *ch)
{
	if (c && c->held_ms && strcmp(ch->is, c->id) == 0)
		let_go(c); /* gateways are about to send requests there */
	if (!c || c->step != STEP_LIVE || c->held_ms)
		return;
	tell(c, ch);
	if (c->whole)
		client_go(c, STEP_SYNC);
}

static void fan_out(struct hub *hub, const struct change *ch)
{
	struct client *c, *next;
	bool tunnel = strcmp(ch->entity, "tunnel") == 0;
	if (tunnel) {
		if (ch->is[0] && strcmp(ch->was, ch->is) != 0)
			feed_hold(client_by_id(hub, ch->was));
		tell_live(client_by_id(hub, ch->is), ch);
		tell_live(strcmp(ch->was, ch->is) != 0 ? client_by_id(hub, ch->was) : NULL, ch);
	}
	HASH_ITER (hh_id, hub->by_id, c, next) {
		if (c->gateway || !tunnel)
			tell_live(c, ch);
	}
	if (!tunnel && strcmp(ch->verb, "delete") == 0 && (c = client_by_id(hub, ch->id))) {
		km_info("link of a deleted host closed", km_ks("type", client_kind(c)),
			km_ks("id", c->id), km_ks("name", c->name));
		client_refuse(c, "this key has been revoked");
	}
}

static void feed_read(struct hub *hub);

static void feed_got(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct hub *hub = arg;
	(void)n;
	hub->feed = NULL;
	if (error) /* the next wake tries again */
		return;
	int rows = PQntuples(res[0]);
	for (int i = 0; i < rows; i++) {
		struct change ch;
		change_read(&ch, res[0], i);
		bool gap = ch.revision != hub->seen + 1;
		hub->seen = ch.revision;
		if (gap) {
			hub->seen = hub->newest;
			json_decref(ch.payload);
			everyone_anew(hub, "changes are missing");
			return;
		}
		fan_out(hub, &ch);
		json_decref(ch.payload);
	}
	if (hub->newest < hub->seen)
		hub->newest = hub->seen;
	km_metric_set(km_metric(KM_METRIC_GAUGE, "kakuremichi_hub_revision", "",
				"The newest revision that was sent to all whom it concerns"),
		      hub->seen);
	if (rows && hub->seen < hub->newest)
		feed_read(hub);
}

static void feed_read(struct hub *hub)
{
	char seen[24], limit[16];
	snprintf(seen, sizeof(seen), "%lld", (long long)hub->seen);
	snprintf(limit, sizeof(limit), "%d", FEED_ROWS);
	struct store_stmt s = {.sql = "SELECT " CHANGE_COLUMNS " FROM changes WHERE revision > "
				      "$1::bigint ORDER BY revision LIMIT $2::int",
			       .n = 2,
			       .params = {seen, limit}};
	if (store_read(hub->store, &s, 1, feed_got, hub, &hub->feed) < 0)
		hub->feed = NULL;
}

void feed_wake(void *arg, const char *epoch, int64_t revision)
{
	struct hub *hub = arg;
	struct client *c, *next;
	bool first = !hub->epoch[0], other = !first && strcmp(hub->epoch, epoch) != 0;
	if (first || other) {
		snprintf(hub->epoch, sizeof(hub->epoch), "%s", epoch);
		store_cancel(hub->feed);
		hub->feed = NULL;
		hub->seen = hub->newest = revision;
	}
	if (other)
		everyone_anew(hub, "another epoch of the database");
	HASH_ITER (hh, hub->by_link, c, next) {
		if (c->waiting)
			client_go(c, c->step);
	}
	if (revision > hub->newest)
		hub->newest = revision;
	if (hub->newest > hub->seen && !hub->feed)
		feed_read(hub);
}
