/* SPDX-License-Identifier: MIT */
#define OPENSSL_SUPPRESS_DEPRECATED /* a digest without a fetch, an allocation and a cleanup is    \
				       the point */
#include "gatewayd/edge/secrets.h"
#include "libkm/base/util.h"
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/provider.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define HASH SHA256_DIGEST_LENGTH
#define VECTOR_MAX 255 /* RFC 8446: HkdfLabel's vectors have one byte of length */

/* OpenSSL's own, for what is not known here. */
static EVP_KDF *their_kdf;
static EVP_MAC *their_mac;

struct bytes {
	const uint8_t *p;
	size_t n;
};

static bool is_sha256(const char *name)
{
	return !strcmp(name, "SHA2-256") || !strcmp(name, "SHA256");
}

/* ---- HMAC (RFC 2104) ---- */

struct hmac {
	SHA256_CTX inner, outer;
};

static void hmac_start(struct hmac *h, struct bytes key)
{
	uint8_t pad[SHA256_CBLOCK] = {0};
	if (key.n > sizeof(pad))
		SHA256(key.p, key.n, pad);
	else if (key.n)
		memcpy(pad, key.p, key.n);
	for (size_t i = 0; i < sizeof(pad); i++)
		pad[i] ^= 0x36;
	SHA256_Init(&h->inner);
	SHA256_Update(&h->inner, pad, sizeof(pad));
	for (size_t i = 0; i < sizeof(pad); i++)
		pad[i] ^= 0x36 ^ 0x5c;
	SHA256_Init(&h->outer);
	SHA256_Update(&h->outer, pad, sizeof(pad));
	km_wipe(pad, sizeof(pad));
}

static void hmac_end(struct hmac *h, uint8_t out[static HASH])
{
	SHA256_Final(out, &h->inner);
	SHA256_Update(&h->outer, out, HASH);
	SHA256_Final(out, &h->outer);
	km_wipe(h, sizeof(*h));
}

/* ---- the secrets ---- */

/* What libssl gives to each derivation. */
struct ask {
	int mode;
	bool known; /* SHA-256 */
	struct bytes key, salt, prefix, label, data;
};

static struct bytes bytes_of(const OSSL_PARAM *p)
{
	return (struct bytes){p->data, p->data ? p->data_size : 0};
}

static bool ask_read(struct ask *a, const OSSL_PARAM *p)
{
	*a = (struct ask){.mode = -1};
	for (; p && p->key; p++) {
		if (!strcmp(p->key, OSSL_KDF_PARAM_KEY))
			a->key = bytes_of(p);
		else if (!strcmp(p->key, OSSL_KDF_PARAM_LABEL))
			a->label = bytes_of(p);
		else if (!strcmp(p->key, OSSL_KDF_PARAM_PREFIX))
			a->prefix = bytes_of(p);
		else if (!strcmp(p->key, OSSL_KDF_PARAM_DATA))
			a->data = bytes_of(p);
		else if (!strcmp(p->key, OSSL_KDF_PARAM_SALT))
			a->salt = bytes_of(p);
		else if (!strcmp(p->key, OSSL_KDF_PARAM_DIGEST))
			a->known = p->data && is_sha256(p->data);
		else if (!strcmp(p->key, OSSL_KDF_PARAM_MODE) &&
			 OSSL_PARAM_get_int(p, &a->mode) != 1)
			return false;
	}
	return a->prefix.n + a->label.n <= VECTOR_MAX && a->data.n <= VECTOR_MAX;
}

static uint8_t *put(uint8_t *p, struct bytes b)
{
	if (b.n)
		memcpy(p, b.p, b.n);
	return p + b.n;
}

/* HKDF-Expand-Label (RFC 8446 section 7.1) of at most HASH bytes, which is one block of HKDF's. */
static void expand(const struct ask *a, struct bytes secret, struct bytes data, uint8_t *out,
		   size_t n)
{
	uint8_t info[2 + 1 + VECTOR_MAX + 1 + VECTOR_MAX + 1], block[HASH];
	uint8_t *p = info;
	struct hmac h;
	*p++ = 0;
	*p++ = (uint8_t)n;
	*p++ = (uint8_t)(a->prefix.n + a->label.n);
	p = put(put(p, a->prefix), a->label);
	*p++ = (uint8_t)data.n;
	p = put(p, data);
	*p++ = 1; /* the block's number */
	hmac_start(&h, secret);
	SHA256_Update(&h.inner, info, (size_t)(p - info));
	hmac_end(&h, block);
	memcpy(out, block, n);
	km_wipe(block, sizeof(block));
}

/* The next one of the three: from what the one before derives, and the input (none: zeros). */
static void extract(const struct ask *a, uint8_t out[static HASH])
{
	static const uint8_t zeros[HASH];
	uint8_t salt[HASH] = {0}, nothing[HASH];
	struct bytes input = a->key.p ? a->key : (struct bytes){zeros, HASH};
	struct hmac h;
	if (a->salt.p) {
		SHA256(zeros, 0, nothing);
		expand(a, a->salt, (struct bytes){nothing, HASH}, salt, HASH);
	}
	hmac_start(&h, (struct bytes){salt, HASH});
	SHA256_Update(&h.inner, input.p, input.n);
	hmac_end(&h, out);
	km_wipe(salt, sizeof(salt));
}

/* All is in the parameters: there is nothing to keep between two calls. */
static void *kdf_new(void *provider)
{
	return provider;
}

static void kdf_free(void *kdf)
{
	(void)kdf;
}

static int kdf_theirs(uint8_t *out, size_t n, const OSSL_PARAM params[])
{
	EVP_KDF_CTX *kdf = EVP_KDF_CTX_new(their_kdf);
	int rc = kdf && EVP_KDF_derive(kdf, out, n, params) == 1;
	EVP_KDF_CTX_free(kdf);
	return rc;
}

static int kdf_ours(const struct ask *a, uint8_t *out, size_t n, const OSSL_PARAM params[])
{
	if (!a->known || n > HASH)
		return kdf_theirs(out, n, params);
	if (a->mode == EVP_KDF_HKDF_MODE_EXPAND_ONLY && a->key.p)
		expand(a, a->key, a->data, out, n);
	else if (a->mode == EVP_KDF_HKDF_MODE_EXTRACT_ONLY && n == HASH)
		extract(a, out);
	else
		return kdf_theirs(out, n, params);
	return 1;
}

static _Thread_local struct {
	secrets_told *told;
	void *arg;
} watch;

void secrets_watch(secrets_told *told, void *arg)
{
	watch.told = told;
	watch.arg = arg;
}

static bool is_label(struct bytes b, const char *label)
{
	return b.n == strlen(label) && !memcmp(b.p, label, b.n);
}

static int kdf_derive(void *kdf, unsigned char *out, size_t n, const OSSL_PARAM params[])
{
	struct ask a;
	(void)kdf;
	if (!ask_read(&a, params))
		return kdf_theirs(out, n, params);
	int rc = kdf_ours(&a, out, n, params);
	bool server = is_label(a.label, "s ap traffic");
	if (rc == 1 && watch.told && (server || is_label(a.label, "c ap traffic")))
		watch.told(watch.arg, server, out, n);
	return rc;
}

/* ---- the MAC of Finished and of tickets ---- */

struct mac {
	struct hmac h;
	EVP_MAC_CTX *theirs; /* the digest is another one */
};

static void *mac_new(void *provider)
{
	(void)provider;
	return calloc(1, sizeof(struct mac));
}

static void mac_free(void *mac)
{
	struct mac *m = mac;
	if (!m)
		return;
	EVP_MAC_CTX_free(m->theirs);
	km_wipe(m, sizeof(*m));
	free(m);
}

/* The binder of a resumption is signed with a copy. */
static void *mac_dup(void *mac)
{
	const struct mac *m = mac;
	struct mac *copy = mac_new(NULL);
	if (!copy)
		return NULL;
	copy->h = m->h;
	if (!m->theirs || (copy->theirs = EVP_MAC_CTX_dup(m->theirs)))
		return copy;
	mac_free(copy);
	return NULL;
}

static int mac_set(void *mac, const OSSL_PARAM params[])
{
	struct mac *m = mac;
	const OSSL_PARAM *digest = OSSL_PARAM_locate_const(params, OSSL_MAC_PARAM_DIGEST);
	const OSSL_PARAM *key = OSSL_PARAM_locate_const(params, OSSL_MAC_PARAM_KEY);
	if (digest && digest->data && !is_sha256(digest->data) && !m->theirs &&
	    !(m->theirs = EVP_MAC_CTX_new(their_mac)))
		return 0;
	if (m->theirs)
		return EVP_MAC_CTX_set_params(m->theirs, params);
	if (key)
		hmac_start(&m->h, bytes_of(key));
	return 1;
}

static int mac_init(void *mac, const unsigned char *key, size_t n, const OSSL_PARAM params[])
{
	struct mac *m = mac;
	if (params && !mac_set(m, params))
		return 0;
	if (m->theirs)
		return EVP_MAC_init(m->theirs, key, n, NULL);
	if (key)
		hmac_start(&m->h, (struct bytes){key, n});
	return 1;
}

static int mac_update(void *mac, const unsigned char *p, size_t n)
{
	struct mac *m = mac;
	return m->theirs ? EVP_MAC_update(m->theirs, p, n) : SHA256_Update(&m->h.inner, p, n);
}

static int mac_final(void *mac, unsigned char *out, size_t *n, size_t size)
{
	struct mac *m = mac;
	if (m->theirs)
		return EVP_MAC_final(m->theirs, out, n, size);
	if (size < HASH)
		return 0;
	hmac_end(&m->h, out);
	*n = HASH;
	return 1;
}

static int mac_get(void *mac, OSSL_PARAM params[])
{
	const struct mac *m = mac;
	OSSL_PARAM *size = OSSL_PARAM_locate(params, OSSL_MAC_PARAM_SIZE);
	if (m->theirs)
		return EVP_MAC_CTX_get_params(m->theirs, params);
	return !size || OSSL_PARAM_set_size_t(size, HASH);
}

static const OSSL_PARAM *mac_gettable(void *mac, void *provider)
{
	static const OSSL_PARAM known[] = {OSSL_PARAM_size_t(OSSL_MAC_PARAM_SIZE, NULL),
					   OSSL_PARAM_END};
	(void)mac, (void)provider;
	return known;
}

static const OSSL_PARAM *mac_settable(void *mac, void *provider)
{
	static const OSSL_PARAM known[] = {
	    OSSL_PARAM_utf8_string(OSSL_MAC_PARAM_DIGEST, NULL, 0),
	    OSSL_PARAM_utf8_string(OSSL_MAC_PARAM_PROPERTIES, NULL, 0),
	    OSSL_PARAM_octet_string(OSSL_MAC_PARAM_KEY, NULL, 0), OSSL_PARAM_END};
	(void)mac, (void)provider;
	return known;
}

/* ---- as a provider ---- */

#define FN(id, f)                                                                                  \
	{                                                                                          \
		id, (void (*)(void))(f)                                                            \
	}

static const OSSL_DISPATCH kdf_functions[] = {FN(OSSL_FUNC_KDF_NEWCTX, kdf_new),
					      FN(OSSL_FUNC_KDF_FREECTX, kdf_free),
					      FN(OSSL_FUNC_KDF_DERIVE, kdf_derive),
					      {0, NULL}};

static const OSSL_DISPATCH mac_functions[] = {FN(OSSL_FUNC_MAC_NEWCTX, mac_new),
					      FN(OSSL_FUNC_MAC_DUPCTX, mac_dup),
					      FN(OSSL_FUNC_MAC_FREECTX, mac_free),
					      FN(OSSL_FUNC_MAC_INIT, mac_init),
					      FN(OSSL_FUNC_MAC_UPDATE, mac_update),
					      FN(OSSL_FUNC_MAC_FINAL, mac_final),
					      FN(OSSL_FUNC_MAC_GET_CTX_PARAMS, mac_get),
					      FN(OSSL_FUNC_MAC_SET_CTX_PARAMS, mac_set),
					      FN(OSSL_FUNC_MAC_GETTABLE_CTX_PARAMS, mac_gettable),
					      FN(OSSL_FUNC_MAC_SETTABLE_CTX_PARAMS, mac_settable),
					      {0, NULL}};

static const OSSL_ALGORITHM *query(void *provider, int operation, int *no_cache)
{
	static const OSSL_ALGORITHM kdfs[] = {
	    {"TLS13-KDF", "provider=kakuremichi", kdf_functions, NULL}, {0}};
	static const OSSL_ALGORITHM macs[] = {{"HMAC", "provider=kakuremichi", mac_functions, NULL},
					      {0}};
	(void)provider;
	*no_cache = 0;
	return operation == OSSL_OP_KDF ? kdfs : operation == OSSL_OP_MAC ? macs : NULL;
}

static int provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in,
			 const OSSL_DISPATCH **out, void **provider)
{
	static const OSSL_DISPATCH functions[] = {FN(OSSL_FUNC_PROVIDER_QUERY_OPERATION, query),
						  {0, NULL}};
	(void)in;
	*out = functions;
	*provider = (void *)handle; /* not NULL */
	return 1;
}

static OSSL_PROVIDER *theirs, *ours;
static bool loaded;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void unload(void)
{
	EVP_KDF_free(their_kdf);
	EVP_MAC_free(their_mac);
	if (ours)
		OSSL_PROVIDER_unload(ours);
	if (theirs)
		OSSL_PROVIDER_unload(theirs);
}

/* With one loaded by name, OpenSSL no longer loads its own by itself. */
static void load(void)
{
	loaded = OPENSSL_atexit(unload) == 1 && (theirs = OSSL_PROVIDER_load(NULL, "default")) &&
		 (their_kdf = EVP_KDF_fetch(NULL, "TLS13-KDF", "provider=default")) &&
		 (their_mac = EVP_MAC_fetch(NULL, "HMAC", "provider=default")) &&
		 OSSL_PROVIDER_add_builtin(NULL, "kakuremichi", provider_init) == 1 &&
		 (ours = OSSL_PROVIDER_load(NULL, "kakuremichi"));
}

bool secrets_load(void)
{
	pthread_once(&once, load);
	return loaded;
}
