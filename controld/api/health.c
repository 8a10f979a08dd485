/* SPDX-License-Identifier: MIT */
/* /healthz, /readyz, /metrics, and the description of the interface. */
#include "controld/api/route.h"
#include "controld/api/server.h"
#include "controld/api/sql.h"
#include "libkm/base/metrics.h"
#include "libkm/base/process.h"
#include <string.h>

#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

void health_live(struct req *rq)
{
	static const char ok[] = "{\"status\":\"ok\"}";
	req_reply(rq, 200, ok, sizeof(ok) - 1);
}

void health_ready(struct req *rq)
{
	static const char ok[] = "{\"status\":\"ready\"}";
	if (store_ready(rq->api->store)) {
		req_reply(rq, 200, ok, sizeof(ok) - 1);
		return;
	}
	req_header(rq, "Retry-After", "3");
	req_error(rq, 503, "UNAVAILABLE", NULL, "the database is away");
}

/* Name, labels, value; sorted by name, with its type and help. Names hold nothing that needs to be
 * escaped in a label. */
#define GAUGES                                                                                     \
	"SELECT 'kakuremichi_agent_online', 'gauge', 'Whether the agent sends heartbeats', "       \
	"format('{agent=\"%s\"}', name), (" SQL_ONLINE(                                            \
	    "a") ")::int::text FROM agents a "                                                     \
		 "UNION ALL SELECT 'kakuremichi_agent_applied_revision', 'gauge', "                \
		 "'Revision that the agent last acknowledged', format('{agent=\"%s\"}', name), "   \
		 "coalesce(acked_revision, 0)::text FROM agents "                                  \
		 "UNION ALL SELECT 'kakuremichi_gateway_online', 'gauge', "                        \
		 "'Whether the gateway sends heartbeats', format('{gateway=\"%s\"}', name), "      \
		 "(" SQL_ONLINE(                                                                   \
		     "g") ")::int::text FROM gateways g "                                          \
			  "UNION ALL SELECT 'kakuremichi_gateway_applied_revision', 'gauge', "     \
			  "'Revision that the gateway last acknowledged', "                        \
			  "format('{gateway=\"%s\"}', name), "                                     \
			  "coalesce(acked_revision, 0)::text FROM gateways "                       \
			  "UNION ALL SELECT 'kakuremichi_tunnel_healthy', 'gauge', "               \
			  "'Whether the agent reaches the target', format('{tunnel=\"%s\"}', "     \
			  "t.domain), "                                                            \
			  "(" SQL_ONLINE(                                                          \
			      "a") " AND a.report->'tunnels'->(t.id::text)->>'status' = "          \
				   "'healthy' "                                                    \
				   "IS TRUE)::int::text FROM tunnels t JOIN targets x ON "         \
				   "x.tunnel_id = t.id "                                           \
				   "JOIN agents a ON a.id = x.agent_id WHERE t.enabled "           \
				   "UNION ALL SELECT "                                             \
				   "'kakuremichi_certificate_not_after_seconds', 'gauge', "        \
				   "'When the certificate that the gateway holds ends (Unix "      \
				   "time)', "                                                      \
				   "format('{gateway=\"%s\",domain=\"%s\"}', g.name, c.domain), "  \
				   "extract(epoch FROM c.not_after)::bigint::text "                \
				   "FROM certificates c JOIN gateways g ON g.id = c.gateway_id "   \
				   "WHERE c.not_after IS NOT NULL "                                \
				   "UNION ALL SELECT 'kakuremichi_certificates', 'gauge', "        \
				   "'Certificates at the gateways, by status', "                   \
				   "format('{status=\"%s\"}', status), count(*)::text "            \
				   "FROM certificates GROUP BY status "                            \
				   "UNION ALL SELECT 'kakuremichi_revision', 'gauge', 'The "       \
				   "newest revision', '', "                                        \
				   "value::text FROM revision ORDER BY 1 LIMIT 100000"

static void metrics_read(struct req *rq, PGresult *const *res, size_t n)
{
	struct km_buf out;
	const char *last = "";
	(void)n;
	km_buf_init(&out, 64 * 1024 * 1024);
	int rc = km_metrics_print(&out);
	if (rc == 0)
		rc = km_process_print(&out);
	for (int i = 0; rc == 0 && i < PQntuples(res[0]); i++) {
		const char *name = PQgetvalue(res[0], i, 0);
		if (strcmp(name, last) != 0)
			rc = km_buf_addf(&out, "# HELP %s %s\n# TYPE %s %s\n", name,
					 PQgetvalue(res[0], i, 2), name, PQgetvalue(res[0], i, 1));
		if (rc == 0)
			rc = km_buf_addf(&out, "%s%s %s\n", name, PQgetvalue(res[0], i, 3),
					 PQgetvalue(res[0], i, 4));
		last = name;
	}
	if (rc == 0)
		req_reply_text(rq, 200, METRICS_TYPE, (char *)km_buf_head(&out), out.len);
	else
		req_error(rq, 500, "INTERNAL_ERROR", NULL, "%s", km_strerror(rc));
	km_buf_free(&out);
}

void metrics_get(struct req *rq)
{
	struct tx tx = {.n = 0};
	tx_add(&tx, GAUGES, NULL);
	tx.s[0].n = 0;
	req_read(rq, &tx, metrics_read);
}

/* proto/openapi.json, as it was when this file was compiled (the Makefile knows). */
__asm__(".pushsection .rodata\n"
	"api_openapi:\n"
	".incbin \"proto/openapi.json\"\n"
	"api_openapi_end:\n"
	".byte 0\n"
	".popsection\n");
extern const char api_openapi[], api_openapi_end[];

void openapi_get(struct req *rq)
{
	req_reply(rq, 200, api_openapi, (size_t)(api_openapi_end - api_openapi));
}
