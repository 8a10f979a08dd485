/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/jose.h"
#include "libkm/base/util.h"
#include <jansson.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#define COORDINATE 32 /* bytes, of P-256 */
#define RSA_MAX 1024  /* bytes of a modulus */
#define MAC_KEY_MAX 512

char *jose_b64(const void *p, size_t n)
{
	char *out = malloc(KM_B64_LEN(n));

	return out ? km_b64url(p, n, out) : NULL;
}

/* ---- keys ---- */

/* A number of the public key as base64url, padded to `width` bytes (0: as short as it is). */
static char *number(EVP_PKEY *key, const char *name, size_t width)
{
	uint8_t bytes[RSA_MAX];
	BIGNUM *bn = NULL;
	char *out = NULL;
	int n;

	if (EVP_PKEY_get_bn_param(key, name, &bn) != 1)
		return NULL;
	n = BN_num_bytes(bn);
	if (n <= RSA_MAX && (!width || (size_t)n <= width)) {
		n = BN_bn2binpad(bn, bytes, width ? (int)width : n);
		out = n > 0 ? jose_b64(bytes, (size_t)n) : NULL;
	}
	BN_free(bn);
	return out;
}

static bool is_p256(EVP_PKEY *key)
{
	char group[32];
	size_t n;

	return EVP_PKEY_is_a(key, "EC") &&
	       EVP_PKEY_get_group_name(key, group, sizeof(group), &n) == 1 &&
	       !strcmp(group, SN_X9_62_prime256v1);
}

static json_t *jwk(EVP_PKEY *key)
{
	bool ec = is_p256(key);
	char *a = NULL, *b = NULL;
	json_t *out = NULL;

	if (!ec && !EVP_PKEY_is_a(key, "RSA"))
		return NULL;
	a = number(key, ec ? OSSL_PKEY_PARAM_EC_PUB_X : OSSL_PKEY_PARAM_RSA_E, ec ? COORDINATE : 0);
	b = number(key, ec ? OSSL_PKEY_PARAM_EC_PUB_Y : OSSL_PKEY_PARAM_RSA_N, ec ? COORDINATE : 0);
	if (a && b)
		out = ec ? json_pack("{s:s, s:s, s:s, s:s}", "crv", "P-256", "kty", "EC", "x", a,
				     "y", b)
			 : json_pack("{s:s, s:s, s:s}", "e", a, "kty", "RSA", "n", b);
	free(a);
	free(b);
	return out;
}

/* Takes the reference. */
static char *dumped(json_t *doc)
{
	char *text = doc ? json_dumps(doc, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	json_decref(doc);
	return text;
}

char *jose_jwk(EVP_PKEY *key)
{
	return dumped(jwk(key));
}

int jose_thumbprint(EVP_PKEY *key, char out[static JOSE_THUMBPRINT_LEN])
{
	char *text = jose_jwk(key);
	uint8_t digest[32];

	if (!text)
		return is_p256(key) || EVP_PKEY_is_a(key, "RSA") ? KM_ENOMEM : KM_EINVAL;
	km_sha256(digest, text, strlen(text));
	km_b64url(digest, sizeof(digest), out);
	free(text);
	return 0;
}

/* ---- signatures ---- */

/* DER to r and s of fixed width (RFC 7518 section 3.4). */
static size_t raw_ecdsa(uint8_t *out, const uint8_t *der, size_t n)
{
	ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)n);
	bool ok = sig && BN_bn2binpad(ECDSA_SIG_get0_r(sig), out, COORDINATE) == COORDINATE &&
		  BN_bn2binpad(ECDSA_SIG_get0_s(sig), out + COORDINATE, COORDINATE) == COORDINATE;

	ECDSA_SIG_free(sig);
	return ok ? 2 * COORDINATE : 0;
}

static char *signature(EVP_PKEY *key, const char *text)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	uint8_t sig[RSA_MAX], raw[2 * COORDINATE];
	size_t n = sizeof(sig), n_raw;
	char *out = NULL;

	if (ctx && EVP_PKEY_get_size(key) <= RSA_MAX &&
	    EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
	    EVP_DigestSign(ctx, sig, &n, (const uint8_t *)text, strlen(text)) == 1) {
		if (!EVP_PKEY_is_a(key, "EC"))
			out = jose_b64(sig, n);
		else if ((n_raw = raw_ecdsa(raw, sig, n)))
			out = jose_b64(raw, n_raw);
	}
	EVP_MD_CTX_free(ctx);
	ERR_clear_error();
	return out;
}

static char *mac(const uint8_t *key, size_t n, const char *text)
{
	uint8_t out[EVP_MAX_MD_SIZE];
	unsigned len = 0;

	if (!HMAC(EVP_sha256(), key, (int)n, (const uint8_t *)text, strlen(text), out, &len))
		return NULL;
	return jose_b64(out, len);
}

/* What signs: a key, or a MAC key. */
struct signer {
	EVP_PKEY *key;
	const uint8_t *mac;
	size_t n_mac;
};

/* A flattened JWS as JSON; takes the reference of head. */
static json_t *jws(json_t *head, const char *payload, const struct signer *by)
{
	char *text = dumped(head), *protected = text ? jose_b64(text, strlen(text)) : NULL;
	char *body = jose_b64(payload, strlen(payload)), *input = NULL, *sig = NULL;
	size_t size = protected && body ? strlen(protected) + strlen(body) + 2 : 0;
	json_t *out = NULL;

	if (!size || !(input = malloc(size)))
		goto out;
	strcpy(input, protected);
	strcat(strcat(input, "."), body);
	sig = by->key ? signature(by->key, input) : mac(by->mac, by->n_mac, input);
	if (sig)
		out = json_pack("{s:s, s:s, s:s}", "protected", protected, "payload", body,
				"signature", sig);
out:
	free(text);
	free(protected);
	free(body);
	free(input);
	free(sig);
	return out;
}

char *jose_sign(const struct jose_head *h, const char *payload)
{
	bool rsa = EVP_PKEY_is_a(h->key, "RSA");
	json_t *head = json_pack("{s:s, s:s, s:s*}", "alg", rsa ? "RS256" : "ES256", "url", h->url,
				 "nonce", h->nonce);
	int rc = !head    ? -1
		 : h->kid ? json_object_set_new(head, "kid", json_string(h->kid))
			  : json_object_set_new(head, "jwk", jwk(h->key));

	if (rc) {
		json_decref(head);
		return NULL;
	}
	return dumped(jws(head, payload, &(struct signer){.key = h->key}));
}

/* base64url with or without padding; returns the length, 0 when it is none or longer than size. */
static size_t unb64url(uint8_t *out, size_t size, const char *text)
{
	char padded[KM_B64_LEN(MAC_KEY_MAX) + 4];
	size_t len = strlen(text), n;

	while (len && text[len - 1] == '=')
		len--;
	n = len * 3 / 4;
	if (n > size || n > MAC_KEY_MAX)
		return 0;
	for (size_t i = 0; i < len; i++)
		padded[i] = (char)(text[i] == '-' ? '+' : text[i] == '_' ? '/' : text[i]);
	while (len % 4)
		padded[len++] = '=';
	padded[len] = '\0';
	len = km_unb64(out, n, padded) ? 0 : n;
	km_wipe(padded, sizeof(padded));
	return len;
}

int jose_eab(char **out, EVP_PKEY *account, const char *kid, const char *mac_key, const char *url)
{
	uint8_t key[MAC_KEY_MAX];
	size_t n = unb64url(key, sizeof(key), mac_key);
	char *payload = jose_jwk(account);
	json_t *head = json_pack("{s:s, s:s, s:s}", "alg", "HS256", "kid", kid, "url", url);

	*out = NULL;
	if (n && payload && head) {
		*out = dumped(jws(head, payload, &(struct signer){.mac = key, .n_mac = n}));
		head = NULL;
	}
	json_decref(head);
	free(payload);
	km_wipe(key, sizeof(key));
	return *out ? 0 : n ? KM_ENOMEM : KM_EINVAL;
}

char *jose_key_change(EVP_PKEY *from, EVP_PKEY *to, const char *account_url, const char *url)
{
	json_t *old = jwk(from);
	char *payload =
	    old ? dumped(json_pack("{s:s, s:o}", "account", account_url, "oldKey", old)) : NULL;
	char *out = payload ? jose_sign(&(struct jose_head){.key = to, .url = url}, payload) : NULL;

	free(payload);
	return out;
}
