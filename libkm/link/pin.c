/* SPDX-License-Identifier: MIT */
#include "libkm/link/pin.h"
#include "libkm/base/util.h"
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define PREFIX "sha256//"

int km_pin_parse(uint8_t pin[static KM_PIN_LEN], const char *s)
{
	if (!s || strncmp(s, PREFIX, strlen(PREFIX)) != 0)
		return KM_EINVAL;
	return km_unb64(pin, KM_PIN_LEN, s + strlen(PREFIX));
}

const char *km_pin_check(const char *value)
{
	uint8_t pin[KM_PIN_LEN];

	return km_pin_parse(pin, value) ? "not sha256// and the base64 of 32 bytes" : NULL;
}

char *km_pin_str(const uint8_t pin[static KM_PIN_LEN], char out[static KM_PIN_STRLEN])
{
	/* km_b64 ends the text. NOLINTNEXTLINE(bugprone-not-null-terminated-result) */
	memcpy(out, PREFIX, strlen(PREFIX));
	km_b64(pin, KM_PIN_LEN, out + strlen(PREFIX));
	return out;
}

int km_pin_of(uint8_t pin[static KM_PIN_LEN], X509 *cert)
{
	uint8_t *der = NULL;
	int n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der);

	if (n <= 0)
		return KM_EINVAL;
	km_sha256(pin, der, (size_t)n);
	OPENSSL_free(der);
	return 0;
}

static X509 *find(const uint8_t pin[static KM_PIN_LEN], STACK_OF(X509) * chain,
		  struct km_errtext *err)
{
	uint8_t have[KM_PIN_LEN] = {0};
	char want_s[KM_PIN_STRLEN], have_s[KM_PIN_STRLEN];

	for (int i = 0; i < sk_X509_num(chain); i++) {
		X509 *c = sk_X509_value(chain, i);

		if (km_pin_of(have, c) == 0 && memcmp(have, pin, KM_PIN_LEN) == 0)
			return c;
	}
	km_errtext_set(
	    err, KM_EAUTH,
	    "wrong pin: no certificate that the server sent has the pinned key %s; the last "
	    "of its %d has %s",
	    km_pin_str(pin, want_s), sk_X509_num(chain), km_pin_str(have, have_s));
	return NULL;
}

/* X509_verify_cert with nothing trusted but root. */
static int verify(X509 *root, X509 *leaf, STACK_OF(X509) * chain, struct km_errtext *err)
{
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *vc = X509_STORE_CTX_new();
	int r = KM_ENOMEM;

	if (!store || !vc || !X509_STORE_add_cert(store, root) ||
	    !X509_STORE_CTX_init(vc, store, leaf, chain) ||
	    !X509_STORE_CTX_set_purpose(vc, X509_PURPOSE_SSL_SERVER))
		goto out;
	X509_STORE_CTX_set_depth(vc, 4);
	r = 0;
	if (X509_verify_cert(vc) != 1)
		r = km_errtext_set(err, KM_EAUTH, "the server's certificate is not acceptable: %s",
				   X509_verify_cert_error_string(X509_STORE_CTX_get_error(vc)));
out:
	X509_STORE_CTX_free(vc);
	X509_STORE_free(store);
	return r;
}

int km_pin_verify(const uint8_t pin[static KM_PIN_LEN], X509 *leaf, STACK_OF(X509) * chain,
		  struct km_errtext *err)
{
	X509 *root = chain && leaf ? find(pin, chain, err) : NULL;

	if (!root)
		return leaf && chain
			   ? KM_EAUTH
			   : km_errtext_set(err, KM_EAUTH, "the server sent no certificate");
	if (X509_check_ca(root) < 1)
		return km_errtext_set(err, KM_EAUTH, "the pinned certificate is not one of a CA");
	return verify(root, leaf, chain, err);
}
