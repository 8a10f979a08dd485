/* SPDX-License-Identifier: MIT */
#include "gatewayd/route/rules.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A certificate made for this test by a CA that signs nothing else. */
static const char ca[] = "-----BEGIN CERTIFICATE-----\n"
			 "MIIBezCCASGgAwIBAgIUHfOvgkhbo87CDJfi5+JAIUZ4GskwCgYIKoZIzj0EAwIw\n"
			 "EjEQMA4GA1UEAwwHdGVzdCBDQTAgFw0yNjExMjExNzAxNTdaGA8yMTI2MTAyODE3\n"
			 "MDE1N1owEjEQMA4GA1UEAwwHdGVzdCBDQTBZMBMGByqGSM49AgEGCCqGSM49AwEH\n"
			 "A0IABMmX2M475GpaaKx50DV8I9uSAWPFnlwIGXVV43arb93KpLf2yRrJ/gCCfxPx\n"
			 "fJQHmqj/020BRs8zCGLjX3KR2RejUzBRMB0GA1UdDgQWBBR5NpfuJTwqq/dkO3gN\n"
			 "BVVxRZK2djAfBgNVHSMEGDAWgBR5NpfuJTwqq/dkO3gNBVVxRZK2djAPBgNVHRMB\n"
			 "Af8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIG+J0yknHX00Gnk21EfBwde6HeO9\n"
			 "qTTADanJLXSBWssHAiEAzmu03tBE/ubsZg67s2VLcR5jRUGJtxxwIlhMfCv+byk=\n"
			 "-----END CERTIFICATE-----\n";

static struct km_msg_tunnel parsed(const char *json)
{
	struct km_msg_tunnel m;
	struct km_errtext err = {0};
	char text[4096];
	snprintf(text, sizeof(text),
		 "{\"id\": \"00000000-0000-4000-8000-000000000001\", \"domain\": \"a.test\", "
		 "\"enabled\": true, \"targetId\": \"00000000-0000-4000-8000-000000000002\", %s}",
		 json);
	json_t *v = json_loads(text, 0, NULL);
	if (!v || km_msg_parse(&km_msg_desc_tunnel, &m, v, &err))
		fail_msg("%s: %s", json, err.text);
	json_decref(v);
	return m;
}

static const struct route_rules *compiled(const char *json)
{
	struct km_msg_tunnel m = parsed(json);
	const struct route_rules *r;
	struct km_errtext err = {0};
	if (route_rules_compile(&r, &m, &err))
		fail_msg("%s: %s", json, err.text);
	km_msg_clear(&km_msg_desc_tunnel, &m);
	return r;
}

#define T "\"target\": \"nas.lan:8443\""
#define O(...) T ", \"options\": {" __VA_ARGS__ "}"

static void is(struct http_str s, const char *want)
{
	if (s.n != strlen(want) || (s.n && memcmp(s.p, want, s.n) != 0))
		fail_msg("\"%.*s\" is not \"%s\"", (int)s.n, s.p, want);
}

static void test_nothing(void **state)
{
	(void)state;
	assert_null(compiled(T));
	assert_null(compiled(T ", \"targetProtocol\": \"http\""));
	const struct route_rules *r = compiled(O());
	assert_int_equal(r->proto, ROUTE_PROTO_HTTP);
	assert_int_equal(r->max_body, -1);
	assert_int_equal(r->n_request + r->n_response + r->n_redirects + r->hsts.n + r->host.n, 0);
	assert_int_equal(r->rate.interval_ns, 0);
	assert_false(r->maintenance);
	route_rules_put(r);
	route_rules_put(NULL);
}

static void test_target(void **state)
{
	static const struct {
		const char *json, *name;
		bool verify, addr;
		const char *host;
	} cases[] = {
	    {T, "nas.lan", true, false, ""},
	    {O("\"tlsVerify\": false"), "nas.lan", false, false, ""},
	    {O("\"tlsServerName\": \"Nas.Example.\""), "nas.example", true, false, ""},
	    {O("\"tlsServerName\": \"2001:db8::1\""), "2001:db8::1", true, true, ""},
	    {O("\"hostHeader\": \"target\""), "nas.lan", true, false, "nas.lan:8443"},
	    {O("\"hostHeader\": \"other.test:81\""), "nas.lan", true, false, "other.test:81"},
	    {"\"target\": \"192.0.2.1:443\", \"options\": {\"hostHeader\": \"target\"}",
	     "192.0.2.1", true, true, "192.0.2.1"},
	    {"\"target\": \"[2001:db8::1]:444\", \"options\": {\"hostHeader\": \"target\"}",
	     "2001:db8::1", true, true, "[2001:db8::1]:444"},
	    {"\"target\": \"unix:/run/x\", \"options\": {\"hostHeader\": \"target\"}", "localhost",
	     true, false, "localhost"},
	};
	char json[512];
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(json, sizeof(json), "\"targetProtocol\": \"https\", %s", cases[i].json);
		const struct route_rules *r = compiled(json);
		assert_int_equal(r->proto, ROUTE_PROTO_HTTPS);
		assert_string_equal(r->tls_name, cases[i].name);
		assert_int_equal(r->tls_verify, cases[i].verify);
		assert_int_equal(r->tls_name_is_addr, cases[i].addr);
		is(r->host, cases[i].host);
		assert_null(r->tls_store);
		route_rules_put(r);
	}
}

/* Connections that were made under other terms are told apart by the digest. */
static void test_digest(void **state)
{
	static const char *const json[] = {
	    T ", \"targetProtocol\": \"h2c\"",
	    T ", \"targetProtocol\": \"https\"",
	    O("\"tlsVerify\": false") ", \"targetProtocol\": \"https\"",
	    O("\"tlsServerName\": \"b.test\"") ", \"targetProtocol\": \"https\"",
	};
	const struct route_rules *r[4];
	(void)state;
	for (size_t i = 0; i < 4; i++)
		r[i] = compiled(json[i]);
	for (size_t i = 0; i < 4; i++)
		for (size_t j = 0; j < i; j++)
			assert_memory_not_equal(r[i]->target_digest, r[j]->target_digest, 32);
	const struct route_rules *same = compiled(
	    O("\"tlsVerify\": true, \"maxConnections\": 7") ", \"targetProtocol\": \"https\"");
	assert_memory_equal(same->target_digest, r[1]->target_digest, 32);
	assert_int_equal(same->max_connections, 7);
	route_rules_put(same);
	for (size_t i = 0; i < 4; i++)
		route_rules_put(r[i]);
}

static void test_ca(void **state)
{
	struct km_msg_tunnel m = parsed(O() ", \"targetProtocol\": \"https\"");
	const struct route_rules *r;
	struct km_errtext err;
	char bad[sizeof(ca) * 2];
	(void)state;
	m.options->tls_ca = (char *)ca;
	assert_int_equal(route_rules_compile(&r, &m, &err), 0);
	assert_non_null(r->tls_store);
	route_rules_put(r);
	/* Twice the same; cut; changed; nothing. */
	snprintf(bad, sizeof(bad), "%s%s", ca, ca);
	m.options->tls_ca = bad;
	assert_int_equal(route_rules_compile(&r, &m, &err), 0);
	route_rules_put(r);
	bad[sizeof(ca) + 300] = '\0';
	assert_int_equal(route_rules_compile(&r, &m, &err), KM_EINVAL);
	assert_string_equal(err.text, "tlsCa: no certificate in PEM after the first 1");
	memset(bad + 100, 'A', 60);
	assert_int_equal(route_rules_compile(&r, &m, &err), KM_EINVAL);
	m.options->tls_ca = (char *)"no PEM";
	assert_int_equal(route_rules_compile(&r, &m, &err), KM_EINVAL);
	assert_string_equal(err.text, "tlsCa: no certificate in PEM after the first 0");
	assert_null(r);
	m.options->tls_ca = NULL;
	km_msg_clear(&km_msg_desc_tunnel, &m);
}

static void test_fields(void **state)
{
	const struct route_rules *r = compiled(
	    O("\"requestHeaders\": [{\"name\": \"X-A\", \"value\": \"1\"}, {\"name\": \"Cookie\"}],"
	      "\"responseHeaders\": [{\"name\": \"Server\", \"value\": \"\"}],"
	      "\"hsts\": {\"maxAge\": 300, \"includeSubDomains\": true, \"preload\": true}"));
	(void)state;
	assert_int_equal(r->n_request, 2);
	is(r->request[0].field.name, "X-A");
	is(r->request[0].field.value, "1");
	assert_true(r->request[0].set);
	assert_false(r->request[1].set);
	assert_true(r->response[0].set && !r->response[0].field.value.n);
	is(r->hsts, "max-age=300; includeSubDomains; preload");
	route_rules_put(r);
	r = compiled(O("\"hsts\": {\"maxAge\": 0}"));
	is(r->hsts, "max-age=0");
	route_rules_put(r);
}

static void test_redirects(void **state)
{
	const struct route_rules *r = compiled(O(
	    "\"redirects\": [{\"from\": \"/old/*\", \"to\": \"https://b.test:444/new/*\", "
	    "\"status\": 308},"
	    "{\"from\": \"/x\", \"to\": \"/y?z\"}, {\"from\": \"/*\", \"to\": \"https://b.test\"},"
	    "{\"from\": \"/q*\", \"to\": \"/?q=*\"}]"));
	(void)state;
	assert_int_equal(r->n_redirects, 4);
	is(r->redirects[0].from, "/old/");
	is(r->redirects[0].to, "https://b.test:444/new/");
	assert_true(r->redirects[0].from_rest && r->redirects[0].to_rest &&
		    r->redirects[0].keep_query);
	assert_int_equal(r->redirects[0].status, 308);
	assert_int_equal(r->redirects[1].status, 302);
	assert_false(r->redirects[1].from_rest || r->redirects[1].to_rest ||
		     r->redirects[1].keep_query);
	assert_true(r->redirects[2].from_rest && !r->redirects[2].to_rest);
	assert_true(r->redirects[3].to_rest && !r->redirects[3].keep_query);
	route_rules_put(r);
}

static void test_maintenance(void **state)
{
	const struct route_rules *r =
	    compiled(O("\"maintenance\": {\"title\": \"<b>&\", \"text\": \"Zur\\u00fcck\\nbald\", "
		       "\"retryAfter\": 120}"));
	(void)state;
	assert_true(r->maintenance);
	assert_int_equal(r->retry_after, 120);
	is(r->page_text, "<b>&\n\nZur\xc3\xbc"
			 "ck\nbald\n");
	assert_non_null(strstr(r->page_html.p, "<title>&lt;b&gt;&amp;</title>"));
	assert_non_null(strstr(r->page_html.p, "Zur\xc3\xbc"
					       "ck\nbald</p>"));
	assert_int_equal(strlen(r->page_html.p), r->page_html.n);
	route_rules_put(r);
	r = compiled(O("\"maintenance\": {}"));
	assert_true(r->maintenance && !r->retry_after);
	is(r->page_text, "Maintenance\n\nThis service will be back soon.\n");
	route_rules_put(r);
}

static void test_rates(void **state)
{
	static const struct {
		const char *json;
		int64_t interval_ns, burst;
	} cases[] = {
	    {"{\"requests\": 10}", 100000000, 10},
	    {"{\"requests\": 10, \"per\": 60000}", 6000000000, 10},
	    {"{\"requests\": 10, \"burst\": 3}", 100000000, 3},
	    {"{\"requests\": 1000000000, \"per\": 1}", 1, 1000000000},
	    {"{\"requests\": 1, \"per\": 86400000, \"burst\": 1000000000}", 86400000000000, 366},
	};
	char json[512];
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(json, sizeof(json), O("\"rateLimit\": %s, \"maxBody\": 0"), cases[i].json);
		const struct route_rules *r = compiled(json);
		assert_int_equal(r->rate.interval_ns, cases[i].interval_ns);
		assert_int_equal(r->rate.burst, cases[i].burst);
		assert_int_equal(r->address_rate.interval_ns, 0);
		assert_int_equal(r->max_body, 0);
		route_rules_put(r);
	}
}

/* Whatever control says, no message is split, and nobody is led to a host that is not named. */
static void test_refused(void **state)
{
	static const struct {
		const char *json, *why;
	} cases[] = {
#define REQ(name, value)                                                                           \
	O("\"requestHeaders\": [{\"name\": \"" name "\", \"value\": \"" value "\"}]")
#define TO(from, to) O("\"redirects\": [{\"from\": \"" from "\", \"to\": \"" to "\"}]")
#define BAD_TO(to) "redirect to \"" to "\": neither a path nor an http(s) URL that could be meant"
	    {REQ("X", "a\\r\\nY: b"), "header X: not a header's value"},
	    {REQ("X", "a\\nb"), "header X: not a header's value"},
	    {REQ("X\\r\\nY", "a"), "\"X\r\nY\" is not a header's name"},
	    {REQ("", "a"), "\"\" is not a header's name"},
	    {REQ("X:", "a"), "\"X:\" is not a header's name"},
	    {REQ("content-length", "1"), "header content-length frames the message"},
	    {REQ("Host", "x"), "header Host is set by the option hostHeader"},
	    {O("\"responseHeaders\": [{\"name\": \"Connection\"}]"),
	     "header Connection belongs to one connection"},
	    {O("\"responseHeaders\": [{\"name\": \"X\"}, {\"name\": \"x\"}]"),
	     "header X stands twice"},
	    {O("\"hostHeader\": \"a b\""), "hostHeader \"a b\": not a host"},
	    {O("\"hostHeader\": \"a\\r\\nX: y\""), "hostHeader \"a\r\nX: y\": not a host"},
	    {O("\"hostHeader\": \"a/b\""), "hostHeader \"a/b\": not a host"},
	    {O("\"tlsServerName\": \"a:1\"") ", \"targetProtocol\": \"https\"",
	     "tlsServerName \"a:1\": not a host name"},
	    {TO("x", "/"), "redirect from \"x\": not a path"},
	    {TO("", "/"), "redirect from \"\": not a path"},
	    {TO("/a*b", "/"), "redirect from \"/a*b\": not a path"},
	    {TO("/a?b", "/"), "redirect from \"/a?b\": not a path"},
	    {TO("/a", ""), BAD_TO("")},
	    {TO("/a", "b"), BAD_TO("b")},
	    {TO("/a", "//b.test/"), BAD_TO("//b.test/")},
	    {TO("/a", "/\\\\b.test"), BAD_TO("/\\b.test")},
	    {TO("/a", "javascript:x"), BAD_TO("javascript:x")},
	    {TO("/a", "https://"), BAD_TO("https://")},
	    {TO("/a", "https://u@b.test/"), BAD_TO("https://u@b.test/")},
	    {TO("/a", "/b\\r\\nX: y"), BAD_TO("/b\r\nX: y")},
	    {TO("/a", "/b*"), BAD_TO("/b*")},
	    {TO("/a*", "/b*c*"), BAD_TO("/b*c*")},
	    {TO("/a*", "https://b.test*"), BAD_TO("https://b.test*")},
	    {TO("/a*", "https://b.test:4*"), BAD_TO("https://b.test:4*")},
	    {O("\"redirects\": [{\"from\": \"/a\", \"to\": \"/b\", \"status\": 304}]"),
	     "redirect with status 304"},
	    {"\"target\": \"\", \"options\": {}", NULL},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct km_msg_tunnel m = parsed(cases[i].json);
		const struct route_rules *r;
		struct km_errtext err = {0};
		if (route_rules_compile(&r, &m, &err) != KM_EINVAL)
			fail_msg("%s", cases[i].json);
		assert_null(r);
		if (cases[i].why)
			assert_string_equal(err.text, cases[i].why);
		km_msg_clear(&km_msg_desc_tunnel, &m);
	}
}

/* All header rules together stay far below the bound of a head. */
static void test_too_many_bytes(void **state)
{
	static char value[8193];
	struct km_msg_tunnel m = parsed(
	    O("\"requestHeaders\": [{\"name\": \"X\"}, {\"name\": \"Y\"}, {\"name\": \"Z\"}]"));
	const struct route_rules *r;
	struct km_errtext err;
	(void)state;
	memset(value, 'v', sizeof(value) - 1);
	for (size_t i = 0; i < 3; i++)
		m.options->request_headers[i].value = value;
	assert_int_equal(route_rules_compile(&r, &m, &err), KM_EINVAL);
	assert_string_equal(err.text, "header rules are longer than 16384 bytes in all");
	for (size_t i = 0; i < 3; i++)
		m.options->request_headers[i].value = NULL;
	km_msg_clear(&km_msg_desc_tunnel, &m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_nothing),     cmocka_unit_test(test_target),
	    cmocka_unit_test(test_digest),      cmocka_unit_test(test_ca),
	    cmocka_unit_test(test_fields),      cmocka_unit_test(test_redirects),
	    cmocka_unit_test(test_maintenance), cmocka_unit_test(test_rates),
	    cmocka_unit_test(test_refused),     cmocka_unit_test(test_too_many_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
