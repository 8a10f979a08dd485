/* SPDX-License-Identifier: MIT */
/* Signatures: Ed25519 (RFC 8032) and ECDSA on P-256 with SHA-256 (FIPS 186-4). */
#include "libkm/cert/internal.h"
#include "libkm/cert/key.h"
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/obj_mac.h>
#include <openssl/param_build.h>
#include <string.h>

/* ---- keys as OpenSSL wants them ---- */

/* priv NULL: the public half alone. */
static EVP_PKEY *p256_pkey(const uint8_t *pub, const uint8_t *priv)
{
	OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	BIGNUM *d = priv ? BN_secure_new() : NULL;
	OSSL_PARAM *params = NULL;
	EVP_PKEY *pkey = NULL;

	if (!bld || !ctx ||
	    !OSSL_PARAM_BLD_push_utf8_string(bld, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1", 0) ||
	    !OSSL_PARAM_BLD_push_octet_string(bld, OSSL_PKEY_PARAM_PUB_KEY, pub, KM_CERT_PUB_MAX))
		goto out;
	if (priv && (!d || !BN_bin2bn(priv, 32, d) ||
		     !OSSL_PARAM_BLD_push_BN_pad(bld, OSSL_PKEY_PARAM_PRIV_KEY, d, 32)))
		goto out;
	params = OSSL_PARAM_BLD_to_param(bld);
	if (!params || EVP_PKEY_fromdata_init(ctx) != 1 ||
	    EVP_PKEY_fromdata(ctx, &pkey, priv ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY, params) !=
		1)
		pkey = NULL;
out:
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(bld);
	EVP_PKEY_CTX_free(ctx);
	BN_clear_free(d);
	return pkey;
}

static EVP_PKEY *private_pkey(const struct km_cert_key *k)
{
	if (k->curve == KM_CERT_P256)
		return p256_pkey(k->pub, k->priv);
	return EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, k->priv, 32);
}

static EVP_PKEY *public_pkey(int curve, const uint8_t *pub, size_t n)
{
	if (curve == KM_CERT_P256)
		return n == KM_CERT_PUB_MAX ? p256_pkey(pub, NULL) : NULL;
	if (curve != KM_CERT_25519 || n != KM_CERT_25519_LEN)
		return NULL;
	return EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, pub, n);
}

static const EVP_MD *digest_of(int curve)
{
	return curve == KM_CERT_P256 ? EVP_sha256() : NULL; /* Ed25519 hashes by itself */
}

/* ---- the two forms of an ECDSA signature ---- */

static BIGNUM *p256_order(void)
{
	EC_GROUP *g = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1);
	BIGNUM *n = g ? BN_dup(EC_GROUP_get0_order(g)) : NULL;

	EC_GROUP_free(g);
	return n;
}

/* A pair in [1, order), in minimal DER that fills the n bytes; NULL otherwise. */
static ECDSA_SIG *read_pair(const uint8_t *sig, size_t n, const BIGNUM *order)
{
	uint8_t again[KM_CERT_SIG_MAX + 8], *to = again;
	const uint8_t *from = sig;
	ECDSA_SIG *pair;
	const BIGNUM *r, *s;

	if (!n || n > KM_CERT_SIG_MAX)
		return NULL;
	pair = d2i_ECDSA_SIG(NULL, &from, (long)n);
	if (!pair)
		return NULL;
	ECDSA_SIG_get0(pair, &r, &s);
	if (BN_is_negative(r) || BN_is_zero(r) || BN_cmp(r, order) >= 0 || BN_is_negative(s) ||
	    BN_is_zero(s) || BN_cmp(s, order) >= 0 || i2d_ECDSA_SIG(pair, NULL) != (int)n ||
	    i2d_ECDSA_SIG(pair, &to) != (int)n || memcmp(again, sig, n) != 0) {
		ECDSA_SIG_free(pair);
		return NULL;
	}
	return pair;
}

/* Writes the pair with n-s for s; where only_low is set, only if s is the higher of the two. */
static int other_form(uint8_t out[static KM_CERT_SIG_MAX], size_t *out_len, const uint8_t *sig,
		      size_t sig_len, bool only_low)
{
	BIGNUM *order = p256_order(), *r2 = NULL, *s2 = NULL;
	ECDSA_SIG *pair = order ? read_pair(sig, sig_len, order) : NULL;
	const BIGNUM *r, *s;
	int rc = order ? KM_EINVAL : KM_ENOMEM;

	if (!pair)
		goto out;
	ECDSA_SIG_get0(pair, &r, &s);
	rc = KM_ENOMEM;
	r2 = BN_dup(r);
	s2 = BN_dup(s);
	if (!r2 || !s2 || !BN_sub(s2, order, s))
		goto out;
	if (only_low && BN_cmp(s, s2) < 0) {
		memcpy(out, sig, sig_len);
		*out_len = sig_len;
		rc = 0;
		goto out;
	}
	if (ECDSA_SIG_set0(pair, r2, s2) != 1)
		goto out;
	r2 = s2 = NULL; /* now the pair's */
	*out_len = (size_t)i2d_ECDSA_SIG(pair, &(uint8_t *){out});
	rc = 0;
out:
	BN_free(r2);
	BN_free(s2);
	BN_free(order);
	ECDSA_SIG_free(pair);
	return rc;
}

int km_cert_sig_other(uint8_t out[static KM_CERT_SIG_MAX], size_t *out_len, const uint8_t *sig,
		      size_t sig_len)
{
	return other_form(out, out_len, sig, sig_len, false);
}

/* ---- signing and verifying ---- */

int km_cert_key_sign(const struct km_cert_key *k, const void *p, size_t n,
		     uint8_t sig[static KM_CERT_SIG_MAX], size_t *sig_len)
{
	uint8_t made[KM_CERT_SIG_MAX];
	size_t len = sizeof(made);
	EVP_PKEY *pkey;
	EVP_MD_CTX *ctx;
	int rc = KM_EIO;

	if (!k->is_ca)
		return KM_EINVAL;
	pkey = private_pkey(k);
	ctx = EVP_MD_CTX_new();
	if (!pkey || !ctx || EVP_DigestSignInit(ctx, NULL, digest_of(k->curve), NULL, pkey) != 1 ||
	    EVP_DigestSign(ctx, made, &len, p, n) != 1)
		goto out;
	rc = 0;
	if (k->curve == KM_CERT_P256) {
		rc = other_form(sig, sig_len, made, len, true);
	} else {
		memcpy(sig, made, len);
		*sig_len = len;
	}
out:
	EVP_MD_CTX_free(ctx);
	EVP_PKEY_free(pkey);
	return rc;
}

bool km_cert_sig_ok(int curve, const uint8_t *pub, size_t pub_len, const void *p, size_t n,
		    const uint8_t *sig, size_t sig_len)
{
	uint8_t other[KM_CERT_SIG_MAX];
	size_t other_len;
	EVP_PKEY *pkey;
	EVP_MD_CTX *ctx;
	bool ok;

	if (curve == KM_CERT_P256 && km_cert_sig_other(other, &other_len, sig, sig_len))
		return false;
	pkey = public_pkey(curve, pub, pub_len);
	ctx = EVP_MD_CTX_new();
	ok = pkey && ctx && EVP_DigestVerifyInit(ctx, NULL, digest_of(curve), NULL, pkey) == 1 &&
	     EVP_DigestVerify(ctx, sig, sig_len, p, n) == 1;
	EVP_MD_CTX_free(ctx);
	EVP_PKEY_free(pkey);
	return ok;
}
