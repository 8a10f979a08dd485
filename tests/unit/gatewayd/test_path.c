/* SPDX-License-Identifier: MIT */
#include "gatewayd/route/path.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define S ROUTE_VIEW_SLASH
#define M ROUTE_VIEW_MERGE
#define P ROUTE_VIEW_PARAMS
#define D ROUTE_VIEW_PLAIN

static void test_tunnel_paths(void **state)
{
	static const char *const good[] = {"/",          "/a",     "/api/v1",
					   "/a.b",       "/...",   "/.well-known",
					   "/caf%C3%A9", "/a%20b", "/a:@!$&'()*+,=~-_"};
	static const char *const bad[] = {
	    "",        "a",         "//",   "/a/",     "/a//b",  "/.",         "/..",
	    "/a/../b", "/a/.",      "/%61", "/a%2Fb",  "/a%5Cb", "/caf%c3%a9", "/a%",
	    "/a%2",    "/a%zz",     "/a?b", "/a#b",    "/a b",   "/a;b",       "/a\\b",
	    "/a\n",    "/\xc3\xa9", "/%00", "/%2E%2E", "/a\"b",  "/<a>"};
	char text[ROUTE_PATH_MAX + 2];
	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(route_path_ok(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		if (route_path_ok(bad[i]))
			fail_msg("%s", bad[i]);
	memset(text, 'a', sizeof(text));
	text[0] = '/';
	text[ROUTE_PATH_MAX] = '\0';
	assert_true(route_path_ok(text));
	text[ROUTE_PATH_MAX] = 'a';
	text[ROUTE_PATH_MAX + 1] = '\0';
	assert_false(route_path_ok(text));
}

static void test_under(void **state)
{
	static const struct {
		const char *path, *prefix;
		bool under;
	} t[] = {
	    {"/api", "/api", true},   {"/api/", "/api", true}, {"/api/x", "/api", true},
	    {"/apix", "/api", false}, {"/ap", "/api", false},  {"/API", "/api", false},
	    {"/x", "", true},         {"/", "", true},         {"/api%2Fx", "/api", false},
	    {"/", "/api", false},     {"", "/api", false},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		assert_int_equal(route_path_under(t[i].path, strlen(t[i].path), t[i].prefix,
						  strlen(t[i].prefix)),
				 t[i].under);
	assert_int_equal(route_path_len("/api?q=/x", 9), 4);
	assert_int_equal(route_path_len("?q", 2), 0);
	assert_int_equal(route_path_len("/api", 4), 4);
	assert_int_equal(route_path_len(NULL, 0), 0);
}

static void test_which_views(void **state)
{
	static const struct {
		const char *path;
		unsigned views;
	} t[] = {
	    {"/", 0},
	    {"/api/v1/x.y", 0},
	    {"/a..b/c.", 0},
	    {"/a//b", M},
	    {"/a/", 0},
	    {"/a/./b", D},
	    {"/..", D},
	    {"/.x", D},
	    {"/%61", D},
	    {"/caf%c3%a9", D},
	    {"/%", D},
	    {"/a%2fb", S | M},
	    {"/a%2Fb", S | M},
	    {"/a%5cb", S | M},
	    {"/a\\b", S | M},
	    {"/a;b", P | M},
	    {"/a;b/../%2f", S | M | P | D},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		assert_int_equal(route_path_views(t[i].path, strlen(t[i].path)), t[i].views);
}

/* Through memory of the exact size, so that a sanitizer sees what lies outside. */
static void reads_as(const char *path, unsigned view, const char *want)
{
	size_t n = strlen(path);
	char *exact = malloc(n + !n), *out = malloc(ROUTE_PATH_VIEW);
	memcpy(exact, path, n);
	size_t len = route_path_view(out, exact, n, view);
	if (len != strlen(want) || memcmp(out, want, len))
		fail_msg("%s (%u): %.*s, not %s", path, view, (int)len, out, want);
	free(exact);
	free(out);
}

static void test_views(void **state)
{
	static const struct {
		const char *path;
		unsigned view;
		const char *reads;
	} t[] = {
	    {"/", 0, "/"},
	    {"", 0, "/"},
	    {"/a/b", 0, "/a/b"},
	    {"/a/b/", 0, "/a/b/"},
	    /* RFC 3986, 5.2.4 and 5.4 */
	    {"/a/b/c/./../../g", 0, "/a/g"},
	    {"/b/c/.", 0, "/b/c/"},
	    {"/b/c/..", 0, "/b/"},
	    {"/../g", 0, "/g"},
	    {"/b/c/g.", 0, "/b/c/g."},
	    {"/b/c/..g", 0, "/b/c/..g"},
	    {"/a//../b", 0, "/a/b"},
	    {"/a//../b", M, "/b"},
	    {"//a///b", M, "/a/b"},
	    {"//a", 0, "//a"},
	    {"/%61%2D%7E", 0, "/a-~"},
	    {"/%2e%2e/x", 0, "/x"},
	    {"/a/%2E./x", 0, "/x"},
	    {"/caf%c3%a9", 0, "/caf%C3%A9"},
	    {"/a%2fb", 0, "/a%2Fb"},
	    {"/a%2fb", S, "/a/b"},
	    {"/a%5c..%5Cb", S, "/b"},
	    {"/a\\b", 0, "/a\\b"},
	    {"/a\\..\\b", S, "/b"},
	    {"/a/..%2fb", 0, "/a/..%2Fb"},
	    {"/a/..%2fb", S, "/b"},
	    {"/a%2f%2fb", S | M, "/a/b"},
	    {"/a;x=1/b;y", P, "/a/b"},
	    {"/a/..;/b", P, "/b"},
	    {"/a/..;x", P, "/"},
	    {"/a/;x/b", P, "/a//b"},
	    {"/a/;x/b", P | M, "/a/b"},
	    {"/a;%2fb", P, "/a"},
	    {"/a;%2fb", P | S, "/a/b"},
	    {"/a%", 0, "/a%"},
	    {"/a%4", 0, "/a%4"},
	    {"/%252e%252e/x", S | M | P, "/%252e%252e/x"}, /* decoded once */
	    {"/x/../../../..", 0, "/"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		reads_as(t[i].path, t[i].view, t[i].reads);
}

/* What is longer than any tunnel's path is not kept, but counted: ".." comes back out of it. */
static void test_long(void **state)
{
	static char path[100000], out[ROUTE_PATH_VIEW];
	size_t n = 0, len;
	(void)state;
	n = (size_t)sprintf(path, "/api");
	for (int i = 0; i < 10000; i++)
		n += (size_t)sprintf(path + n, "/x");
	len = route_path_view(out, path, n, 0);
	assert_true(len <= ROUTE_PATH_VIEW && route_path_under(out, len, "/api/x", 6));
	for (int i = 0; i < 10000; i++)
		n += (size_t)sprintf(path + n, "/..");
	len = route_path_view(out, path, n, 0);
	assert_int_equal(len, 5);
	assert_memory_equal(out, "/api/", 5);
	n += (size_t)sprintf(path + n, "/../y");
	len = route_path_view(out, path, n, 0);
	assert_int_equal(len, 2);
	assert_memory_equal(out, "/y", 2);

	/* One segment that is too long. */
	n = (size_t)sprintf(path, "/api/");
	memset(path + n, 'z', 5000);
	n += 5000;
	len = route_path_view(out, path, n, 0);
	assert_true(route_path_under(out, len, "/api", 4));
	n += (size_t)sprintf(path + n, "/../../y");
	len = route_path_view(out, path, n, 0);
	assert_int_equal(len, 2);
	assert_memory_equal(out, "/y", 2);
}

static void test_random(void **state)
{
	static const char bits[] = "/.%2feE5cC;\\a%%//..";
	char path[1200], out[ROUTE_PATH_VIEW];
	uint32_t seed = 1;
	(void)state;
	for (int round = 0; round < 20000; round++) {
		size_t n = 1;
		path[0] = '/';
		seed = seed * 1664525 + 1013904223;
		for (size_t want = (seed >> 8) % (round % 50 ? 40 : 1200); n < want; n++) {
			seed = seed * 1664525 + 1013904223;
			path[n] = bits[(seed >> 16) % (sizeof(bits) - 1)];
		}
		unsigned views = route_path_views(path, n);
		for (unsigned v = 0; v < 8; v++) {
			size_t len = route_path_view(out, path, n, v);
			assert_true(len >= 1 && len <= ROUTE_PATH_VIEW && out[0] == '/');
			/* Without any of the marks all readings are the bytes. */
			if (!views)
				assert_true(len == n && !memcmp(out, path, n));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_tunnel_paths), cmocka_unit_test(test_under),
	    cmocka_unit_test(test_which_views),  cmocka_unit_test(test_views),
	    cmocka_unit_test(test_long),         cmocka_unit_test(test_random),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
