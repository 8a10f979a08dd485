/* SPDX-License-Identifier: MIT */
/* One attempt, in the order in which it happens: the DNS is asked, a slot is waited for, other gateways and
 * control are told, the CA does its work, what came is written. */
#include "gatewayd/acme/manager.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#define PREFLIGHTS_MAX 64
#define READY_MAX 256
#define ARI_MAX 8
#define ARI_AGAIN_MS 21600000 /* after a failure: 6 h (RFC 9773 section 4.3.3) */
#define REFUSED_MAX 3	      /* names in a row that the CA's limits refuse: then all wait */
#define REFUSED_MAX_MS 600000 /* so long: their limits may be of some domains only, and one that fares well shows it */
#define KEY_MAX 16384

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

/* Ends it; its name is tried again at the time that it has by then. */
static void over(struct attempt *t)
{
	struct name *n = t->n;
	attempt_drop(t);
	if (n)
		name_plan(n);
}

static void failf(struct attempt *t, enum acme_cause cause, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void failf(struct attempt *t, enum acme_cause cause, const char *fmt, ...)
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

/* ---- which challenges ---- */

#define TYPES_MAX 5

static bool type_usable(const struct acme *a, const char *type, const char *domain)
{
	struct km_addr addr;
	bool dns = !strcmp(type, "dns-01"), persist = !strcmp(type, "dns-persist-01");
	if (domain[0] == '*' && !dns && !persist)
		return false;
	if ((dns || persist) && !km_addr_parse(&addr, domain))
		return false;
	return !dns || a->provider;
}

static size_t types_for(const struct acme *a, const char *domain, const char *out[static TYPES_MAX])
{
	const struct km_strlist *all = &a->s->acme_challenges;
	size_t n = 0;
	for (size_t i = 0; i < all->n && n < TYPES_MAX - 1; i++)
		if (type_usable(a, all->items[i], domain))
			out[n++] = all->items[i];
	out[n] = NULL;
	return n;
}

/* Whether the CA comes to a gateway for some of them, so that the name must lead here. */
static bool comes_here(const char *const *types)
{
	for (; *types; types++)
		if (strncmp(*types, "dns", 3) != 0)
			return true;
	return false;
}

/* ---- it begins ---- */

bool attempt_room(const struct acme *a)
{
	return a->at[STEP_PREFLIGHT] < PREFLIGHTS_MAX && a->at[STEP_READY] < READY_MAX;
}

/* Whether the CA counts it as the renewal of a certificate that this account has obtained. */
static bool known_renewal(const struct name *n)
{
	bool ari = false;
	return n->e->ari_id && !n->e->others && n->a->client &&
	       acme_client_directory(n->a->client, &ari, NULL, NULL) && ari;
}

static void hold_until(struct name *n, int64_t until, const char *why)
{
	char text[320], at[KM_ISO8601_LEN];
	snprintf(text, sizeof(text), "waits until %s: %s", km_iso8601(until, at), why);
	name_hold(n, until, text);
	name_tell(n, false);
}

/* Whether it has to wait for the CA's limits or for the CA itself. */
static bool held_back(struct name *n)
{
	struct acme *a = n->a;
	int64_t wall = km_wall_ms(), mono = km_now_ms(), ms;
	char why[280] = "";
	if (n->e->order_url)
		return false; /* it has been counted */
	if (a->refused_until_ms > wall) {
		hold_until(n, a->refused_until_ms + km_random_below(5000), "the CA's limits");
		return true;
	}
	if (known_renewal(n) || !(ms = throttle_wait(a->throttle, n->domain, mono, why, sizeof(why))))
		return false;
	hold_until(n, wall + ms + (int64_t)km_random_below(1000), why);
	return true;
}

static bool ca_away(struct name *n)
{
	struct acme *a = n->a;
	int64_t mono = km_now_ms();
	if (outage_may(&a->outage, mono))
		return false;
	int64_t ms = a->outage.probing ? 1000 : a->outage.until_ms - mono;
	hold_until(n, km_wall_ms() + ms + (int64_t)km_random_below(1000), "the CA cannot be reached");
	return true;
}

static void on_preflight(void *arg, enum dns_verdict v, const char *text)
{
	struct attempt *t = arg;
	struct name *n = t->n;
	struct acme *a = t->a;
	char why[600];
	uint32_t rnd;
	t->ask = NULL;
	if (v == DNS_FINE || v == DNS_UNKNOWN) {
		n->fruitless = 0;
		attempt_step(t, STEP_READY);
		attempt_ready(a);
		return;
	}
	snprintf(why, sizeof(why), "%s%s", v == DNS_ELSEWHERE ? "does not point here yet: " : "",
		 text ? text : "");
	if (!n->fruitless++)
		km_info("no certificate is ordered", km_ks("domain", n->domain), km_ks("why", why));
	km_metric_add(a->m_not_here, 1);
	km_random(&rnd, sizeof(rnd));
	attempt_drop(t);
	name_hold(n, km_wall_ms() + backoff_preflight(n->fruitless, rnd), why);
	name_tell(n, false);
	if (name_valid(n, km_wall_ms()) && n->fruitless > 8)
		alert_tell(n, ALERT_FAILED, why);
}

static void preflight(struct attempt *t, const char *const *types)
{
	struct acme *a = t->a;
	const char *const *issuers = NULL;
	struct km_addr addr;
	bool wildcard = t->n->domain[0] == '*';
	if (!a->s->acme_preflight || !a->dns || !km_addr_parse(&addr, t->n->domain)) {
		on_preflight(t, DNS_FINE, NULL);
		return;
	}
	if (a->client && !acme_client_directory(a->client, NULL, &issuers, NULL))
		issuers = NULL;
	struct dns_preflight_opts o = {
	    .name = wildcard ? t->n->domain + 2 : t->n->domain,
	    .wildcard = wildcard || !comes_here(types),
	    .ours = a->addrs,
	    .n_ours = a->n_addrs,
	    .caa_issuers = issuers && issuers[0] ? issuers : NULL,
	    .account_url = a->client ? acme_client_account_url(a->client) : NULL,
	    .methods = types,
	};
	t->n->tried_ms = km_now_ms();
	t->ask = dns_preflight(a->dns, &o, on_preflight, t);
	if (!t->ask)
		on_preflight(t, DNS_UNKNOWN, NULL);
}

void attempt_begin(struct name *n)
{
	const char *types[TYPES_MAX];
	struct acme *a = n->a;
	unsigned char before[32];
	/* What another process has put there is taken. */
	memcpy(before, n->e->fingerprint, sizeof(before));
	name_look(n);
	if (n->own || memcmp(before, n->e->fingerprint, sizeof(before)) != 0) {
		name_tell(n, true);
		name_plan(n);
		return;
	}
	if (share_heard(n) || share_leaves(n) || ca_away(n) || held_back(n))
		return;
	struct attempt *t = attempt_new(a, n, STEP_PREFLIGHT);
	if (!t) {
		name_hold(n, km_wall_ms() + 60000, "no memory");
		return;
	}
	if (!types_for(a, n->domain, types))
		failf(t, ACME_UNSUPPORTED, "%s",
		      n->domain[0] == '*' ? "a wildcard needs dns-01 with a dns_provider, or dns-persist-01"
					  : "acme_challenges names no challenge that can be used");
	else
		preflight(t, types);
}

/* ---- it has a slot ---- */

static void order_begin(struct attempt *t);

static void on_lease(void *arg, bool granted, const uint8_t *holder)
{
	struct attempt *t = ticket_take(arg);
	if (!t)
		return;
	struct name *n = t->n;
	/* What a captured or restored control says about a gateway that is dead, or about ourselves, does not
	 * count, nor what it says again after we have waited once: the mesh has agreed. */
	if (granted || !holder || n->overdue || !t->a->mesh || !mesh_is_alive(t->a->mesh, holder)) {
		t->leased = granted;
		order_begin(t);
		return;
	}
	attempt_drop(t);
	share_wait(n, "another gateway has the lease");
}

static void lease(struct attempt *t)
{
	const struct acme_lease *l = &t->a->o.lease;
	if (!l->take || !t->a->mesh) {
		order_begin(t);
		return;
	}
	attempt_step(t, STEP_LEASE);
	l->take(l->arg, t->n->domain, on_lease, ticket_new(t));
}

static void on_claimed(void *arg, bool granted)
{
	struct attempt *t = ticket_take(arg);
	if (!t)
		return;
	struct name *n = t->n;
	if (granted || !share_denied(n)) {
		lease(t);
		return;
	}
	attempt_drop(t);
	share_wait(n, "another gateway orders it");
}

static bool is_running(const struct attempt *t)
{
	return t && (t->step == STEP_CLAIM || t->step == STEP_LEASE || t->step == STEP_ORDER);
}

void attempt_ready(struct acme *a)
{
	struct attempt *t, *tmp;
	DL_FOREACH_SAFE (a->attempts, t, tmp) {
		size_t running = a->at[STEP_CLAIM] + a->at[STEP_LEASE] + a->at[STEP_ORDER];
		if (running >= (size_t)a->s->acme_jobs)
			return;
		if (t->step != STEP_READY)
			continue;
		struct name *n = t->n;
		/* For two kinds of key one after the other: a name shows one tls-alpn-01 challenge at a time. */
		const struct name *twin = name_find(a, n->domain, !n->rsa);
		if (twin && is_running(twin->attempt))
			continue;
		if (!outage_may(&a->outage, km_now_ms())) {
			attempt_drop(t);
			(void)ca_away(n);
			continue;
		}
		outage_begin(&a->outage);
		attempt_step(t, STEP_CLAIM);
		if (a->mesh && mesh_alive(a->mesh))
			mesh_claim(a->mesh, n->domain, on_claimed, ticket_new(t));
		else
			lease(t);
	}
}

/* ---- the key ---- */

static EVP_PKEY *key_read(const char *path)
{
	char *text = NULL;
	size_t len;
	EVP_PKEY *key = NULL;
	if (km_file_read(path, KEY_MAX, &text, &len))
		return NULL;
	BIO *b = BIO_new_mem_buf(text, (int)len);
	if (b)
		key = PEM_read_bio_PrivateKey(b, NULL, NULL, NULL);
	BIO_free(b);
	km_wipe(text, len);
	free(text);
	return key;
}

/* Written before the order is made, so that a restart in the middle can go on with it (and so that a disk
 * that is full costs no order). */
static int key_write(const char *path, EVP_PKEY *key)
{
	char *pem = cache_pem(key, "");
	int rc = pem ? km_file_write(path, pem, strlen(pem), 0600) : KM_ENOMEM;
	int saved = errno;
	if (pem)
		km_wipe(pem, strlen(pem));
	free(pem);
	errno = saved;
	return rc;
}

static int key_ready(struct attempt *t)
{
	struct name *n = t->n;
	char *path = name_order_file(n);
	int rc = 0;
	if (n->e->order_url && !(t->key = key_read(path)))
		ledger_text(&n->e->order_url, NULL);
	if (!t->key) {
		t->key = acme_key_new(n->rsa);
		rc = t->key ? key_write(path, t->key) : KM_ENOMEM;
	}
	free(path);
	return rc;
}

/* ---- the order ---- */

static void on_ordered(void *arg, const char *url)
{
	struct attempt *t = arg;
	struct name *n = t->n;
	struct throttle *l = t->a->throttle;
	/* The first was counted before it was made. Another, for another challenge or in place of one from
	 * before a restart, is an order more, but no certificate more. */
	if (!t->renewal && (t->orders || !t->counted)) {
		throttle_order(l, n->domain, km_now_ms());
		throttle_undo(l, n->domain, true, km_now_ms());
	}
	t->orders++;
	ledger_text(&n->e->order_url, url);
	(void)ledger_save(t->a->ledger, n->e, true);
}

static void order_begin(struct attempt *t)
{
	struct acme *a = t->a;
	struct name *n = t->n;
	const char *types[TYPES_MAX];
	struct km_errtext err = {""};
	attempt_step(t, STEP_ORDER);
	types_for(a, n->domain, types);
	t->renewal = known_renewal(n);
	if (!n->e->order_url && held_back(n)) { /* others have used what there was */
		over(t);
		return;
	}
	int rc = account_ready(a, &err);
	if (!rc && (rc = key_ready(t)))
		km_errtext_set(&err, rc, "the key cannot be written to acme_dir: %s",
			       km_why(rc));
	if (!rc) {
		struct acme_order_opts o = {
		    .names = (const char *const[]){n->domain},
		    .n_names = 1,
		    .key = t->key,
		    .challenges = types,
		    .profile = a->s->acme_profile,
		    .chain = a->s->acme_chain,
		    .replaces = t->renewal ? n->e->ari_id : NULL,
		    .order_url = n->e->order_url,
		    .ordered = on_ordered,
		    .arg = t,
		};
		rc = acme_order_new(&t->job, a->client, &o, &err);
	}
	if (rc) {
		failf(t, ACME_LOCAL, "%s", err.text);
		return;
	}
	if (!n->e->order_url && !t->renewal) {
		throttle_order(a->throttle, n->domain, km_now_ms());
		t->counted = true;
	}
	attempt_pump(t);
}

static void order_done(struct attempt *t)
{
	struct acme *a = t->a;
	struct name *n = t->n;
	char *pem = cache_pem(t->key, acme_job_chain(t->job));
	if (outage_over(&a->outage))
		km_info("the CA can be reached again");
	a->refused = 0;
	if (!pem) {
		failf(t, ACME_LOCAL, "no memory");
		return;
	}
	present_clear(t); /* before others are told of the certificate */
	attempt_drop(t);
	if (!name_came(n, pem, NULL)) {
		struct acme_problem p = {.cause = ACME_PROTOCOL,
					 .text = "the CA's certificate is not for this name and key"};
		ledger_text(&n->e->order_url, NULL);
		name_failed(n, &p);
		return;
	}
	name_plan(n);
}

/* The order cannot be gone on with. */
static void order_forget(struct name *n)
{
	char *path = name_order_file(n);
	ledger_text(&n->e->order_url, NULL);
	if (unlink(path) && errno != ENOENT)
		km_warn("cannot remove the key of an order", km_ks("file", path),
			km_ks("why", strerror(errno)));
	free(path);
}

static void order_failed(struct attempt *t)
{
	struct acme_problem p = *acme_job_problem(t->job);
	struct acme *a = t->a;
	struct name *n = t->n;
	int64_t wall = km_wall_ms(), mono = km_now_ms();
	uint32_t rnd;
	km_random(&rnd, sizeof(rnd));
	if (p.cause == ACME_NETWORK) {
		if (!a->outage.count)
			km_warn("the CA cannot be reached", km_ks("directory", a->directory),
				km_ks("why", p.text));
		outage_failed(&a->outage, mono, p.retry_at_ms > wall ? p.retry_at_ms - wall : 0, rnd);
	} else if (p.cause != ACME_LOCAL && outage_over(&a->outage)) {
		km_info("the CA can be reached again");
	}
	if (p.cause != ACME_NETWORK && p.cause != ACME_RATE_LIMITED)
		order_forget(n);
	if (t->counted && !n->e->order_url) /* else it is gone on with, and has been counted */
		throttle_undo(a->throttle, n->domain, p.reached, mono);
	if (p.cause == ACME_VALIDATION)
		throttle_failed(a->throttle, n->domain, mono);
	a->refused = p.cause == ACME_RATE_LIMITED ? a->refused + 1 : 0;
	if (a->refused >= REFUSED_MAX) {
		int64_t ms = p.retry_at_ms > wall ? p.retry_at_ms - wall : 60000;
		a->refused_until_ms = wall + (ms < REFUSED_MAX_MS ? ms : REFUSED_MAX_MS);
	}
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
			over(t);
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
	over(t);
}

/* ---- the job ---- */

static void job_done(struct attempt *t)
{
	if (t->step == STEP_ORDER)
		order_done(t);
	else if (t->step == STEP_ARI)
		ari_done(t);
	else
		revoke_over(t, true);
}

static void job_failed(struct attempt *t)
{
	if (t->step == STEP_ORDER)
		order_failed(t);
	else if (t->step == STEP_REVOKE)
		revoke_over(t, false);
	else
		over(t);
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
