/* SPDX-License-Identifier: MIT */
/* TLS 1.3's secrets: RFC 8448's, and the same as OpenSSL's own for all that libssl may ask. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/edge/secrets.h"
#include "libkm/base/util.h"
#include <cmocka.h>
#include "tests/unit/gatewayd/certify.h"
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/provider.h>
#include <openssl/ssl.h>
#include <string.h>

#define OURS SECRETS_PROPERTIES
#define THEIRS "provider=default"

struct ask {
	int mode;
	const char *digest;
	const uint8_t *key, *salt, *data;
	size_t key_n, salt_n, label_n, data_n;
};

/* All of one derivation; -1: refused. */
static int derive(const char *properties, const struct ask *a, uint8_t *out, size_t n)
{
	static char label[300], prefix[] = "tls13 ";
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS13-KDF", properties);
	EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
	int mode = a->mode;
	OSSL_PARAM params[8], *p = params;

	assert_non_null(ctx);
	memcpy(label, "derived", 7);
	memset(label + 7, 'l', sizeof(label) - 7);
	*p++ = OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode);
	*p++ = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)a->digest, 0);
	if (a->key)
		*p++ =
		    OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)a->key, a->key_n);
	if (a->salt)
		*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, (void *)a->salt,
							 a->salt_n);
	*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, prefix, 6);
	*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, label, a->label_n);
	if (a->data)
		*p++ = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_DATA, (void *)a->data,
							 a->data_n);
	*p = OSSL_PARAM_construct_end();
	int rc = EVP_KDF_derive(ctx, out, n, params) == 1 ? 0 : -1;
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
	return rc;
}

static void same(const struct ask *a, size_t n)
{
	uint8_t ours[256] = {0}, theirs[256] = {0};

	assert_int_equal(derive(OURS, a, ours, n), derive(THEIRS, a, theirs, n));
	assert_memory_equal(ours, theirs, sizeof(ours));
}

/* Others who do not ask for it do not get it. */
static void test_ours_is_found(void **state)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS13-KDF", OURS);
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", OURS);
	EVP_MAC *other = EVP_MAC_fetch(NULL, "HMAC", NULL);
	EVP_MD *md = EVP_MD_fetch(NULL, "SHA256", OURS);

	(void)state;
	assert_string_equal(OSSL_PROVIDER_get0_name(EVP_KDF_get0_provider(kdf)), "kakuremichi");
	assert_string_equal(OSSL_PROVIDER_get0_name(EVP_MAC_get0_provider(mac)), "kakuremichi");
	assert_string_equal(OSSL_PROVIDER_get0_name(EVP_MAC_get0_provider(other)), "default");
	assert_string_equal(OSSL_PROVIDER_get0_name(EVP_MD_get0_provider(md)), "default");
	EVP_KDF_free(kdf);
	EVP_MAC_free(mac);
	EVP_MAC_free(other);
	EVP_MD_free(md);
}

static void hex(uint8_t out[static 32], const char *text)
{
	assert_int_equal(km_unhex(out, 32, text), 0);
}

/* RFC 8448 section 3: "Simple 1-RTT Handshake". */
static void test_rfc8448(void **state)
{
	uint8_t early[32], derived[32], handshake[32], empty[32], want[32], shared[32];

	(void)state;
	struct ask a = {.mode = EVP_KDF_HKDF_MODE_EXTRACT_ONLY, .digest = "SHA2-256", .label_n = 7};
	assert_int_equal(derive(OURS, &a, early, 32), 0);
	hex(want, "33ad0a1c607ec03b09e6cd9893680ce210adf300aa1f2660e1b22e10f170f92a");
	assert_memory_equal(early, want, 32);

	km_sha256(empty, "", 0);
	a = (struct ask){.mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY,
			 .digest = "SHA2-256",
			 .label_n = 7,
			 .key = early,
			 .key_n = 32,
			 .data = empty,
			 .data_n = 32};
	assert_int_equal(derive(OURS, &a, derived, 32), 0);
	hex(want, "6f2615a108c702c5678f54fc9dbab69716c076189c48250cebeac3576c3611ba");
	assert_memory_equal(derived, want, 32);

	hex(shared, "8bd4054fb55b9d63fdfbacf9f04b9f0d35e6d63f537563efd46272900f89492d");
	a = (struct ask){.mode = EVP_KDF_HKDF_MODE_EXTRACT_ONLY,
			 .digest = "SHA2-256",
			 .label_n = 7,
			 .key = shared,
			 .key_n = 32,
			 .salt = early,
			 .salt_n = 32};
	assert_int_equal(derive(OURS, &a, handshake, 32), 0);
	hex(want, "1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac");
	assert_memory_equal(handshake, want, 32);
}

static void test_expand_as_openssl(void **state)
{
	static const char *const digests[] = {"SHA2-256", "SHA256", "SHA2-384"};
	uint8_t bytes[300];

	(void)state;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 7 + 3);
	for (size_t d = 0; d < KM_ARRAY_LEN(digests); d++) {
		struct ask a = {.mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY,
				.digest = digests[d],
				.label_n = 7,
				.key = bytes,
				.key_n = d == 2 ? 48 : 32,
				.data = bytes + 50,
				.data_n = 32};
		for (size_t n = 1; n <= 100; n++)
			same(&a, n);
		for (a.data_n = 0; a.data_n < 250; a.data_n += 7)
			same(&a, 32);
		a.data = NULL;
		same(&a, 12);
		for (a.label_n = 0; a.label_n < 250; a.label_n += 7)
			same(&a, 16);
	}
}

static void test_extract_as_openssl(void **state)
{
	static const char *const digests[] = {"SHA2-256", "SHA2-384"};
	uint8_t bytes[300];

	(void)state;
	memset(bytes, 0x5a, sizeof(bytes));
	for (size_t d = 0; d < KM_ARRAY_LEN(digests); d++) {
		size_t n = d ? 48 : 32;
		struct ask a = {
		    .mode = EVP_KDF_HKDF_MODE_EXTRACT_ONLY, .digest = digests[d], .label_n = 7};
		same(&a, n);
		a.key = bytes;
		for (a.key_n = 1; a.key_n < 140; a.key_n++)
			same(&a, n);
		a.key_n = 66;
		a.salt = bytes;
		a.salt_n = n;
		same(&a, n);
		same(&a, n - 1);
		a.key = NULL;
		same(&a, n);
		a.mode = EVP_KDF_HKDF_MODE_EXTRACT_AND_EXPAND;
		same(&a, n);
	}
}

/* ---- HMAC ---- */

/* As libssl has it: for tickets the key is a parameter, for Finished it comes with the start. */
static size_t mac(const char *properties, const char *digest, size_t key_n, bool key_first,
		  size_t cut, uint8_t out[static 64])
{
	uint8_t bytes[400];
	EVP_MAC *m = EVP_MAC_fetch(NULL, "HMAC", properties);
	EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(m), *copy;
	OSSL_PARAM params[3], *p = params;
	size_t n = 0;

	memset(bytes, 0xa7, sizeof(bytes));
	if (key_first)
		*p++ = OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, bytes, key_n);
	*p++ = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)digest, 0);
	*p = OSSL_PARAM_construct_end();
	assert_int_equal(EVP_MAC_CTX_set_params(ctx, params), 1);
	if (!key_first)
		assert_int_equal(EVP_MAC_init(ctx, bytes, key_n, NULL), 1);
	assert_int_equal(EVP_MAC_update(ctx, bytes, cut), 1);
	assert_non_null(copy = EVP_MAC_CTX_dup(ctx));
	EVP_MAC_CTX_free(ctx);
	ctx = copy;
	assert_int_equal(EVP_MAC_update(ctx, bytes, sizeof(bytes) - cut), 1);
	assert_int_equal(EVP_MAC_CTX_get_mac_size(ctx), strstr(digest, "384") ? 48 : 32);
	assert_int_equal(EVP_MAC_final(ctx, out, &n, 64), 1);
	EVP_MAC_CTX_free(ctx);
	EVP_MAC_free(m);
	return n;
}

static void test_mac_as_openssl(void **state)
{
	static const char *const digests[] = {"SHA256", "SHA2-256", "SHA384"};

	(void)state;
	for (size_t d = 0; d < KM_ARRAY_LEN(digests); d++)
		for (size_t key_n = 1; key_n < 200; key_n++) {
			uint8_t ours[64] = {0}, theirs[64] = {0};
			size_t n = mac(OURS, digests[d], key_n, key_n & 1, key_n, ours);
			assert_int_equal(n,
					 mac(THEIRS, digests[d], key_n, key_n & 1, key_n, theirs));
			assert_memory_equal(ours, theirs, sizeof(ours));
		}
}

static void test_mac_needs_room(void **state)
{
	uint8_t out[64], key[32] = {1};
	size_t n = 0;
	EVP_MAC *m = EVP_MAC_fetch(NULL, "HMAC", OURS);
	EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(m);

	(void)state;
	assert_int_equal(EVP_MAC_init(ctx, key, sizeof(key), NULL), 1);
	assert_int_equal(EVP_MAC_final(ctx, out, &n, 31), 0);
	EVP_MAC_CTX_free(ctx);
	EVP_MAC_free(m);
}

/* ---- whole handshakes with somebody who has OpenSSL's own ---- */

static SSL_CTX *server(const char *suite)
{
	SSL_CTX *ctx = SSL_CTX_new_ex(NULL, OURS, TLS_server_method());
	certify(ctx);
	assert_int_equal(strncmp(suite, "TLS_", 4) ? SSL_CTX_set_cipher_list(ctx, suite)
						   : SSL_CTX_set_ciphersuites(ctx, suite),
			 1);
	SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"x", 1);
	return ctx;
}

static bool reused_with(SSL_CTX *srv, SSL_CTX *cli, SSL_SESSION **session)
{
	SSL *s = SSL_new(srv), *c = SSL_new(cli);
	uint8_t a[100], b[100];
	BIO *near, *far;
	char byte = 'x';

	assert_int_equal(BIO_new_bio_pair(&near, 0, &far, 0), 1);
	SSL_set_bio(s, near, near);
	SSL_set_bio(c, far, far);
	SSL_set_accept_state(s);
	SSL_set_connect_state(c);
	if (*session)
		SSL_set_session(c, *session);
	for (int i = 0; i < 10 && (SSL_do_handshake(c) != 1 || SSL_do_handshake(s) != 1); i++)
		SSL_do_handshake(s);
	assert_true(SSL_is_init_finished(s) && SSL_is_init_finished(c));
	assert_int_equal(SSL_write(s, &byte, 1), 1);
	assert_int_equal(SSL_read(c, &byte, 1), 1);
	assert_int_equal(SSL_export_keying_material(s, a, sizeof(a), "EXPORTER-x", 10, NULL, 0, 0),
			 1);
	assert_int_equal(SSL_export_keying_material(c, b, sizeof(b), "EXPORTER-x", 10, NULL, 0, 0),
			 1);
	assert_memory_equal(a, b, sizeof(a));
	bool reused = SSL_session_reused(s);
	SSL_SESSION_free(*session);
	*session = SSL_get1_session(c);
	SSL_shutdown(s);
	SSL_shutdown(c);
	SSL_free(s);
	SSL_free(c);
	return reused;
}

static void test_handshakes(void **state)
{
	static const struct {
		const char *suite;
		int version;
	} rows[] = {
	    {"TLS_AES_128_GCM_SHA256", TLS1_3_VERSION},
	    {"TLS_AES_256_GCM_SHA384", TLS1_3_VERSION},
	    {"TLS_CHACHA20_POLY1305_SHA256", TLS1_3_VERSION},
	    {"ECDHE-ECDSA-AES128-GCM-SHA256", TLS1_2_VERSION},
	    {"ECDHE-ECDSA-AES256-GCM-SHA384", TLS1_2_VERSION},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(rows); i++) {
		SSL_CTX *srv = server(rows[i].suite);
		SSL_CTX *cli = SSL_CTX_new(TLS_client_method());
		SSL_SESSION *session = NULL;
		SSL_CTX_set_max_proto_version(cli, rows[i].version);
		assert_false(reused_with(srv, cli, &session));
		assert_true(reused_with(srv, cli, &session));
		SSL_SESSION_free(session);
		SSL_CTX_free(srv);
		SSL_CTX_free(cli);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_ours_is_found),     cmocka_unit_test(test_rfc8448),
	    cmocka_unit_test(test_expand_as_openssl), cmocka_unit_test(test_extract_as_openssl),
	    cmocka_unit_test(test_mac_as_openssl),    cmocka_unit_test(test_mac_needs_room),
	    cmocka_unit_test(test_handshakes),
	};
	if (!secrets_load())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
