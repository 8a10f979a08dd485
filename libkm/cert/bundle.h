/* SPDX-License-Identifier: MIT */
/* Trust bundles: a numbered document of the CAs to trust and the certificates to refuse, which a CA
 * has signed or nobody has. Every host keeps the one that it obeys.
 *
 * As text it is one PEM block "KAKUREMICHI TRUST BUNDLE". Its body, integers big endian:
 *   "kmtrust1"  u64 number
 *   u16 count, then each CA: u8 version, u32 length, encoded certificate
 *   u32 count, then each blocked fingerprint: 32 bytes
 *   u8 1 if signed, then: 32 bytes fingerprint of the signing CA, u16 length, signature;  else u8 0
 * CAs (by fingerprint) and fingerprints ascend and do not repeat, so that a content has one
 * encoding. The signature is over the text "kakuremichi trust bundle" with its NUL, then everything
 * before the last field: never over what could be a certificate, which begins with other bytes. */
#ifndef KM_CERT_BUNDLE_H
#define KM_CERT_BUNDLE_H

#include "libkm/cert/cert.h"
#include "libkm/cert/key.h"
#include "libkm/cert/pool.h"

#define KM_BUNDLE_BANNER "KAKUREMICHI TRUST BUNDLE"
#define KM_BUNDLE_MAX (4U << 20)     /* bytes of the body */
#define KM_BUNDLE_PEM_MAX (6U << 20) /* and of the text */

struct km_bundle {
	uint64_t number;
	struct km_cert **cas; /* at least one; sorted, as blocked is */
	size_t n_cas;         /* at most KM_CERT_POOL_MAX */
	uint8_t (*blocked)[KM_CERT_FP_LEN];
	size_t n_blocked; /* at most KM_CERT_BLOCKED_MAX */
	bool is_signed;   /* carries a signature; not that it holds */
	uint8_t signer[KM_CERT_FP_LEN];
	uint8_t signature[KM_CERT_SIG_MAX];
	size_t signature_len;
};

/* A bundle of copies: the CAs are checked as by km_cert_pool_add; order and repetition do not
 * matter. Unsigned. KM_EINVAL: no CA; KM_EFULL; KM_ENOMEM. The caller frees *out. */
int km_bundle_new(struct km_bundle **out, uint64_t number, const struct km_cert *const *cas,
		  size_t n_cas, const uint8_t (*blocked)[KM_CERT_FP_LEN], size_t n_blocked,
		  struct km_errtext *err) __attribute__((warn_unused_result));
/* Accepts NULL. */
void km_bundle_free(struct km_bundle *b);

/* Signs b in place, replacing an earlier signature. ca need not be in b. KM_CERT_ENOTCA,
 * KM_CERT_EKEY, KM_ENOMEM, KM_EIO. */
int km_bundle_sign(struct km_bundle *b, const struct km_cert *ca, const struct km_cert_key *ca_key,
		   struct km_errtext *err) __attribute__((warn_unused_result));
/* Whether one of trusted's CAs that trusted does not block, and that is valid at this time, has
 * signed b: 0, KM_EAUTH (nobody, or nobody of these), KM_CERT_ESIGNATURE, KM_CERT_EEXPIRED,
 * KM_CERT_EEARLY. */
int km_bundle_check(const struct km_bundle *b, const struct km_bundle *trusted,
		    struct km_cert_when when, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* Reads the only block of the text. KM_EINVAL: malformed, not canonical, a CA in it that is none;
 * KM_ENOTFOUND, KM_ETOOBIG, KM_ENOMEM. */
int km_bundle_parse(struct km_bundle **out, const char *text, size_t n, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Appends the text. KM_ETOOBIG, KM_ENOMEM. */
int km_bundle_format(struct km_buf *out, const struct km_bundle *b)
    __attribute__((warn_unused_result));

/* The CA with this fingerprint among b's, blocked or not; NULL: none. */
const struct km_cert *km_bundle_find(const struct km_bundle *b,
				     const uint8_t fp[static KM_CERT_FP_LEN]);
/* Whether b blocks this fingerprint. */
bool km_bundle_blocks(const struct km_bundle *b, const uint8_t fp[static KM_CERT_FP_LEN]);

/* A pool of its CAs with its blocklist. NULL: no memory. */
struct km_cert_pool *km_bundle_pool(const struct km_bundle *b) __attribute__((warn_unused_result));

/* What an accepted bundle changed, or would have. */
struct km_bundle_change {
	size_t cas_added, cas_removed, blocked, unblocked; /* taken over */
	size_t refused; /* CAs that were not taken, fingerprints that stay blocked */
};

/* What a host that obeys `current` makes of `offered`:
 *  - no current: *merged is offered (the caller has reason to trust it, e.g. a pin);
 *  - a lower number: KM_EINVAL; an equal number that is signed with other content: KM_EEXIST;
 *  - a higher number signed by a CA of current: offered replaces current;
 *  - not so signed (or at all): removals are obeyed, nothing is added: CAs missing in offered go,
 *    blocked fingerprints come on top, and the number stays current's, so that such a document
 *    cannot keep a later signed one out. KM_EAUTH when offered wanted more than that;
 *  - if no CA were left, all of current's stay, and only the blocklist grows: KM_EPERM.
 * *merged is what to obey and keep from now on, whatever is returned (the caller frees it), or NULL
 * where nothing changes. `when` judges the signing CA's validity. change and err may be NULL; err
 * has a sentence for every refusal. */
int km_bundle_accept(const struct km_bundle *current, const struct km_bundle *offered,
		     struct km_cert_when when, struct km_bundle **merged,
		     struct km_bundle_change *change, struct km_errtext *err)
    __attribute__((warn_unused_result));

#endif
