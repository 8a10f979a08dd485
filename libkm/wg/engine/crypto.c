/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/crypto.h"
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define HMAC_BLOCK 64 /* BLAKE2s block size */

struct wg_crypto {
	EVP_MD *blake2s;
	EVP_MD_CTX *md;
	EVP_MAC *mac;
	EVP_MAC_CTX *mac_ctx;
	EVP_CIPHER *aead;
	EVP_CIPHER_CTX *aead_ctx;
};

struct wg_crypto *wg_crypto_new(void)
{
	struct wg_crypto *c;

	if (sodium_init() < 0 || (c = calloc(1, sizeof(*c))) == NULL)
		return NULL;
	c->blake2s = EVP_MD_fetch(NULL, "BLAKE2S-256", NULL);
	c->md = EVP_MD_CTX_new();
	c->mac = EVP_MAC_fetch(NULL, "BLAKE2SMAC", NULL);
	c->mac_ctx = c->mac ? EVP_MAC_CTX_new(c->mac) : NULL;
	c->aead = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
	c->aead_ctx = EVP_CIPHER_CTX_new();
	if (c->blake2s == NULL || c->md == NULL || c->mac_ctx == NULL || c->aead == NULL ||
	    c->aead_ctx == NULL) {
		wg_crypto_free(c);
		return NULL;
	}
	return c;
}

void wg_crypto_free(struct wg_crypto *c)
{
	if (c == NULL)
		return;
	EVP_MD_CTX_free(c->md);
	EVP_MD_free(c->blake2s);
	EVP_MAC_CTX_free(c->mac_ctx);
	EVP_MAC_free(c->mac);
	EVP_CIPHER_CTX_free(c->aead_ctx);
	EVP_CIPHER_free(c->aead);
	free(c);
}

/* These primitives fail only without memory, where nothing sound can follow. */
static void must(int ok)
{
	if (!ok)
		abort();
}

void wg_hash(struct wg_crypto *c, uint8_t out[static WG_HASH], const void *a, size_t na,
	     const void *b, size_t nb)
{
	must(EVP_DigestInit_ex2(c->md, c->blake2s, NULL));
	must(EVP_DigestUpdate(c->md, a, na));
	if (nb > 0)
		must(EVP_DigestUpdate(c->md, b, nb));
	must(EVP_DigestFinal_ex(c->md, out, NULL));
}

void wg_mac16(struct wg_crypto *c, uint8_t out[static WG_MAC], const uint8_t *key, size_t nkey,
	      const void *p, size_t n)
{
	size_t size = WG_MAC, got;
	OSSL_PARAM params[] = {OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
			       OSSL_PARAM_construct_end()};

	must(EVP_MAC_init(c->mac_ctx, key, nkey, params));
	must(EVP_MAC_update(c->mac_ctx, p, n));
	must(EVP_MAC_final(c->mac_ctx, out, &got, WG_MAC));
}

/* RFC 2104 with BLAKE2s; the key is a hash, so never longer than a block. */
static void hmac(struct wg_crypto *c, uint8_t out[static WG_HASH],
		 const uint8_t key[static WG_HASH], const void *p, size_t n, const void *q,
		 size_t m)
{
	uint8_t pad[HMAC_BLOCK], inner[WG_HASH];
	size_t i;

	memset(pad, 0x36, sizeof(pad));
	for (i = 0; i < WG_HASH; i++)
		pad[i] ^= key[i];
	must(EVP_DigestInit_ex2(c->md, c->blake2s, NULL));
	must(EVP_DigestUpdate(c->md, pad, sizeof(pad)));
	must(EVP_DigestUpdate(c->md, p, n));
	must(EVP_DigestUpdate(c->md, q, m));
	must(EVP_DigestFinal_ex(c->md, inner, NULL));
	for (i = 0; i < sizeof(pad); i++)
		pad[i] ^= 0x36 ^ 0x5c;
	wg_hash(c, out, pad, sizeof(pad), inner, sizeof(inner));
	OPENSSL_cleanse(pad, sizeof(pad));
	OPENSSL_cleanse(inner, sizeof(inner));
}

void wg_kdf(struct wg_crypto *c, uint8_t t1[static WG_HASH], uint8_t *t2, uint8_t *t3,
	    const uint8_t ck[static WG_HASH], const void *input, size_t n)
{
	static const uint8_t one = 1, two = 2, three = 3;
	uint8_t prk[WG_HASH], first[WG_HASH];

	hmac(c, prk, ck, input, n, "", 0);
	hmac(c, first, prk, &one, 1, "", 0);
	if (t2 != NULL)
		hmac(c, t2, prk, first, WG_HASH, &two, 1);
	if (t3 != NULL)
		hmac(c, t3, prk, t2, WG_HASH, &three, 1);
	memcpy(t1, first, WG_HASH);
	OPENSSL_cleanse(prk, sizeof(prk));
	OPENSSL_cleanse(first, sizeof(first));
}

void wg_x25519_public(uint8_t pub[static WG_KEY], const uint8_t priv[static WG_KEY])
{
	must(crypto_scalarmult_base(pub, priv) == 0);
}

void wg_x25519_private(uint8_t priv[static WG_KEY])
{
	randombytes_buf(priv, WG_KEY);
	priv[0] &= 248;
	priv[31] = (priv[31] & 127) | 64;
}

bool wg_x25519(uint8_t out[static WG_KEY], const uint8_t priv[static WG_KEY],
	       const uint8_t pub[static WG_KEY])
{
	return crypto_scalarmult(out, priv, pub) == 0;
}

static void nonce(uint8_t iv[static 12], uint64_t counter)
{
	int i;

	memset(iv, 0, 4);
	for (i = 0; i < 8; i++)
		iv[4 + i] = (uint8_t)(counter >> (8 * i));
}

void wg_seal(struct wg_crypto *c, uint8_t *out, const uint8_t key[static WG_KEY], uint64_t counter,
	     const void *p, size_t n, const void *ad, size_t nad)
{
	uint8_t iv[12];
	int got;

	nonce(iv, counter);
	must(EVP_EncryptInit_ex2(c->aead_ctx, c->aead, key, iv, NULL));
	if (nad > 0)
		must(EVP_EncryptUpdate(c->aead_ctx, NULL, &got, ad, (int)nad));
	if (n > 0)
		must(EVP_EncryptUpdate(c->aead_ctx, out, &got, p, (int)n));
	must(EVP_EncryptFinal_ex(c->aead_ctx, out + n, &got));
	must(EVP_CIPHER_CTX_ctrl(c->aead_ctx, EVP_CTRL_AEAD_GET_TAG, WG_TAG, out + n));
}

bool wg_open(struct wg_crypto *c, uint8_t *out, const uint8_t key[static WG_KEY], uint64_t counter,
	     const void *p, size_t n, const void *ad, size_t nad)
{
	uint8_t iv[12], tag[WG_TAG];
	const uint8_t *in = p;
	int got;

	if (n < WG_TAG)
		return false;
	n -= WG_TAG;
	memcpy(tag, in + n, WG_TAG);
	nonce(iv, counter);
	must(EVP_DecryptInit_ex2(c->aead_ctx, c->aead, key, iv, NULL));
	if (nad > 0)
		must(EVP_DecryptUpdate(c->aead_ctx, NULL, &got, ad, (int)nad));
	if (n > 0)
		must(EVP_DecryptUpdate(c->aead_ctx, out, &got, in, (int)n));
	must(EVP_CIPHER_CTX_ctrl(c->aead_ctx, EVP_CTRL_AEAD_SET_TAG, WG_TAG, tag));
	return EVP_DecryptFinal_ex(c->aead_ctx, out + n, &got) > 0;
}

struct wg_aead {
	EVP_CIPHER_CTX *stream;
	EVP_MAC_CTX *mac;
	uint8_t key[WG_KEY]; /* what stream has now: to set it takes time */
	bool keyed;
};

struct wg_aead *wg_aead_new(void)
{
	struct wg_aead *a = calloc(1, sizeof(*a));
	EVP_CIPHER *stream = EVP_CIPHER_fetch(NULL, "ChaCha20", NULL);
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "POLY1305", NULL);
	bool ok = a != NULL && stream != NULL && mac != NULL &&
		  (a->stream = EVP_CIPHER_CTX_new()) != NULL &&
		  (a->mac = EVP_MAC_CTX_new(mac)) != NULL &&
		  EVP_CipherInit_ex2(a->stream, stream, NULL, NULL, true, NULL);

	EVP_CIPHER_free(stream);
	EVP_MAC_free(mac);
	if (ok)
		return a;
	wg_aead_free(a);
	return NULL;
}

void wg_aead_free(struct wg_aead *a)
{
	if (a == NULL)
		return;
	EVP_CIPHER_CTX_free(a->stream);
	EVP_MAC_CTX_free(a->mac);
	OPENSSL_cleanse(a->key, sizeof(a->key));
	free(a);
}

/* ChaCha20 from block 0 on: the keying block, then n bytes. */
static void stream(struct wg_aead *a, const uint8_t *key, uint64_t counter, uint8_t *out,
		   const uint8_t *in, size_t n)
{
	uint8_t iv[16] = {0}; /* block counter, then the nonce */
	int len;

	nonce(iv + 4, counter);
	if (a->keyed && memcmp(a->key, key, WG_KEY) == 0)
		key = NULL;
	else
		memcpy(a->key, key, WG_KEY);
	must(EVP_CipherInit_ex(a->stream, NULL, NULL, key, iv, -1));
	a->keyed = true;
	must(EVP_CipherUpdate(a->stream, out, &len, in, (int)(WG_AEAD_LEAD + n)));
}

/* RFC 8439, section 2.8: no associated data, n bytes padded to 16, both lengths. */
static void tag(struct wg_aead *a, uint8_t out[static WG_TAG], const uint8_t *key, const uint8_t *p,
		size_t n)
{
	uint8_t end[32] = {0};
	size_t pad = (16 - n % 16) % 16, got;

	for (int i = 0; i < 8; i++)
		end[pad + 8 + (size_t)i] = (uint8_t)((uint64_t)n >> (8 * i));
	must(EVP_MAC_init(a->mac, key, 32, NULL));
	must(EVP_MAC_update(a->mac, p, n));
	must(EVP_MAC_update(a->mac, end, pad + 16));
	must(EVP_MAC_final(a->mac, out, &got, WG_TAG));
}

void wg_aead_seal(struct wg_aead *a, const uint8_t key[static WG_KEY], uint64_t counter, uint8_t *p,
		  size_t n)
{
	uint8_t saved[WG_AEAD_LEAD], *lead = p - WG_AEAD_LEAD;

	memcpy(saved, lead, sizeof(saved));
	memset(lead, 0, sizeof(saved));
	stream(a, key, counter, lead, lead, n);
	tag(a, p + n, lead, p, n);
	memcpy(lead, saved, sizeof(saved));
}

bool wg_aead_open(struct wg_aead *a, const uint8_t key[static WG_KEY], uint64_t counter, uint8_t *p,
		  size_t n, uint8_t *out)
{
	uint8_t want[WG_TAG];

	memset(p - WG_AEAD_LEAD, 0, WG_AEAD_LEAD);
	stream(a, key, counter, out, p - WG_AEAD_LEAD, n);
	tag(a, want, out, p, n);
	return CRYPTO_memcmp(want, p + n, WG_TAG) == 0;
}
