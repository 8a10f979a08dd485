/* SPDX-License-Identifier: MIT */
/* Keys of hosts (X25519, P-256 ECDH) and of CAs (Ed25519, P-256 ECDSA): made, read, written, and a
 * CA's also encrypted under a passphrase (Argon2id and AES-256-GCM, as nebula-cert -encrypt). */
#ifndef KM_CERT_KEY_H
#define KM_CERT_KEY_H

#include "libkm/cert/cert.h"

#define KM_CERT_KEY_MAX 64 /* Ed25519: seed and public key; elsewhere 32 */

/* Wipe after use: km_wipe(&key, sizeof(key)). */
struct km_cert_key {
	uint8_t curve; /* enum km_cert_curve */
	bool is_ca;    /* signs (Ed25519, ECDSA); else a host's, for key agreement */
	uint8_t priv[KM_CERT_KEY_MAX];
	size_t priv_len;
	uint8_t pub[KM_CERT_PUB_MAX];
	size_t pub_len;
};

/* A fresh key. KM_EIO: OpenSSL failed. */
int km_cert_key_new(struct km_cert_key *k, int curve, bool is_ca)
    __attribute__((warn_unused_result));

/* The first block of the text, a private key. KM_CERT_EENCRYPTED: an encrypted one; KM_EINVAL:
 * none, another thing, or a key whose halves do not fit; KM_ENOTFOUND: no block. */
int km_cert_key_from_pem(struct km_cert_key *k, const char *text, size_t n, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Appends the private key's block, or the public half's. out is the caller's to wipe. */
int km_cert_key_to_pem(struct km_buf *out, const struct km_cert_key *k)
    __attribute__((warn_unused_result));
int km_cert_pub_to_pem(struct km_buf *out, const struct km_cert_key *k)
    __attribute__((warn_unused_result));
/* The first block of the text, a public key: fills curve, is_ca and pub of k, the rest is zero.
 * KM_EINVAL, KM_ENOTFOUND. */
int km_cert_pub_from_pem(struct km_cert_key *k, const char *text, size_t n, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* Whether k is the private half of the certificate's key: 0, KM_CERT_EKEY, KM_CERT_ECURVE. */
int km_cert_key_fits(const struct km_cert_key *k, const struct km_cert *c, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* How costly a guess of the passphrase is made (RFC 9106). */
struct km_cert_kdf {
	uint32_t memory_kib; /* at least 8 * lanes */
	uint32_t passes;     /* at least 1 */
	uint32_t lanes;      /* 1 to 255 */
};
#define KM_CERT_KDF_DEFAULT ((struct km_cert_kdf){.memory_kib = 2097152, .passes = 1, .lanes = 4})
#define KM_CERT_KDF_WORK_MAX                                                                       \
	8 /* memory_kib * passes that a file may ask for, in multiples of max_kib */

/* Appends the CA's key encrypted. KM_EINVAL: a host's key, an empty passphrase or costs out of
 * bounds; KM_ENOMEM also when the memory for Argon2 is not there. */
int km_cert_key_encrypt(struct km_buf *out, const struct km_cert_key *k, const void *passphrase,
			size_t n, const struct km_cert_kdf *kdf, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Reads the first block of the text, an encrypted key. max_kib is the memory that the file may make
 * this process use, and bounds its time (KM_CERT_KDF_WORK_MAX): KM_ETOOBIG when it asks for more.
 * KM_CERT_EPASSPHRASE, KM_EINVAL, KM_ENOTFOUND, KM_ENOMEM. */
int km_cert_key_decrypt(struct km_cert_key *k, const char *text, size_t text_n,
			const void *passphrase, size_t n, uint32_t max_kib, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* A CA key's signature over n bytes: Ed25519, or ECDSA with SHA-256 in its low-s form. KM_EINVAL: a
 * host's key; KM_EIO: OpenSSL failed. */
int km_cert_key_sign(const struct km_cert_key *k, const void *p, size_t n,
		     uint8_t sig[static KM_CERT_SIG_MAX], size_t *sig_len)
    __attribute__((warn_unused_result));
/* Whether sig is a signature over n bytes by this public key. A DER pair must be minimal. */
bool km_cert_sig_ok(int curve, const uint8_t *pub, size_t pub_len, const void *p, size_t n,
		    const uint8_t *sig, size_t sig_len);
/* ECDSA P-256: writes the equivalent signature with n-s in s's place. KM_EINVAL: not a minimal DER
 * pair in range. */
int km_cert_sig_other(uint8_t out[static KM_CERT_SIG_MAX], size_t *out_len, const uint8_t *sig,
		      size_t sig_len) __attribute__((warn_unused_result));

#endif
