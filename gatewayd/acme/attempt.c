/* SPDX-License-Identifier: MIT */
/* Attempts: their life, and what their jobs ask of the CA, those for renewal information among them. How one
 * comes to its order is in attempt_begin.c, the order in attempt_order.c. */
#include "gatewayd/acme/attempt_parts.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <utlist.h>

#define ARI_MAX 8
#define ARI_AGAIN_MS 21600000 /* after a failure: 6 h (RFC 9773 section 4.3.3) */

struct ticket {
	struct acme *a;
	struct attempt *t; /* NULL: it is over */
	struct ticket *prev, *next;
};

/* ---- life ---- */

struct attempt *attempt_new(struct acme *a, struct name *n, enum attempt_step step)
{
	struct attempt *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->a = a;
	t->n = n;
	t->step = step;
	a->at[step]++;
	DL_APPEND(a->attempts, t);
	if (n) {
		n->attempt = t;
		n->phase = NAME_BUSY;
		schedule_drop(a->due, &n->due);
		name_touch(n);
	}
	return t;
}

void attempt_step(struct attempt *t, enum attempt_step step)
{
	t->a->at[t->step]--;
	t->a->at[step]++;
	t->step = step;
}

void attempt_drop(struct attempt *t)
{
	struct ticket *k;
	if (!t)
		return;
	struct acme *a = t->a;
	DL_FOREACH (a->tickets, k)
		if (k->t == t)
			k->t = NULL;
	present_clear(t);
	dns_cancel(t->ask);
	if (t->call)
		acme_http_cancel(t->call);
	acme_job_free(t->job);
	if (t->timer)
		event_free(t->timer);
	EVP_PKEY_free(t->key);
	if (t->leased)
		a->o.lease.release(a->o.lease.arg, t->n->domain);
	if (t->step == STEP_CLAIM || t->step == STEP_LEASE || t->step == STEP_ORDER)
		outage_unused(&a->outage); /* whatever it was to find out */
	a->at[t->step]--;
	DL_DELETE(a->attempts, t);
	if (t->n) {
		t->n->attempt = NULL;
		t->n->phase = NAME_IDLE;
	}
	free(t->file);
	free(t);
	acme_kick(a);
}

struct ticket *ticket_new(struct attempt *t)
{
	struct ticket *k = km_xcalloc(1, sizeof(*k));
	k->a = t->a;
	k->t = t;
	DL_APPEND(t->a->tickets, k);
	return k;
}

struct attempt *ticket_take(struct ticket *k)
{
	struct attempt *t = k->t;
	DL_DELETE(k->a->tickets, k);
	free(k);
	return t;
}

void ticket_drop_all(struct acme *a)
{
	struct ticket *k, *tmp;
	DL_FOREACH_SAFE (a->tickets, k, tmp)
		free(k);
	a->tickets = NULL;
}

void attempt_over(struct attempt *t)
{
	struct name *n = t->n;
	attempt_drop(t);
	if (n)
		name_plan(n);
}

void attempt_failf(struct attempt *t, enum acme_cause cause, const char *fmt, ...)
{
	struct acme_problem p = {.cause = cause};
	struct name *n = t->n;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(p.text, sizeof(p.text), fmt, ap);
	va_end(ap);
	attempt_drop(t);
	name_failed(n, &p);
}

/* ---- renewal information ---- */

void attempt_ari(struct name *n)
{
	struct acme *a = n->a;
	struct km_errtext err = {""};
	struct attempt *t;
	int64_t wall = km_wall_ms();
	bool ari = false;
	/* When nobody has asked the CA for anything yet, this begins with its directory. */
	if (account_ready(a, &err) || (acme_client_directory(a->client, &ari, NULL, NULL) && !ari)) {
		n->e->ari_again_ms = wall + 86400000;
		name_plan(n);
		return;
	}
	if (a->at[STEP_ARI] >= ARI_MAX || !outage_may(&a->outage, km_now_ms())) {
		n->e->ari_again_ms = wall + 5000 + (int64_t)km_random_below(60000);
		name_plan(n);
		return;
	}
	n->e->ari_again_ms = wall + ARI_AGAIN_MS;
	if (!(t = attempt_new(a, n, STEP_ARI)) || acme_ari_new(&t->job, a->client, n->e->ari_id, &err)) {
		if (t)
			attempt_over(t);
		else
			name_plan(n);
		return;
	}
	attempt_pump(t);
}

static void ari_done(struct attempt *t)
{
	struct ledger_entry *e = t->n->e;
	const struct acme_ari *r = acme_job_ari(t->job);
	uint32_t rnd;
	km_random(&rnd, sizeof(rnd));
	if (r->end_ms > r->start_ms) {
		int64_t was = e->ari_ms;
		e->ari_ms = renewal_pick(r->start_ms, r->end_ms, e->ari_start_ms, e->ari_end_ms, was, rnd);
		e->ari_start_ms = r->start_ms;
		e->ari_end_ms = r->end_ms;
		if (was && e->ari_ms < was)
			km_info("the CA asks for a sooner renewal", km_ks("domain", t->n->domain),
				km_ks("why", r->explanation));
	}
	e->ari_again_ms = km_wall_ms() + r->again_ms;
	(void)ledger_save(t->a->ledger, e, false);
	attempt_over(t);
}

/* ---- the job ---- */

static void job_done(struct attempt *t)
{
	if (t->step == STEP_ORDER)
		attempt_ordered(t);
	else if (t->step == STEP_ARI)
		ari_done(t);
	else
		revoke_over(t, true);
}

static void job_failed(struct attempt *t)
{
	if (t->step == STEP_ORDER)
		attempt_order_failed(t);
	else if (t->step == STEP_REVOKE)
		revoke_over(t, false);
	else
		attempt_over(t);
}

static void on_answer(void *arg, const struct acme_answer *answer)
{
	struct attempt *t = arg;
	struct acme *a = t->a;
	t->call = NULL;
	acme_job_answer(t->job, answer, km_now_ms(), km_wall_ms());
	acme_kick(a); /* others may have waited for this answer */
	attempt_pump(t);
	acme_answered(a);
}

bool attempt_unanswered(const struct acme *a)
{
	const struct attempt *t;
	DL_FOREACH (a->attempts, t)
		if (t->step == STEP_ORDER && t->call && !t->n->e->order_url)
			return true;
	return false;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	attempt_pump(arg);
}

static void wait_until(struct attempt *t, int64_t until_ms)
{
	int64_t ms = until_ms - km_now_ms();
	struct timeval tv;
	if (!t->timer)
		t->timer = evtimer_new(t->a->o.base, on_timer, t);
	if (!t->timer || until_ms == INT64_MAX)
		return;
	ms = ms < 1 ? 1 : ms > 3600000 ? 3600000 : ms;
	tv = (struct timeval){ms / 1000, ms % 1000 * 1000};
	event_add(t->timer, &tv);
}

void attempt_pump(struct attempt *t)
{
	struct acme_next next = {0};
	if (!t->job || t->call || t->presenting)
		return;
	if (t->timer)
		event_del(t->timer);
	if (t->a->quiet && t->step == STEP_ORDER && !t->n->e->order_url)
		return; /* nothing has been ordered yet, and nothing is any more */
	acme_job_next(t->job, km_now_ms(), km_wall_ms(), &next);
	if (next.want != ACME_WAIT && next.want != ACME_REQUEST)
		present_clear(t);
	switch (next.want) {
	case ACME_REQUEST:
		t->call = acme_http_send(t->a->http, &next.request, on_answer, t);
		acme_request_clear(&next.request);
		if (!t->call) { /* no memory: as if nobody had answered */
			const struct acme_answer none = {.failed = "no memory"};
			acme_job_answer(t->job, &none, km_now_ms(), km_wall_ms());
			wait_until(t, km_now_ms() + 1000);
		}
		break;
	case ACME_PRESENT:
		present_begin(t);
		break;
	case ACME_WAIT:
		wait_until(t, next.until_ms);
		break;
	case ACME_DONE:
		job_done(t);
		break;
	case ACME_FAILED:
		job_failed(t);
		break;
	}
}

void attempt_pump_all(struct acme *a)
{
	struct attempt *t, *tmp;
	DL_FOREACH_SAFE (a->attempts, t, tmp)
		attempt_pump(t);
}

void attempt_hint(struct acme *a, const char *token)
{
	struct attempt *t;
	DL_FOREACH (a->attempts, t) {
		if (t->step != STEP_ORDER || !t->job || !present_has(t, token))
			continue;
		acme_job_hint(t->job);
		attempt_pump(t);
		return;
	}
}
