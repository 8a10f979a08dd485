/* SPDX-License-Identifier: MIT */
#include "controld/pki/master.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NONCE 12
#define TAG 16
#define MAX_SECRET 65536
static const char form[] = "v1:";

int master_key_read(struct master_key *k, const char *path, struct km_errtext *err)
{
	char *text = NULL;
	int rc;

	if (access(path, F_OK) != 0 && errno == ENOENT)
		return km_errtext_set(err, KM_ENOTFOUND, "%s does not exist", path);
	rc = km_secret_read(path, 256, &text, err);
	if (rc)
		return rc;
	if (km_unhex(k->key, sizeof(k->key), text) && km_unb64(k->key, sizeof(k->key), text))
		rc = km_errtext_set(
		    err, KM_EINVAL,
		    "%s: a master key is 32 bytes, as 64 hexadecimal digits or in base64", path);
	km_wipe(text, strlen(text));
	free(text);
	return rc;
}

int master_key_make(struct master_key *k, const char *path, struct km_errtext *err)
{
	char text[2 * MASTER_KEY_LEN + 2];
	int rc = 0;

	if (access(path, F_OK) == 0)
		return km_errtext_set(err, KM_EEXIST, "%s exists", path);
	km_random(k->key, sizeof(k->key));
	km_hex(k->key, sizeof(k->key), text);
	strcat(text, "\n");
	if (km_file_write(path, text, strlen(text), 0600))
		rc = km_errtext_set(err, KM_EIO, "%s: %s", path, strerror(errno));
	km_wipe(text, sizeof(text));
	return rc;
}

/* out: nonce, n bytes, tag. */
static bool encrypt(const struct master_key *k, const char *what, const void *p, int n,
		    uint8_t *out)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	int len;
	bool ok;

	km_random(out, NONCE);
	ok = c && EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, k->key, out) == 1 &&
	     EVP_EncryptUpdate(c, NULL, &len, (const uint8_t *)what, (int)strlen(what)) == 1 &&
	     EVP_EncryptUpdate(c, out + NONCE, &len, p, n) == 1 &&
	     EVP_EncryptFinal_ex(c, out + NONCE + len, &len) == 1 &&
	     EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG, out + NONCE + n) == 1;
	EVP_CIPHER_CTX_free(c);
	return ok;
}

/* in: nonce, n bytes, tag. */
static bool decrypt(const struct master_key *k, const char *what, uint8_t *in, int n, uint8_t *out)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	int len;
	bool ok = c && EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, k->key, in) == 1 &&
		  EVP_DecryptUpdate(c, NULL, &len, (const uint8_t *)what, (int)strlen(what)) == 1 &&
		  EVP_DecryptUpdate(c, out, &len, in + NONCE, n) == 1 &&
		  EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG, in + NONCE + n) == 1 &&
		  EVP_DecryptFinal_ex(c, out + len, &len) == 1;

	EVP_CIPHER_CTX_free(c);
	return ok;
}

char *master_seal(const struct master_key *k, const char *what, const void *p, size_t n)
{
	size_t total = NONCE + n + TAG;
	uint8_t *raw = n <= MAX_SECRET ? malloc(total) : NULL;
	char *text = raw ? malloc(strlen(form) + 2 * total + 1) : NULL;

	if (text && encrypt(k, what, p, (int)n, raw)) {
		km_hex(raw, total, stpcpy(text, form));
	} else {
		free(text);
		text = NULL;
	}
	free(raw);
	return text;
}

int master_open(const struct master_key *k, const char *what, const char *sealed, uint8_t **p,
		size_t *n)
{
	size_t total;
	uint8_t *raw = NULL, *plain = NULL;
	int rc = KM_EINVAL;

	if (strncmp(sealed, form, strlen(form)))
		return KM_EINVAL;
	sealed += strlen(form);
	total = strlen(sealed) / 2;
	if (total < NONCE + TAG || total > NONCE + MAX_SECRET + TAG)
		return KM_EINVAL;
	raw = malloc(total);
	plain = malloc(total);
	if (!raw || !plain) {
		rc = KM_ENOMEM;
		goto out;
	}
	if (km_unhex(raw, total, sealed))
		goto out;
	*n = total - NONCE - TAG;
	if (!decrypt(k, what, raw, (int)*n, plain)) {
		rc = KM_EAUTH;
		goto out;
	}
	*p = plain;
	plain = NULL;
	rc = 0;
out:
	free(raw);
	free(plain);
	return rc;
}
