/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/acme/challenges.h"
#include "gatewayd/acme/client.h"
#include "libkm/base/util.h"
#include <cmocka.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define THUMB "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"

static char served_token[CHALLENGE_TOKEN_MAX + 1];
static int served_times;

static void served(void *arg, const char *token)
{
	assert_ptr_equal(arg, served_token);
	snprintf(served_token, sizeof(served_token), "%s", token);
	served_times++;
}

static struct challenge of(enum challenge_type type, const char *name, const char *token)
{
	struct challenge ch = {.type = type};
	snprintf(ch.name, sizeof(ch.name), "%s", name);
	snprintf(ch.token, sizeof(ch.token), "%s", token);
	snprintf(ch.key_auth, sizeof(ch.key_auth), "%.128s." THUMB, token);
	return ch;
}

static int open_it(struct challenges *c, enum challenge_type type, const char *name,
		   const char *token)
{
	struct challenge ch = of(type, name, token);
	return challenges_open(c, &ch, km_now_ms() + 600000);
}

static bool http(struct challenges *c, const char *host, const char *token, char *out)
{
	char text[CHALLENGE_KEY_AUTH_MAX + 1];
	bool found = challenges_http(c, host, token, strlen(token), text);
	if (found && out)
		strcpy(out, text);
	return found;
}

static void http_01(void **state)
{
	struct challenges *c = challenges_new(served, served_token);
	char text[CHALLENGE_KEY_AUTH_MAX + 1];
	(void)state;
	served_times = 0;
	assert_false(http(c, "a.test", "tok-1_X", NULL));
	assert_int_equal(open_it(c, CHALLENGE_HTTP, "a.test", "tok-1_X"), 0);
	assert_true(http(c, "a.test", "tok-1_X", text));
	assert_string_equal(text, "tok-1_X." THUMB);
	assert_string_equal(served_token, "tok-1_X");
	assert_int_equal(served_times, 1);
	assert_false(http(c, "b.test", "tok-1_X", NULL));
	assert_false(http(c, "a.test", "tok-1_Y", NULL));
	assert_false(http(c, "a.test", "", NULL));
	assert_false(http(c, "a.test", "../tok", NULL));
	assert_false(challenges_http(c, "a.test", "tok-1_X", 6, text));
	assert_int_equal(served_times, 1);
	/* The same token again, for another name: it moves. */
	assert_int_equal(open_it(c, CHALLENGE_HTTP, "b.test", "tok-1_X"), 0);
	assert_false(http(c, "a.test", "tok-1_X", NULL));
	assert_true(http(c, "b.test", "tok-1_X", NULL));
	challenges_close(c, "unknown");
	challenges_close(c, "tok-1_X");
	assert_false(http(c, "b.test", "tok-1_X", NULL));
	/* IP addresses, as a Host has them. */
	assert_int_equal(open_it(c, CHALLENGE_HTTP, "192.0.2.7", "t4"), 0);
	assert_int_equal(open_it(c, CHALLENGE_HTTP, "2001:db8::7", "t6"), 0);
	assert_true(http(c, "192.0.2.7", "t4", NULL));
	assert_true(http(c, "[2001:db8:0::7]", "t6", NULL));
	assert_false(http(c, "[2001:db8::8]", "t6", NULL));
	assert_false(http(c, "[", "t6", NULL));
	assert_false(http(c, "[]", "t6", NULL));
	challenges_free(c);
}

static void refused(void **state)
{
	struct challenges *c = challenges_new(NULL, NULL);
	struct challenge ch;
	static const char *const tokens[] = {"", "a.b", "a/b", "a b", "a\n", "a=", "\xc3\xa9"};
	static const char *const names[] = {"", "A.test", "a..test", "*.a.test", "a test", "a.test/"};
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(tokens); i++)
		assert_int_equal(open_it(c, CHALLENGE_HTTP, "a.test", tokens[i]), KM_EINVAL);
	for (size_t i = 0; i < KM_ARRAY_LEN(names); i++)
		assert_int_equal(open_it(c, CHALLENGE_ALPN_TLS, names[i], "tok"), KM_EINVAL);
	ch = of(CHALLENGE_HTTP, "a.test", "tok");
	snprintf(ch.key_auth, sizeof(ch.key_auth), "other." THUMB);
	assert_int_equal(challenges_open(c, &ch, INT64_MAX), KM_EINVAL);
	snprintf(ch.key_auth, sizeof(ch.key_auth), "tok." THUMB "\r\nX: y");
	assert_int_equal(challenges_open(c, &ch, INT64_MAX), KM_EINVAL);
	ch = of(CHALLENGE_HTTP, "a.test", "tok");
	memset(ch.name, 'a', sizeof(ch.name));
	assert_int_equal(challenges_open(c, &ch, INT64_MAX), KM_EINVAL);
	ch = of((enum challenge_type)7, "a.test", "tok");
	assert_int_equal(challenges_open(c, &ch, INT64_MAX), KM_EINVAL);
	challenges_free(c);
}

static void bounded_and_expiring(void **state)
{
	struct challenges *c = challenges_new(NULL, NULL);
	struct challenge ch;
	char token[32];
	int64_t now = km_now_ms();
	(void)state;
	for (int i = 0; i < CHALLENGES_MAX; i++) {
		snprintf(token, sizeof(token), "t%d", i);
		ch = of(CHALLENGE_HTTP, "a.test", token);
		assert_int_equal(challenges_open(c, &ch, i % 2 ? now - 1 : now + 600000), 0);
	}
	assert_int_equal(open_it(c, CHALLENGE_HTTP, "a.test", "more"), KM_EFULL);
	assert_int_equal(open_it(c, CHALLENGE_HTTP, "a.test", "t2"), 0);
	assert_true(http(c, "a.test", "t0", NULL));
	assert_false(http(c, "a.test", "t1", NULL)); /* expired, though still there */
	challenges_tidy(c, now);
	assert_int_equal(open_it(c, CHALLENGE_HTTP, "a.test", "more"), 0);
	assert_true(http(c, "a.test", "more", NULL));
	challenges_free(c);
}

static bool alpn(struct challenges *c, const char *sni, const char *name, const char *token)
{
	struct challenge ch = of(CHALLENGE_ALPN_TLS, name, token);
	static const uint8_t head[] = {0x30, 0x31, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07,
				       0x01, 0x1f, 0x01, 0x01, 0xff, 0x04, 0x22, 0x04, 0x20};
	X509 *cert;
	EVP_PKEY *key;
	uint8_t want[sizeof(head) + 32], *der = NULL;
	bool ok = false;
	if (!challenges_alpn(c, sni, &cert, &key))
		return false;
	memcpy(want, head, sizeof(head));
	km_sha256(want + sizeof(head), ch.key_auth, strlen(ch.key_auth));
	for (int i = 0; i < X509_get_ext_count(cert); i++) {
		int n = i2d_X509_EXTENSION(X509_get_ext(cert, i), &der);
		ok |= n == sizeof(want) && !memcmp(der, want, sizeof(want));
		OPENSSL_free(der);
		der = NULL;
	}
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	assert_int_equal(sk_GENERAL_NAME_num(names), 1);
	GENERAL_NAMES_free(names);
	ok = ok && (X509_check_host(cert, name, 0, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, NULL) == 1 ||
		    X509_check_ip_asc(cert, name, 0) == 1);
	assert_int_equal(X509_check_private_key(cert, key), 1);
	X509_free(cert);
	EVP_PKEY_free(key);
	return ok;
}

static void tls_alpn_01(void **state)
{
	struct challenges *c = challenges_new(served, served_token);
	static const char v6[] = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
	(void)state;
	served_times = 0;
	assert_false(alpn(c, "a.test", "a.test", "t1"));
	assert_int_equal(open_it(c, CHALLENGE_ALPN_TLS, "a.test", "t1"), 0);
	assert_true(alpn(c, "a.test", "a.test", "t1"));
	assert_string_equal(served_token, "t1");
	assert_int_equal(served_times, 1);
	assert_false(http(c, "a.test", "t1", NULL)); /* the types do not mix */
	assert_int_equal(open_it(c, CHALLENGE_HTTP, "b.test", "t2"), 0);
	assert_false(alpn(c, "b.test", "b.test", "t2"));
	/* Two gateways for one name: the latest is shown, the other when that one has gone. */
	assert_int_equal(open_it(c, CHALLENGE_ALPN_TLS, "a.test", "t3"), 0);
	assert_true(alpn(c, "a.test", "a.test", "t3"));
	challenges_close(c, "t3");
	assert_true(alpn(c, "a.test", "a.test", "t1"));
	challenges_close(c, "t1");
	assert_false(alpn(c, "a.test", "a.test", "t1"));
	/* Expired: not shown, though still there. */
	struct challenge ch = of(CHALLENGE_ALPN_TLS, "a.test", "t5");
	assert_int_equal(challenges_open(c, &ch, km_now_ms() - 1), 0);
	assert_false(alpn(c, "a.test", "a.test", "t5"));
	/* IP addresses come by their reverse names. */
	assert_int_equal(open_it(c, CHALLENGE_ALPN_TLS, "192.0.2.7", "t4"), 0);
	assert_int_equal(open_it(c, CHALLENGE_ALPN_TLS, "2001:db8::7", "t6"), 0);
	assert_false(alpn(c, "192.0.2.7", "192.0.2.7", "t4"));
	assert_true(alpn(c, "7.2.0.192.in-addr.arpa", "192.0.2.7", "t4"));
	assert_true(alpn(c, v6, "2001:db8::7", "t6"));
	challenges_free(c);
}

struct seen {
	int n, alpn;
};

static void look(void *arg, const struct challenge *ch)
{
	struct seen *s = arg;
	s->n++;
	s->alpn += ch->type == CHALLENGE_ALPN_TLS;
}

static void each(void **state)
{
	struct challenges *c = challenges_new(NULL, NULL);
	struct seen s = {0};
	(void)state;
	assert_int_equal(open_it(c, CHALLENGE_HTTP, "a.test", "t1"), 0);
	assert_int_equal(open_it(c, CHALLENGE_ALPN_TLS, "a.test", "t2"), 0);
	challenges_each(c, look, &s);
	assert_int_equal(s.n, 2);
	assert_int_equal(s.alpn, 1);
	challenges_free(c);
	challenges_free(NULL);
}

/* ---- readers beside the writer: for ThreadSanitizer ---- */

static _Atomic bool over;

static void *read_on(void *arg)
{
	size_t found = 0;
	while (!atomic_load(&over)) {
		X509 *cert;
		EVP_PKEY *key;
		char out[CHALLENGE_KEY_AUTH_MAX + 1];
		found += challenges_http(arg, "a.test", "h", 1, out);
		if (challenges_alpn(arg, "a.test", &cert, &key)) {
			X509_free(cert);
			EVP_PKEY_free(key);
			found++;
		}
	}
	return (void *)found;
}

static void threads(void **state)
{
	struct challenges *c = challenges_new(NULL, NULL);
	pthread_t t[3];
	(void)state;
	atomic_store(&over, false);
	for (size_t i = 0; i < KM_ARRAY_LEN(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, read_on, c), 0);
	for (int i = 0; i < 300; i++) {
		assert_int_equal(open_it(c, CHALLENGE_HTTP, "a.test", "h"), 0);
		assert_int_equal(open_it(c, CHALLENGE_ALPN_TLS, "a.test", "a"), 0);
		if (i % 3 == 0)
			challenges_close(c, "a");
		if (i % 3 == 1)
			challenges_tidy(c, INT64_MAX);
	}
	atomic_store(&over, true);
	for (size_t i = 0; i < KM_ARRAY_LEN(t); i++)
		pthread_join(t[i], NULL);
	challenges_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(http_01),     cmocka_unit_test(refused),
	    cmocka_unit_test(tls_alpn_01), cmocka_unit_test(bounded_and_expiring),
	    cmocka_unit_test(each),        cmocka_unit_test(threads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
