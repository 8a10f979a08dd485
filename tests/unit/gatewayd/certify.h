/* SPDX-License-Identifier: MIT */
/* A certificate for a server in memory, of which nobody asks more than that it is there. After cmocka.h. */
#ifndef TESTS_UNIT_GATEWAYD_CERTIFY_H
#define TESTS_UNIT_GATEWAYD_CERTIFY_H

#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

/* Signs one by itself, for two hours around now, and gives it with its key to ctx. */
static inline void certify(SSL_CTX *ctx)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *x = X509_new();

	assert_true(ctx && key && x);
	X509_gmtime_adj(X509_getm_notBefore(x), -3600);
	X509_gmtime_adj(X509_getm_notAfter(x), 3600);
	assert_int_equal(X509_set_pubkey(x, key), 1);
	assert_true(X509_sign(x, key, EVP_sha256()) > 0);
	assert_int_equal(SSL_CTX_use_certificate(ctx, x), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(ctx, key), 1);
	X509_free(x);
	EVP_PKEY_free(key);
}

#endif
