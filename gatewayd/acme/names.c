/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/manager.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OWN_AGAIN_MS 600000  /* the operator's own file may go */
#define LOOK_AGAIN_MS 3000   /* monotonic: a handshake that finds nothing makes us look again */
#define HOLD_MAX_MS (8 * 86400000LL) /* a longer wait is one of a clock that has been put back */

static uint32_t rnd(void)
{
	uint32_t r;
	km_random(&r, sizeof(r));
	return r;
}

/* ---- the table ---- */

static void key_make(char key[static 264], const char *domain, bool rsa)
{
	snprintf(key, 264, "%s%s", domain, rsa ? "+rsa" : "");
}

struct name *name_find(const struct acme *a, const char *domain, bool rsa)
{
	char key[264];
	struct name *n;
	key_make(key, domain, rsa);
	HASH_FIND_STR(a->names, key, n);
	return n;
}

static struct name *name_new(struct acme *a, const char *domain, bool rsa)
{
	char key[264];
	size_t len = strlen(domain) + 1;
	struct name *n = calloc(1, sizeof(*n) + len);
	key_make(key, domain, rsa);
	if (!n || !(n->e = ledger_get(a->ledger, key)) || schedule_set(a->due, &n->due, 0)) {
		free(n);
		return NULL;
	}
	memcpy(n->domain, domain, len);
	n->a = a;
	n->rsa = rsa;
	n->e->used = true;
	HASH_ADD_KEYPTR(hh, a->names, n->e->name, strlen(n->e->name), n);
	return n;
}

struct name *name_want(struct acme *a, const char *domain, bool rsa)
{
	struct name *n = name_find(a, domain, rsa);
	if (!n) {
		if (!(n = name_new(a, domain, rsa)))
			return NULL;
		/* A tunnel that is made anew may have been put right. */
		if (a->begun && n->e->cause == ACME_VALIDATION)
			n->e->next_try_ms = 0;
		name_touch(n);
	}
	n->wants++;
	return n;
}

void name_free(struct name *n)
{
	struct acme *a = n->a;
	attempt_drop(n->attempt);
	share_gone(n);
	schedule_drop(a->due, &n->due);
	HASH_DEL(a->names, n);
	n->e->used = false;
	if (n->unwritten)
		km_wipe(n->unwritten, strlen(n->unwritten));
	free(n->unwritten);
	free(n->why);
	free(n);
}

void name_unwant(struct name *n)
{
	struct acme *a = n->a;
	if (--n->wants)
		return;
	name_tell(n, false);
	/* What was never obtained leaves nothing behind but its failures at the CA, which are bounded by the
	 * CA's limits: whoever makes and unmakes tunnels does not make us remember them all. */
	struct ledger_entry *e = n->e;
	name_free(n);
	bool ca = e->failures && e->cause != ACME_UNSUPPORTED && e->cause != ACME_LOCAL;
	if (!e->not_after_ms && !ca && !e->order_url)
		ledger_forget(a->ledger, e);
}

void name_touch(struct name *n)
{
	n->changed = ++n->a->counter;
}

/* ---- times ---- */

bool name_valid(const struct name *n, int64_t wall_ms)
{
	return n->e->not_after_ms > wall_ms;
}

int64_t name_lifetime(const struct name *n)
{
	return n->e->not_after_ms > n->e->not_before_ms ? n->e->not_after_ms - n->e->not_before_ms : 0;
}

int64_t name_renewal(const struct name *n)
{
	const struct ledger_entry *e = n->e;
	struct renewal r = {.not_before_ms = e->not_before_ms,
			    .not_after_ms = e->not_after_ms,
			    .ari_ms = e->ari_ms};
	memcpy(&r.salt, e->fingerprint, sizeof(r.salt));
	return e->not_after_ms && !e->distrusted ? renewal_due(&r) : 0;
}

/* When an attempt may begin. */
static int64_t attempt_at(const struct name *n, int64_t wall_ms)
{
	const struct ledger_entry *e = n->e;
	int64_t at = name_renewal(n);
	if (e->failures && e->next_try_ms > at && e->next_try_ms < wall_ms + HOLD_MAX_MS)
		at = e->next_try_ms;
	return n->held_ms > at ? n->held_ms : at;
}

void name_plan(struct name *n)
{
	int64_t wall = km_wall_ms(), at;
	if (n->phase != NAME_IDLE)
		return;
	if (!n->looked)
		at = 0;
	else if (n->own)
		at = wall + OWN_AGAIN_MS;
	else if (n->unwritten)
		at = wall + 3600000; /* acme.c tries to write */
	else
		at = attempt_at(n, wall);
	if (n->looked && !n->own && n->e->ari_again_ms && n->e->ari_again_ms < at)
		at = n->e->ari_again_ms;
	if (schedule_set(n->a->due, &n->due, at))
		km_error("a certificate is not looked after: no memory", km_ks("domain", n->domain));
	acme_arm(n->a);
}

void name_hold(struct name *n, int64_t until_ms, const char *why)
{
	n->held_ms = until_ms;
	ledger_text(&n->why, why);
	name_touch(n);
	name_plan(n);
}

void name_due(struct name *n)
{
	int64_t wall = km_wall_ms();
	if (n->phase == NAME_WAITS) {
		n->phase = NAME_IDLE;
		n->overdue = !n->meeting;
		n->meeting = false;
		n->held_ms = 0;
		name_touch(n);
	}
	if (!n->looked || n->own) {
		name_look(n);
		name_plan(n);
		return;
	}
	if (n->unwritten) {
		name_plan(n);
		return;
	}
	if (attempt_at(n, wall) <= wall)
		attempt_begin(n);
	else if (n->e->ari_again_ms && n->e->ari_again_ms <= wall)
		attempt_ari(n);
	else
		name_plan(n);
}

/* ---- what is on disk ---- */

static bool readable(const char *dir, const char *name, const char *end)
{
	char path[4096];
	return snprintf(path, sizeof(path), "%s/%s%s", dir, name, end) < (int)sizeof(path) &&
	       !access(path, R_OK);
}

/* Whether the operator has put a certificate for the domain, or for all names beside it. */
static bool own_file(const struct acme *a, const char *domain)
{
	const char *dir = a->s->certificate_dir, *dot = strchr(domain, '.');
	char wild[260];
	if (readable(dir, domain, "") || readable(dir, domain, ".pem"))
		return true;
	if (!dot || domain[0] == '*')
		return false;
	snprintf(wild, sizeof(wild), "*%s", dot);
	return readable(dir, wild, "") || readable(dir, wild, ".pem");
}

/* Everything that is known of a certificate follows from it. */
static void facts_take(struct name *n, const struct cache_facts *f, const char *pem)
{
	struct ledger_entry *e = n->e;
	char id[128] = "";
	ledger_no_certificate(e);
	e->not_before_ms = f->not_before_ms;
	e->not_after_ms = f->not_after_ms;
	if (km_unhex(e->fingerprint, sizeof(e->fingerprint), f->fingerprint))
		memset(e->fingerprint, 0, sizeof(e->fingerprint));
	e->issuer = ledger_issuer(n->a->ledger, f->issuer);
	if (!acme_ari_id(id, sizeof(id), pem) && id[0]) {
		ledger_text(&e->ari_id, id);
		e->ari_again_ms = 1; /* at once */
	}
	n->warned = false;
	e->failures = 0;
	e->cause = ACME_OK;
	e->next_try_ms = 0;
	ledger_text(&e->error, NULL);
}

void name_look(struct name *n)
{
	struct acme *a = n->a;
	struct ledger_entry *e = n->e;
	struct cache_facts facts;
	struct km_errtext err = {""};
	char known[65], *pem = NULL;
	bool own = own_file(a, n->domain), first = !n->looked;
	n->looked = true;
	n->tried_ms = km_now_ms();
	if (own != n->own)
		name_touch(n);
	n->own = own;
	if (own)
		return;
	bool there = readable(a->dir, e->name, "");
	if (there && first && e->not_after_ms)
		return; /* a start with very many reads nothing */
	int rc = there ? cache_get(a->dir, n->domain, n->rsa, &pem, &facts, &err) : KM_ENOTFOUND;
	if (rc == KM_EIO || rc == KM_ENOMEM) {
		km_warn("cannot read a certificate", km_ks("domain", n->domain), km_ks("why", err.text));
		return;
	}
	if (rc) {
		if (!e->not_after_ms)
			return;
		km_warn("a certificate is gone from the disk, it is obtained anew",
			km_ks("domain", n->domain));
		ledger_no_certificate(e);
	} else if (strcmp(km_hex(e->fingerprint, sizeof(e->fingerprint), known), facts.fingerprint) != 0 ||
		   !e->not_after_ms) {
		facts_take(n, &facts, pem);
		e->others = a->mesh != NULL; /* nobody has noted who has its key */
		certs_changed(a->o.certs, n->domain);
	}
	(void)ledger_save(a->ledger, e, false);
	if (pem)
		km_wipe(pem, strlen(pem));
	free(pem);
	name_touch(n);
}

char *name_order_file(const struct name *n)
{
	return km_xasprintf("%s/%s+order", n->a->dir, n->e->name);
}

/* ---- how it goes ---- */

void name_tell(struct name *n, bool ok)
{
	if (!n->asked && !ok)
		return;
	n->asked = false;
	if (n->a->o.settled)
		n->a->o.settled(n->a->o.arg, n->domain, ok);
}

void name_failed(struct name *n, const struct acme_problem *p)
{
	struct ledger_entry *e = n->e;
	int64_t wall = km_wall_ms();
	char at[KM_ISO8601_LEN];
	e->failures++;
	e->cause = p->cause;
	ledger_text(&e->error, p->text);
	e->next_try_ms = wall + backoff_delay(p->cause, e->failures,
					      p->retry_at_ms > wall ? p->retry_at_ms - wall : 0,
					      name_lifetime(n), rnd());
	n->held_ms = 0;
	n->overdue = false;
	n->missed = 0;
	ledger_text(&n->why, NULL);
	(void)ledger_save(n->a->ledger, e, false);
	status_failed(p->cause);
	km_warn("no certificate", km_ks("domain", n->domain), km_ks("cause", acme_cause_str(p->cause)),
		km_ks("why", p->text), km_ki("failures", e->failures),
		km_ks("next_try", km_iso8601(e->next_try_ms, at)));
	if (n->a->mesh)
		mesh_failed(n->a->mesh, n->domain, p->text, e->next_try_ms);
	if (e->failures >= 3 || p->cause == ACME_ACCOUNT || p->cause == ACME_REJECTED ||
	    p->cause == ACME_UNSUPPORTED)
		alert_tell(n, ALERT_FAILED, p->text);
	name_touch(n);
	name_tell(n, false);
	name_plan(n);
}

static void unwritten_set(struct name *n, char *pem)
{
	if (n->unwritten && n->unwritten != pem) {
		km_wipe(n->unwritten, strlen(n->unwritten));
		free(n->unwritten);
	}
	n->unwritten = pem;
}

static const char *chain_of(const char *pem)
{
	const char *s = strstr(pem, "-----BEGIN CERTIFICATE");
	return s ? s : "";
}

static void installed(struct name *n, const struct cache_facts *f, const char *pem, const uint8_t *from)
{
	struct acme *a = n->a;
	struct ledger_entry *e = n->e;
	char until[KM_ISO8601_LEN], id[KM_UUID_STRLEN];
	char *order = name_order_file(n);
	bool renewed = e->not_after_ms != 0;
	facts_take(n, f, pem);
	e->others = from != NULL;
	if (!from) {
		ledger_text(&e->order_url, NULL);
		km_metric_add(renewed ? a->m_renewals : a->m_orders, 1);
	}
	if (unlink(order) && errno != ENOENT)
		km_warn("cannot remove the key of an order", km_ks("file", order),
			km_ks("why", strerror(errno)));
	free(order);
	(void)ledger_save(a->ledger, e, true);
	n->held_ms = n->waits_ms = n->denied_ms = 0;
	n->fruitless = n->missed = 0;
	n->overdue = false;
	ledger_text(&n->why, NULL);
	km_info(from ? "certificate fetched" : renewed ? "certificate renewed" : "certificate obtained",
		km_ks("domain", n->domain), km_ks("until", km_iso8601(e->not_after_ms, until)),
		km_ks("issuer", e->issuer), km_ks("from", from ? km_uuid_str(from, id) : "the CA"));
	certs_changed(a->o.certs, n->domain);
	name_touch(n);
	name_tell(n, true);
	if (!from && a->o.obtained)
		a->o.obtained(a->o.arg, n->domain, chain_of(pem), e->not_after_ms);
	share_announce(n);
	alert_tell(n, ALERT_RECOVERED, "obtained");
}

bool name_came(struct name *n, char *pem, const uint8_t *from)
{
	struct acme *a = n->a;
	struct cache_facts facts;
	struct km_errtext err = {""};
	/* It is revoked once it has been replaced, so it must be kept before. */
	int rc = n->e->distrusted ? revoke_keep(a, n->domain, n->rsa) : 0;
	if (rc)
		km_errtext_set(&err, rc, "what is to be revoked cannot be kept: %s", strerror(errno));
	else
		rc = cache_put(a->dir, n->domain, n->rsa, pem, &facts, &err);
	if (rc == KM_EINVAL) {
		km_warn("a certificate that came is not for this name", km_ks("domain", n->domain),
			km_ks("why", err.text));
		if (n->unwritten == pem)
			n->unwritten = NULL;
		km_wipe(pem, strlen(pem));
		free(pem);
		return false;
	}
	if (rc) {
		if (!a->read_only)
			km_error("certificates cannot be written, tried again until it works",
				 km_ks("domain", n->domain), km_ks("why", err.text));
		a->read_only = true;
		unwritten_set(n, pem);
		n->unwritten_fetched = from != NULL;
		if (from && from != n->unwritten_from)
			memcpy(n->unwritten_from, from, 16);
		ledger_text(&n->why, err.text);
		name_touch(n);
		name_tell(n, false);
		return true;
	}
	if (a->read_only)
		km_info("certificates can be written again");
	a->read_only = false;
	installed(n, &facts, pem, from);
	if (n->unwritten != pem)
		unwritten_set(n, NULL);
	n->unwritten = NULL;
	km_wipe(pem, strlen(pem));
	free(pem);
	if (a->revoke_again_ms)
		revoke_go(a);
	return true;
}
