/* SPDX-License-Identifier: MIT */
/* What the master key is for while control runs: digests of the secrets that are stored, and macs
 * of rows that control must be able to believe. Whoever can write to the database but has not the
 * master key can make neither, nor move one to another row, since each names its row. */
#ifndef CONTROLD_PKI_VAULT_H
#define CONTROLD_PKI_VAULT_H

#include "controld/pki/master.h"
#include <stdbool.h>

#define VAULT_DIGEST_LEN 32
#define VAULT_TEXT_LEN 67 /* "\x", hex and NUL: a bytea parameter */

struct vault {
	struct master_key master;
};

/* HMAC-SHA-256 (RFC 2104) under a key that is derived from the master key, over the parts, a list
 * of texts that ends with NULL; each part counts with its length, so that no two lists are alike.
 * The first part says what it is for: "token", "api-key", "join-token", "authority". */
void vault_digest(const struct vault *v, uint8_t out[static VAULT_DIGEST_LEN],
		  const char *const *parts);
/* The same as a bytea parameter; returns out. */
char *vault_digest_text(const struct vault *v, char out[static VAULT_TEXT_LEN],
			const char *const *parts);
/* Whether the hex text of a stored digest is that of these parts; in constant time. */
bool vault_digest_is(const struct vault *v, const char *stored_hex, const char *const *parts);

/* Lists of parts. */
#define VAULT_PARTS(...) ((const char *const[]){__VA_ARGS__, NULL})
/* A host's API key or join token: bound to kind ("agent", "gateway"), id and number. */
#define VAULT_API_KEY(kind, id, number, secret) VAULT_PARTS("api-key", kind, id, number, secret)
#define VAULT_JOIN_TOKEN(kind, id, number, secret)                                                 \
	VAULT_PARTS("join-token", kind, id, number, secret)
#define VAULT_TOKEN(id, role, secret) VAULT_PARTS("token", id, role, secret)
#define VAULT_AUTHORITY(fingerprint, state) VAULT_PARTS("authority", fingerprint, state)

#endif
