/* SPDX-License-Identifier: MIT */
#include "kmctl/cert/signer.h"
#include "kmctl/cert/cert.h"
#include "kmctl/file.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int open_encrypted(struct cert_signer *s, const char *text, size_t n, struct km_errtext *err)
{
	struct km_errtext why = {""};
	char *passphrase;
	int rc =
	    cert_passphrase(&passphrase, "ca-key is encrypted and must be decrypted interactively",
			    "cannot open encrypted ca-key without passphrase", err);

	if (rc)
		return rc;
	rc = km_cert_key_decrypt(&s->key, text, n, passphrase, strlen(passphrase), CERT_KDF_MAX_KIB,
				 &why);
	km_wipe(passphrase, strlen(passphrase));
	free(passphrase);
	return rc ? km_errtext_set(err, 1, "error while parsing encrypted ca-key: %s", why.text)
		  : 0;
}

static int read_key(struct cert_signer *s, const char *path, struct km_errtext *err)
{
	struct km_errtext why = {""};
	char *text;
	size_t n;
	int rc = file_read(path, CERT_FILE_MAX, &text, &n, &why);

	if (rc)
		return km_errtext_set(err, 1, "error while reading ca-key: %s", why.text);
	if (file_is_open_to_others(path))
		fprintf(stderr, "Warning: others may use %s: chmod 600\n", path);
	rc = km_cert_key_from_pem(&s->key, text, n, &why);
	if (rc == KM_CERT_EENCRYPTED)
		rc = open_encrypted(s, text, n, err);
	else if (rc)
		rc = km_errtext_set(err, 1, "error while parsing ca-key: %s", why.text);
	else if (!s->key.is_ca)
		rc = km_errtext_set(err, 1, "error while parsing ca-key: it is a host's key");
	km_wipe(text, n);
	free(text);
	return rc;
}

static int read_crt(struct cert_signer *s, const char *path, struct km_errtext *err)
{
	struct km_errtext why = {""};
	const char *at;
	char *text;
	size_t n;
	int rc = file_read(path, CERT_FILE_MAX, &text, &n, &why);

	if (rc)
		return km_errtext_set(err, 1, "error while reading ca-crt: %s", why.text);
	at = text;
	rc = km_cert_from_pem(&s->ca, &at, &n, &why);
	free(text);
	if (rc || !s->ca)
		return km_errtext_set(err, 1, "error while parsing ca-crt: %s", why.text);
	return 0;
}

int cert_signer_open(struct cert_signer *s, const char *crt, const char *key,
		     struct km_errtext *err)
{
	int rc;

	memset(s, 0, sizeof(*s));
	rc = read_key(s, key, err);
	if (!rc)
		rc = read_crt(s, crt, err);
	if (rc)
		return rc;
	if (km_cert_key_fits(&s->key, s->ca, NULL))
		return km_errtext_set(err, 1,
				      "refusing to sign, root certificate does not match private "
				      "key");
	if (cert_now_ns() / 1000000000 > s->ca->not_after)
		return km_errtext_set(err, 1, "ca certificate is expired");
	return 0;
}

void cert_signer_close(struct cert_signer *s)
{
	km_wipe(&s->key, sizeof(s->key));
	km_cert_free(s->ca);
	s->ca = NULL;
}
