/* SPDX-License-Identifier: MIT */
/* One certificate with its private key and chain, as a stranger's handshake uses it. */
#ifndef GATEWAYD_EDGE_CERT_H
#define GATEWAYD_EDGE_CERT_H

#include "libkm/base/err.h"
#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define CERT_FILE_MAX 262144

/* One loaded file: never changes, reference-counted. */
struct cert {
	_Atomic uint32_t refs;
	X509 *leaf;
	EVP_PKEY *key;
	STACK_OF(X509) * chain;              /* without the leaf, in order */
	int64_t not_before_ms, not_after_ms; /* wall clock */
	bool rsa;                            /* the kind of key; false: ECDSA or another */
	bool own;                            /* the operator's: not obtained by this gateway */
};
struct cert *cert_ref(struct cert *c);
/* Accepts NULL. */
void cert_put(struct cert *c);

/* Whether the certificate names this host (lower case, no port; "*.parent" for a wildcard itself;
 * an IPv4 address is looked for among the addresses). */
bool cert_covers(const struct cert *c, const char *host);
/* Whether it is within its time. */
bool cert_in_time(const struct cert *c, int64_t wall_ms);
/* "ecdsa", "rsa" or "other": of the key. */
const char *cert_kind(const struct cert *c);
/* SHA-256 of the leaf in hex, and the issuer's common name (else its organisation, else ""), cut,
 * without control characters. */
void cert_fingerprint(const struct cert *c, char out[static 65]);
void cert_issuer(const struct cert *c, char *out, size_t size);

/* Reads private key and chain from a PEM text of n bytes, in any order: the certificate of the key
 * becomes the leaf. KM_EINVAL with a sentence that begins with `what` (no key, no certificate of
 * that key, a key with which OpenSSL would refuse handshakes), KM_ETOOBIG, KM_ENOMEM. */
int cert_parse(struct cert **out, const char *text, size_t n, const char *what,
	       struct km_errtext *err) __attribute__((warn_unused_result));
/* The same from a file. Also KM_EIO (errno), KM_ETOOBIG. */
int cert_load(struct cert **out, const char *path, struct km_errtext *err)
    __attribute__((warn_unused_result));

#endif
