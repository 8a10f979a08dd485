/* SPDX-License-Identifier: MIT */
/* One certificate for all gateways: who orders it, who has it, who gets it from whom (gatewayd/mesh). */
#include "gatewayd/acme/manager.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define PATIENCE_MS 30000      /* for the gateway that is to order what nobody has yet */
#define SOON_MS 1000
#define PATIENCE_MIN_MS 5000   /* for one that is to renew: a hundredth of the lifetime, */
#define PATIENCE_MAX_MS 3600000
#define DENIED_MAX_MS 600000 /* for one that says that it orders, again and again */
#define MISSED_MAX 3	     /* in vain fetched; then it is ordered, whatever others say that they have */
#define HEARD_MAX 16384
#define TELL_AT_ONCE 1000 /* names told to a gateway that has come, */
#define TELL_MS 100	  /* each so many */

/* A certificate that another gateway has and that nobody wants here so far. */
struct heard {
	uint8_t gateway[16];
	int64_t not_after_ms;
	UT_hash_handle hh; /* in the order in which they came */
	char key[];
};

struct telling {
	uint8_t gateway[16];
	struct name *at; /* the next; NULL: all are told */
	struct telling *next;
};

/* ---- who orders ---- */

static void wait_for_other(struct name *n, int64_t patience_ms, const char *why)
{
	if (n->phase != NAME_WAITS)
		n->waits_ms = km_wall_ms();
	n->phase = NAME_WAITS;
	ledger_text(&n->why, why);
	if (schedule_set(n->a->due, &n->due, km_wall_ms() + patience_ms))
		n->phase = NAME_IDLE;
	name_touch(n);
	acme_arm(n->a);
}

bool share_leaves(struct name *n)
{
	struct acme *a = n->a;
	int64_t life = name_lifetime(n), patience = PATIENCE_MS;
	struct renewal r = {.not_before_ms = n->e->not_before_ms, .not_after_ms = n->e->not_after_ms};
	if (!a->mesh || n->overdue || (life && renewal_urgent(&r, km_wall_ms())))
		return false;
	/* Who has just come does not order what others may be ordering, nor before they can answer the CA. */
	int64_t meeting = mesh_awaits(a->mesh);
	if (meeting) {
		wait_for_other(n, meeting, "the other gateways are being met");
		n->meeting = n->phase == NAME_WAITS;
		return n->meeting;
	}
	if (!mesh_alive(a->mesh) || mesh_mine(a->mesh, n->domain))
		return false;
	if (life) {
		patience = life / 100 < PATIENCE_MAX_MS ? life / 100 : PATIENCE_MAX_MS;
		patience = patience > PATIENCE_MIN_MS ? patience : PATIENCE_MIN_MS;
	}
	/* It may have been obtained long ago, by a gateway that has told us before the tunnel came. */
	wait_for_other(n, patience, "another gateway orders it");
	return true;
}

void share_wait(struct name *n, const char *why)
{
	wait_for_other(n, PATIENCE_MS, why);
}

bool share_denied(struct name *n)
{
	int64_t wall = km_wall_ms();
	if (!n->denied_ms || n->denied_ms > wall)
		n->denied_ms = wall;
	return wall - n->denied_ms < DENIED_MAX_MS;
}

static bool on_yields(void *arg, const char *domain)
{
	struct acme *a = arg;
	bool yields = true;
	for (int rsa = 0; rsa < 2; rsa++) {
		struct name *n = name_find(a, domain, rsa);
		if (!n)
			continue;
		/* Who wants to order may not have heard of what there is; this goes out before the answer. */
		if (name_valid(n, km_wall_ms()))
			share_announce(n);
		if (n->attempt && (n->attempt->step == STEP_LEASE || n->attempt->step == STEP_ORDER))
			yields = false;
		if (n->attempt && n->attempt->step == STEP_CLAIM && mesh_mine(a->mesh, domain))
			yields = false;
	}
	return yields;
}

static void on_failed(void *arg, const char *domain, const char *why, int64_t next_try_ms)
{
	struct acme *a = arg;
	int64_t wall = km_wall_ms(), patience = PATIENCE_MS;
	char text[400];
	if (next_try_ms > wall) /* another one's number: nothing is reckoned with it before */
		patience += next_try_ms - wall < PATIENCE_MAX_MS ? next_try_ms - wall : PATIENCE_MAX_MS;
	snprintf(text, sizeof(text), "another gateway failed: %s", why);
	for (int rsa = 0; rsa < 2; rsa++) {
		struct name *n = name_find(a, domain, rsa);
		if (!n || n->phase != NAME_WAITS)
			continue;
		/* However often it fails, it is not waited for longer than that. */
		int64_t most = n->waits_ms + PATIENCE_MAX_MS + PATIENCE_MS - wall;
		if (most > 0)
			wait_for_other(n, patience < most ? patience : most, text);
		name_tell(n, false);
	}
}

static void on_changed(void *arg)
{
	struct acme *a = arg;
	struct name *n, *tmp;
	HASH_ITER (hh, a->names, n, tmp) {
		if (n->phase != NAME_WAITS ||
		    (n->meeting ? mesh_awaits(a->mesh) : !mesh_mine(a->mesh, n->domain)))
			continue;
		n->phase = NAME_IDLE;
		n->meeting = false;
		n->held_ms = 0;
		ledger_text(&n->why, NULL);
		name_plan(n);
	}
}

/* ---- challenges ---- */

static void on_challenge(void *arg, const struct challenge *ch, bool open)
{
	static struct km_log_limit limit;
	struct acme *a = arg;
	struct attempt *t;
	uint32_t held;
	/* Others know the tokens of ours, and neither close them nor put theirs in their place. */
	DL_FOREACH (a->attempts, t)
		if (present_has(t, ch->token))
			return;
	if (!open)
		challenges_close(a->o.challenges, ch->token);
	else if ((challenges_count(a->o.challenges) >= CHALLENGES_OTHERS_MAX ||
		  challenges_open(a->o.challenges, ch, km_now_ms() + 600000)) &&
		 km_log_allow(&limit, km_now_ms(), 5, 60000, &held))
		km_warn("cannot answer a challenge of another gateway", km_ks("domain", ch->name),
			km_ki("held_back", held));
}

struct to_one {
	struct acme *a;
	const uint8_t *gateway;
};

static void challenge_to(void *arg, const struct challenge *ch)
{
	const struct to_one *to = arg;
	mesh_challenge_to(to->a->mesh, to->gateway, ch);
}

/* ---- who has what ---- */

static void fact_of(struct mesh_fact *f, const struct name *n)
{
	memset(f, 0, sizeof(*f));
	snprintf(f->domain, sizeof(f->domain), "%s", n->domain);
	f->rsa = n->rsa;
	km_hex(n->e->fingerprint, sizeof(n->e->fingerprint), f->fingerprint);
	f->not_after_ms = n->e->not_after_ms;
}

void share_announce(const struct name *n)
{
	struct mesh_fact f;
	if (!n->a->mesh || n->own || n->e->distrusted)
		return;
	fact_of(&f, n);
	mesh_announce(n->a->mesh, &f);
}

static void tell_some(struct acme *a, struct telling *t)
{
	struct mesh_fact f;
	int64_t wall = km_wall_ms();
	for (int i = 0; i < TELL_AT_ONCE && t->at; i++, t->at = t->at->hh.next) {
		if (!name_valid(t->at, wall) || t->at->own || t->at->e->distrusted)
			continue;
		fact_of(&f, t->at);
		mesh_announce_to(a->mesh, t->gateway, &f);
	}
}

static void on_tell(evutil_socket_t fd, short what, void *arg)
{
	struct acme *a = arg;
	struct telling *t, *tmp;
	(void)fd, (void)what;
	LL_FOREACH_SAFE (a->telling, t, tmp) {
		if (a->mesh)
			tell_some(a, t);
		if (a->mesh && t->at)
			continue;
		LL_DELETE(a->telling, t);
		free(t);
	}
	if (a->telling)
		event_add(a->tell, &(struct timeval){0, TELL_MS * 1000});
}

/* While it was away the CA may have asked it, in the DNS's round, for proofs that it did not have. */
static void try_soon(struct acme *a)
{
	struct name *n, *tmp;
	int64_t soon = km_wall_ms() + SOON_MS;
	HASH_ITER (hh, a->names, n, tmp) {
		if (n->e->cause != ACME_VALIDATION || n->e->next_try_ms <= soon)
			continue;
		n->e->next_try_ms = soon;
		name_plan(n);
	}
}

static void on_joined(void *arg, const uint8_t gateway[static 16])
{
	struct acme *a = arg;
	struct to_one to = {a, gateway};
	struct telling *t;
	present_each(a, challenge_to, &to);
	try_soon(a);
	LL_FOREACH (a->telling, t)
		if (!memcmp(t->gateway, gateway, 16))
			break;
	if (!t) {
		if (!(t = calloc(1, sizeof(*t))))
			return;
		memcpy(t->gateway, gateway, 16);
		LL_PREPEND(a->telling, t);
	}
	t->at = a->names;
	if (!a->tell)
		a->tell = evtimer_new(a->o.base, on_tell, a);
	if (a->tell)
		event_add(a->tell, &(struct timeval){0, 0});
}

void share_gone(struct name *n)
{
	struct telling *t;
	LL_FOREACH (n->a->telling, t)
		if (t->at == n)
			t->at = n->hh.next;
}

/* ---- a certificate comes from another gateway ---- */

/* Whether it may take the place of ours: it is no older, and somebody else than itself has issued it. What
 * key and names have to do with each other is cache_put's business. */
static bool acceptable(const struct name *n, const char *pem, const char **why)
{
	struct km_errtext err = {""};
	struct cert *c = NULL;
	char ours[65], theirs[65];
	X509 *issuer;
	if (cert_parse(&c, pem, strlen(pem), "certificate", &err)) {
		*why = "it is malformed";
		return false;
	}
	issuer = sk_X509_num(c->chain) > 0 ? sk_X509_value(c->chain, 0) : NULL;
	cert_fingerprint(c, theirs);
	km_hex(n->e->fingerprint, sizeof(n->e->fingerprint), ours);
	*why = NULL;
	if (n->e->not_after_ms && !strcmp(theirs, ours))
		*why = "it is the one that is here";
	else if (c->rsa != n->rsa)
		*why = "it has another kind of key";
	else if (c->not_after_ms < n->e->not_after_ms)
		*why = "it is older than ours";
	else if (X509_check_issued(c->leaf, c->leaf) == X509_V_OK)
		*why = "it has signed itself";
	else if (issuer && X509_verify(c->leaf, X509_get0_pubkey(issuer)) != 1)
		*why = "its chain does not vouch for it";
	cert_put(c);
	return !*why;
}

static void on_fetched(void *arg, const char *pem)
{
	struct attempt *t = ticket_take(arg);
	uint8_t from[16];
	const char *why = "it did not come";
	if (!t)
		return;
	struct name *n = t->n;
	memcpy(from, t->from, sizeof(from));
	attempt_drop(t);
	if (pem && acceptable(n, pem, &why) && name_came(n, km_xstrdup(pem), from)) {
		km_metric_add(n->a->m_fetched, 1);
		name_plan(n);
		return;
	}
	char id[KM_UUID_STRLEN];
	n->missed++;
	km_warn("a certificate of another gateway cannot be used", km_ks("domain", n->domain),
		km_ks("gateway", km_uuid_str(from, id)), km_ks("why", why));
	n->overdue = !name_valid(n, km_wall_ms());
	name_tell(n, false);
	name_hold(n, km_wall_ms() + 2000 + (int64_t)km_random_below(3000), NULL);
}

static bool fetch(struct name *n, const uint8_t gateway[static 16])
{
	struct attempt *t = n->attempt;
	if (n->missed >= MISSED_MAX || (t && (t->step == STEP_FETCH || t->step == STEP_ORDER)))
		return false;
	attempt_drop(t);
	if (!(t = attempt_new(n->a, n, STEP_FETCH)))
		return false;
	memcpy(t->from, gateway, 16);
	mesh_fetch(n->a->mesh, gateway, n->domain, n->rsa, on_fetched, ticket_new(t));
	return true;
}

static void heard_add(struct acme *a, const char *key, const uint8_t gateway[static 16], int64_t not_after_ms)
{
	struct heard *h;
	HASH_FIND_STR(a->heard, key, h);
	if (!h) {
		if (HASH_COUNT(a->heard) >= HEARD_MAX) {
			h = a->heard; /* the oldest */
			HASH_DEL(a->heard, h);
			free(h);
		}
		if (!(h = calloc(1, sizeof(*h) + strlen(key) + 1)))
			return;
		strcpy(h->key, key);
		HASH_ADD_STR(a->heard, key, h);
	}
	memcpy(h->gateway, gateway, 16);
	h->not_after_ms = not_after_ms;
}

/* Whether what another one has is better than what we have. Of two that end at the same second (both were
 * ordered, because one gateway was thought dead) all choose the same. */
static bool better(const struct name *n, const char *fingerprint, int64_t not_after_ms)
{
	char ours[65];
	km_hex(n->e->fingerprint, sizeof(n->e->fingerprint), ours);
	if (n->own || n->unwritten || not_after_ms <= km_wall_ms() ||
	    (n->e->not_after_ms && !strcmp(ours, fingerprint)))
		return false;
	if (not_after_ms == n->e->not_after_ms && strcmp(fingerprint, ours) > 0)
		return true;
	return not_after_ms > n->e->not_after_ms || n->e->distrusted;
}

static void on_announced(void *arg, const uint8_t gateway[static 16], const struct mesh_fact *f)
{
	struct acme *a = arg;
	char key[264];
	struct name *n = name_find(a, f->domain, f->rsa);
	if (n && !n->looked)
		name_look(n);
	if (n) {
		if (better(n, f->fingerprint, f->not_after_ms))
			(void)fetch(n, gateway);
		else if (n->phase == NAME_WAITS && name_valid(n, km_wall_ms())) {
			n->phase = NAME_IDLE; /* it had come by another way */
			name_plan(n);
		}
		return;
	}
	snprintf(key, sizeof(key), "%s%s", f->domain, f->rsa ? "+rsa" : "");
	heard_add(a, key, gateway, f->not_after_ms);
}

bool share_heard(struct name *n)
{
	struct acme *a = n->a;
	struct heard *h;
	uint8_t gateway[16];
	HASH_FIND_STR(a->heard, n->e->name, h);
	if (!h || !a->mesh)
		return false;
	bool good = better(n, "", h->not_after_ms);
	memcpy(gateway, h->gateway, sizeof(gateway));
	HASH_DEL(a->heard, h);
	free(h);
	return good && fetch(n, gateway);
}

static char *on_give(void *arg, const uint8_t gateway[static 16], const char *domain, bool rsa)
{
	struct acme *a = arg;
	struct name *n = name_find(a, domain, rsa);
	struct km_errtext err = {""};
	char *pem = NULL;
	if (!n || n->own || n->e->distrusted || !name_valid(n, km_wall_ms()))
		return NULL;
	/* Who knows a key must be known, or else nobody could tell what a revoked gateway knew. */
	if (ledger_holder(n->e, gateway) && ledger_save(a->ledger, n->e, true)) {
		km_warn("a certificate is not given: it cannot be noted who has it", km_ks("domain", domain));
		return NULL;
	}
	if (cache_get(a->dir, domain, rsa, &pem, NULL, &err)) {
		km_warn("a certificate cannot be given", km_ks("domain", domain), km_ks("why", err.text));
		return NULL;
	}
	return pem;
}

/* ---- the hooks ---- */

const struct mesh_hooks *acme_mesh_hooks(void)
{
	static const struct mesh_hooks hooks = {
	    .challenge = on_challenge,
	    .announced = on_announced,
	    .give = on_give,
	    .yields = on_yields,
	    .failed = on_failed,
	    .changed = on_changed,
	    .joined = on_joined,
	};
	return &hooks;
}

void share_free(struct acme *a)
{
	struct heard *h, *tmp;
	struct telling *t, *next;
	HASH_ITER (hh, a->heard, h, tmp) {
		HASH_DEL(a->heard, h);
		free(h);
	}
	LL_FOREACH_SAFE (a->telling, t, next)
		free(t);
	a->telling = NULL;
	if (a->tell)
		event_free(a->tell);
}
