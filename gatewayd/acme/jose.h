/* SPDX-License-Identifier: MIT */
/* What ACME takes of JOSE: JWK (RFC 7517), thumbprints (RFC 7638), flattened JWS (RFC 7515), as RFC
 * 8555 section 6.2 narrows them. Keys: P-256 (ES256) and RSA (RS256, only for revoking by a
 * certificate's key). */
#ifndef GATEWAYD_ACME_JOSE_H
#define GATEWAYD_ACME_JOSE_H

#include <openssl/evp.h>
#include <stddef.h>

#define JOSE_THUMBPRINT_LEN 44 /* with NUL */

/* The public key as JWK, members in the order that RFC 7638 hashes them in. NULL: another kind of
 * key, or no memory. The caller frees. */
char *jose_jwk(EVP_PKEY *key);
/* KM_EINVAL: another kind of key; KM_ENOMEM. */
int jose_thumbprint(EVP_PKEY *key, char out[static JOSE_THUMBPRINT_LEN])
    __attribute__((warn_unused_result));

struct jose_head {
	EVP_PKEY *key;
	const char *kid;   /* the account's URL; NULL: the key itself stands in the head */
	const char *nonce; /* NULL: none (inner JWS) */
	const char *url;
};
/* The payload ("" for POST-as-GET) signed, as JSON text. NULL: no memory, or OpenSSL failed. */
char *jose_sign(const struct jose_head *head, const char *payload);

/* externalAccountBinding (RFC 8555 section 7.3.4): the account's key bound by the CA's MAC key
 * (base64url, as the CA gives it). KM_EINVAL: that is no base64url; KM_ENOMEM. */
int jose_eab(char **out, EVP_PKEY *account, const char *kid, const char *mac_key, const char *url)
    __attribute__((warn_unused_result));
/* The payload of a key change (section 7.3.5), signed by the new key. NULL as jose_sign. */
char *jose_key_change(EVP_PKEY *from, EVP_PKEY *to, const char *account_url, const char *url);

/* n bytes as base64url. NULL: no memory. */
char *jose_b64(const void *p, size_t n);

#endif
