/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/record_keys.h"
#include "gatewayd/edge/secrets.h"
#include "libkm/base/util.h"
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define SHORT 4096
#define CIPHERS_MOST 256 /* of a thread; 2 KiB each */

enum digest { SHA_256, SHA_384, DIGESTS };

struct record_suite {
	uint16_t id;
	const char *name;
	enum digest digest;
	size_t key_len;
	EVP_CIPHER *cipher;
};

static struct record_suite suites[] = {
    {0x1301, "AES-128-GCM", SHA_256, 16, NULL},
    {0x1302, "AES-256-GCM", SHA_384, 32, NULL},
    {0x1303, "ChaCha20-Poly1305", SHA_256, 32, NULL},
};
static const struct {
	char name[8];
	size_t len;
} digests[DIGESTS] = {[SHA_256] = {"SHA256", 32}, [SHA_384] = {"SHA384", 48}};
static EVP_MAC *hmac;
static pthread_once_t fetched = PTHREAD_ONCE_INIT;

/* Once for the process; what is not there stays NULL. */
static void fetch(void)
{
	hmac = EVP_MAC_fetch(NULL, "HMAC", SECRETS_PROPERTIES);
	for (size_t i = 0; i < KM_ARRAY_LEN(suites); i++)
		suites[i].cipher = EVP_CIPHER_fetch(NULL, suites[i].name, NULL);
	ERR_clear_error();
}

const struct record_suite *record_suite(uint16_t id)
{
	pthread_once(&fetched, fetch);
	for (size_t i = 0; hmac && i < KM_ARRAY_LEN(suites); i++)
		if (suites[i].id == id && suites[i].cipher)
			return &suites[i];
	return NULL;
}

size_t record_suite_secret(const struct record_suite *s)
{
	return digests[s->digest].len;
}

/* ---- expanded keys ---- */

struct record_ciphers {
	EVP_CIPHER_CTX *ctx[2];
	bool keyed[2];
	struct record_keys *owner; /* NULL: free */
	struct record_ciphers *prev, *next;
};

static _Thread_local struct {
	struct record_ciphers *list; /* the most recently used first, the free ones last */
	size_t n;
	EVP_MAC_CTX *mac[DIGESTS];
} mine;

static void ciphers_free(struct record_ciphers *c)
{
	EVP_CIPHER_CTX_free(c->ctx[RECORD_READ]);
	EVP_CIPHER_CTX_free(c->ctx[RECORD_WRITE]);
	free(c);
}

static struct record_ciphers *ciphers_new(void)
{
	struct record_ciphers *c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->ctx[RECORD_READ] = EVP_CIPHER_CTX_new();
	c->ctx[RECORD_WRITE] = EVP_CIPHER_CTX_new();
	if (c->ctx[RECORD_READ] && c->ctx[RECORD_WRITE]) {
		mine.n++;
		return c;
	}
	ciphers_free(c);
	return NULL;
}

static void key_forget(struct record_ciphers *c, enum record_way way)
{
	if (c->keyed[way])
		EVP_CIPHER_CTX_reset(c->ctx[way]);
	c->keyed[way] = false;
}

/* Its keys are forgotten. */
static void ciphers_release(struct record_ciphers *c)
{
	key_forget(c, RECORD_READ);
	key_forget(c, RECORD_WRITE);
	if (c->owner)
		c->owner->ciphers = NULL;
	c->owner = NULL;
}

/* A free pair, a new one, or that of the connection which has been silent longest. */
static struct record_ciphers *ciphers_take(struct record_keys *k)
{
	struct record_ciphers *c = mine.list ? mine.list->prev : NULL;
	if ((!c || c->owner) && mine.n < CIPHERS_MOST)
		c = ciphers_new();
	else if (c)
		DL_DELETE(mine.list, c);
	if (!c)
		return NULL;
	ciphers_release(c);
	c->owner = k;
	k->ciphers = c;
	DL_PREPEND(mine.list, c);
	return c;
}

/* The context of this direction, with its key. */
static EVP_CIPHER_CTX *ctx_of(struct record_keys *k, enum record_way way)
{
	struct record_ciphers *c = k->ciphers;
	if (!c && !(c = ciphers_take(k)))
		return NULL;
	if (c != mine.list) {
		DL_DELETE(mine.list, c);
		DL_PREPEND(mine.list, c);
	}
	if (!c->keyed[way] && EVP_CipherInit_ex2(c->ctx[way], k->suite->cipher, k->half[way].key,
						 NULL, way == RECORD_WRITE, NULL) != 1)
		return NULL;
	c->keyed[way] = true;
	return c->ctx[way];
}

void record_thread_end(void)
{
	struct record_ciphers *c, *tmp;
	DL_FOREACH_SAFE (mine.list, c, tmp) {
		ciphers_release(c);
		ciphers_free(c);
	}
	for (int d = 0; d < DIGESTS; d++)
		EVP_MAC_CTX_free(mine.mac[d]);
	memset(&mine, 0, sizeof(mine));
}

/* ---- the key schedule ---- */

static EVP_MAC_CTX *mac_of(enum digest d)
{
	char name[sizeof(digests[d].name)];
	memcpy(name, digests[d].name, sizeof(name));
	const OSSL_PARAM params[] = {
	    OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name, 0),
	    OSSL_PARAM_construct_end()};
	EVP_MAC_CTX *m = mine.mac[d];
	if (m || !(m = EVP_MAC_CTX_new(hmac)))
		return m;
	if (EVP_MAC_CTX_set_params(m, params) == 1)
		return mine.mac[d] = m;
	EVP_MAC_CTX_free(m);
	return NULL;
}

/* HKDF-Expand-Label(secret, label, "", n), RFC 8446 section 7.1. n is never above the digest's
 * length: one round of HKDF-Expand (RFC 5869 section 2.3). */
static bool expand(const struct record_suite *s, const uint8_t *secret, const char *label,
		   uint8_t *out, size_t n)
{
	uint8_t info[32] = {0, (uint8_t)n}, full[EVP_MAX_MD_SIZE];
	size_t len = strlen(label), at = 2, got;
	EVP_MAC_CTX *m = mac_of(s->digest);
	info[at++] = (uint8_t)(6 + len);
	memcpy(info + at, "tls13 ", 6);
	memcpy(info + at + 6, label, len);
	at += 6 + len;
	info[at++] = 0; /* no context */
	info[at++] = 1; /* the first round */
	bool ok = m && EVP_MAC_init(m, secret, digests[s->digest].len, NULL) == 1 &&
		  EVP_MAC_update(m, info, at) == 1 &&
		  EVP_MAC_final(m, full, &got, sizeof(full)) == 1 && got >= n;
	if (ok)
		memcpy(out, full, n);
	OPENSSL_cleanse(full, sizeof(full));
	return ok;
}

/* This thread's context, which stays, shall not know the secret any longer. */
static bool forget(const struct record_suite *s)
{
	static const uint8_t none[RECORD_SECRET_MAX];
	EVP_MAC_CTX *m = mac_of(s->digest);
	return m && EVP_MAC_init(m, none, digests[s->digest].len, NULL) == 1;
}

static bool derive(struct record_keys *k, enum record_way way)
{
	struct record_half *h = &k->half[way];
	if (k->ciphers)
		key_forget(k->ciphers, way);
	bool ok = expand(k->suite, h->secret, "key", h->key, k->suite->key_len) &&
		  expand(k->suite, h->secret, "iv", h->iv, sizeof(h->iv));
	return forget(k->suite) && ok;
}

bool record_keys_set(struct record_keys *k, enum record_way way, const uint8_t *secret)
{
	memcpy(k->half[way].secret, secret, record_suite_secret(k->suite));
	return derive(k, way);
}

bool record_keys_next(struct record_keys *k, enum record_way way)
{
	struct record_half *h = &k->half[way];
	uint8_t next[RECORD_SECRET_MAX];
	bool ok = expand(k->suite, h->secret, "traffic upd", next, record_suite_secret(k->suite));
	if (ok)
		memcpy(h->secret, next, record_suite_secret(k->suite));
	OPENSSL_cleanse(next, sizeof(next));
	/* With the key of before no number may come again: then nothing is protected with it any
	 * more. */
	ok = ok && derive(k, way);
	h->seq = ok ? 0 : UINT64_MAX;
	return ok;
}

void record_keys_wipe(struct record_keys *k)
{
	struct record_ciphers *c = k->ciphers;
	if (c) {
		ciphers_release(c);
		DL_DELETE(mine.list, c);
		DL_APPEND(mine.list, c);
	}
	OPENSSL_cleanse(k, sizeof(*k));
}

/* ---- protection ---- */

/* A sequence number is never used twice (RFC 8446 section 5.3): the last one is not used at all. */
static EVP_CIPHER_CTX *record_begin(struct record_keys *k, enum record_way way)
{
	struct record_half *h = &k->half[way];
	uint8_t nonce[sizeof(h->iv)];
	EVP_CIPHER_CTX *ctx = h->seq < UINT64_MAX ? ctx_of(k, way) : NULL;
	memcpy(nonce, h->iv, sizeof(nonce));
	for (int i = 0; i < 8; i++)
		nonce[4 + i] ^= (uint8_t)(h->seq >> (56 - 8 * i));
	if (!ctx || EVP_CipherInit_ex2(ctx, NULL, NULL, nonce, way == RECORD_WRITE, NULL) != 1)
		return NULL;
	h->seq++;
	return ctx;
}

static bool update(EVP_CIPHER_CTX *ctx, uint8_t *out, const uint8_t *in, size_t n)
{
	int got;
	return EVP_CipherUpdate(ctx, out, &got, in, (int)n) == 1 && (!out || (size_t)got == n);
}

bool record_open(struct record_keys *k, const uint8_t header[static RECORD_HEADER],
		 const uint8_t *in, size_t n, uint8_t *out, uint8_t *last)
{
	EVP_CIPHER_CTX *ctx = record_begin(k, RECORD_READ);
	uint8_t none[RECORD_TAG];
	size_t bulk = last ? n - 1 : n;
	int end;
	bool ok =
	    ctx &&
	    EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, RECORD_TAG, (void *)(in + n)) == 1 &&
	    update(ctx, NULL, header, RECORD_HEADER) && update(ctx, out, in, bulk) &&
	    (!last || update(ctx, last, in + bulk, 1)) && EVP_CipherFinal_ex(ctx, none, &end) == 1;
	if (!ok)
		ERR_clear_error();
	return ok;
}

/* A short one is copied, so that it goes through the cipher with its type in one piece. */
static bool seal_content(EVP_CIPHER_CTX *ctx, const uint8_t *in, size_t n, uint8_t type,
			 uint8_t *out)
{
	if (n > SHORT)
		return update(ctx, out, in, n) && update(ctx, out + n, &type, 1);
	if (n)
		memcpy(out, in, n);
	out[n] = type;
	return update(ctx, out, out, n + 1);
}

bool record_seal(struct record_keys *k, const uint8_t header[static RECORD_HEADER],
		 const uint8_t *in, size_t n, uint8_t type, uint8_t *out)
{
	EVP_CIPHER_CTX *ctx = record_begin(k, RECORD_WRITE);
	int end;
	bool ok = ctx && update(ctx, NULL, header, RECORD_HEADER) &&
		  seal_content(ctx, in, n, type, out) &&
		  EVP_CipherFinal_ex(ctx, out + n + 1, &end) == 1 &&
		  EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, RECORD_TAG, out + n + 1) == 1;
	if (!ok)
		ERR_clear_error();
	return ok;
}
