/* SPDX-License-Identifier: MIT */
/* What comes to its end: metrics of hosts' certificates and of the CAs, and warnings long before.
 */
#include "controld/pki/authority_priv.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <stdio.h>
#include <stdlib.h>

#define DAY_S 86400
#define YEAR_S (365 * DAY_S)
#define AGAIN_MS (DAY_S * 1000LL) /* how often it is told */

static bool time_to_tell(int64_t *told_ms)
{
	int64_t now = km_now_ms();

	if (*told_ms && now - *told_ms < AGAIN_MS)
		return false;
	*told_ms = now;
	return true;
}

/* Renewal begins at a third left: at a quarter it has failed. */
static void judge_hosts(struct authority *a, int64_t ends, const char *kind, const char *name)
{
	int64_t left = ends - km_wall_ms() / 1000;

	if (left >= a->lifetime_s / 4)
		a->told_hosts_ms = 0;
	else if (time_to_tell(&a->told_hosts_ms))
		km_warn("a host's certificate ends and has not been renewed", km_ks("type", kind),
			km_ks("name", name), km_ki("days_left", left / DAY_S));
}

static void on_ends(void *arg, const struct store_error *error, PGresult *const *res, size_t n)
{
	struct authority *a = arg;
	int64_t ends = 0;

	(void)n;
	a->ends = NULL;
	if (error)
		return;
	if (PQntuples(res[0])) {
		ends = strtoll(PQgetvalue(res[0], 0, 0), NULL, 10);
		judge_hosts(a, ends, PQgetvalue(res[0], 0, 1), PQgetvalue(res[0], 0, 2));
	}
	km_metric_set(
	    km_metric(KM_METRIC_GAUGE, "kakuremichi_host_certificate_not_after_seconds", "",
		      "When the first of the hosts' certificates ends (Unix time; 0: none)."),
	    ends);
}

/* A year before its end, or for one that lives shortly a quarter of its life. */
static bool near(const struct km_cert *c, int64_t left)
{
	int64_t quarter = (c->not_after - c->not_before) / 4;

	return left < (quarter < YEAR_S ? quarter : YEAR_S);
}

static void judge_cas(struct authority *a)
{
	int64_t now = km_wall_ms() / 1000;
	char fp[KM_CERT_FP_STRLEN], labels[96];
	bool tell = false, any = false;

	for (size_t i = 0; i < a->cas.n; i++)
		any |= near(a->cas.items[i].cert, a->cas.items[i].cert->not_after - now);
	if (any)
		tell = time_to_tell(&a->told_cas_ms);
	for (size_t i = 0; i < a->cas.n; i++) {
		const struct ca *ca = &a->cas.items[i];
		int64_t left = ca->cert->not_after - now;

		snprintf(labels, sizeof(labels), "fingerprint=\"%s\"",
			 km_cert_fp_str(ca->cert, fp));
		km_metric_set(km_metric(KM_METRIC_GAUGE, "kakuremichi_authority_not_after_seconds",
					labels, "When a trusted CA ends (Unix time)."),
			      ca->cert->not_after);
		if (tell && near(ca->cert, left))
			km_warn("a certificate authority comes to its end",
				km_ks("fingerprint", fp), km_ki("days_left", left / DAY_S),
				km_ks("what_to_do", ca->has_key
							? "POST /api/authorities/rotate"
							: "POST a new one to /api/authorities"));
	}
}

#define ENDS(kind, table)                                                                          \
	"SELECT extract(epoch FROM certificate_not_after)::bigint AS ends, '" kind                 \
	"', name FROM " table                                                                      \
	" WHERE certificate IS NOT NULL AND certificate_not_after IS NOT NULL "                    \
	"AND revoked_at IS NULL"

void authority_ends(struct authority *a)
{
	static const struct store_stmt s = {.sql = ENDS("agent", "agents") " UNION ALL " ENDS(
						"gateway", "gateways") " ORDER BY ends LIMIT 1"};

	judge_cas(a);
	if (!a->ends && store_read(a->store, &s, 1, on_ends, a, &a->ends))
		a->ends = NULL;
}
