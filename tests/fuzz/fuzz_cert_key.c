/* SPDX-License-Identifier: MIT */
/* The body of an encrypted CA key (behind a first byte whose lowest bit is the curve). Argon2's
 * costs are capped at next to nothing, so that each input takes microseconds whatever it asks for.
 */
#include "libkm/base/util.h"
#include "libkm/cert/key.h"
#include "libkm/cert/pem.h"
#include <stdlib.h>
#include <string.h>

#define MAX_KIB 32
#define PASSPHRASE "fuzz"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* A key that came out must be one: it signs, and encrypted anew it comes out again. */
static void check_key(const struct km_cert_key *k)
{
	const struct km_cert_kdf kdf = {.memory_kib = 8, .passes = 1, .lanes = 1};
	uint8_t sig[KM_CERT_SIG_MAX];
	struct km_cert_key again;
	struct km_buf b;
	size_t len;

	must(!km_cert_key_sign(k, "x", 1, sig, &len));
	must(km_cert_sig_ok(k->curve, k->pub, k->pub_len, "x", 1, sig, len));
	km_buf_init(&b, 4096);
	must(!km_cert_key_encrypt(&b, k, PASSPHRASE, strlen(PASSPHRASE), &kdf, NULL));
	must(!km_cert_key_decrypt(&again, (char *)km_buf_head(&b), b.len, PASSPHRASE,
				  strlen(PASSPHRASE), MAX_KIB, NULL));
	must(again.priv_len == k->priv_len && !memcmp(again.priv, k->priv, k->priv_len));
	must(again.pub_len == k->pub_len && !memcmp(again.pub, k->pub, k->pub_len));
	km_buf_wipe(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	const char *banner = n && p[0] & 1 ? "NEBULA ECDSA P256 ENCRYPTED PRIVATE KEY"
					   : "NEBULA ED25519 ENCRYPTED PRIVATE KEY";
	struct km_errtext err = {""};
	struct km_cert_key k;
	struct km_buf b;
	int rc;

	if (!n || n > 4096)
		return 0;
	km_buf_init(&b, 16384);
	must(!km_pem_write(&b, banner, p + 1, n - 1));
	rc = km_cert_key_decrypt(&k, (char *)km_buf_head(&b), b.len, PASSPHRASE, strlen(PASSPHRASE),
				 MAX_KIB, &err);
	if (!rc)
		check_key(&k);
	else
		must(*err.text && !k.priv_len);
	km_buf_free(&b);
	return 0;
}
