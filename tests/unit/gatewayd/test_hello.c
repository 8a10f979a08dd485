/* SPDX-License-Identifier: MIT */
/* The server name of a ClientHello that OpenSSL's client has written, however it is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/edge/hello.h"
#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include <cmocka.h>
#include <openssl/bio.h>
#include <stdlib.h>
#include <string.h>

static size_t hello(uint8_t *out, size_t size, const char *sni)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	SSL *ssl = SSL_new(ctx);
	BIO *in = BIO_new(BIO_s_mem()), *written = BIO_new(BIO_s_mem());
	if (sni)
		assert_int_equal(SSL_set_tlsext_host_name(ssl, sni), 1);
	SSL_set_bio(ssl, in, written);
	assert_int_equal(SSL_connect(ssl), -1);
	int n = BIO_read(written, out, (int)size);
	assert_true(n > 100);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	return (size_t)n;
}

/* The same message in records of so many bytes. */
static size_t cut_up(const uint8_t *p, size_t n, size_t each, uint8_t *out)
{
	size_t at = 0;
	for (size_t i = 5; i < n; i += each) {
		size_t len = n - i < each ? n - i : each;
		memcpy(out + at, "\x16\x03\x01", 3);
		out[at + 3] = (uint8_t)(len >> 8);
		out[at + 4] = (uint8_t)len;
		memcpy(out + at + 5, p + i, len);
		at += 5 + len;
	}
	return at;
}

/* On memory of exactly n bytes, so that a sanitizer sees the first one too far. */
static int peek(const uint8_t *p, size_t n, char *sni)
{
	uint8_t *copy = malloc(n ? n : 1);
	memcpy(copy, p, n);
	int rc = hello_peek(copy, n, sni);
	free(copy);
	return rc;
}

static void whole_and_cut(void **state)
{
	uint8_t p[4096], records[16384];
	char sni[HTTP_HOST_MAX + 1];
	size_t n = hello(p, sizeof(p), "Hello.Example.ORG.");
	static const size_t sizes[] = {1, 2, 3, 7, 60, 100, 4000};
	(void)state;
	assert_int_equal(peek(p, n, sni), 0);
	assert_string_equal(sni, "hello.example.org");
	for (size_t i = 0; i < KM_ARRAY_LEN(sizes); i++) {
		size_t len = cut_up(p, n, sizes[i], records);
		bool found = false;
		for (size_t cut = 0; cut <= len; cut++) {
			int rc = peek(records, cut, sni);
			assert_true(rc == 0 || rc == KM_ETRUNC);
			assert_false(found && rc); /* once found, always found */
			found = rc == 0;
			assert_string_equal(sni, found ? "hello.example.org" : "");
		}
		assert_true(found);
	}
}

static void without_a_name(void **state)
{
	uint8_t p[4096];
	char sni[HTTP_HOST_MAX + 1];
	size_t n = hello(p, sizeof(p), NULL);
	(void)state;
	assert_int_equal(peek(p, n, sni), 0);
	assert_string_equal(sni, "");
	assert_int_equal(peek(p, n - 1, sni), KM_ETRUNC);
}

static void no_hello(void **state)
{
	char sni[HTTP_HOST_MAX + 1];
	uint8_t p[4096], many[HELLO_PEEK_MAX + 100];
	size_t n = hello(p, sizeof(p), "a.test");
	(void)state;
	assert_int_equal(peek((const uint8_t *)"GET / HTTP/1.1", 14, sni), KM_EPROTO);
	assert_int_equal(peek((const uint8_t *)"\x16\x02\x01\x00\x05", 5, sni), KM_EPROTO);
	assert_int_equal(peek((const uint8_t *)"\x16\x03\x01\x00\x00", 5, sni), KM_EPROTO);
	assert_int_equal(peek((const uint8_t *)"\x16\x03\x01\xff\xff", 5, sni), KM_EPROTO);
	assert_int_equal(peek((const uint8_t *)"\x16\x03\x01\x00\x04\x02\x00\x00\x10", 9, sni), KM_EPROTO);
	/* Something else in the middle of the message. */
	memcpy(many, p, n);
	many[3] = 0;
	many[4] = 40;
	memcpy(many + 45, "\x15\x03\x03\x00\x02\x01\x00", 7);
	assert_int_equal(peek(many, 52, sni), KM_EPROTO);
	/* A message that does not end. */
	memset(many, 'U', sizeof(many));
	memcpy(many, "\x16\x03\x01\x40\x00\x01\xff\xff\xff", 9);
	memcpy(many + 16389, "\x16\x03\x01\x40\x00", 5);
	assert_int_equal(peek(many, HELLO_PEEK_MAX - 1, sni), KM_ETRUNC);
	assert_int_equal(peek(many, HELLO_PEEK_MAX, sni), KM_ETOOBIG);
	assert_int_equal(peek(many, sizeof(many), sni), KM_ETOOBIG);
}

/* Any byte wrong: some verdict, and no byte too far. */
static void flipped(void **state)
{
	uint8_t p[4096];
	char sni[HTTP_HOST_MAX + 1];
	size_t n = hello(p, sizeof(p), "hello.example.org");
	(void)state;
	for (size_t i = 0; i < n; i++)
		for (int bit = 0; bit < 8; bit++) {
			p[i] ^= (uint8_t)(1 << bit);
			int rc = peek(p, n, sni);
			assert_true(rc == 0 || rc == KM_ETRUNC || rc == KM_EPROTO);
			p[i] ^= (uint8_t)(1 << bit);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(whole_and_cut),
	    cmocka_unit_test(without_a_name),
	    cmocka_unit_test(no_hello),
	    cmocka_unit_test(flipped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
