/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/manager.h"
#include "libkm/base/util.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SOONEST_MAX 100

/* ---- what control is told ---- */

static const char *error_of(const struct name *n)
{
	return n->why ? n->why : n->e->failures ? n->e->error : NULL;
}

static enum acme_state state_of(const struct name *n, int64_t wall)
{
	bool ordering = n->attempt && n->attempt->step != STEP_ARI;
	if (name_valid(n, wall))
		return name_renewal(n) <= wall ? ACME_RENEWAL_DUE : ACME_READY;
	if (ordering)
		return ACME_ISSUING;
	return n->e->failures || n->e->not_after_ms ? ACME_ERROR : ACME_PENDING;
}

static void fill(struct acme_status *s, const struct name *n, int64_t wall)
{
	s->domain = n->domain;
	s->state = state_of(n, wall);
	s->not_after_ms = n->e->not_after_ms;
	s->error = s->state == ACME_READY ? NULL : error_of(n);
	s->next_try_ms = s->state != ACME_READY && n->due.pos && n->due.at_ms > wall ? n->due.at_ms : 0;
	s->issuer = n->e->issuer;
}

/* Of two kinds of key for a domain one is told: the one that is not well, else ECDSA. */
static const struct name *shown(const struct name *n, int64_t wall)
{
	const struct name *other = name_find(n->a, n->domain, !n->rsa);
	const struct name *ecdsa = n->rsa ? other : n, *rsa = n->rsa ? n : other;
	if (!other)
		return n;
	return state_of(ecdsa, wall) == ACME_READY && state_of(rsa, wall) != ACME_READY ? rsa : ecdsa;
}

uint64_t acme_each(const struct acme *a, uint64_t since,
		   void (*each)(void *arg, const struct acme_status *s), void *arg)
{
	struct name *n, *tmp;
	struct acme_status s;
	int64_t wall = km_wall_ms();
	if (!a)
		return 0;
	HASH_ITER (hh, a->names, n, tmp) {
		/* What is due has changed by time alone. */
		if (n->own || (n->changed <= since && name_renewal(n) > wall))
			continue;
		const struct name *one = shown(n, wall);
		fill(&s, one, wall);
		each(arg, &s);
	}
	return a->counter;
}

bool acme_manages(const struct acme *a, const char *domain)
{
	const struct name *n = NULL;
	if (a && !(n = name_find(a, domain, false)))
		n = name_find(a, domain, true);
	return n && !n->own;
}

/* ---- metrics ---- */

void status_failed(enum acme_cause cause)
{
	char label[64];
	snprintf(label, sizeof(label), "cause=\"%s\"", acme_cause_str(cause));
	km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_certificate_failures_total", label,
				"Attempts to obtain or renew a certificate that failed."),
		      1);
}

struct soonest {
	const struct name *all[SOONEST_MAX];
	size_t n;
};

/* Sorted, the soonest first. */
static void soonest_add(struct soonest *s, const struct name *n)
{
	size_t at = s->n;
	if (s->n == SOONEST_MAX && s->all[s->n - 1]->e->not_after_ms <= n->e->not_after_ms)
		return;
	if (s->n < SOONEST_MAX)
		s->n++;
	else
		at--;
	for (; at > 0 && s->all[at - 1]->e->not_after_ms > n->e->not_after_ms; at--)
		s->all[at] = s->all[at - 1];
	s->all[at] = n;
}

static int print_states(struct km_buf *out, const size_t *by_state)
{
	static const char *const names[] = {"pending", "issuing", "ready", "renewal_due", "error"};
	int rc = km_buf_adds(out, "# HELP kakuremichi_certificates Certificates that the gateway looks after.\n"
				  "# TYPE kakuremichi_certificates gauge\n");
	for (size_t i = 0; i < KM_ARRAY_LEN(names) && !rc; i++)
		rc = km_buf_addf(out, "kakuremichi_certificates{state=\"%s\"} %zu\n", names[i], by_state[i]);
	return rc;
}

/* The labels change with what ends soonest, so that these are no series of libkm/base/metrics. */
static int print(void *arg, struct km_buf *out)
{
	const struct acme *a = arg;
	struct name *n, *tmp;
	struct soonest soonest = {0};
	size_t by_state[ACME_ERROR + 1] = {0};
	int64_t wall = km_wall_ms();
	HASH_ITER (hh, a->names, n, tmp) {
		if (n->own)
			continue;
		by_state[state_of(n, wall)]++;
		if (n->e->not_after_ms)
			soonest_add(&soonest, n);
	}
	int rc = print_states(out, by_state);
	if (!rc && soonest.n)
		rc = km_buf_adds(out, "# HELP kakuremichi_certificate_not_after_seconds When a certificate ends "
				      "(Unix time); the 100 that end soonest.\n"
				      "# TYPE kakuremichi_certificate_not_after_seconds gauge\n");
	for (size_t i = 0; i < soonest.n && !rc; i++)
		rc = km_buf_addf(out, "kakuremichi_certificate_not_after_seconds{domain=\"%s\",key=\"%s\"} %" PRId64 "\n",
				 soonest.all[i]->domain, soonest.all[i]->rsa ? "rsa" : "ecdsa",
				 soonest.all[i]->e->not_after_ms / 1000);
	return rc;
}

void status_start(struct acme *a)
{
	a->m_orders = km_metric(KM_METRIC_COUNTER, "kakuremichi_certificate_issued_total", "",
				"Certificates obtained for names that had none.");
	a->m_renewals = km_metric(KM_METRIC_COUNTER, "kakuremichi_certificate_renewals_total", "",
				  "Certificates renewed.");
	a->m_fetched = km_metric(KM_METRIC_COUNTER, "kakuremichi_certificate_fetched_total", "",
				 "Certificates taken from other gateways.");
	a->m_not_here = km_metric(KM_METRIC_COUNTER, "kakuremichi_certificate_preflight_refused_total", "",
				  "Orders that were not made, because the DNS would have failed them.");
	a->m_revoked = km_metric(KM_METRIC_COUNTER, "kakuremichi_certificate_revoked_total", "",
				 "Certificates revoked at the CA.");
	km_metrics_also(print, a);
}

void status_stop(struct acme *a)
{
	km_metrics_also(NULL, a);
}
