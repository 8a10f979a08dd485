/* SPDX-License-Identifier: MIT */
/* What the files of libkm/cert share; nobody else includes it. */
#ifndef KM_CERT_INTERNAL_H
#define KM_CERT_INTERNAL_H

#include "libkm/cert/cert.h"
#include "libkm/cert/key.h"

#define KM_CERT_25519_LEN 32  /* a public key on that curve */
#define KM_CERT_ED_SIG_LEN 64 /* and a signature */

#define KM_CERT_KEYFILE_MAX 1024 /* bytes of a key's body, encrypted or not */
#define KM_PEM_KEY_ENCRYPTED_25519 "NEBULA ED25519 ENCRYPTED PRIVATE KEY"
#define KM_PEM_KEY_ENCRYPTED_P256 "NEBULA ECDSA P256 ENCRYPTED PRIVATE KEY"

/* Reading the fields of one version into an empty c, and writing them in the one form allowed. The
 * readers are lenient where the comparison of what they read with what would be written decides. */
int km_cert_v1_read(struct km_cert *c, const uint8_t *p, size_t n, struct km_errtext *err);
int km_cert_v2_read(struct km_cert *c, const uint8_t *p, size_t n, struct km_errtext *err);
/* The bytes to be signed, and the whole certificate with this signature. */
int km_cert_v1_tbs(struct km_buf *out, const struct km_cert *c);
int km_cert_v2_tbs(struct km_buf *out, const struct km_cert *c);
int km_cert_v1_write(struct km_buf *out, const struct km_cert *c, const uint8_t *sig, size_t n);
int km_cert_v2_write(struct km_buf *out, const struct km_cert *c, const uint8_t *sig, size_t n);

/* Fills tbs. */
int km_cert_make_tbs(struct km_cert *c);
/* Fills raw and both fingerprints from the fields, tbs and the signature. */
int km_cert_seal(struct km_cert *c);

/* Adding one item to a list, within KM_CERT_ITEMS_MAX: KM_ETOOBIG, KM_ENOMEM. A group's or name's
 * bytes are copied and checked (valid UTF-8, no control character): KM_EINVAL. */
int km_cert_add_prefix(struct km_prefix **list, size_t *n, const struct km_prefix *p);
int km_cert_add_group(struct km_cert *c, const void *p, size_t n, struct km_errtext *err);
int km_cert_set_name(struct km_cert *c, const void *p, size_t n, struct km_errtext *err);

/* The order of version 2: IPv4 first, then by address, then by length. */
int km_cert_prefix_cmp(const void *a, const void *b);

/* What holds for every certificate, read or to be signed (the signature aside): KM_EINVAL. */
int km_cert_rules(const struct km_cert *c, struct km_errtext *err);
/* Whether the signature has the form of its curve. */
int km_cert_rules_signature(const struct km_cert *c, struct km_errtext *err);

/* A private key from its bytes as they stand in a file. KM_EINVAL: it is none. */
int km_cert_key_take(struct km_cert_key *k, int curve, bool is_ca, const uint8_t *p, size_t n,
		     struct km_errtext *err);

#endif
