/* SPDX-License-Identifier: MIT */
/* Making X.509 certificates (RFC 5280): control's root and its server certificate. */
#ifndef CONTROLD_PKI_ISSUE_H
#define CONTROLD_PKI_ISSUE_H

#include "libkm/base/conf.h"
#include "libkm/base/err.h"
#include <openssl/x509.h>
#include <stdbool.h>
#include <stdint.h>

#define ISSUE_ROOT_DAYS 3650
#define ISSUE_SERVER_DAYS 90

/* A new ECDSA P-256 key; NULL: OpenSSL failed. */
EVP_PKEY *issue_key(void);
/* A self-signed root for key, valid from an hour before wall_s (seconds since 1970). */
X509 *issue_root(EVP_PKEY *key, int64_t wall_s);
/* Whether s can stand in a certificate as a host name: at most 253 letters, digits, '-', '.', '_'.
 */
bool issue_host_name_ok(const char *s);
/* A server certificate for key under the root, for these names (host names and addresses; each at
 * most once). KM_EINVAL: a name is neither; KM_EIO: OpenSSL failed. */
int issue_server(X509 **out, EVP_PKEY *key, X509 *root, EVP_PKEY *root_key,
		 const struct km_strlist *names, int64_t wall_s, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* PEM texts, malloc'd; NULL: failed. A private key is unencrypted PKCS #8. */
char *issue_cert_pem(X509 *cert);
char *issue_key_pem(EVP_PKEY *key);
X509 *issue_cert_parse(const char *pem);
/* "sha256//" and base64 of the SHA-256 of the SubjectPublicKeyInfo; malloc'd. */
char *issue_pin(X509 *cert);

#endif
