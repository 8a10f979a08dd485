/* SPDX-License-Identifier: MIT */
/* An attempt's order: the key is on disk before it is made, its URL before anything is proved, and what comes is
 * written. */
#include "gatewayd/acme/attempt_parts.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REFUSED_MAX 3	      /* names in a row that the CA's limits refuse: then all wait */
#define REFUSED_MAX_MS 600000 /* so long: their limits may be of some domains only, and one that fares well shows it */
#define KEY_MAX 16384

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

void attempt_order(struct attempt *t)
{
	struct acme *a = t->a;
	struct name *n = t->n;
	const char *types[ATTEMPT_TYPES];
	struct km_errtext err = {""};
	attempt_step(t, STEP_ORDER);
	attempt_types(a, n->domain, types);
	t->renewal = attempt_renews(n);
	if (!n->e->order_url && attempt_held(n)) { /* others have used what there was */
		attempt_over(t);
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
		attempt_failf(t, ACME_LOCAL, "%s", err.text);
		return;
	}
	if (!n->e->order_url && !t->renewal) {
		throttle_order(a->throttle, n->domain, km_now_ms());
		t->counted = true;
	}
	attempt_pump(t);
}

void attempt_ordered(struct attempt *t)
{
	struct acme *a = t->a;
	struct name *n = t->n;
	char *pem = cache_pem(t->key, acme_job_chain(t->job));
	if (outage_over(&a->outage))
		km_info("the CA can be reached again");
	a->refused = 0;
	if (!pem) {
		attempt_failf(t, ACME_LOCAL, "no memory");
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

void attempt_order_failed(struct attempt *t)
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
