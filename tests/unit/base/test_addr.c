/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "libkm/base/addr.h"
#include "libkm/base/prefixes.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

static void addresses(void **state)
{
	static const struct {
		const char *in, *out; /* out NULL: refused */
	} table[] = {
	    {"10.1.0.100", "10.1.0.100"},
	    {"0.0.0.0", "0.0.0.0"},
	    {"255.255.255.255", "255.255.255.255"},
	    {"2001:db8::1", "2001:db8::1"},
	    {"2001:DB8:0:0:0:0:0:1", "2001:db8::1"},
	    {"::", "::"},
	    {"::ffff:10.0.0.1", "::ffff:10.0.0.1"},
	    {"ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255",
	     "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	    {"", NULL},
	    {"10.1", NULL},
	    {"010.1.1.1", NULL},
	    {"0x7f.0.0.1", NULL},
	    {"256.1.1.1", NULL},
	    {"1.2.3.4 ", NULL},
	    {" 1.2.3.4", NULL},
	    {"[::1]", NULL},
	    {"fe80::1%eth0", NULL},
	    {":::", NULL},
	    {"1:2:3:4:5:6:7:8:9", NULL},
	    {"localhost", NULL},
	};
	char text[KM_ADDR_STRLEN];
	struct km_addr a;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		int err = km_addr_parse(&a, table[i].in);

		assert_int_equal(err, table[i].out ? 0 : KM_EINVAL);
		if (!err)
			assert_string_equal(km_addr_str(&a, text), table[i].out);
	}
	a = (struct km_addr){0};
	assert_string_equal(km_addr_str(&a, text), "-");
}

static void loopback(void **state)
{
	static const struct {
		const char *in;
		bool is;
	} table[] = {
	    {"127.0.0.1", true},	{"127.255.0.3", true},	 {"::1", true},
	    {"::ffff:127.0.0.1", true}, {"128.0.0.1", false},	 {"0.0.0.0", false},
	    {"::", false},		{"::127.0.0.1", false},	 {"10.0.0.1", false},
	    {"::2", false},		{"::ffff:10.0.0.1", false},
	};
	struct km_addr a = {0};

	(void)state;
	assert_false(km_addr_is_loopback(&a));
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		assert_int_equal(km_addr_parse(&a, table[i].in), 0);
		assert_int_equal(km_addr_is_loopback(&a), table[i].is);
	}
}

static void sockaddrs(void **state)
{
	static const struct {
		const char *in, *out, *endpoint;
		socklen_t len;
	} table[] = {
	    {"10.1.2.3", "10.1.2.3", "10.1.2.3:8080", sizeof(struct sockaddr_in)},
	    {"2001:db8::1", "2001:db8::1", "[2001:db8::1]:8080", sizeof(struct sockaddr_in6)},
	    {"::ffff:10.0.0.1", "10.0.0.1", "[::ffff:10.0.0.1]:8080", sizeof(struct sockaddr_in6)},
	};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	char text[KM_ENDPOINT_STRLEN];
	struct sockaddr_storage ss;
	struct km_addr a, b;
	uint16_t port;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		assert_int_equal(km_addr_parse(&a, table[i].in), 0);
		assert_string_equal(km_endpoint_str(&a, 8080, text), table[i].endpoint);
		assert_int_equal(km_addr_to_sa(&ss, &a, 8080), table[i].len);
		assert_int_equal(km_addr_from_sa(&b, &port, (struct sockaddr *)&ss), 0);
		assert_int_equal(port, 8080);
		assert_int_equal(km_addr_parse(&a, table[i].out), 0);
		assert_true(km_addr_eq(&a, &b));
	}
	assert_int_equal(km_addr_from_sa(&b, NULL, (struct sockaddr *)&un), KM_EUNSUPPORTED);
}

static void prefixes(void **state)
{
	static const struct {
		const char *in, *out;
	} table[] = {
	    {"10.1.0.0/24", "10.1.0.0/24"},
	    {"10.1.0.7/24", "10.1.0.7/24"},
	    {"10.1.0.7", "10.1.0.7/32"},
	    {"0.0.0.0/0", "0.0.0.0/0"},
	    {"2001:db8::/33", "2001:db8::/33"},
	    {"::1", "::1/128"},
	    {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
	     "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"},
	    {"10.0.0.0/33", NULL},
	    {"::/129", NULL},
	    {"10.0.0.0/", NULL},
	    {"10.0.0.0/08", NULL},
	    {"10.0.0.0/-1", NULL},
	    {"10.0.0.0/8/8", NULL},
	    {"10.0.0.0/ 8", NULL},
	    {"10.0.0.0/99999999999999999999", NULL},
	    {"/8", NULL},
	    {"", NULL},
	    {"0000000000000000000000000000000000000000000000000000::/8", NULL},
	};
	char text[KM_PREFIX_STRLEN];
	struct km_prefix p;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		int err = km_prefix_parse(&p, table[i].in);

		assert_int_equal(err, table[i].out ? 0 : KM_EINVAL);
		if (!err)
			assert_string_equal(km_prefix_str(&p, text), table[i].out);
	}
}

static void membership(void **state)
{
	static const struct {
		const char *prefix, *addr;
		bool has;
	} table[] = {
	    {"10.1.0.0/24", "10.1.0.0", true},	   {"10.1.0.0/24", "10.1.0.255", true},
	    {"10.1.0.9/24", "10.1.0.1", true},	   {"10.1.0.0/24", "10.1.1.0", false},
	    {"10.1.0.0/23", "10.1.1.255", true},   {"10.1.0.0/31", "10.1.0.2", false},
	    {"0.0.0.0/0", "255.1.2.3", true},	   {"0.0.0.0/0", "::1", false},
	    {"::/0", "10.0.0.1", false},	   {"2001:db8::/33", "2001:db8:7fff::", true},
	    {"2001:db8::/33", "2001:db8:8000::", false},
	    {"10.1.0.1", "10.1.0.1", true},	   {"::1", "::1", true},
	    {"::1", "::2", false},
	};
	struct km_prefix p, q;
	struct km_addr a;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		assert_int_equal(km_prefix_parse(&p, table[i].prefix), 0);
		assert_int_equal(km_addr_parse(&a, table[i].addr), 0);
		assert_int_equal(km_prefix_has(&p, &a), table[i].has);
	}
	assert_int_equal(km_prefix_parse(&p, "10.0.0.0/8"), 0);
	assert_int_equal(km_prefix_parse(&q, "10.0.0.0/9"), 0);
	assert_false(km_prefix_eq(&p, &q));
	assert_int_equal(km_prefix_parse(&q, "10.0.0.0/8"), 0);
	assert_true(km_prefix_eq(&p, &q));
	for (size_t i = 0; i < 2; i++) {
		const char *text = i ? "2001:db8::1" : "10.1.2.3";
		assert_int_equal(km_addr_parse(&a, text), 0);
		assert_int_equal(km_prefix_parse(&q, text), 0);
		p = km_prefix_of(&a);
		assert_memory_equal(&p, &q, sizeof(p));
	}
}

#define A50 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static void host_and_port(void **state)
{
	static const struct {
		const char *in, *host; /* host NULL: refused */
		uint16_t port;
		bool is_addr;
	} table[] = {
	    {"localhost:8080", "localhost", 8080, false},
	    {"a_b-c.example.:1", "a_b-c.example.", 1, false},
	    {"10.0.0.1:65535", "10.0.0.1", 65535, true},
	    {"[::1]:80", "::1", 80, true},
	    {"[::]:3000", "::", 3000, true},
	    {":9101", "", 9101, false},
	    {"9101", "", 9101, false},
	    {"3com:80", "3com", 80, false},
	    {A50 A50 A50 A50 A50 "aaa:80", A50 A50 A50 A50 A50 "aaa", 80, false},
	    {A50 A50 A50 A50 A50 "aaaa:80", NULL, 0, false},
	    {"", NULL, 0, false},
	    {":", NULL, 0, false},
	    {"localhost", NULL, 0, false},
	    {"localhost:", NULL, 0, false},
	    {"localhost:0", NULL, 0, false},
	    {"localhost:65536", NULL, 0, false},
	    {"localhost:080", NULL, 0, false},
	    {"localhost:+80", NULL, 0, false},
	    {"localhost:80 ", NULL, 0, false},
	    {"::1:80", NULL, 0, false},
	    {"[::1]", NULL, 0, false},
	    {"[]:80", NULL, 0, false},
	    {"[10.0.0.1]:80", NULL, 0, false},
	    {"[fe80::1%1]:80", NULL, 0, false},
	    {"[::1:80", NULL, 0, false},
	    {"10.0.0.256:80", NULL, 0, false},
	    {"-option:80", NULL, 0, false},
	    {"a..b:80", NULL, 0, false},
	    {".a:80", NULL, 0, false},
	    {"a b:80", NULL, 0, false},
	    {"a/b:80", NULL, 0, false},
	    {"user@host:80", NULL, 0, false},
	    {"http://host:80", NULL, 0, false},
	    {"h\xc3\xb6st:80", NULL, 0, false},
	};
	struct km_hostport hp;
	struct km_errtext err;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		err.text[0] = '\0';
		if (km_hostport_parse(&hp, table[i].in, &err)) {
			if (table[i].host)
				fail_msg("%s: %s", table[i].in, err.text);
			assert_string_not_equal(err.text, "");
			continue;
		}
		if (!table[i].host)
			fail_msg("\"%s\" was taken", table[i].in);
		assert_string_equal(hp.host, table[i].host);
		assert_int_equal(hp.port, table[i].port);
		assert_int_equal(hp.is_addr, table[i].is_addr);
	}
	assert_int_equal(km_hostport_parse(&hp, "", NULL), KM_EINVAL);
}

static void targets(void **state)
{
	static const struct {
		const char *in, *what;
		bool ok;
	} table[] = {
	    {"localhost:8080", "localhost", true},
	    {"unix:/run/app.sock", "/run/app.sock", true},
	    {"unix:/" A50 A50 "aaaaaa", "/" A50 A50 "aaaaaa", true},
	    {"unix:/" A50 A50 "aaaaaaa", "107", false},
	    {"unix:run/app.sock", "begin", false},
	    {"unix:", "begin", false},
	    {"unix:/a\nb", "control", false},
	    {":8080", "host", false},
	    {"8080", "host", false},
	    {"localhost", "port", false},
	};
	struct km_errtext err;
	struct km_target t;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		int e = km_target_parse(&t, table[i].in, &err);

		assert_int_equal(e, table[i].ok ? 0 : KM_EINVAL);
		if (e)
			assert_non_null(strstr(err.text, table[i].what));
		else
			assert_string_equal(t.is_unix ? t.path : t.hp.host, table[i].what);
	}
}

static void public_hosts(void **state)
{
	static const struct {
		const char *in, *what; /* NULL: fit */
	} table[] = {
	    {"192.0.2.1", NULL},
	    {"127.0.0.1", NULL}, /* for whoever tries everything on one host */
	    {"2001:db8::1", NULL},
	    {"gw.example", NULL},
	    {"1.gw-2.example", NULL},
	    {"0.0.0.0", "unspecified"},
	    {"::", "unspecified"},
	    {"224.0.0.1", "multicast"},
	    {"239.255.255.255", "multicast"},
	    {"255.255.255.255", "broadcast"},
	    {"ff02::1", "multicast"},
	    {"fe80::1", "link-local"},
	    {"febf::1", "link-local"},
	    {"fe80::1%eth0", "neither"},
	    {"", "neither"},
	    {"gw", "neither"},
	    {".", "neither"},
	    {"gw.", "neither"},
	    {".example", "neither"},
	    {"gw..example", "neither"},
	    {"GW.example", "neither"},
	    {"-gw.example", "neither"},
	    {"gw-.example", "neither"},
	    {"*.example", "neither"},
	    {"g_w.example", "neither"},
	    {"gw.example:51820", "neither"},
	    {"[2001:db8::1]", "neither"},
	    {"192.0.2.1/32", "neither"},
	    {"256.1.1.1", "neither"},
	    {"1.2.3", "neither"},
	    {"gw.example ", "neither"},
	    {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example", "neither"},
	};
	char longest[256];

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		const char *why = km_public_host_check(table[i].in);

		if (!why != !table[i].what || (why && !strstr(why, table[i].what)))
			fail_msg("%s: %s", table[i].in, why ? why : "fit");
	}
	for (size_t i = 0; i < 255; i++)
		longest[i] = i % 2 ? '.' : 'a';
	longest[253] = 0;
	assert_null(km_public_host_check(longest));
	longest[253] = '.';
	longest[255] = 0;
	assert_non_null(strstr(km_public_host_check(longest), "longer"));
}

static void lists_of_prefixes(void **state)
{
	char *words[] = {"192.0.2.0/24", "2001:db8::/32", "198.51.100.7"};
	struct km_strlist l = {words, 3}, none = {NULL, 0};
	struct km_prefixes p;
	static const struct {
		const char *addr;
		bool has;
	} cases[] = {{"192.0.2.255", true},  {"192.0.3.0", false},    {"2001:db8:1::", true},
		     {"2001:db9::", false}, {"198.51.100.7", true}, {"198.51.100.8", false}};
	(void)state;
	assert_int_equal(km_prefixes_of(&p, &l), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct km_addr a;
		assert_int_equal(km_addr_parse(&a, cases[i].addr), 0);
		assert_int_equal(km_prefixes_have(&p, &a), cases[i].has);
	}
	km_prefixes_free(&p);
	words[1] = "example.org";
	assert_int_equal(km_prefixes_of(&p, &l), KM_EINVAL);
	assert_null(p.items);
	assert_int_equal(km_prefixes_of(&p, &none), 0);
	km_prefixes_free(&p);
	assert_null(km_prefix_check("10.0.0.0/8"));
	assert_non_null(km_prefix_check("10.0.0.0/33"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(addresses),  cmocka_unit_test(loopback),
	    cmocka_unit_test(sockaddrs),  cmocka_unit_test(lists_of_prefixes),  cmocka_unit_test(prefixes),
	    cmocka_unit_test(membership), cmocka_unit_test(host_and_port),
	    cmocka_unit_test(targets),    cmocka_unit_test(public_hosts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
