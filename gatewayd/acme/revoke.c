/* SPDX-License-Identifier: MIT */
/* Revocation (RFC 8555 section 7.6) and change of the account's key (section 7.3.5). */
#include "gatewayd/acme/chain.h"
#include "gatewayd/acme/internal.h"
#include "gatewayd/acme/jose.h"
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

/* ---- revocation ---- */

struct revoke {
	struct acme_job job;
	char *certificate; /* DER as base64url */
	int reason;
	EVP_PKEY *key; /* NULL: the account's */
};

static void revoke_next(struct acme_job *j, struct want *w)
{
	struct revoke *r = (struct revoke *)j;
	json_t *doc;

	w->want = ACME_REQUEST;
	w->url = j->client->dir.revoke_cert;
	w->key = r->key;
	if (!w->url) {
		job_failf(j, ACME_UNSUPPORTED, "the CA offers no revocation");
		return;
	}
	doc = json_pack("{s:s, s:i}", "certificate", r->certificate, "reason", r->reason);
	w->payload = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
	json_decref(doc);
	if (!w->payload)
		job_no_memory(j);
}

static void revoke_answer(struct acme_job *j, const struct acme_answer *a, struct acme_problem *p)
{
	(void)a;
	if (!p || problem_is(p, "alreadyRevoked")) {
		job_done(j);
		return;
	}
	if (problem_is(p, "unauthorized"))
		p->cause = ACME_ACCOUNT; /* nothing is validated here */
	problem_about(p, "revoking");
	job_fail(j, p);
}

static void revoke_free(struct acme_job *j)
{
	struct revoke *r = (struct revoke *)j;

	free(r->certificate);
	EVP_PKEY_free(r->key);
	free(r);
}

static const struct job_ops revoke_ops = {
    .next = revoke_next, .answer = revoke_answer, .free = revoke_free};

int acme_revoke_new(struct acme_job **out, struct acme_client *c, const char *chain_pem, int reason,
		    EVP_PKEY *cert_key, struct km_errtext *err)
{
	X509 *leaf = chain_leaf(chain_pem);
	struct revoke *r = NULL;
	uint8_t *der = NULL;
	int n, rc = 0;

	*out = NULL;
	if (!leaf)
		return km_errtext_set(err, KM_EINVAL, "there is no certificate to revoke");
	n = i2d_X509(leaf, &der);
	if (n <= 0 || !(r = calloc(1, sizeof(*r)))) {
		rc = km_errtext_set(err, KM_ENOMEM, "no memory");
		goto out;
	}
	job_init(&r->job, &revoke_ops, c);
	r->reason = reason;
	if (cert_key && EVP_PKEY_up_ref(cert_key) == 1)
		r->key = cert_key;
	if (!(r->certificate = jose_b64(der, (size_t)n))) {
		acme_job_free(&r->job);
		rc = km_errtext_set(err, KM_ENOMEM, "no memory");
		goto out;
	}
	*out = &r->job;
out:
	OPENSSL_free(der);
	X509_free(leaf);
	return rc;
}

/* ---- another account key ---- */

struct rollover {
	struct acme_job job;
	EVP_PKEY *key;
	bool asking; /* whether the account has the new key already: an answer may have been lost */
};

static void rollover_next(struct acme_job *j, struct want *w)
{
	struct rollover *r = (struct rollover *)j;
	struct acme_client *c = j->client;

	w->want = ACME_REQUEST;
	if (r->asking) {
		w->url = c->dir.new_account;
		w->key = r->key;
		w->payload = strdup("{\"onlyReturnExisting\":true}");
	} else if (!c->dir.key_change) {
		job_failf(j, ACME_UNSUPPORTED, "the CA offers no change of the account's key");
		return;
	} else {
		w->url = c->dir.key_change;
		/* Without an account one is made first; then this is asked again. */
		w->payload = c->account_url
				 ? jose_key_change(c->key, r->key, c->account_url, w->url)
				 : strdup("");
	}
	if (!w->payload)
		job_failf(j, ACME_LOCAL,
			  "the change cannot be signed (no memory, or OpenSSL failed)");
}

static void use_new_key(struct rollover *r)
{
	struct acme_client *c = r->job.client;

	EVP_PKEY_free(c->key);
	c->key = r->key;
	r->key = NULL;
	job_done(&r->job);
}

static void rollover_answer(struct acme_job *j, const struct acme_answer *a, struct acme_problem *p)
{
	struct rollover *r = (struct rollover *)j;
	const char *account = j->client->account_url;
	bool ours = a->location && account && !strcmp(a->location, account);

	if (r->asking ? !p && ours : !p || (a->status == 409 && ours)) {
		use_new_key(r);
		return;
	}
	if (r->asking) {
		job_fail(j, &j->problem); /* of the change itself */
		return;
	}
	if (a->status == 409 || problem_is(p, "unauthorized"))
		p->cause = ACME_ACCOUNT;
	problem_about(p, "changing the account's key");
	if (a->status == 409 || (p->cause != ACME_PROTOCOL && p->cause != ACME_ACCOUNT)) {
		job_fail(j, p);
		return;
	}
	r->asking = true;
	j->problem = *p;
}

static void rollover_free(struct acme_job *j)
{
	struct rollover *r = (struct rollover *)j;

	EVP_PKEY_free(r->key);
	free(r);
}

static const struct job_ops rollover_ops = {
    .next = rollover_next, .answer = rollover_answer, .free = rollover_free};

int acme_rollover_new(struct acme_job **out, struct acme_client *c, EVP_PKEY *key,
		      struct km_errtext *err)
{
	char print[JOSE_THUMBPRINT_LEN];
	struct rollover *r;

	*out = NULL;
	if (!EVP_PKEY_is_a(key, "EC") || jose_thumbprint(key, print) == KM_EINVAL)
		return km_errtext_set(err, KM_EINVAL, "the new account key is no P-256 key");
	if (EVP_PKEY_eq(key, c->key) == 1)
		return km_errtext_set(err, KM_EINVAL, "the new account key is the present one");
	if (!(r = calloc(1, sizeof(*r))))
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	job_init(&r->job, &rollover_ops, c);
	if (EVP_PKEY_up_ref(key) != 1) {
		acme_job_free(&r->job);
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	}
	r->key = key;
	*out = &r->job;
	return 0;
}
