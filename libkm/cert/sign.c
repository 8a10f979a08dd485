/* SPDX-License-Identifier: MIT */
#include "libkm/cert/sign.h"
#include "libkm/base/util.h"
#include "libkm/cert/internal.h"
#include "libkm/cert/pool.h"
#include <stdlib.h>
#include <string.h>

static int copy_networks(struct km_prefix **to, size_t *to_n, const struct km_prefix *from,
			 size_t n, int version, struct km_errtext *err)
{
	int rc = 0;

	for (size_t i = 0; !rc && i < n; i++)
		rc = km_cert_add_prefix(to, to_n, &from[i]);
	if (rc)
		return km_errtext_set(err, rc, "%zu networks: %s", n, km_strerror(rc));
	if (version == KM_CERT_V2 && *to_n)
		qsort(*to, *to_n, sizeof(**to), km_cert_prefix_cmp);
	return 0;
}

/* Everything but the key, the issuer and the signature. */
static int copy_spec(struct km_cert *c, const struct km_cert_spec *spec, struct km_errtext *err)
{
	int rc;

	if (spec->version != KM_CERT_V1 && spec->version != KM_CERT_V2)
		return km_errtext_set(err, KM_EINVAL, "version %d of certificates", spec->version);
	c->version = (uint8_t)spec->version;
	c->curve = (uint8_t)spec->curve;
	c->not_before = spec->not_before;
	c->not_after = spec->not_after;
	rc = km_cert_set_name(c, spec->name, strlen(spec->name), err);
	if (!rc)
		rc = copy_networks(&c->networks, &c->n_networks, spec->networks, spec->n_networks,
				   spec->version, err);
	if (!rc)
		rc =
		    copy_networks(&c->unsafe_networks, &c->n_unsafe_networks, spec->unsafe_networks,
				  spec->n_unsafe_networks, spec->version, err);
	for (size_t i = 0; !rc && i < spec->n_groups; i++)
		rc = km_cert_add_group(c, spec->groups[i], strlen(spec->groups[i]), err);
	return rc;
}

static int set_key(struct km_cert *c, const uint8_t *pub, size_t n, struct km_errtext *err)
{
	if (!pub || n > sizeof(c->public_key))
		return km_errtext_set(err, KM_EINVAL, "a public key of %zu bytes", n);
	c->public_key_len = n;
	memcpy(c->public_key, pub, n);
	return 0;
}

static int sign_with(struct km_cert *c, const struct km_cert_key *key, struct km_errtext *err)
{
	int rc = km_cert_make_tbs(c);

	if (!rc)
		rc = km_cert_key_sign(key, c->tbs, c->tbs_len, c->signature, &c->signature_len);
	if (!rc)
		rc = km_cert_seal(c);
	return rc ? km_errtext_set(err, rc, "the certificate could not be signed: %s",
				   km_strerror(rc))
		  : 0;
}

static int fill_and_sign(struct km_cert *c, const struct km_cert_spec *spec,
			 const struct km_cert *ca, const struct km_cert_key *ca_key,
			 struct km_errtext *err)
{
	int rc = copy_spec(c, spec, err);

	if (!rc)
		rc = set_key(c, spec->public_key, spec->public_key_len, err);
	c->has_issuer = true;
	memcpy(c->issuer, ca->fingerprint, sizeof(c->issuer));
	if (!rc)
		rc = km_cert_rules(c, err);
	if (!rc)
		rc = km_cert_constraints(ca, c, err);
	return rc ? rc : sign_with(c, ca_key, err);
}

int km_cert_sign(struct km_cert **out, const struct km_cert_spec *spec, const struct km_cert *ca,
		 const struct km_cert_key *ca_key, struct km_errtext *err)
{
	struct km_cert *c;
	int rc;

	*out = NULL;
	if (!ca->is_ca)
		return km_errtext_set(err, KM_CERT_ENOTCA, "%s: %s", ca->name,
				      km_cert_strerror(KM_CERT_ENOTCA));
	rc = km_cert_key_fits(ca_key, ca, err);
	if (rc)
		return rc;
	if (spec->curve != ca->curve)
		return km_errtext_set(err, KM_CERT_ECURVE, "the key's curve is not that of CA %s",
				      ca->name);
	c = calloc(1, sizeof(*c));
	if (!c)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	rc = fill_and_sign(c, spec, ca, ca_key, err);
	if (rc)
		km_cert_free(c);
	else
		*out = c;
	return rc;
}

int km_cert_self_sign(struct km_cert **out, const struct km_cert_spec *spec,
		      const struct km_cert_key *key, struct km_errtext *err)
{
	struct km_cert *c;
	int rc;

	*out = NULL;
	if (!key->is_ca || key->curve != spec->curve)
		return km_errtext_set(err, KM_EINVAL, "the key is no CA's on this curve");
	c = calloc(1, sizeof(*c));
	if (!c)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	c->is_ca = true;
	rc = copy_spec(c, spec, err);
	if (!rc)
		rc = set_key(c, key->pub, key->pub_len, err);
	if (!rc)
		rc = km_cert_rules(c, err);
	if (!rc)
		rc = sign_with(c, key, err);
	if (rc)
		km_cert_free(c);
	else
		*out = c;
	return rc;
}
