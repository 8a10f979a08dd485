/* SPDX-License-Identifier: MIT */
#include "libkm/cert/cert.h"
#include "libkm/base/util.h"
#include "libkm/cert/internal.h"
#include "libkm/cert/key.h"
#include "libkm/cert/pem.h"
#include <stdlib.h>
#include <string.h>

const char *km_cert_strerror(int err)
{
	switch (err) {
	case KM_CERT_EBLOCKED:
		return "certificate is in the block list";
	case KM_CERT_EISSUER:
		return "could not find ca for the certificate";
	case KM_CERT_ECURVE:
		return "certificate curve does not match CA";
	case KM_CERT_ECA_EXPIRED:
		return "root certificate is expired";
	case KM_CERT_ECA_EARLY:
		return "root certificate is not yet valid";
	case KM_CERT_EEXPIRED:
		return "certificate is expired";
	case KM_CERT_EEARLY:
		return "certificate is not yet valid";
	case KM_CERT_ESIGNATURE:
		return "certificate signature did not match";
	case KM_CERT_EOUTLIVES:
		return "certificate expires after signing certificate";
	case KM_CERT_EPREDATES:
		return "certificate is valid before the signing certificate";
	case KM_CERT_EGROUP:
		return "certificate contained a group not present on the signing ca";
	case KM_CERT_ENETWORK:
		return "certificate contained a network assignment outside the limitations of the "
		       "signing ca";
	case KM_CERT_EUNSAFE:
		return "certificate contained an unsafe network assignment outside the limitations "
		       "of the signing ca";
	case KM_CERT_ENOTCA:
		return "certificate is not a CA";
	case KM_CERT_ENOTSELF:
		return "certificate is not self-signed";
	case KM_CERT_EISCA:
		return "no issuer in certificate";
	case KM_CERT_EENCRYPTED:
		return "private key must be decrypted";
	case KM_CERT_EPASSPHRASE:
		return "invalid passphrase or corrupt private key";
	case KM_CERT_EKEY:
		return "public key and private key are not a pair";
	default:
		return km_strerror(err);
	}
}

/* ---- making what follows from the fields ---- */

/* Hands the content of b over to *p. */
static void take_buf(uint8_t **p, size_t *n, struct km_buf *b)
{
	free(*p);
	*n = b->len;
	*p = b->data; /* never consumed from, so that it starts there */
	b->data = NULL;
	km_buf_free(b);
}

int km_cert_make_tbs(struct km_cert *c)
{
	struct km_buf b;
	int rc;

	km_buf_init(&b, KM_CERT_MAX);
	rc = c->version == KM_CERT_V1 ? km_cert_v1_tbs(&b, c) : km_cert_v2_tbs(&b, c);
	if (rc)
		km_buf_free(&b);
	else
		take_buf(&c->tbs, &c->tbs_len, &b);
	return rc;
}

/* Writes the certificate with this signature into b, and its fingerprint. */
static int write_with(const struct km_cert *c, const uint8_t *sig, size_t n, struct km_buf *b,
		      uint8_t fp[static KM_CERT_FP_LEN])
{
	struct km_buf over;
	int rc;

	if (c->version == KM_CERT_V1) {
		rc = km_cert_v1_write(b, c, sig, n);
		if (!rc)
			km_sha256(fp, km_buf_head(b), b->len);
		return rc;
	}
	rc = km_cert_v2_write(b, c, sig, n);
	km_buf_init(&over, KM_CERT_MAX + KM_CERT_SIG_MAX);
	if (!rc)
		rc = km_buf_add(&over, c->tbs, c->tbs_len);
	if (!rc)
		rc = km_buf_add(&over, sig, n);
	if (!rc)
		km_sha256(fp, km_buf_head(&over), over.len);
	km_buf_free(&over);
	return rc;
}

int km_cert_seal(struct km_cert *c)
{
	uint8_t other[KM_CERT_SIG_MAX];
	struct km_buf b, b2;
	size_t other_len;
	int rc;

	km_buf_init(&b, KM_CERT_MAX);
	km_buf_init(&b2, KM_CERT_MAX + KM_CERT_SIG_MAX);
	rc = write_with(c, c->signature, c->signature_len, &b, c->fingerprint);
	if (rc)
		goto out;
	memcpy(c->fingerprint2, c->fingerprint, sizeof(c->fingerprint2));
	if (c->curve == KM_CERT_P256) {
		rc = km_cert_sig_other(other, &other_len, c->signature, c->signature_len);
		if (!rc)
			rc = write_with(c, other, other_len, &b2, c->fingerprint2);
	}
	if (!rc)
		take_buf(&c->raw, &c->raw_len, &b);
out:
	km_buf_free(&b);
	km_buf_free(&b2);
	return rc;
}

/* ---- reading and writing ---- */

/* Reads, then writes again: what differs was not canonical. */
static int parse_into(struct km_cert *c, const void *p, size_t n, struct km_errtext *err)
{
	int rc = c->version == KM_CERT_V1 ? km_cert_v1_read(c, p, n, err)
					  : km_cert_v2_read(c, p, n, err);

	if (!rc)
		rc = km_cert_rules(c, err);
	if (!rc)
		rc = km_cert_rules_signature(c, err);
	if (rc)
		return rc;
	rc = km_cert_make_tbs(c);
	if (!rc)
		rc = km_cert_seal(c);
	if (rc == KM_ENOMEM)
		return km_errtext_set(err, rc, "no memory");
	if (rc || c->raw_len != n || memcmp(c->raw, p, n) != 0)
		return km_errtext_set(err, KM_EINVAL, "the encoding is not the canonical one");
	return 0;
}

int km_cert_parse(struct km_cert **out, int version, const void *p, size_t n,
		  struct km_errtext *err)
{
	struct km_cert *c;
	int rc;

	*out = NULL;
	if (version != KM_CERT_V1 && version != KM_CERT_V2)
		return km_errtext_set(err, KM_EUNSUPPORTED, "version %d of certificates", version);
	if (!n)
		return km_errtext_set(err, KM_ETRUNC, "an empty certificate");
	if (n > KM_CERT_MAX)
		return km_errtext_set(
		    err, KM_ETOOBIG, "a certificate of %zu bytes, %d are possible", n, KM_CERT_MAX);
	c = calloc(1, sizeof(*c));
	if (!c)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	c->version = (uint8_t)version;
	rc = parse_into(c, p, n, err);
	if (rc)
		km_cert_free(c);
	else
		*out = c;
	return rc;
}

int km_cert_from_pem(struct km_cert **out, const char **text, size_t *left, struct km_errtext *err)
{
	struct km_pem pem;
	int rc;

	*out = NULL;
	rc = km_pem_next(&pem, text, left, KM_CERT_MAX, err);
	if (rc)
		return rc;
	if (!strcmp(pem.banner, KM_PEM_CERT_V1))
		rc = km_cert_parse(out, KM_CERT_V1, pem.body, pem.len, err);
	else if (!strcmp(pem.banner, KM_PEM_CERT_V2))
		rc = km_cert_parse(out, KM_CERT_V2, pem.body, pem.len, err);
	else
		rc = km_errtext_set(err, KM_EINVAL,
				    "bytes did not contain a proper certificate banner: %s",
				    pem.banner);
	km_pem_free(&pem);
	return rc;
}

int km_cert_to_pem(struct km_buf *out, const struct km_cert *c)
{
	return km_pem_write(out, c->version == KM_CERT_V1 ? KM_PEM_CERT_V1 : KM_PEM_CERT_V2, c->raw,
			    c->raw_len);
}

struct km_cert *km_cert_copy(const struct km_cert *c)
{
	struct km_cert *copy = NULL;

	/* It is what it was read from. */
	if (km_cert_parse(&copy, c->version, c->raw, c->raw_len, NULL))
		return NULL;
	return copy;
}

void km_cert_free(struct km_cert *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_groups; i++)
		free(c->groups[i]);
	free(c->groups);
	free(c->networks);
	free(c->unsafe_networks);
	free(c->name);
	free(c->raw);
	free(c->tbs);
	free(c);
}

/* ---- small questions ---- */

char *km_cert_fp_str(const struct km_cert *c, char out[static KM_CERT_FP_STRLEN])
{
	return km_hex(c->fingerprint, KM_CERT_FP_LEN, out);
}

int km_cert_fp_parse(uint8_t fp[static KM_CERT_FP_LEN], const char *s)
{
	return km_unhex(fp, KM_CERT_FP_LEN, s);
}

bool km_cert_has_group(const struct km_cert *c, const char *group)
{
	for (size_t i = 0; i < c->n_groups; i++)
		if (!strcmp(c->groups[i], group))
			return true;
	return false;
}

int km_cert_from_text(struct km_cert **out, const char *text, struct km_errtext *err)
{
	size_t left = strlen(text);
	int rc = km_cert_from_pem(out, &text, &left, err);

	return rc == KM_ENOTFOUND ? km_errtext_set(err, KM_EINVAL, "no certificate in PEM") : rc;
}

char *km_cert_text(const struct km_cert *c)
{
	struct km_buf pem;
	char *text = NULL;

	km_buf_init(&pem, KM_CERT_PEM_MAX);
	if (!km_cert_to_pem(&pem, c))
		text = strndup((const char *)km_buf_head(&pem), pem.len);
	km_buf_free(&pem);
	return text;
}
