/* SPDX-License-Identifier: MIT */
/* Renewal information (RFC 9773). */
#include "gatewayd/acme/chain.h"
#include "gatewayd/acme/internal.h"
#include "gatewayd/acme/jose.h"
#include "libkm/base/util.h"
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define AGAIN_MIN_MS (60 * 1000)
#define AGAIN_MAX_MS (86400 * 1000)
#define AGAIN_MS (6 * 3600 * 1000) /* section 4.3.2 */
#define ID_MAX 200

struct ari {
	struct acme_job job;
	char *id, *url;
	struct acme_ari info;
};

/* ---- the certificate's id ---- */

/* The serial's DER content: with a leading zero octet where the first bit is set. */
static size_t serial_content(const X509 *x, uint8_t *out, size_t size)
{
	const ASN1_INTEGER *serial = X509_get0_serialNumber(x);
	uint8_t *der = NULL;
	int n = i2d_ASN1_INTEGER(serial, &der);
	size_t len = 0;

	if (n > 2 && n < 128 && (size_t)n - 2 <= size) { /* tag, short length, content */
		len = (size_t)n - 2;
		memcpy(out, der + 2, len);
	}
	OPENSSL_free(der);
	return len;
}

int acme_ari_id(char *out, size_t size, const char *chain_pem)
{
	X509 *x = chain_leaf(chain_pem);
	const ASN1_OCTET_STRING *aki = x ? X509_get0_authority_key_id(x) : NULL;
	uint8_t serial[64];
	size_t n, len;

	if (size)
		out[0] = '\0';
	if (!x)
		return KM_EINVAL;
	n = serial_content(x, serial, sizeof(serial));
	len = aki ? (size_t)ASN1_STRING_length(aki) : 0;
	if (len && len <= 64 && n && KM_B64_LEN(len) + KM_B64_LEN(n) <= size) {
		km_b64url(ASN1_STRING_get0_data(aki), len, out);
		strcat(out, ".");
		km_b64url(serial, n, out + strlen(out));
	}
	X509_free(x);
	ERR_clear_error();
	return 0;
}

/* ---- the query ---- */

static void ari_next(struct acme_job *j, struct want *w)
{
	struct ari *r = (struct ari *)j;
	const char *base = j->client->dir.renewal_info;

	if (!base) {
		job_failf(j, ACME_UNSUPPORTED, "the CA offers no renewal information");
		return;
	}
	free(r->url);
	if (asprintf(&r->url, "%s%s%s", base, base[strlen(base) - 1] == '/' ? "" : "/", r->id) <
	    0) {
		r->url = NULL;
		job_no_memory(j);
		return;
	}
	w->want = ACME_REQUEST;
	w->get = true;
	w->url = r->url;
	w->accept = "application/json";
}

static bool read_time(int64_t *out, const json_t *window, const char *key)
{
	const char *s = acme_json_text(window, key);

	return s && !km_iso8601_parse(out, s);
}

static void ari_answer(struct acme_job *j, const struct acme_answer *a, struct acme_problem *p)
{
	struct ari *r = (struct ari *)j;
	int64_t after = problem_retry_after(a->retry_after, j->wall);
	const json_t *window;
	const char *why;
	json_t *doc;

	if (p) {
		if (!p->retry_at_ms && p->cause != ACME_NETWORK)
			p->retry_at_ms = j->wall + AGAIN_MS;
		problem_about(p, "the renewal information");
		job_fail(j, p);
		return;
	}
	if (!(doc = job_json(j, a)))
		goto later;
	window = json_object_get(doc, "suggestedWindow");
	why = acme_json_text(doc, "explanationURL");
	problem_clean(r->info.explanation, sizeof(r->info.explanation), why ? why : "");
	r->info.again_ms = after < 0              ? AGAIN_MS
			   : after < AGAIN_MIN_MS ? AGAIN_MIN_MS
			   : after > AGAIN_MAX_MS ? AGAIN_MAX_MS
						  : after;
	if (!read_time(&r->info.start_ms, window, "start") ||
	    !read_time(&r->info.end_ms, window, "end") || r->info.end_ms <= r->info.start_ms)
		job_failf(j, ACME_PROTOCOL, "the CA's renewal window is none");
	else
		job_done(j);
	json_decref(doc);
later:
	if (j->over == JOB_FAILED)
		j->problem.retry_at_ms = j->wall + AGAIN_MS;
}

static void ari_free(struct acme_job *j)
{
	struct ari *r = (struct ari *)j;

	free(r->id);
	free(r->url);
	free(r);
}

static const struct job_ops ari_ops = {.next = ari_next, .answer = ari_answer, .free = ari_free};

const struct acme_ari *acme_job_ari(const struct acme_job *j)
{
	return j->ops == &ari_ops && j->over == JOB_DONE ? &((const struct ari *)j)->info : NULL;
}

int acme_ari_new(struct acme_job **out, struct acme_client *c, const char *ari_id,
		 struct km_errtext *err)
{
	const char *dot = strchr(ari_id, '.');
	struct ari *r;

	*out = NULL;
	if (!dot || strlen(ari_id) > ID_MAX || !acme_b64url_ok(dot + 1, ID_MAX) || dot == ari_id)
		return km_errtext_set(err, KM_EINVAL, "%s is no certificate id", ari_id);
	if (!(r = calloc(1, sizeof(*r))))
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	job_init(&r->job, &ari_ops, c);
	if (!(r->id = strdup(ari_id))) {
		acme_job_free(&r->job);
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	}
	*out = &r->job;
	return 0;
}
