/* SPDX-License-Identifier: MIT */
/* The master key, and sealing secrets with it for the database (AES-256-GCM, NIST SP 800-38D). */
#ifndef CONTROLD_PKI_MASTER_H
#define CONTROLD_PKI_MASTER_H

#include "libkm/base/err.h"
#include <stddef.h>
#include <stdint.h>

#define MASTER_KEY_LEN 32
struct master_key {
	uint8_t key[MASTER_KEY_LEN]; /* wipe after use: km_wipe */
};

/* Reads 64 hexadecimal digits (or 32 bytes in base64). KM_ENOTFOUND: no such file; KM_EPERM: others
 * may read it; KM_EINVAL: something else is in it; KM_EIO. err names the file. */
int master_key_read(struct master_key *k, const char *path, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Makes a key and writes it (0600). An existing file is never replaced: KM_EEXIST. KM_EIO. */
int master_key_make(struct master_key *k, const char *path, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* "v1:" and hex of nonce, ciphertext and tag. `what` names the secret's place: text sealed for one
 * place does not open in another. malloc'd. NULL: OpenSSL failed or no memory. */
char *master_seal(const struct master_key *k, const char *what, const void *p, size_t n);
/* Opens it into malloc'd memory (*n bytes; wipe before free). KM_EAUTH: another key or place, or
 * changed; KM_EINVAL: not the form; KM_ENOMEM. */
int master_open(const struct master_key *k, const char *what, const char *sealed, uint8_t **p,
		size_t *n) __attribute__((warn_unused_result));

#endif
