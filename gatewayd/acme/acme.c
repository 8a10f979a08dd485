/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/acme.h"
#include "gatewayd/acme/manager.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/event/mailbox.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define QUIET_S 10
#define STAGING "https://acme-staging-v02.api.letsencrypt.org/directory"
#define EVERY_S 10          /* what is not urgent */
#define TIDY_MS 3600000
#define UNWRITTEN_MAX 16    /* of a pass: one may have a trouble of its own, all have that of the disk */
#define TICK_MAX_MS 5000    /* so that a clock that jumps is noticed */
#define SLICE_MS 5          /* of the main loop, for what is due */
#define ASKED_AGAIN_MS 3000 /* a stranger's handshake has the DNS, or the disk, looked at again */
#define SERVED_MAX 256

/* ---- time ---- */

void acme_arm(struct acme *a)
{
	const struct due *d = schedule_first(a->due);
	int64_t ms = d ? d->at_ms - km_wall_ms() : TICK_MAX_MS;
	if (!a->begun)
		return;
	ms = ms < 0 ? 0 : ms > TICK_MAX_MS ? TICK_MAX_MS : ms;
	/* What is due and finds no room waits for some. */
	if (!ms && !attempt_room(a))
		ms = 100;
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};
	event_add(a->tick, &tv);
}

void acme_kick(struct acme *a)
{
	if (a->kick)
		event_active(a->kick, 0, 0);
}

static void on_kick(evutil_socket_t fd, short what, void *arg)
{
	struct acme *a = arg;
	(void)fd, (void)what;
	attempt_ready(a);
	attempt_pump_all(a);
	acme_arm(a);
}

/* The clock has jumped: what is due by that alone is not begun all at once, and no wait lasts longer than
 * it was meant to. What is on disk is served all the while. */
static void clock_moved(struct acme *a, int64_t by_ms, int64_t wall)
{
	struct name *n, *tmp;
	km_warn("the clock has been moved, times of certificates are made anew", km_ki("seconds", by_ms / 1000));
	a->refused_until_ms = 0;
	HASH_ITER (hh, a->names, n, tmp) {
		int64_t at = name_renewal(n), spread = name_lifetime(n) / 20;
		if (n->phase == NAME_WAITS)
			n->phase = NAME_IDLE;
		n->held_ms = n->held_ms ? n->held_ms + by_ms : 0;
		if (n->e->failures)
			n->e->next_try_ms += by_ms;
		if (n->e->ari_again_ms)
			n->e->ari_again_ms += by_ms;
		if (n->e->not_after_ms && at <= wall && at > wall - by_ms) {
			spread = spread > 3600000 ? 3600000 : spread;
			n->held_ms = wall + (int64_t)km_random_below((uint32_t)spread + 1);
		}
		name_plan(n);
	}
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct acme *a = arg;
	int64_t from = km_now_ms(), wall = km_wall_ms();
	(void)fd, (void)what;
	int64_t by = clock_jumped(&a->clock, from, wall);
	if (by)
		clock_moved(a, by, wall);
	for (struct due *d; (d = schedule_first(a->due)) && d->at_ms <= wall && attempt_room(a);) {
		struct name *n = (struct name *)((char *)d - offsetof(struct name, due));
		int64_t at = d->at_ms;
		bool looked = n->looked;
		name_due(n);
		if (n->due.pos && n->due.at_ms <= at && looked)
			name_hold(n, wall + 1000, n->why); /* never twice in one pass */
		if (km_now_ms() - from >= SLICE_MS)
			break;
	}
	acme_arm(a);
}

/* ---- what is looked at every few seconds ---- */

static void write_again(struct acme *a)
{
	struct name *n, *tmp;
	int failed = 0;
	HASH_ITER (hh, a->names, n, tmp) {
		if (!n->unwritten || n->attempt)
			continue;
		/* name_came may free n->unwritten, and keeps it where it fails again. */
		if (!name_came(n, n->unwritten, n->unwritten_fetched ? n->unwritten_from : NULL) ||
		    !n->unwritten)
			name_plan(n);
		if (n->unwritten && ++failed == UNWRITTEN_MAX)
			return; /* the others would fail too */
	}
}

/* A quarter of its life is left, and it has not been renewed. */
static void warn_of_end(struct name *n, int64_t wall)
{
	char until[KM_ISO8601_LEN], text[500];
	int64_t left = n->e->not_after_ms - wall, life = name_lifetime(n);
	if (!n->e->not_after_ms || n->own || left > life / 4 || n->warned)
		return;
	n->warned = true;
	const char *why = n->why ? n->why : n->e->error;
	km_iso8601(n->e->not_after_ms, until);
	km_warn(left > 0 ? "certificate is close to its end" : "certificate has ended",
		km_ks("domain", n->domain), km_ks("until", until), km_ks("why", why));
	snprintf(text, sizeof(text), "%s %s: %s", left > 0 ? "ends at" : "ended at", until,
		 why ? why : "it has not been renewed yet");
	alert_tell(n, ALERT_EXPIRING, text);
}

static void on_every(evutil_socket_t fd, short what, void *arg)
{
	struct acme *a = arg;
	struct name *n, *tmp;
	int64_t mono = km_now_ms(), wall = km_wall_ms();
	(void)fd, (void)what;
	challenges_tidy(a->o.challenges, mono);
	if (throttle_save(a->throttle, mono, wall) || ledger_settle(a->ledger))
		km_debug("what is known of certificates is not on disk yet");
	if (a->revoke_again_ms && a->revoke_again_ms <= mono)
		revoke_go(a);
	write_again(a);
	HASH_ITER (hh, a->names, n, tmp)
		warn_of_end(n, wall);
	if (mono - a->tidied_ms >= TIDY_MS) {
		ledger_tidy(a->ledger, wall);
		a->tidied_ms = mono;
	}
}

/* ---- what is wanted ---- */

void acme_want(struct acme *a, const char *domain)
{
	int kinds = a ? a->s->certificate_key : 0;
	if (!a)
		return;
	if ((kinds != GW_KEY_RSA && !name_want(a, domain, false)) ||
	    (kinds != GW_KEY_ECDSA && !name_want(a, domain, true)))
		km_error("no certificate is obtained: no memory", km_ks("domain", domain));
	acme_arm(a);
}

void acme_unwant(struct acme *a, const char *domain)
{
	struct name *n;
	for (int rsa = 0; a && rsa < 2; rsa++)
		if ((n = name_find(a, domain, rsa)))
			name_unwant(n);
}

void acme_settled(struct acme *a)
{
	if (!a)
		return;
	a->begun = true;
	acme_arm(a);
}

/* Whether its handshakes may wait: something is under way, or is about to be. */
static bool asked_one(struct name *n)
{
	int64_t wall = km_wall_ms(), mono = km_now_ms();
	bool again = mono - n->tried_ms >= ASKED_AGAIN_MS;
	if (n->phase == NAME_IDLE && (again || !n->looked)) {
		name_look(n); /* it may be that we know less than the disk */
		if (n->fruitless && n->held_ms > wall)
			name_hold(n, wall, n->why);
	}
	name_plan(n);
	if (n->own || (name_valid(n, wall) && n->phase == NAME_IDLE))
		return false;
	if (n->phase != NAME_IDLE || n->due.at_ms <= wall + n->a->s->acme_wait) {
		n->asked = true;
		/* Before all others, but for one that has been in vain: strangers who come for many of those again
		 * and again hold up nobody's renewal. */
		if (n->phase == NAME_IDLE && n->due.at_ms <= wall && !n->fruitless && schedule_set(n->a->due, &n->due, 0))
			n->asked = false;
		acme_arm(n->a);
		return n->asked;
	}
	return false;
}

bool acme_asked(struct acme *a, const char *domain)
{
	struct name *n;
	bool asked = false;
	for (int rsa = 0; a && rsa < 2; rsa++)
		if ((n = name_find(a, domain, rsa)))
			asked = asked_one(n) || asked;
	return asked;
}

void acme_addresses(struct acme *a, const struct km_addr *addrs, size_t n)
{
	struct name *i, *tmp;
	struct km_addr *copy = a && n ? calloc(n, sizeof(*copy)) : NULL;
	if (!a || (n && !copy) || (n == a->n_addrs && (!n || !memcmp(addrs, a->addrs, n * sizeof(*copy))))) {
		free(copy);
		return;
	}
	if (n)
		memcpy(copy, addrs, n * sizeof(*copy));
	free(a->addrs);
	a->addrs = copy;
	a->n_addrs = n;
	HASH_ITER (hh, a->names, i, tmp)
		if (i->fruitless && i->phase == NAME_IDLE)
			name_hold(i, 0, i->why);
}

/* ---- challenges that were answered ---- */

void acme_served(struct acme *a, const char *token)
{
	char *copy = a ? strdup(token) : NULL;
	if (copy && km_mailbox_put(a->served, copy))
		free(copy); /* it is only a hint */
}

static void on_served(evutil_socket_t fd, short what, void *arg)
{
	struct acme *a = arg;
	(void)fd, (void)what;
	for (char *token; (token = km_mailbox_take(a->served)); free(token))
		attempt_hint(a, token);
}

/* ---- life ---- */

void acme_mesh(struct acme *a, struct mesh *m)
{
	if (a)
		a->mesh = m;
}

static struct throttle *throttle_make(const struct gw_settings *s)
{
	struct throttle_rate orders, domain, name;
	char *path = km_xasprintf("%s/certificates.limits", s->host.state_dir);
	struct throttle *t = NULL;
	if (!gw_rate_parse(&orders.n, &orders.ms, s->acme_order_rate) &&
	    !gw_rate_parse(&domain.n, &domain.ms, s->acme_domain_rate) &&
	    !gw_rate_parse(&name.n, &name.ms, s->acme_name_rate))
		t = throttle_new(orders, domain, name, path, km_now_ms(), km_wall_ms());
	free(path);
	return t;
}

static int ways_out(struct acme *a, struct km_errtext *err)
{
	const struct gw_settings *s = a->s;
	int rc = acme_http_new(&a->http, a->o.base, s->acme_ca_file, err);
	if (!rc)
		rc = dns_new(&a->dns, a->o.base, &s->dns_resolvers, err);
	if (!rc)
		rc = dns_provider_new(&a->provider, a->o.base, a->dns, s, err);
	return rc;
}

static int events_make(struct acme *a)
{
	a->tick = evtimer_new(a->o.base, on_tick, a);
	a->kick = event_new(a->o.base, -1, 0, on_kick, a);
	a->every = event_new(a->o.base, -1, EV_PERSIST, on_every, a);
	a->served = km_mailbox_new(SERVED_MAX);
	if (!a->tick || !a->kick || !a->every || !a->served ||
	    event_add(a->every, &(struct timeval){EVERY_S, 0}))
		return KM_ENOMEM;
	a->served_event =
	    event_new(a->o.base, km_mailbox_fd(a->served), EV_READ | EV_PERSIST, on_served, a);
	return a->served_event && !event_add(a->served_event, NULL) ? 0 : KM_ENOMEM;
}

static int state_open(struct acme *a, struct km_errtext *err)
{
	char *path = km_xasprintf("%s/certificates.log", a->s->host.state_dir);
	struct km_errtext why = {""};
	int rc = ledger_open(&a->ledger, path, err);
	free(path);
	a->revoke_dir = km_xasprintf("%s/revoke", a->s->host.state_dir);
	a->revoke_again_ms = 1; /* what an earlier run has left */
	/* A folder that cannot be used now stops no traffic; each attempt tries it again. */
	if (!rc && cache_open(a->dir, &why))
		km_error("no certificate can be obtained", km_ks("why", why.text));
	return rc;
}

int acme_start(struct acme **out, const struct acme_opts *o, struct km_errtext *err)
{
	struct acme *a = km_xcalloc(1, sizeof(*a));
	int rc;
	a->o = *o;
	a->s = o->settings;
	a->mesh = o->mesh;
	a->dir = gw_acme_dir(a->s);
	a->directory = a->s->acme_staging ? STAGING : a->s->acme_directory;
	status_start(a);
	if (!(a->due = schedule_new()) || !(a->throttle = throttle_make(a->s)) || events_make(a) ||
	    alert_new(&a->alert, a))
		rc = km_errtext_set(err, KM_ENOMEM, "no memory");
	else if (!(rc = state_open(a, err)))
		rc = ways_out(a, err);
	if (rc) {
		acme_free(a);
		return rc;
	}
	*out = a;
	return 0;
}

static void events_free(struct acme *a)
{
	struct event **all[] = {&a->tick, &a->kick, &a->every, &a->served_event};
	for (size_t i = 0; i < KM_ARRAY_LEN(all); i++) {
		if (*all[i])
			event_free(*all[i]);
		*all[i] = NULL;
	}
	km_mailbox_free(a->served, free);
}

static void quiet_over(struct acme *a)
{
	void (*done)(void *) = a->quiet_done;
	a->quiet_done = NULL;
	if (a->quiet_timer)
		event_free(a->quiet_timer);
	a->quiet_timer = NULL;
	if (done)
		done(a->quiet_arg);
}

static void on_quiet_late(evutil_socket_t fd, short what, void *arg)
{
	(void)fd, (void)what;
	km_warn("an order's answer has not come before the end");
	quiet_over(arg);
}

void acme_answered(struct acme *a)
{
	if (a->quiet_done && !attempt_unanswered(a))
		quiet_over(a);
}

void acme_quiet(struct acme *a, void (*done)(void *arg), void *arg)
{
	if (!a) {
		done(arg);
		return;
	}
	a->quiet = true;
	a->quiet_done = done;
	a->quiet_arg = arg;
	a->quiet_timer = evtimer_new(a->o.base, on_quiet_late, a);
	if (!a->quiet_timer || event_add(a->quiet_timer, &(struct timeval){QUIET_S, 0}))
		quiet_over(a);
	else
		acme_answered(a);
}

void acme_free(struct acme *a)
{
	struct name *n, *tmp;
	struct attempt *t, *next;
	if (!a)
		return;
	status_stop(a);
	if (a->throttle && throttle_save(a->throttle, km_now_ms(), km_wall_ms()))
		km_warn("what was ordered is not on disk");
	a->begun = false;
	a->quiet_done = NULL;
	quiet_over(a);
	events_free(a);
	DL_FOREACH_SAFE (a->attempts, t, next)
		attempt_drop(t);
	HASH_ITER (hh, a->names, n, tmp)
		name_free(n);
	ticket_drop_all(a);
	share_free(a);
	alert_free(a->alert);
	account_free(a);
	dns_provider_free(a->provider);
	dns_free(a->dns);
	acme_http_free(a->http);
	schedule_free(a->due);
	throttle_free(a->throttle);
	ledger_free(a->ledger);
	free(a->addrs);
	free(a->dir);
	free(a->revoke_dir);
	free(a);
}
