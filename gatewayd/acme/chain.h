/* SPDX-License-Identifier: MIT */
/* A certificate chain as it comes from the CA. */
#ifndef GATEWAYD_ACME_CHAIN_H
#define GATEWAYD_ACME_CHAIN_H

#include "gatewayd/acme/client.h"

#define CHAIN_CERTS_MAX 10
#define CHAIN_ISSUER_MAX 256

/* Reads a chain (n bytes of PEM), checks that its first certificate is for this key and all these
 * names, and writes it anew (*pem, the caller frees) without anything that is no certificate.
 * issuer: the common name of who issued the last one, "" if there is none. KM_EAUTH: the key is
 * another; KM_EINVAL with a sentence; KM_ETOOBIG; KM_ENOMEM. */
int chain_read(char **pem, char issuer[static CHAIN_ISSUER_MAX], const char *text, size_t n,
	       EVP_PKEY *key, const char *const *names, size_t n_names, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* The leaf of a PEM chain; NULL: there is none. */
X509 *chain_leaf(const char *pem);
/* The i-th URL of Link headers (one a line) that is an alternate (RFC 8555 section 7.4.2), copied;
 * NULL: no more, or no memory. What is no https URL is passed over. */
char *chain_alternate(const char *link, size_t i);

#endif
