/* SPDX-License-Identifier: MIT */
#include "agentd/forward/allow.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct allow *make(const char *entry)
{
	struct km_errtext err = {0};
	struct allow *a = NULL;

	if (allow_new(&a, &entry, 1, &err) != 0)
		fail_msg("%s: %s", entry, err.text);
	return a;
}

static void addresses(void **state)
{
	static const struct {
		const char *entry, *host, *addr;
		uint16_t port;
		bool want;
	} cases[] = {
	    {"127.0.0.0/8:*", NULL, "127.0.0.1", 80, true},
	    {"127.0.0.0/8:*", NULL, "127.255.3.4", 65535, true},
	    {"127.0.0.0/8:*", NULL, "128.0.0.1", 80, false},
	    {"127.0.0.0/8:*", NULL, "0.0.0.0", 80, false},
	    {"127.0.0.0/8:*", NULL, "::1", 80, false},
	    {"127.0.0.0/8:*", NULL, "::ffff:127.0.0.1", 80, true},
	    {"127.0.0.0/8:*", "evil.test", "10.0.0.1", 80, false},
	    {"127.0.0.0/8:*", "evil.test", "127.0.0.1", 80, true},
	    {"[::1]:*", NULL, "::1", 22, true},
	    {"[::1]:*", NULL, "::2", 22, false},
	    {"[::]/0:*", NULL, "::ffff:10.0.0.1", 80, false},
	    {"[2001:db8::]/32:443", NULL, "2001:db8:1::1", 443, true},
	    {"[2001:db8::]/32:443", NULL, "2001:db8:1::1", 444, false},
	    {"[2001:db8::]/32:443", NULL, "2001:db9::1", 443, false},
	    {"10.0.0.5:8000-8100", NULL, "10.0.0.5", 8000, true},
	    {"10.0.0.5:8000-8100", NULL, "10.0.0.5", 8100, true},
	    {"10.0.0.5:8000-8100", NULL, "10.0.0.5", 8101, false},
	    {"10.0.0.5:8000-8100", NULL, "10.0.0.5", 7999, false},
	    {"10.0.0.5:8000-8100", NULL, "10.0.0.6", 8000, false},
	    {"192.168.0.0/16:80", NULL, "192.168.200.1", 80, true},
	    {"nas.lan:5000", "nas.lan", "10.9.9.9", 5000, true},
	    {"nas.lan:5000", "NAS.lan", "10.9.9.9", 5000, true},
	    {"nas.lan:5000", "nas.lan", "10.9.9.9", 5001, false},
	    {"nas.lan:5000", "other.lan", "10.9.9.9", 5000, false},
	    {"nas.lan:5000", NULL, "10.9.9.9", 5000, false},
	    {"localhost:8080", "localhost", "127.0.0.1", 8080, true},
	    {"localhost:8080", NULL, "::1", 8080, true},
	    {"localhost:8080", "localhost", "10.0.0.1", 8080, false},
	    {"unix:/run/app.sock", NULL, "127.0.0.1", 80, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct allow *a = make(cases[i].entry);
		struct km_addr addr;

		assert_int_equal(km_addr_parse(&addr, cases[i].addr), 0);
		if (allow_addr(a, cases[i].host, &addr, cases[i].port) != cases[i].want)
			fail_msg("%s and %s (%s) port %u", cases[i].entry, cases[i].addr,
				 cases[i].host ? cases[i].host : "-", cases[i].port);
		allow_free(a);
	}
}

static void sockets(void **state)
{
	struct allow *a = make("unix:/run/app.sock"), *b = make("0.0.0.0/0:*");

	(void)state;
	assert_true(allow_unix(a, "/run/app.sock"));
	assert_false(allow_unix(a, "/run/app.sock2"));
	assert_false(allow_unix(a, "/run/../run/app.sock"));
	assert_false(allow_unix(b, "/run/app.sock"));
	allow_free(a);
	allow_free(b);
}

static void malformed(void **state)
{
	static const char *const cases[] = {
	    "",
	    "127.0.0.1",
	    "127.0.0.1:",
	    "127.0.0.1:0",
	    "127.0.0.1:65536",
	    "127.0.0.1:-",
	    "127.0.0.1:1-",
	    "127.0.0.1:9-8",
	    "127.0.0.1:1-2-3",
	    "127.0.0.1:http",
	    "127.0.0.1:+1",
	    "127.0.0.1/33:*",
	    "127.0.0.256:*",
	    "127.1:*",
	    "::1:80",
	    "[::1]",
	    "[::1:80",
	    "[::1]80:80",
	    "[::1]/129:80",
	    "[127.0.0.1]:80",
	    "a b:80",
	    ":80",
	    "unix:relative",
	    "unix:",
	    "nas.lan/8:80",
	    "*:80",
	    "127.0.0.1:999999999999",
	};
	struct km_errtext err;

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct allow *a = NULL;

		if (allow_check(cases[i]) == NULL)
			fail_msg("taken: %s", cases[i]);
		assert_int_equal(allow_new(&a, &cases[i], 1, &err), KM_EINVAL);
		assert_null(a);
		assert_non_null(strstr(err.text, cases[i]));
	}
}

static void targets_before_resolving(void **state)
{
	static const struct {
		const char *entry, *target;
		enum allow_verdict want;
	} cases[] = {
	    {"127.0.0.0/8:*", "127.0.0.1:80", ALLOW_YES},
	    {"127.0.0.0/8:*", "localhost:80", ALLOW_YES},
	    {"127.0.0.0/8:*", "LOCALHOST:80", ALLOW_YES},
	    {"[::1]:80", "localhost:80", ALLOW_YES},
	    {"[::1]:80", "localhost:81", ALLOW_NO},
	    {"127.0.0.0/8:*", "10.0.0.1:80", ALLOW_NO},
	    {"127.0.0.0/8:80", "nas.lan:80", ALLOW_WHEN_RESOLVED},
	    {"127.0.0.0/8:80", "nas.lan:81", ALLOW_NO},
	    {"127.0.0.0/8:*", "unix:/run/docker.sock", ALLOW_NO},
	    {"unix:/run/app.sock", "unix:/run/app.sock", ALLOW_YES},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct allow *a = make(cases[i].entry);
		struct km_target t;

		assert_int_equal(km_target_parse(&t, cases[i].target, NULL), 0);
		if (allow_target(a, &t) != cases[i].want)
			fail_msg("%s and %s", cases[i].entry, cases[i].target);
		allow_free(a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(addresses),
	    cmocka_unit_test(sockets),
	    cmocka_unit_test(malformed),
	    cmocka_unit_test(targets_before_resolving),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
