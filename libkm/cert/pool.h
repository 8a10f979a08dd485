/* SPDX-License-Identifier: MIT */
/* Trusted CAs, the blocklist, and the verdict on a certificate. */
#ifndef KM_CERT_POOL_H
#define KM_CERT_POOL_H

#include "libkm/cert/cert.h"

#define KM_CERT_POOL_MAX 256      /* CAs */
#define KM_CERT_BLOCKED_MAX 65536 /* fingerprints */

/* Several threads may read a pool at once (verify, find); adding and blocking want it alone. */
struct km_cert_pool;

/* An empty pool; NULL: no memory. */
struct km_cert_pool *km_cert_pool_new(void) __attribute__((warn_unused_result));
/* Accepts NULL. */
void km_cert_pool_free(struct km_cert_pool *pool);

/* Trusts a copy of this CA, expired or not (verification looks at that). One that is there already
 * is no error. KM_CERT_ENOTCA, KM_CERT_ENOTSELF, KM_EFULL, KM_ENOMEM. */
int km_cert_pool_add(struct km_cert_pool *pool, const struct km_cert *ca, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Adds every certificate of a PEM text; nothing is added when one is refused. KM_ENOTFOUND: there
 * is none. Otherwise as km_cert_from_pem and km_cert_pool_add. */
int km_cert_pool_add_pem(struct km_cert_pool *pool, const char *text, size_t n,
			 struct km_errtext *err) __attribute__((warn_unused_result));
/* Refuses the certificate with this fingerprint from now on, a host's or a CA's (then with all that
 * it signed); either of a P-256 certificate's two fingerprints does. KM_EFULL, KM_ENOMEM. */
int km_cert_pool_block(struct km_cert_pool *pool, const uint8_t fp[static KM_CERT_FP_LEN])
    __attribute__((warn_unused_result));

size_t km_cert_pool_size(const struct km_cert_pool *pool);
/* The i-th CA in the order of addition; NULL behind the last. */
const struct km_cert *km_cert_pool_at(const struct km_cert_pool *pool, size_t i);
/* The CA with this fingerprint, or NULL. It stays the pool's. */
const struct km_cert *km_cert_pool_find(const struct km_cert_pool *pool,
					const uint8_t fp[static KM_CERT_FP_LEN]);
bool km_cert_pool_is_blocked(const struct km_cert_pool *pool, const struct km_cert *c);

/* The moment to judge for, and by how many seconds the validity of certificate and CA may be
 * missed: {now, 0, 0} is Nebula's rule; {now, 0, 30 * 86400} leaves 30 days after the end;
 * KM_CERT_ANY_TIME leaves validity out altogether. Negative margins count as 0. */
struct km_cert_when {
	int64_t now;   /* Unix seconds */
	int64_t early; /* before not_before */
	int64_t late;  /* after not_after */
};
#define KM_CERT_ANY_TIME ((struct km_cert_when){.now = 0, .early = INT64_MAX, .late = INT64_MAX})

/* Whether a CA of the pool vouches for the host's certificate c. 0, or the first in this order:
 * KM_CERT_EBLOCKED, KM_CERT_EISCA (CAs are trusted by their presence only), KM_CERT_EISSUER,
 * KM_CERT_ECURVE, KM_CERT_ESIGNATURE, then what the CA may not give (KM_CERT_EOUTLIVES to
 * KM_CERT_EUNSAFE), and last KM_CERT_ECA_EARLY, KM_CERT_ECA_EXPIRED, KM_CERT_EEARLY,
 * KM_CERT_EEXPIRED: who gets one of those four knows that all else is in order. err (may be NULL)
 * names the certificate, the value and the CA. */
int km_cert_verify(const struct km_cert_pool *pool, const struct km_cert *c,
		   struct km_cert_when when, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* The same of the time alone, for one that was verified in this pool: cheap, where signatures are not.
 */
int km_cert_verify_time(const struct km_cert_pool *pool, const struct km_cert *c,
			struct km_cert_when when, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* Only the validity of one certificate: 0, KM_CERT_EEARLY, KM_CERT_EEXPIRED. */
int km_cert_valid_at(const struct km_cert *c, struct km_cert_when when)
    __attribute__((warn_unused_result));

/* Only what ca may give: 0 or one of KM_CERT_EOUTLIVES to KM_CERT_EUNSAFE. */
int km_cert_constraints(const struct km_cert *ca, const struct km_cert *c, struct km_errtext *err)
    __attribute__((warn_unused_result));

#endif
