/* SPDX-License-Identifier: MIT */
/* dns_preflight against a DNS server of the test's own. */
#include "gatewayd/acme/dns/dns.h"
#include "libkm/base/util.h"
#include "tests/unit/gatewayd/dns_script.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static struct event_base *base;
static struct script server;
static struct dns *dns;
static enum dns_verdict verdict;
static char said[700];
static unsigned called;

static int setup(void **state)
{
	struct km_errtext err;
	char addr[32], *items[] = {addr};
	struct km_strlist list = {items, 1};

	(void)state;
	base = event_base_new();
	server = (struct script){0};
	script_start(&server, base, "127.0.0.1", 0);
	snprintf(addr, sizeof(addr), "127.0.0.1:%u", server.port);
	assert_int_equal(dns_new(&dns, base, &list, &err), 0);
	called = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	dns_free(dns);
	script_stop(&server);
	event_base_free(base);
	return 0;
}

static void on_verdict(void *arg, enum dns_verdict v, const char *text)
{
	(void)arg;
	called++;
	verdict = v;
	snprintf(said, sizeof(said), "%s", text);
	event_base_loopbreak(base);
}

static const char *const issuers[] = {"ca.test", NULL};

static struct dns_preflight_opts for_name(const char *name)
{
	static struct km_addr ours[2];
	assert_int_equal(km_addr_parse(&ours[0], "203.0.113.2"), 0);
	assert_int_equal(km_addr_parse(&ours[1], "2001:db8::2"), 0);
	return (struct dns_preflight_opts){
	    .name = name, .ours = ours, .n_ours = 2, .caa_issuers = issuers};
}

static void ask(const struct dns_preflight_opts *o)
{
	called = 0;
	assert_non_null(dns_preflight(dns, o, on_verdict, NULL));
	assert_int_equal(called, 0);
	event_base_dispatch(base);
	assert_int_equal(called, 1);
}

static void test_table(void **state)
{
	static const char *const records[] = {
	    "here.test. 0 IN A 203.0.113.2",
	    "both.test. 0 IN A 203.0.113.2",
	    "both.test. 0 IN AAAA 2001:db8::2",
	    "away.test. 0 IN A 192.0.2.7",
	    "mixed.test. 0 IN A 203.0.113.2",
	    "mixed.test. 0 IN A 192.0.2.7",
	    "six.test. 0 IN A 203.0.113.2",
	    "six.test. 0 IN AAAA 2001:db8::9",
	    "empty.test. 0 IN TXT x",
	    "alias.test. 0 IN CNAME step.test.",
	    "step.test. 0 IN CNAME here.test.",
	    "round.test. 0 IN CNAME about.test.",
	    "about.test. 0 IN CNAME round.test.",
	    "a.deep.caa.test. 0 IN A 203.0.113.2",
	    "caa.test. 0 IN CAA 0 issue \"other.test\"",
	    "b.near.caa.test. 0 IN A 203.0.113.2",
	    "near.caa.test. 0 IN CAA 0 issue \"ca.test\"",
	    "foreign.caa.test. 0 IN A 192.0.2.7",
	    "linked.test. 0 IN CNAME host.linked2.test.",
	    "host.linked2.test. 0 IN A 203.0.113.2",
	    "host.linked2.test. 0 IN CAA 0 issue \";\"",
	    "linked2.test. 0 IN CAA 0 issue \"ca.test\"",
	};
	static const struct {
		const char *name;
		enum dns_verdict verdict;
		const char *text;
	} rows[] = {
	    {"here.test", DNS_FINE, ""},
	    {"HERE.test", DNS_FINE, ""},
	    {"both.test", DNS_FINE, ""},
	    {"alias.test", DNS_FINE, ""},
	    {"203.0.113.2", DNS_FINE, ""},
	    {"192.0.2.7", DNS_ELSEWHERE,
	     "192.0.2.7 leads to 192.0.2.7, not to a gateway (203.0.113.2, 2001:db8::2)"},
	    {"away.test", DNS_ELSEWHERE,
	     "away.test leads to 192.0.2.7, not to a gateway (203.0.113.2, 2001:db8::2)"},
	    {"mixed.test", DNS_ELSEWHERE,
	     "mixed.test leads also to 192.0.2.7, which is no gateway (203.0.113.2, 2001:db8::2)"},
	    {"six.test", DNS_ELSEWHERE,
	     "six.test leads also to 2001:db8::9, which is no gateway (203.0.113.2, 2001:db8::2)"},
	    {"empty.test", DNS_ELSEWHERE, "empty.test has no address"},
	    {"none.test", DNS_ELSEWHERE, "none.test does not exist in the DNS"},
	    {"round.test", DNS_UNKNOWN,
	     "the address of round.test could not be looked up: its CNAMEs have no end"},
	    {"a.deep.caa.test", DNS_FORBIDDEN, "the CAA record of caa.test allows only other.test"},
	    {"b.near.caa.test", DNS_FINE, ""},
	    {"linked.test", DNS_FORBIDDEN, "the CAA record of linked.test allows nobody"},
	    {"foreign.caa.test", DNS_ELSEWHERE,
	     "foreign.caa.test leads to 192.0.2.7, not to a gateway (203.0.113.2, 2001:db8::2)"},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(records); i++)
		script_add(&server, records[i]);
	for (size_t i = 0; i < KM_ARRAY_LEN(rows); i++) {
		struct dns_preflight_opts o = for_name(rows[i].name);
		ask(&o);
		if (verdict != rows[i].verdict || strcmp(said, rows[i].text))
			fail_msg("%s: %d, \"%s\"", rows[i].name, verdict, said);
	}
}

/* Of a family of which no gateway's address is known nothing is said, if the other leads here. */
static void test_a_family_unknown(void **state)
{
	struct dns_preflight_opts o = for_name("six.test");

	(void)state;
	script_add(&server, "six.test. 0 IN A 203.0.113.2");
	script_add(&server, "six.test. 0 IN AAAA 2001:db8::9");
	script_add(&server, "only6.test. 0 IN AAAA 2001:db8::9");
	o.n_ours = 1;
	ask(&o);
	assert_int_equal(verdict, DNS_FINE);
	o.name = "only6.test";
	ask(&o);
	assert_int_equal(verdict, DNS_ELSEWHERE);
	assert_string_equal(said,
			    "only6.test leads to 2001:db8::9, not to a gateway (203.0.113.2)");
	o.n_ours = 0;
	ask(&o);
	assert_int_equal(verdict, DNS_FINE);
}

static void test_wildcard_and_methods(void **state)
{
	static const char *const methods[] = {"dns-01", NULL};
	struct dns_preflight_opts o = for_name("wild.test");

	(void)state;
	script_add(&server, "wild.test. 0 IN CAA 0 issue \";\"");
	script_add(&server,
		   "wild.test. 0 IN CAA 0 issuewild \"ca.test; validationmethods=http-01\"");
	o.wildcard = true;
	ask(&o);
	assert_int_equal(verdict, DNS_FINE);
	o.methods = methods;
	ask(&o);
	assert_int_equal(verdict, DNS_FORBIDDEN);
	assert_string_equal(said, "the CAA record of wild.test allows only validation by http-01");
	unsigned asked = server.asked;
	o.caa_issuers = NULL; /* then nothing at all is asked */
	ask(&o);
	assert_int_equal(verdict, DNS_FINE);
	assert_int_equal(server.asked, asked);
}

static void test_failures(void **state)
{
	struct dns_preflight_opts o = for_name("a.sick.test");

	(void)state;
	script_add(&server, "a.sick.test. 0 IN A 203.0.113.2");
	server.servfail = "a.sick.test";
	ask(&o);
	assert_int_equal(verdict, DNS_UNKNOWN);
	assert_string_equal(
	    said, "the address of a.sick.test could not be looked up: the DNS servers failed "
		  "or cannot be reached");
	server.servfail = "sick.test"; /* where only CAA is looked for */
	ask(&o);
	assert_int_equal(verdict, DNS_UNKNOWN);
	assert_string_equal(
	    said, "the CAA records of sick.test could not be looked up: the DNS servers failed "
		  "or cannot be reached");
	script_stop(&server);
	ask(&o);
	assert_int_equal(verdict, DNS_UNKNOWN);
	assert_string_equal(
	    said, "the address of a.sick.test could not be looked up: the DNS servers failed "
		  "or cannot be reached");
}

static void test_by_tcp(void **state)
{
	struct dns_preflight_opts o = for_name("here.test");

	(void)state;
	script_add(&server, "here.test. 0 IN A 203.0.113.2");
	server.truncate = true;
	ask(&o);
	assert_int_equal(verdict, DNS_FINE);
	assert_true(server.asked_tcp >= 2);
}

static void stop_loop(struct script *s)
{
	event_base_loopbreak(s->base);
}

/* Cancelled before the answers, and while they wait to be told; and a resolver that ends under way.
 */
static void test_cancel(void **state)
{
	struct dns_preflight_opts o = for_name("here.test");

	(void)state;
	script_add(&server, "here.test. 0 IN A 203.0.113.2");
	called = 0;
	struct dns_ask *a = dns_preflight(dns, &o, on_verdict, NULL);
	dns_cancel(a);
	server.on_asked = stop_loop;
	a = dns_preflight(dns, &o, on_verdict, NULL);
	event_base_dispatch(base); /* one question has been answered */
	dns_cancel(a);
	server.on_asked = NULL;
	ask(&o);
	assert_int_equal(verdict, DNS_FINE);
	a = dns_preflight(dns, &o, on_verdict, NULL);
	dns_cancel(a);
	assert_int_equal(called, 1);
}

static unsigned verdicts;
static void on_one_of_many(void *arg, enum dns_verdict v, const char *text)
{
	(void)arg;
	(void)text;
	assert_int_equal(v, DNS_FINE);
	if (!--verdicts)
		event_base_loopbreak(base);
}

/* More at once than may be under way. */
static void test_many(void **state)
{
	struct dns_preflight_opts o = for_name("here.test");

	(void)state;
	script_add(&server, "here.test. 0 IN A 203.0.113.2");
	verdicts = 500;
	for (int i = 0; i < 500; i++)
		assert_non_null(dns_preflight(dns, &o, on_one_of_many, NULL));
	event_base_dispatch(base);
	assert_int_equal(verdicts, 0);
}

static void test_names_that_are_none(void **state)
{
	char label[300] = "";
	struct dns_preflight_opts o = for_name(label);

	(void)state;
	memset(label, 'x', 70);
	strcpy(label + 70, ".test");
	ask(&o);
	assert_int_equal(verdict, DNS_UNKNOWN);
	memset(label, 'x', 299);
	label[299] = '\0';
	ask(&o);
	assert_int_equal(verdict, DNS_UNKNOWN);
}

static void test_bad_servers(void **state)
{
	static const char *const bad[] = {"ns.example", "192.0.2.1:0", "192.0.2.1:99999", "[::1",
					  ""};
	struct km_errtext err;
	struct dns *d;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		char *items[] = {(char *)bad[i]};
		struct km_strlist list = {items, 1};
		assert_int_equal(dns_new(&d, base, &list, &err), KM_EINVAL);
		assert_non_null(strstr(err.text, "is not an address or address:port"));
	}
	char *good[] = {"192.0.2.1", "2001:db8::1", "[2001:db8::1]:5353", "192.0.2.1:53"};
	struct km_strlist list = {good, 4};
	assert_int_equal(dns_new(&d, base, &list, &err), 0);
	dns_free(d);
	assert_int_equal(dns_new(&d, base, NULL, &err), 0);
	dns_free(d);
	dns_free(NULL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(test_table),
	    T(test_a_family_unknown),
	    T(test_wildcard_and_methods),
	    T(test_failures),
	    T(test_by_tcp),
	    T(test_cancel),
	    T(test_many),
	    T(test_names_that_are_none),
	    T(test_bad_servers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
