/* SPDX-License-Identifier: MIT */
/* What ACME needs of X.509 beside the chain: names, requests. */
#ifndef GATEWAYD_ACME_CSR_H
#define GATEWAYD_ACME_CSR_H

#include "gatewayd/acme/client.h"
#include <openssl/x509v3.h>

/* Whether an identifier is an IP address; and whether it is one at all: an address, or a host name
 * of two or more labels in lower case, perhaps below "*.". */
bool csr_name_is_ip(const char *name);
bool csr_name_ok(const char *name);
/* The subject alternative name for it. NULL: no memory. */
GENERAL_NAME *csr_general_name(const char *name);
/* The extension with these names. NULL: no memory. */
X509_EXTENSION *csr_san(const char *const *names, size_t n);

/* A request (RFC 2986) with an empty subject and the names as SAN, DER as base64url. NULL: OpenSSL
 * failed. The caller frees. */
char *csr_new(EVP_PKEY *key, const char *const *names, size_t n);

#endif
