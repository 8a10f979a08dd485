/* SPDX-License-Identifier: MIT */
/* Leases: which gateway is obtaining a domain's certificate, so that another does not begin too. They are
 * advice: a gateway that gets no answer goes on without one. What gateways ask for while a statement is under
 * way goes together with the next. */
#include "controld/hub/client.h"
#include "controld/api/sql.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"

#define MAX_ASKED 1000 /* domains that wait for the statement under way, of one gateway */
#define MAX_HELD "1000" /* leases of one gateway */
#define LIFETIME "2 minutes"

/* clang-format off */

/* $1 gateway, $2 the domains as a JSON array. Whoever loses a race for a domain is told who has won it: its
 * own statement waits for the other's row, and gives that back. A holder that has left control, or is
 * silent, holds nothing. */
#define TAKE                                                                                       \
	"WITH asked AS (SELECT x AS domain FROM jsonb_array_elements_text($2::jsonb) x), "         \
	"ours AS (SELECT domain FROM certificate_leases WHERE gateway_id = $1::uuid "              \
	"AND expires_at > now()), "                                                                \
	"fit AS (SELECT a.domain FROM asked a WHERE EXISTS (SELECT FROM tunnels t "                \
	"WHERE t.domain = a.domain) AND EXISTS (SELECT FROM gateways g WHERE g.id = $1::uuid "     \
	"AND g.revoked_at IS NULL)), "                                                             \
	"wanted AS (SELECT f.domain FROM fit f JOIN ours o ON o.domain = f.domain UNION ALL "      \
	"(SELECT f.domain FROM fit f WHERE f.domain NOT IN (SELECT domain FROM ours) "             \
	"LIMIT greatest(0, " MAX_HELD " - (SELECT count(*) FROM ours)))), "                        \
	"taken AS (INSERT INTO certificate_leases AS l (domain, gateway_id, expires_at) "          \
	"SELECT domain, $1::uuid, now() + interval '" LIFETIME "' FROM wanted ORDER BY domain "    \
	"ON CONFLICT (domain) DO UPDATE SET (gateway_id, expires_at) = (SELECT "                   \
	"CASE WHEN f.free THEN excluded.gateway_id ELSE l.gateway_id END, "                        \
	"CASE WHEN f.free THEN excluded.expires_at ELSE l.expires_at END FROM (SELECT "            \
	"l.gateway_id = excluded.gateway_id OR l.expires_at <= now() OR NOT EXISTS "               \
	"(SELECT FROM gateways h WHERE h.id = l.gateway_id AND " SQL_ONLINE("h") ") AS free) f) "  \
	"RETURNING l.domain, l.gateway_id, l.expires_at) "                                         \
	"SELECT a.domain, coalesce(t.gateway_id = $1::uuid, false), t.gateway_id, "                \
	"km_time(t.expires_at) FROM asked a LEFT JOIN taken t ON t.domain = a.domain"
#define RELEASE                                                                                    \
	"DELETE FROM certificate_leases WHERE gateway_id = $1::uuid AND domain IN "                \
	"(SELECT jsonb_array_elements_text($2::jsonb))"

/* clang-format on */

static void count(const char *result, int64_t n)
{
	char label[32];
	snprintf(label, sizeof(label), "result=\"%s\"", result);
	km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_certificate_leases_total", label,
				"What gateways that asked for a lease on a domain were told"),
		      n);
}

static void unanswered(const struct client *c, const char *why, int64_t n)
{
	static struct km_log_limit limit;
	uint32_t held;
	count("unanswered", n);
	if (km_log_allow(&limit, km_now_ms(), 5, 60000, &held))
		km_warn("lease not answered", km_ks("gateway", c->name), km_ks("why", why),
			km_ki("held", held));
}

static void answer(struct client *c, const PGresult *res, int row)
{
	const char *domain = PQgetvalue(res, row, 0);
	bool granted = PQgetvalue(res, row, 1)[0] == 't';
	json_t *m = json_pack("{s:s, s:b}", "domain", domain, "granted", (int)granted);
	if (!PQgetisnull(res, row, 2)) {
		json_object_set_new(m, "holder", json_string(PQgetvalue(res, row, 2)));
		json_object_set_new(m, "until", json_string(PQgetvalue(res, row, 3)));
	}
	count(granted ? "granted" : "denied", 1);
	km_debug("lease asked for", km_ks("gateway", c->name), km_ks("domain", domain),
		 km_ki("granted", granted));
	client_send(c, "lease_result", m);
}

static void run_next(struct client *c);

static void ended(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct client *c = arg;
	(void)n;
	c->db_lease = NULL;
	if (error)
		unanswered(c, error->message, 1);
	for (int i = 0; !error && i < PQntuples(res[0]); i++)
		answer(c, res[0], i);
	run_next(c);
}

/* The domains of those that are asked for, or else of those that are given back: both in one transaction
 * could get into another gateway's way, and it into ours. */
static json_t *batch(json_t *asked, bool release)
{
	json_t *list = json_array(), *v;
	const char *domain;
	void *next;
	json_object_foreach_safe(asked, next, domain, v)
	{
		if (json_is_true(v) != release)
			continue;
		json_array_append_new(list, json_string(domain));
		json_object_del(asked, domain);
	}
	return list;
}

static void run_next(struct client *c)
{
	json_t *list = NULL;
	bool release = true;
	if (json_object_size(c->leases) == 0)
		return;
	list = batch(c->leases, release);
	if (json_array_size(list) == 0) {
		json_decref(list);
		release = false;
		list = batch(c->leases, release);
	}
	char *text = json_dumps(list, JSON_COMPACT);
	struct store_stmt s = {
	    .sql = release ? RELEASE : TAKE, .n = 2, .params = {c->id, text}};
	int rc = store_run(c->hub->store, &s, 1, ended, c, &c->db_lease);
	if (rc < 0) {
		c->db_lease = NULL;
		unanswered(c, km_strerror(rc),
			   (int64_t)(json_array_size(list) + json_object_size(c->leases)));
		json_object_clear(c->leases);
	}
	free(text);
	json_decref(list);
}

void lease_asked(struct client *c, const struct km_msg_lease *m)
{
	int64_t now = km_now_ms();
	if (!c->gateway) {
		client_send_error(c, "INVALID_MESSAGE", "lease comes from gateways");
		return;
	}
	if (!c->leases)
		c->leases = json_object();
	if (limit_wait_ms(c->hub->asks, c->id, now) > 0 ||
	    json_object_size(c->leases) >= MAX_ASKED) {
		unanswered(c, "too many", 1);
		return;
	}
	limit_failed(c->hub->asks, c->id, now);
	json_object_set_new(c->leases, m->domain, json_boolean(m->has_release && m->release));
	if (!c->db_lease)
		run_next(c);
}
