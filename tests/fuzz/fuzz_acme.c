/* SPDX-License-Identifier: MIT */
/* What a CA answers, through a whole job. The first byte is the kind of job (o an order, r one that
 * is resumed, v a revocation, k another account key, i renewal information); then records that end
 * with RS (0x1e), one for each request: g a good answer, n none, x a good one (and the challenge
 * cannot be put up), or "a STATUS TAB HEADER… LF BODY", where a header is l (Location), n
 * (Replay-Nonce), r (Retry-After), k (Link) or t (Content-Type) with its value. Behind the input
 * all answers are good. */
#include "gatewayd/acme/client.h"
#include "libkm/base/util.h"
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

#define CA "https://ca.test"
#define REQUESTS_MAX 80
#define RECORD_MAX 8192

static EVP_PKEY *account_key, *key, *other_key;
static char *chain;

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* ---- good answers ---- */

static void begin_once(void)
{
	X509 *x = X509_new();
	BIO *b = BIO_new(BIO_s_mem());
	X509_EXTENSION *e =
	    X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:app.test,DNS:*.app.test");
	char *text;
	long len;

	account_key = acme_key_new(false);
	key = acme_key_new(false);
	other_key = acme_key_new(false);
	must(x && b && e && account_key && key && other_key);
	ASN1_INTEGER_set(X509_get_serialNumber(x), 1);
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 86400);
	X509_set_pubkey(x, key);
	X509_add_ext(x, e, -1);
	must(X509_sign(x, key, EVP_sha256()) > 0 && PEM_write_bio_X509(b, x) == 1);
	len = BIO_get_mem_data(b, &text);
	chain = strndup(text, (size_t)len);
	X509_EXTENSION_free(e);
	X509_free(x);
	BIO_free(b);
}

struct told {
	bool acked, finalized;
	char text[RECORD_MAX + 1]; /* the record that is being read */
};

#define AUTHZ(name, more)                                                                          \
	"{\"status\":\"pending\",\"identifier\":{\"type\":\"dns\",\"value\":\"" name "\"}" more    \
	",\"challenges\":[{\"type\":\"http-01\",\"url\":\"" CA "/chall/1\",\"token\":\"abc\"},"    \
	"{\"type\":\"dns-01\",\"url\":\"" CA                                                       \
	"/chall/2\",\"token\":\"d-_f\"},{\"type\":\"dns-persist-01\",\"url\":\"" CA                \
	"/chall/3\",\"issuer-domain-names\":[\"ca.test\"]}]}"
#define ORDER(status, more)                                                                        \
	"{\"status\":\"" status "\",\"identifiers\":[{\"type\":\"dns\",\"value\":\"app.test\"},"   \
	"{\"type\":\"dns\",\"value\":\"*.app.test\"}],\"authorizations\":[\"" CA                   \
	"/authz/1\",\"" CA "/authz/2\"],\"finalize\":\"" CA "/finalize\"" more "}"

static void good(struct told *t, const char *url, struct acme_answer *a)
{
	static const char dir[] =
	    "{\"newNonce\":\"" CA "/nonce\",\"newAccount\":\"" CA "/account\",\"newOrder\":\"" CA
	    "/new\",\"revokeCert\":\"" CA "/revoke\",\"keyChange\":\"" CA
	    "/change\",\"renewalInfo\":\"" CA
	    "/ari\",\"meta\":{\"caaIdentities\":[\"ca.test\"],\"profiles\":{\"short\":\"\"}}}";
	const char *path = url + strlen(CA);

	*a = (struct acme_answer){.status = 200, .body = "{}", .replay_nonce = "nonce"};
	t->acked |= !strncmp(path, "/chall", 6);
	t->finalized |= !strcmp(path, "/finalize");
	if (!strcmp(path, "/dir"))
		a->body = dir;
	else if (!strcmp(path, "/account"))
		a->status = 201, a->location = CA "/acct";
	else if (!strcmp(path, "/new"))
		a->status = 201, a->location = CA "/order", a->body = ORDER("pending", "");
	else if (!strcmp(path, "/authz/1"))
		a->body = AUTHZ("app.test", "");
	else if (!strcmp(path, "/authz/2"))
		a->body = AUTHZ("app.test", ",\"wildcard\":true");
	else if (!strcmp(path, "/order") || !strcmp(path, "/finalize"))
		a->body = t->finalized ? ORDER("valid", ",\"certificate\":\"" CA "/cert\"")
			  : t->acked   ? ORDER("ready", "")
				       : ORDER("pending", "");
	else if (!strncmp(path, "/cert", 5))
		a->body = chain, a->link = "<" CA "/cert/2>;rel=\"alternate\"";
	else if (!strncmp(path, "/ari/", 5))
		a->body = "{\"suggestedWindow\":{\"start\":\"2027-01-15T08:00:00Z\",\"end\":\"2027-"
			  "01-16T08:00:00Z\"}}";
	a->n = strlen(a->body);
}

/* ---- answers from the input ---- */

static void header(struct acme_answer *a, const char *h)
{
	switch (*h) {
	case 'l':
		a->location = h + 1;
		break;
	case 'n':
		a->replay_nonce = h + 1;
		break;
	case 'r':
		a->retry_after = h + 1;
		break;
	case 'k':
		a->link = h + 1;
		break;
	case 't':
		a->content_type = h + 1;
		break;
	}
}

static void record(struct told *t, struct acme_answer *a, const uint8_t *p, size_t n)
{
	char *body, *field, *save = NULL;

	n = n < RECORD_MAX ? n : RECORD_MAX;
	memcpy(t->text, p, n);
	t->text[n] = '\0';
	*a = (struct acme_answer){.body = ""};
	if ((body = strchr(t->text, '\n'))) {
		*body++ = '\0';
		a->body = body;
		a->n = n - (size_t)(body - t->text);
	}
	field = strtok_r(t->text, "\t", &save);
	a->status = field ? atoi(field) : 0;
	a->status = a->status < 0 || a->status > 999 ? 500 : a->status;
	while ((field = strtok_r(NULL, "\t", &save)))
		header(a, field);
}

/* ---- a job ---- */

static struct acme_job *job_of(char kind, struct acme_client *c)
{
	static const char *const names[] = {"app.test", "*.app.test"};
	static const char *const types[] = {"dns-persist-01", "http-01", "dns-01", NULL};
	struct acme_order_opts o = {.names = names,
				    .n_names = 2,
				    .key = key,
				    .challenges = types,
				    .profile = "short",
				    .chain = "root two",
				    .replaces = "a.b",
				    .order_url = kind == 'r' ? CA "/order" : NULL};
	struct acme_job *j = NULL;

	if (kind == 'o' || kind == 'r')
		must(!acme_order_new(&j, c, &o, NULL));
	else if (kind == 'v')
		must(!acme_revoke_new(&j, c, chain, 1, NULL, NULL));
	else if (kind == 'k')
		must(!acme_rollover_new(&j, c, other_key, NULL));
	else if (kind == 'i')
		must(!acme_ari_new(&j, c, "aYhba4dG.AIdl", NULL));
	return j;
}

static void check_request(const struct acme_request *r)
{
	must(!strncmp(r->url, "https://", 8) && strlen(r->url) < ACME_URL_MAX + 256);
	must(!r->body == (r->method != ACME_POST));
	if (r->body) {
		json_t *jws = json_loads(r->body, 0, NULL);

		must(json_object_size(jws) == 3);
		json_decref(jws);
	}
}

static void check_challenges(struct acme_job *j, bool up)
{
	struct acme_challenge c;
	size_t i = 0;

	for (; acme_job_challenge(j, i, &c); i++) {
		must(!strcmp(c.name, "app.test") && c.type && !c.ip);
		must(!c.token || (!strpbrk(c.token, "/.\\ ") && strstr(c.key_auth, c.token)));
		must(c.token || c.issuers[0]);
	}
	must(i > 0);
	acme_job_presented(j, up, "no");
	if (up)
		acme_job_hint(j);
}

static void check_end(struct acme_job *j, char kind, enum acme_want end)
{
	const struct acme_problem *p = acme_job_problem(j);

	must((end == ACME_FAILED) == (p->cause != ACME_OK));
	for (const char *t = p->text; *t; t++)
		must((unsigned char)*t >= ' ' && *t != 0x7f);
	if (end == ACME_DONE && (kind == 'o' || kind == 'r'))
		must(!strcmp(acme_job_chain(j), chain)); /* nothing else is for this key */
	if (end == ACME_DONE && kind == 'i')
		must(acme_job_ari(j)->start_ms < acme_job_ari(j)->end_ms);
}

static void run(struct acme_job *j, char kind, const uint8_t *p, size_t n)
{
	struct told *t = calloc(1, sizeof(*t));
	int64_t now = 1000, wall = 1800000000000;
	struct acme_answer a;
	struct acme_next next;
	bool up = true;

	must(t);
	for (int i = 0; i < REQUESTS_MAX;) {
		acme_job_next(j, now, wall + now, &next);
		if (next.want == ACME_DONE || next.want == ACME_FAILED) {
			check_end(j, kind, next.want);
			break;
		}
		if (next.want == ACME_PRESENT) {
			check_challenges(j, up);
			up = true;
		} else if (next.want == ACME_WAIT) {
			must(next.until_ms > now && next.until_ms < now + 100000);
			now = next.until_ms;
		} else {
			const uint8_t *end = n ? memchr(p, 0x1e, n) : NULL;
			size_t len = end ? (size_t)(end - p) : n;

			check_request(&next.request);
			good(t, next.request.url, &a);
			if (len && *p == 'n')
				a = (struct acme_answer){.failed = "reset"};
			else if (len && *p == 'a')
				record(t, &a, p + 1, len - 1);
			else if (len && *p == 'x')
				up = false;
			acme_request_clear(&next.request);
			now++;
			acme_job_answer(j, &a, now, wall + now);
			p += len + (end != NULL);
			n -= len + (end != NULL);
			i++;
		}
	}
	free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct acme_client_opts o = {.directory = CA "/dir", .email = "op@app.test"};
	struct acme_client *c;
	struct acme_job *j;

	if (!chain)
		begin_once();
	if (!n)
		return 0;
	o.key = account_key;
	must(!acme_client_new(&c, &o, NULL));
	if ((j = job_of((char)p[0], c)))
		run(j, (char)p[0], p + 1, n - 1);
	acme_job_free(j);
	acme_client_free(c);
	return 0;
}
