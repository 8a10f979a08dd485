/* SPDX-License-Identifier: MIT */
/* Keys in memory and as PEM; what they do is in sig.c, encrypted files are in keyfile.c. */
#include "libkm/cert/key.h"
#include "libkm/base/util.h"
#include "libkm/cert/internal.h"
#include "libkm/cert/pem.h"
#include "libkm/wg/wg.h"
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/obj_mac.h>
#include <string.h>

static const struct key_kind {
	uint8_t curve;
	bool is_ca;
	const char *priv, *pub; /* banners */
	size_t priv_len, pub_len;
} kinds[] = {
    {KM_CERT_25519, false, "NEBULA X25519 PRIVATE KEY", "NEBULA X25519 PUBLIC KEY", 32, 32},
    {KM_CERT_25519, true, "NEBULA ED25519 PRIVATE KEY", "NEBULA ED25519 PUBLIC KEY", 64, 32},
    {KM_CERT_P256, false, "NEBULA P256 PRIVATE KEY", "NEBULA P256 PUBLIC KEY", 32, 65},
    {KM_CERT_P256, true, "NEBULA ECDSA P256 PRIVATE KEY", "NEBULA ECDSA P256 PUBLIC KEY", 32, 65},
};

static const struct key_kind *kind_of(int curve, bool is_ca)
{
	for (size_t i = 0; i < KM_ARRAY_LEN(kinds); i++)
		if (kinds[i].curve == curve && kinds[i].is_ca == is_ca)
			return &kinds[i];
	return NULL;
}

static int ed25519_public(uint8_t pub[static 32], const uint8_t seed[static 32])
{
	EVP_PKEY *p = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, 32);
	size_t n = 32;
	int rc = p && EVP_PKEY_get_raw_public_key(p, pub, &n) == 1 && n == 32 ? 0 : KM_EIO;

	EVP_PKEY_free(p);
	return rc;
}

/* The point of a scalar in [1, n). KM_EINVAL outside. */
static int p256_public(uint8_t pub[static 65], const uint8_t scalar[static 32])
{
	EC_GROUP *g = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1);
	EC_POINT *point = g ? EC_POINT_new(g) : NULL;
	BIGNUM *d = BN_secure_new();
	int rc = KM_EIO;

	if (!point || !d || !BN_bin2bn(scalar, 32, d))
		goto out;
	BN_set_flags(d, BN_FLG_CONSTTIME);
	rc = KM_EINVAL;
	if (BN_is_zero(d) || BN_cmp(d, EC_GROUP_get0_order(g)) >= 0)
		goto out;
	rc = KM_EIO;
	if (EC_POINT_mul(g, point, d, NULL, NULL, NULL) == 1 &&
	    EC_POINT_point2oct(g, point, POINT_CONVERSION_UNCOMPRESSED, pub, 65, NULL) == 65)
		rc = 0;
out:
	BN_clear_free(d);
	EC_POINT_free(point);
	EC_GROUP_free(g);
	return rc;
}

/* The public half of what is in priv. KM_EINVAL: it is no such key. */
static int fill_public(struct km_cert_key *k)
{
	int rc;

	if (k->curve == KM_CERT_P256)
		return p256_public(k->pub, k->priv);
	if (!k->is_ca)
		return km_wg_public(k->pub, k->priv) ? KM_EIO : 0;
	rc = ed25519_public(k->pub, k->priv);
	if (!rc && !km_secret_eq(k->pub, k->priv + 32, 32))
		rc = KM_EINVAL;
	return rc;
}

int km_cert_key_new(struct km_cert_key *k, int curve, bool is_ca)
{
	const struct key_kind *kind = kind_of(curve, is_ca);
	int rc;

	*k = (struct km_cert_key){.is_ca = is_ca};
	if (!kind)
		return KM_EINVAL;
	k->curve = kind->curve;
	k->priv_len = kind->priv_len;
	k->pub_len = kind->pub_len;
	if (curve == KM_CERT_25519 && is_ca) {
		km_random(k->priv, 32);
		rc = ed25519_public(k->pub, k->priv);
		memcpy(k->priv + 32, k->pub, 32);
		return rc;
	}
	if (curve == KM_CERT_25519) {
		km_wg_private_new(k->priv);
		return fill_public(k);
	}
	do { /* the order is just below 2^256: a second round is next to impossible */
		km_random(k->priv, 32);
		rc = fill_public(k);
	} while (rc == KM_EINVAL);
	return rc;
}

int km_cert_key_take(struct km_cert_key *k, int curve, bool is_ca, const uint8_t *p, size_t n,
		     struct km_errtext *err)
{
	const struct key_kind *kind = kind_of(curve, is_ca);
	int rc = KM_EINVAL;

	*k = (struct km_cert_key){.is_ca = is_ca};
	if (!kind || n != kind->priv_len)
		return km_errtext_set(err, KM_EINVAL, "key was not %zu bytes, is invalid",
				      kind ? kind->priv_len : 0);
	k->curve = kind->curve;
	k->priv_len = n;
	k->pub_len = kind->pub_len;
	memcpy(k->priv, p, n);
	rc = fill_public(k);
	if (rc) {
		km_wipe(k, sizeof(*k));
		km_errtext_set(err, rc, "the private key is invalid");
	}
	return rc;
}

int km_cert_key_from_pem(struct km_cert_key *k, const char *text, size_t n, struct km_errtext *err)
{
	struct km_pem pem;
	int rc = km_pem_next(&pem, &text, &n, KM_CERT_KEYFILE_MAX, err);

	*k = (struct km_cert_key){0};
	if (rc)
		return rc;
	rc = km_errtext_set(err, KM_EINVAL, "bytes did not contain a proper private key banner: %s",
			    pem.banner);
	for (size_t i = 0; i < KM_ARRAY_LEN(kinds); i++)
		if (!strcmp(pem.banner, kinds[i].priv))
			rc = km_cert_key_take(k, kinds[i].curve, kinds[i].is_ca, pem.body, pem.len,
					      err);
	if (!strcmp(pem.banner, KM_PEM_KEY_ENCRYPTED_25519) ||
	    !strcmp(pem.banner, KM_PEM_KEY_ENCRYPTED_P256))
		rc = km_errtext_set(err, KM_CERT_EENCRYPTED, "%s",
				    km_cert_strerror(KM_CERT_EENCRYPTED));
	km_pem_free(&pem);
	return rc;
}

int km_cert_key_to_pem(struct km_buf *out, const struct km_cert_key *k)
{
	const struct key_kind *kind = kind_of(k->curve, k->is_ca);

	return kind ? km_pem_write(out, kind->priv, k->priv, k->priv_len) : KM_EINVAL;
}

int km_cert_pub_to_pem(struct km_buf *out, const struct km_cert_key *k)
{
	const struct key_kind *kind = kind_of(k->curve, k->is_ca);

	return kind ? km_pem_write(out, kind->pub, k->pub, k->pub_len) : KM_EINVAL;
}

int km_cert_pub_from_pem(struct km_cert_key *k, const char *text, size_t n, struct km_errtext *err)
{
	struct km_pem pem;
	int rc = km_pem_next(&pem, &text, &n, KM_CERT_KEYFILE_MAX, err);

	*k = (struct km_cert_key){0};
	if (rc)
		return rc;
	rc = km_errtext_set(err, KM_EINVAL, "bytes did not contain a proper public key banner: %s",
			    pem.banner);
	for (size_t i = 0; i < KM_ARRAY_LEN(kinds); i++) {
		if (strcmp(pem.banner, kinds[i].pub) != 0)
			continue;
		if (pem.len != kinds[i].pub_len || (pem.len == 65 && pem.body[0] != 4)) {
			rc = km_errtext_set(err, KM_EINVAL, "key was not %zu bytes, is invalid",
					    kinds[i].pub_len);
			break;
		}
		*k = (struct km_cert_key){
		    .curve = kinds[i].curve, .is_ca = kinds[i].is_ca, .pub_len = pem.len};
		memcpy(k->pub, pem.body, pem.len);
		rc = 0;
	}
	km_pem_free(&pem);
	return rc;
}

int km_cert_key_fits(const struct km_cert_key *k, const struct km_cert *c, struct km_errtext *err)
{
	if (k->curve != c->curve)
		return km_errtext_set(err, KM_CERT_ECURVE,
				      "the key's curve is not that of certificate %s", c->name);
	if (k->is_ca != c->is_ca || k->pub_len != c->public_key_len ||
	    memcmp(k->pub, c->public_key, k->pub_len) != 0)
		return km_errtext_set(err, KM_CERT_EKEY,
				      "the private key is not that of certificate %s", c->name);
	return 0;
}
