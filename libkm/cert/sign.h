/* SPDX-License-Identifier: MIT */
/* Making certificates. */
#ifndef KM_CERT_SIGN_H
#define KM_CERT_SIGN_H

#include "libkm/cert/cert.h"
#include "libkm/cert/key.h"

/* What the new certificate shall say; everything stays the caller's. */
struct km_cert_spec {
	int version; /* enum km_cert_version */
	int curve;   /* of the public key; must be the issuer's */
	const char *name;
	const struct km_prefix *networks; /* version 2 sorts them */
	size_t n_networks;
	const struct km_prefix *unsafe_networks;
	size_t n_unsafe_networks;
	const char *const *groups;
	size_t n_groups;
	int64_t not_before, not_after;
	const uint8_t *public_key; /* self_sign takes the key's own */
	size_t public_key_len;
};

/* A host's certificate, signed by ca with its key. Refuses what a verifier would: the codes from
 * KM_CERT_EOUTLIVES to KM_CERT_EUNSAFE, KM_CERT_ECURVE, KM_CERT_ENOTCA, KM_CERT_EKEY (not ca's
 * key); KM_EINVAL for what the version cannot say (IPv6 in version 1, an empty name in version 2,
 * no network at all), KM_ETOOBIG. The caller frees *out. */
int km_cert_sign(struct km_cert **out, const struct km_cert_spec *spec, const struct km_cert *ca,
		 const struct km_cert_key *ca_key, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* A CA's certificate, signed by itself: spec's networks, unsafe networks and groups are the limits
 * for what it may sign (none given: no limit). */
int km_cert_self_sign(struct km_cert **out, const struct km_cert_spec *spec,
		      const struct km_cert_key *key, struct km_errtext *err)
    __attribute__((warn_unused_result));

#endif
