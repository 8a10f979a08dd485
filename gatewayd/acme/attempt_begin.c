/* SPDX-License-Identifier: MIT */
/* An attempt until it has its order, as it happens: what is in its way, the DNS is asked, a slot is waited for,
 * other gateways and control are told. */
#include "gatewayd/acme/attempt_parts.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define PREFLIGHTS_MAX 64
#define READY_MAX 256

/* ---- which challenges ---- */

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

size_t attempt_types(const struct acme *a, const char *domain, const char *out[static ATTEMPT_TYPES])
{
	const struct km_strlist *all = &a->s->acme_challenges;
	size_t n = 0;
	for (size_t i = 0; i < all->n && n < ATTEMPT_TYPES - 1; i++)
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

bool attempt_renews(const struct name *n)
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

bool attempt_held(struct name *n)
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
	if (attempt_renews(n) || !(ms = throttle_wait(a->throttle, n->domain, mono, why, sizeof(why))))
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
	const char *types[ATTEMPT_TYPES];
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
	if (share_heard(n) || share_leaves(n) || ca_away(n) || attempt_held(n))
		return;
	struct attempt *t = attempt_new(a, n, STEP_PREFLIGHT);
	if (!t) {
		name_hold(n, km_wall_ms() + 60000, "no memory");
		return;
	}
	if (!attempt_types(a, n->domain, types))
		attempt_failf(t, ACME_UNSUPPORTED, "%s",
		      n->domain[0] == '*' ? "a wildcard needs dns-01 with a dns_provider, or dns-persist-01"
					  : "acme_challenges names no challenge that can be used");
	else
		preflight(t, types);
}

/* ---- it has a slot ---- */

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
		attempt_order(t);
		return;
	}
	attempt_drop(t);
	share_wait(n, "another gateway has the lease");
}

static void lease(struct attempt *t)
{
	const struct acme_lease *l = &t->a->o.lease;
	if (!l->take || !t->a->mesh) {
		attempt_order(t);
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
