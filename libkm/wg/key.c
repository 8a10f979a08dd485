/* SPDX-License-Identifier: MIT */
#include "libkm/base/util.h"
#include "libkm/wg/wg.h"
#include <openssl/evp.h>

void km_wg_private_new(uint8_t key[static KM_WG_KEY_LEN])
{
	km_random(key, KM_WG_KEY_LEN);
	/* RFC 7748 section 5: the form in which every tool stores such a key. */
	key[0] &= 248;
	key[31] = (uint8_t)((key[31] & 127) | 64);
}

int km_wg_public(uint8_t pub[static KM_WG_KEY_LEN], const uint8_t priv[static KM_WG_KEY_LEN])
{
	size_t n = KM_WG_KEY_LEN;
	int rc = KM_ENOMEM;
	EVP_PKEY *k = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, priv, KM_WG_KEY_LEN);

	if (k && EVP_PKEY_get_raw_public_key(k, pub, &n) == 1 && n == KM_WG_KEY_LEN)
		rc = 0;
	EVP_PKEY_free(k);
	return rc;
}

char *km_wg_key_str(const uint8_t key[static KM_WG_KEY_LEN], char out[static KM_WG_KEY_STRLEN])
{
	return km_b64(key, KM_WG_KEY_LEN, out);
}

int km_wg_key_parse(uint8_t key[static KM_WG_KEY_LEN], const char *s)
{
	return km_unb64(key, KM_WG_KEY_LEN, s);
}

char *km_wg_key_code(const uint8_t pub[static KM_WG_KEY_LEN], char out[static KM_WG_CODE_STRLEN])
{
	static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
	uint8_t hash[32];
	uint64_t bits = 0;
	char *at = out;

	km_sha256(hash, pub, KM_WG_KEY_LEN);
	for (int i = 0; i < 8; i++)
		bits = bits << 8 | hash[i];
	for (int i = 0; i < 12; i++) {
		if (i == 4 || i == 8)
			*at++ = '-';
		*at++ = digits[bits >> (59 - 5 * i) & 31];
	}
	*at = 0;
	return out;
}
