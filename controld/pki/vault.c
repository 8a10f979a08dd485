/* SPDX-License-Identifier: MIT */
#include "controld/pki/vault.h"
#include "libkm/base/util.h"
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

static const char label[] = "kakuremichi stored secrets";

static void hmac(uint8_t out[static VAULT_DIGEST_LEN], const uint8_t key[static 32], const void *p,
		 size_t n)
{
	unsigned len = VAULT_DIGEST_LEN;

	if (!HMAC(EVP_sha256(), key, 32, p, n, out, &len))
		abort(); /* no memory for it; a digest that is not one must not be used */
}

void vault_digest(const struct vault *v, uint8_t out[static VAULT_DIGEST_LEN],
		  const char *const *parts)
{
	uint8_t key[VAULT_DIGEST_LEN], *text, *at;
	size_t total = 0;

	for (const char *const *p = parts; *p; p++)
		total += 4 + strlen(*p);
	text = at = km_xcalloc(1, total + 1);
	for (; *parts; parts++) {
		size_t n = strlen(*parts);

		for (int i = 3; i >= 0; i--)
			*at++ = (uint8_t)(n >> (8 * i));
		memcpy(at, *parts, n);
		at += n;
	}
	hmac(key, v->master.key, label, sizeof(label));
	hmac(out, key, text, total);
	km_wipe(key, sizeof(key));
	km_wipe(text, total);
	free(text);
}

char *vault_digest_text(const struct vault *v, char out[static VAULT_TEXT_LEN],
			const char *const *parts)
{
	uint8_t digest[VAULT_DIGEST_LEN];

	vault_digest(v, digest, parts);
	out[0] = '\\';
	out[1] = 'x';
	km_hex(digest, sizeof(digest), out + 2);
	return out;
}

bool vault_digest_is(const struct vault *v, const char *stored_hex, const char *const *parts)
{
	uint8_t stored[VAULT_DIGEST_LEN], digest[VAULT_DIGEST_LEN];

	if (km_unhex(stored, sizeof(stored), stored_hex))
		return false;
	vault_digest(v, digest, parts);
	return km_secret_eq(stored, digest, sizeof(digest));
}
