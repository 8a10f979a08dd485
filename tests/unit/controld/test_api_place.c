/* SPDX-License-Identifier: MIT */
/* Paths and targets as people write them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "controld/api/place.h"
#include <stdlib.h>
#include <string.h>

static void tunnel_paths(void **state)
{
	static const char *const rows[][2] = {
	    {"/", ""},
	    {"/api", "/api"},
	    {"/api/", "/api"},
	    {"/a/b.c/~d", "/a/b.c/~d"},
	    {"/%61%2D%7e", "/a-~"},
	    {"/a%3ab%c3%A9", "/a%3Ab%C3%A9"},
	    {"/stra\xc3\x9f"
	     "e",
	     "/stra%C3%9Fe"},
	    {"/[x]|\"", "/%5Bx%5D%7C%22"},
	    {"/a%20b", "/a%20b"},
	    {"/!$&'()*+,=:@", "/!$&'()*+,=:@"},
	    {"/...", "/..."},
	    {"/a..", "/a.."},
	    {"", NULL},
	    {"api", NULL},
	    {"//", NULL},
	    {"//a", NULL},
	    {"/a//b", NULL},
	    {"/a//", NULL},
	    {"/.", NULL},
	    {"/..", NULL},
	    {"/a/../b", NULL},
	    {"/a/./b", NULL},
	    {"/a/..", NULL},
	    {"/%2e%2E/b", NULL},
	    {"/.%2e", NULL},
	    {"/a%2fb", NULL},
	    {"/a%5Cb", NULL},
	    {"/a\\b", NULL},
	    {"/a;b", NULL},
	    {"/a?b", NULL},
	    {"/a#b", NULL},
	    {"/a b", NULL},
	    {"/a\tb", NULL},
	    {"/a%", NULL},
	    {"/a%4", NULL},
	    {"/a%4g", NULL},
	    {"/a%00", NULL},
	    {"/a%0a", NULL},
	    {"/a%7f", NULL},
	    {"/a\x7f", NULL},
	};
	struct km_errtext err;
	char out[PLACE_PATH_STRLEN];
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		err.text[0] = '\0';
		int rc = place_tunnel_path(out, rows[i][0], &err);
		if (rc != (rows[i][1] ? 0 : KM_EINVAL))
			fail_msg("%s: %d %s", rows[i][0], rc, err.text);
		if (rc == 0)
			assert_string_equal(out, rows[i][1]);
		else
			assert_true(err.text[0]);
	}
}

/* The bound is of the stored form, and nothing is written behind it. */
static void long_paths(void **state)
{
	struct {
		char out[PLACE_PATH_STRLEN], guard;
	} room = {.guard = 'g'};
	struct km_errtext err;
	char *in = malloc(5000);
	(void)state;
	assert_non_null(in);
	for (size_t n = 340; n <= 1026; n++) {
		memset(in, 'a', n);
		in[0] = '/';
		in[n] = '\0';
		assert_int_equal(place_path(room.out, in, &err), n <= 1024 ? 0 : KM_EINVAL);
		memset(in + 1, '|', n - 1); /* three bytes each */
		assert_int_equal(place_path(room.out, in, &err), n <= 342 ? 0 : KM_EINVAL);
		assert_int_equal(room.guard, 'g');
	}
	free(in);
}

static void below(void **state)
{
	(void)state;
	assert_true(place_path_below("/a", ""));
	assert_true(place_path_below("/a", "/a"));
	assert_true(place_path_below("/a/", "/a"));
	assert_true(place_path_below("/a/b*", "/a"));
	assert_false(place_path_below("/ab", "/a"));
	assert_false(place_path_below("/a*", "/a"));
	assert_false(place_path_below("/", "/a"));
}

static void targets(void **state)
{
	static const struct {
		const char *in, *address, *protocol;
	} rows[] = {
	    {"127.0.0.1:80", "127.0.0.1:80", NULL},
	    {"unix:/run/x", "unix:/run/x", NULL},
	    {"unix:/run/a://b", "unix:/run/a://b", NULL},
	    {"https://10.0.0.5:8443", "10.0.0.5:8443", "https"},
	    {"HTTPS://Box.lan", "Box.lan:443", "https"},
	    {"http://app/", "app:80", "http"},
	    {"h2c://[::1]", "[::1]:80", "h2c"},
	    {"h2c://[::1]:50051", "[::1]:50051", "h2c"},
	    {"https://", NULL, NULL},
	    {"https:///", NULL, NULL},
	    {"https://:443", NULL, NULL},
	    {"https://a:", NULL, NULL},
	    {"https://a:0", NULL, NULL},
	    {"https://a/b", NULL, NULL},
	    {"https://a?b", NULL, NULL},
	    {"https://a#b", NULL, NULL},
	    {"https://user:secret@a", NULL, NULL},
	    {"ftp://a", NULL, NULL},
	    {"httpx://a", NULL, NULL},
	    {"://a", NULL, NULL},
	    {"https://a b", NULL, NULL},
	    {"https://[::1", NULL, NULL},
	    {"", NULL, NULL},
	    {":80", NULL, NULL},
	    {"a", NULL, NULL},
	};
	struct km_errtext err;
	struct place_target t;
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		err.text[0] = '\0';
		int rc = place_target(&t, rows[i].in, &err);
		if (rc != (rows[i].address ? 0 : KM_EINVAL))
			fail_msg("%s: %d %s", rows[i].in, rc, err.text);
		if (rc) {
			assert_true(err.text[0]);
			continue;
		}
		assert_string_equal(t.address, rows[i].address);
		assert_int_equal(!t.protocol, !rows[i].protocol);
		if (t.protocol)
			assert_string_equal(t.protocol, rows[i].protocol);
	}
}

static void long_targets(void **state)
{
	struct km_errtext err;
	struct place_target t;
	char in[700];
	(void)state;
	for (size_t n = 1; n < sizeof(in) - 20; n++) {
		strcpy(in, "https://");
		memset(in + 8, 'a', n);
		in[8 + n] = '\0';
		assert_int_equal(place_target(&t, in, &err), n <= 253 ? 0 : KM_EINVAL);
		strcpy(in + 8 + n, ":1");
		assert_int_equal(place_target(&t, in + 8, &err), n <= 253 ? 0 : KM_EINVAL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(tunnel_paths), cmocka_unit_test(long_paths),
	    cmocka_unit_test(below),        cmocka_unit_test(targets),
	    cmocka_unit_test(long_targets),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
