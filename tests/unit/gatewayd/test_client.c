/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/client.h"
#include "gatewayd/edge/h1.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct http_limits limits = {65536, 128};
static struct client_trust trust; /* 10.0.0.0/8, 2001:db8:1::/48, 192.0.2.1 */

static char *head; /* of the request at hand: a client's host points into it */

static void find(struct client *c, const char *peer, bool secure, const char *fields)
{
	static struct http_request r;
	const char *why;
	struct km_addr a;
	free(head);
	head = malloc(strlen(fields) + 64);
	int n = sprintf(head, "GET / HTTP/1.1\r\nHost: a.test\r\n%s\r\n", fields);
	assert_int_equal(km_addr_parse(&a, peer), 0);
	assert_int_equal(h1_request_parse(&r, head, (size_t)n, &limits, &why), 0);
	client_find(c, &trust, &a, secure, &r);
	assert_true(c->n_hops >= 1 && c->n_hops <= CLIENT_HOPS_MAX);
	assert_true(km_addr_eq(&c->addr, &c->hops[0]));
	assert_true(km_addr_eq(&a, &c->hops[c->n_hops - 1]));
}

static char *hops(const struct client *c, char *out)
{
	char ip[KM_ADDR_STRLEN];
	*out = '\0';
	for (size_t i = 0; i < c->n_hops; i++) {
		if (i)
			strcat(out, " ");
		strcat(out, km_addr_str(&c->hops[i], ip));
	}
	return out;
}

#define XFF(s) "X-Forwarded-For: " s "\r\n"
#define FWD(s) "Forwarded: " s "\r\n"
#define P "10.1.1.1" /* a trusted peer */

static void test_addresses(void **state)
{
	static const struct {
		const char *peer, *fields, *hops;
	} cases[] = {
	    /* Strangers say nothing about themselves. */
	    {"198.51.100.9", XFF("1.1.1.1"), "198.51.100.9"},
	    {"198.51.100.9", FWD("for=1.1.1.1"), "198.51.100.9"},
	    {"2001:db8:2::1", XFF("1.1.1.1"), "2001:db8:2::1"},
	    /* Trusted peers do. */
	    {P, "", P},
	    {P, XFF("198.51.100.9"), "198.51.100.9 " P},
	    {"2001:db8:1::7", XFF("198.51.100.9"), "198.51.100.9 2001:db8:1::7"},
	    {"192.0.2.1", XFF("198.51.100.9"), "198.51.100.9 192.0.2.1"},
	    {P, XFF("1.1.1.1, 198.51.100.9"), "198.51.100.9 " P},
	    {P, XFF("1.1.1.1,198.51.100.9 , 10.2.2.2"), "198.51.100.9 10.2.2.2 " P},
	    {P, XFF("1.1.1.1") XFF("198.51.100.9") XFF("10.2.2.2"), "198.51.100.9 10.2.2.2 " P},
	    {P, XFF("10.3.3.3, 10.2.2.2"), "10.3.3.3 10.2.2.2 " P},
	    /* Ports, brackets, IPv6 and mapped IPv4. */
	    {P, XFF("198.51.100.9:4711"), "198.51.100.9 " P},
	    {P, XFF("2001:db8:2::9"), "2001:db8:2::9 " P},
	    {P, XFF("[2001:db8:2::9]"), "2001:db8:2::9 " P},
	    {P, XFF("[2001:db8:2::9]:4711"), "2001:db8:2::9 " P},
	    {P, XFF("::ffff:198.51.100.9"), "198.51.100.9 " P},
	    {P, XFF("198.51.100.9, ::ffff:10.2.2.2"), "198.51.100.9 10.2.2.2 " P},
	    /* What is no address ends the walk at whoever has said it. */
	    {P, XFF("unknown"), P},
	    {P, XFF("198.51.100.9, unknown"), P},
	    {P, XFF("198.51.100.9, unknown, 10.2.2.2"), "10.2.2.2 " P},
	    {P, XFF(""), P},
	    {P, XFF(","), P},
	    {P, XFF("198.51.100.9,"), P},
	    {P, XFF("198.51.100.9,,10.2.2.2"), "10.2.2.2 " P},
	    {P, XFF("198.51.100"), P},
	    {P, XFF("198.51.100.9:"), P},
	    {P, XFF("198.51.100.9:x"), P},
	    {P, XFF("198.51.100.9:1:2"), P},
	    {P, XFF("[198.51.100.9]"), P},
	    {P, XFF("[2001:db8:2::9"), P},
	    {P, XFF("[]"), P},
	    {P, XFF("["), P},
	    {P, XFF(":"), P},
	    {P, XFF("2001:db8:2::9%eth0"), P},
	    {P, XFF("1111111111111111111111111111111111111111111111111111111111"), P},
	    {P, XFF("\"198.51.100.9\""), P},
	    {P, XFF("\"198.51.100.9, 10.2.2.2"), "10.2.2.2 " P},
	    {P, XFF("\", 198.51.100.9"), "198.51.100.9 " P},
	    /* Other spellings are none of ours. */
	    {P, "X_Forwarded_For: 198.51.100.9\r\n", P},
	    {P, "X-Forwarded-Fo: 198.51.100.9\r\n", P},
	    {P, "x-forwarded-for: 198.51.100.9\r\n", "198.51.100.9 " P},
	    /* Forwarded */
	    {P, FWD("for=198.51.100.9"), "198.51.100.9 " P},
	    {P, FWD("For=\"198.51.100.9:80\";proto=http"), "198.51.100.9 " P},
	    {P, FWD("proto=http ; FOR=\"[2001:db8:2::9]:4711\""), "2001:db8:2::9 " P},
	    {P, FWD("for=1.1.1.1, for=198.51.100.9;by=x, for=10.2.2.2"),
	     "198.51.100.9 10.2.2.2 " P},
	    {P, FWD("for=198.51.100.9;by=\"a,for=9.9.9.9\""), "198.51.100.9 " P},
	    {P, FWD("for=198.51.100.9;by=\"a\\\",for=9.9.9.9\""), "198.51.100.9 " P},
	    {P, FWD("for=198.51.100.9;by=\"a;for=9.9.9.9\""), "198.51.100.9 " P},
	    {P, FWD("for=198.51.100.9:_port"), "198.51.100.9 " P},
	    {P, FWD("for=unknown"), P},
	    {P, FWD("for=_hidden"), P},
	    {P, FWD("for=\"_SEVKISEK\", for=10.2.2.2"), "10.2.2.2 " P},
	    {P, FWD("for=198.51.100.9;for=198.51.100.8"), P},
	    {P, FWD("proto=http"), P},
	    {P, FWD("198.51.100.9"), P},
	    {P, FWD("for"), P},
	    {P, FWD("for="), P},
	    {P, FWD("for=\""), P},
	    {P, FWD(";;;"), P},
	    {P, FWD("for=\"198.51.100.\\9\""), P},
	    /* Both: only when they agree. */
	    {P, XFF("198.51.100.9") FWD("for=198.51.100.9"), "198.51.100.9 " P},
	    {P, XFF("198.51.100.9") FWD("for=198.51.100.8"), P},
	    {P, XFF("198.51.100.9") FWD("for=198.51.100.9, for=10.2.2.2"), P},
	    {P, XFF("198.51.100.9") FWD("for=unknown"), P},
	};
	char text[1024];
	struct client c;
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		find(&c, cases[i].peer, true, cases[i].fields);
		if (strcmp(hops(&c, text), cases[i].hops) != 0)
			fail_msg("%s: %s, not %s", cases[i].fields, text, cases[i].hops);
	}
}

/* A chain that is longer than what is kept ends at the last that is. */
static void test_bound(void **state)
{
	char fields[4096];
	int n = sprintf(fields, "X-Forwarded-For: 198.51.100.9");
	struct client c;
	(void)state;
	for (int i = 0; i < 100; i++)
		n += sprintf(fields + n, ", 10.0.0.%d", i);
	sprintf(fields + n, "\r\n");
	find(&c, P, true, fields);
	assert_int_equal(c.n_hops, CLIENT_HOPS_MAX);
	assert_int_equal(c.addr.ip[3], 100 - (CLIENT_HOPS_MAX - 1));
}

static void test_proto_and_host(void **state)
{
	static const struct {
		const char *peer;
		bool secure;
		const char *fields;
		bool wants_secure;
		const char *host;
	} cases[] = {
	    {"198.51.100.9", false, "X-Forwarded-Proto: https\r\nX-Forwarded-Host: b.test\r\n",
	     false, "a.test"},
	    {"198.51.100.9", true, FWD("for=1.1.1.1;proto=http;host=b.test"), true, "a.test"},
	    {P, false, "X-Forwarded-Proto: https\r\nX-Forwarded-Host: b.test:8443\r\n", true,
	     "b.test:8443"},
	    {P, true, "X-Forwarded-Proto: HTTP\r\n", false, "a.test"},
	    {P, true, "X-Forwarded-Proto: ftp\r\nX-Forwarded-Host: b/test\r\n", true, "a.test"},
	    {P, false, "X-Forwarded-Proto: https, http\r\n", false, "a.test"},
	    {P, false, "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: https\r\n", false, "a.test"},
	    {P, false, "X-Forwarded-Host: b.test\r\nX-Forwarded-Host: c.test\r\n", false, "a.test"},
	    {P, false, "X-Forwarded-Host: b.test\" x\r\n", false, "a.test"},
	    {P, false, FWD("for=1.1.1.1;proto=https;host=b.test"), true, "b.test"},
	    {P, false, FWD("for=1.1.1.1;proto=https;host=\"b.test:81\""), true, "b.test:81"},
	    {P, false, FWD("for=1.1.1.1;proto=http, for=198.51.100.9;proto=https"), true, "a.test"},
	    {P, false, FWD("for=unknown;proto=https;host=b.test"), false, "a.test"},
	    {P, false, FWD("for=1.1.1.1;proto=http") "X-Forwarded-Proto: https\r\n", true,
	     "a.test"},
	};
	struct client c;
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		find(&c, cases[i].peer, cases[i].secure, cases[i].fields);
		if (c.secure != cases[i].wants_secure || c.host.n != strlen(cases[i].host) ||
		    memcmp(c.host.p, cases[i].host, c.host.n) != 0)
			fail_msg("%s: %d %.*s", cases[i].fields, c.secure, (int)c.host.n, c.host.p);
	}
}

static void test_trust(void **state)
{
	char *good[] = {(char *)"192.0.2.0/24", (char *)"2001:db8::/32"};
	char *bad[] = {(char *)"192.0.2.0/24", (char *)"x"};
	struct client_trust t;
	(void)state;
	assert_int_equal(client_trust_parse(&t, good, 2), 0);
	assert_int_equal(t.n, 2);
	free(t.proxies);
	assert_int_equal(client_trust_parse(&t, bad, 2), KM_EINVAL);
	assert_null(t.proxies);
	assert_int_equal(client_trust_parse(&t, NULL, 0), 0);
	assert_int_equal(t.n, 0);
}

static void test_random(void **state)
{
	static const char bits[] = "1.0:,;=\"\\ []_for unknown10.1.1.1:80";
	char fields[512];
	uint32_t seed = 3;
	struct client c;
	(void)state;
	for (int round = 0; round < 20000; round++) {
		int n = sprintf(fields, "%s: ", round & 1 ? "Forwarded" : "X-Forwarded-For");
		seed = seed * 1664525 + 1013904223;
		for (uint32_t i = (seed >> 8) % 80; i; i--) {
			seed = seed * 1664525 + 1013904223;
			fields[n++] = bits[(seed >> 16) % (sizeof(bits) - 1)];
		}
		strcpy(fields + n, "\r\n");
		find(&c, P, true, fields);
	}
}

static int set_up(void **state)
{
	char *texts[] = {(char *)"10.0.0.0/8", (char *)"2001:db8:1::/48", (char *)"192.0.2.1"};
	(void)state;
	return client_trust_parse(&trust, texts, 3);
}

static int tear_down(void **state)
{
	(void)state;
	free(head);
	free(trust.proxies);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_addresses),      cmocka_unit_test(test_bound),
	    cmocka_unit_test(test_proto_and_host), cmocka_unit_test(test_trust),
	    cmocka_unit_test(test_random),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
