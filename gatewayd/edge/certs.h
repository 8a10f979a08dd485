/* SPDX-License-Identifier: MIT */
/* Certificates from a folder, loaded when first asked for and kept in a bounded cache (least
 * recently used go first). Shared by all workers. */
#ifndef GATEWAYD_EDGE_CERTS_H
#define GATEWAYD_EDGE_CERTS_H

#include "libkm/base/err.h"
#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define CERTS_MAX 1024        /* domains in the cache */
#define CERTS_RECHECK_MS 2000 /* how long a file may be changed unnoticed */
#define CERTS_FILE_MAX 262144

/* One loaded file: never changes, reference-counted. */
struct cert {
	_Atomic uint32_t refs;
	X509 *leaf;
	EVP_PKEY *key;
	STACK_OF(X509) * chain; /* without the leaf, in order */
	int64_t not_after_ms;   /* wall clock */
};
struct cert *cert_ref(struct cert *c);
/* Accepts NULL. */
void cert_put(struct cert *c);
/* Whether the certificate names this host (lower case, no port). */
bool cert_covers(const struct cert *c, const char *host);

/* Reads private key and chain from one PEM file, in any order. KM_EIO (errno), KM_EINVAL with a
 * sentence (no key, no certificate of that key, malformed), KM_ETOOBIG, KM_ENOMEM. */
int cert_load(struct cert **out, const char *path, struct km_errtext *err)
    __attribute__((warn_unused_result));

struct certs;

/* A cache over DIR. max: how many domains (0: CERTS_MAX). NULL: no memory. */
struct certs *certs_new(const char *dir, size_t max);
void certs_free(struct certs *c);
/* The certificate of a domain ("hello.example.org" or "*.example.org", checked by the caller to be
 * safe as a file name): DIR/DOMAIN, else DIR/DOMAIN.pem. The caller gets a reference. KM_ENOTFOUND:
 * there is no such file; KM_EINVAL and others: there is, but it cannot be used (err says why). A
 * file that was replaced by a bad one does not take away the one that was loaded before. */
int certs_get(struct certs *c, const char *domain, int64_t now_ms, struct cert **out,
	      struct km_errtext *err) __attribute__((warn_unused_result));

/* The certificate that a host name (lower case) is served with: that of the name itself, else of
 * "*.parent". With `wildcard` (the tunnel is "*.parent") only the latter, so that strangers' names
 * cannot make us look for files. Errors as above. */
int certs_for_host(struct certs *c, const char *host, bool wildcard, int64_t now_ms,
		   struct cert **out, struct km_errtext *err) __attribute__((warn_unused_result));

#endif
