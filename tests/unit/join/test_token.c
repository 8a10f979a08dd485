/* SPDX-License-Identifier: MIT */
/* Join tokens: written, read back, cut, changed. */
#include "libkm/base/util.h"
#include "libkm/join/token.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the standard headers */
#include <cmocka.h>

#define SECRET "kmj_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
#define PIN "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
#define CA "d198f1266bb4ff9547c9e9bc4655cefd37a473de8f915bf50fa504656163fbb7"

static char *example(void)
{
	char *urls[] = {"wss://control.example.org:3001", "wss://[2001:db8::1]:3001"},
	     *cas[] = {CA};
	struct km_join_token t = {.secret = SECRET, .urls = {urls, 2}, .pin = PIN, .cas = {cas, 1}};
	char *text = km_join_token_format(&t);

	assert_non_null(text);
	return text;
}

static void test_round_trip(void **state)
{
	char *text = example(), *spaced = km_xasprintf(" \n%s \r\n", text);
	struct km_errtext err = {""};
	struct km_join_token t;

	(void)state;
	assert_int_equal(strncmp(text, SECRET ".", sizeof(SECRET)), 0);
	assert_int_equal(km_join_token_parse(&t, spaced, &err), 0);
	assert_string_equal(t.secret, SECRET);
	assert_false(t.gateway);
	assert_int_equal(t.urls.n, 2);
	assert_string_equal(t.urls.items[1], "wss://[2001:db8::1]:3001");
	assert_string_equal(t.pin, PIN);
	assert_int_equal(t.cas.n, 1);
	assert_string_equal(t.cas.items[0], CA);
	km_join_token_free(&t);
	assert_null(t.pin);
	free(text);
	free(spaced);
}

/* No part of a token is one, and the sentence never tells the secret. */
static void test_cut(void **state)
{
	char *text = example();
	struct km_join_token t;
	struct km_errtext err;

	(void)state;
	for (size_t n = strlen(text); n-- > 0;) {
		text[n] = 0;
		err.text[0] = 0;
		assert_int_equal(km_join_token_parse(&t, text, &err), KM_EINVAL);
		assert_true(strlen(err.text) > 10);
		assert_null(strstr(err.text, "AAAAAAAA"));
		km_join_token_free(&t);
	}
	free(text);
}

static char *with(const char *json)
{
	size_t n = strlen(json);
	char *text = malloc(sizeof(SECRET) + 1 + KM_B64_LEN(n));

	assert_non_null(text);
	strcpy(text, SECRET ".");
	km_b64url(json, n, text + strlen(text));
	return text;
}

static void test_facts(void **state)
{
	static const struct {
		const char *json, *says;
	} bad[] = {
	    {"[]", "damaged"},
	    {"{}", "another version"},
	    {"{\"v\":2}", "another version"},
	    {"{\"v\":1}", "neither agent nor gateway"},
	    {"{\"v\":1,\"t\":\"user\"}", "neither agent nor gateway"},
	    {"{\"v\":1,\"t\":\"agent\",\"t\":\"gateway\"}", "damaged"},
	    {"{\"v\":1,\"t\":\"agent\",\"p\":\"sha256//x\"}", "no pin"},
	    {"{\"v\":1,\"t\":\"agent\",\"p\":\"" PIN "\"}", "a list"},
	    {"{\"v\":1,\"t\":\"agent\",\"p\":\"" PIN "\",\"u\":[]}", "where control is"},
	    {"{\"v\":1,\"t\":\"agent\",\"p\":\"" PIN "\",\"u\":[\"http://a\"]}", "http://a"},
	    {"{\"v\":1,\"t\":\"agent\",\"p\":\"" PIN "\",\"u\":[7]}", "not a text"},
	    {"{\"v\":1,\"t\":\"agent\",\"p\":\"" PIN "\",\"u\":[\"wss://a:1\"],\"c\":[\"00\"]}",
	     "64 hexadecimal"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char *text = with(bad[i].json);
		struct km_errtext err = {""};
		struct km_join_token t;

		assert_int_equal(km_join_token_parse(&t, text, &err), KM_EINVAL);
		if (!strstr(err.text, bad[i].says))
			fail_msg("%s: \"%s\" does not say \"%s\"", bad[i].json, err.text,
				 bad[i].says);
		km_join_token_free(&t);
		free(text);
	}
}

static void test_long(void **state)
{
	char *text = malloc(KM_JOIN_TOKEN_MAX + 2);
	struct km_join_token t;
	struct km_errtext err;

	(void)state;
	assert_non_null(text);
	memset(text, 'A', KM_JOIN_TOKEN_MAX + 1);
	text[KM_JOIN_TOKEN_MAX + 1] = 0;
	assert_int_equal(km_join_token_parse(&t, text, &err), KM_ETOOBIG);
	km_join_token_free(&t);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_round_trip),
	    cmocka_unit_test(test_cut),
	    cmocka_unit_test(test_facts),
	    cmocka_unit_test(test_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
