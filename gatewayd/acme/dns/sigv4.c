/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/sigv4.h"
#include "libkm/base/buf.h"
#include "libkm/base/util.h"
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define ALGORITHM "AWS4-HMAC-SHA256"
#define CANONICAL_MAX 65536
#define SCOPE_STRLEN 128
#define HEX_STRLEN 65

static int hmac(uint8_t out[static 32], const void *key, size_t key_len, const char *text)
{
	unsigned n = 32;

	return HMAC(EVP_sha256(), key, (int)key_len, (const uint8_t *)text, strlen(text), out, &n)
		   ? 0
		   : KM_ENOMEM;
}

/* The key of the day, region and service. */
static int derive(uint8_t key[static 32], const struct sigv4_key *k, const char *day)
{
	struct km_buf first;
	int e;

	km_buf_init(&first, 1024);
	e = km_buf_addf(&first, "AWS4%s", k->secret);
	if (!e)
		e = hmac(key, km_buf_head(&first), first.len, day);
	if (!e)
		e = hmac(key, key, 32, k->region);
	if (!e)
		e = hmac(key, key, 32, k->service);
	if (!e)
		e = hmac(key, key, 32, "aws4_request");
	km_buf_wipe(&first);
	return e;
}

static char *sha256_hex(const void *p, size_t n, char out[static HEX_STRLEN])
{
	uint8_t digest[32];

	km_sha256(digest, p, n);
	return km_hex(digest, sizeof(digest), out);
}

/* The hex digest of the canonical request; `names` gets the names of the signed headers. */
static int canonical(const struct sigv4_request *r, const char *date, char names[static 64],
		     char out[static HEX_STRLEN])
{
	char body[HEX_STRLEN];
	struct km_buf b;

	snprintf(names, 64, "%shost;x-amz-date", r->content_type ? "content-type;" : "");
	sha256_hex(r->body, strlen(r->body), body);
	km_buf_init(&b, CANONICAL_MAX);
	int e = km_buf_addf(&b, "%s\n%s\n%s\n", r->method, r->path, r->query);
	if (!e && r->content_type)
		e = km_buf_addf(&b, "content-type:%s\n", r->content_type);
	if (!e)
		e = km_buf_addf(&b, "host:%s\nx-amz-date:%s\n", r->host, date);
	if (!e)
		e = km_buf_addf(&b, "\n%s\n%s", names, body);
	if (!e)
		sha256_hex(km_buf_head(&b), b.len, out);
	km_buf_free(&b);
	return e;
}

int sigv4_sign(const struct sigv4_key *k, const struct sigv4_request *r, int64_t wall_ms,
	       char date[static SIGV4_DATE_STRLEN], char *authorization, size_t size)
{
	char day[9], scope[SCOPE_STRLEN], digest[HEX_STRLEN], names[64], text[SCOPE_STRLEN + 160];
	time_t now = (time_t)(wall_ms / 1000);
	uint8_t key[32], mac[32];
	struct tm tm;

	if (!gmtime_r(&now, &tm) ||
	    strftime(date, SIGV4_DATE_STRLEN, "%Y%m%dT%H%M%SZ", &tm) != SIGV4_DATE_STRLEN - 1)
		return KM_EINVAL;
	snprintf(day, sizeof(day), "%.8s", date);
	if (snprintf(scope, sizeof(scope), "%s/%s/%s/aws4_request", day, k->region, k->service) >=
	    SCOPE_STRLEN)
		return KM_ETOOBIG;
	int e = canonical(r, date, names, digest);
	if (e)
		return e;
	snprintf(text, sizeof(text), ALGORITHM "\n%s\n%s\n%s", date, scope, digest);
	e = derive(key, k, day);
	if (!e)
		e = hmac(mac, key, sizeof(key), text);
	km_wipe(key, sizeof(key));
	if (e)
		return e;
	int n = snprintf(authorization, size,
			 ALGORITHM " Credential=%s/%s, SignedHeaders=%s, Signature=%s", k->id,
			 scope, names, km_hex(mac, sizeof(mac), digest));
	return n < 0 || (size_t)n >= size ? KM_ETOOBIG : 0;
}
