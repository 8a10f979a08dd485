/* SPDX-License-Identifier: MIT */
#include <urcu/urcu-memb.h>

#include "gatewayd/route/route.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct route_entry entry(uint8_t id, const char *domain, bool enabled)
{
	struct route_entry e = {.enabled = enabled};
	snprintf(e.domain, sizeof(e.domain), "%s", domain);
	memset(e.tunnel, id, sizeof(e.tunnel));
	memset(e.target, id + 100, sizeof(e.target));
	assert_int_equal(km_addr_parse(&e.agent, "10.1.0.100"), 0);
	return e;
}

static int set(struct route_table *t, uint8_t id, const char *domain)
{
	struct route_entry e = entry(id, domain, true);
	return route_set(t, &e, NULL);
}

static int find(const struct route_table *t, const char *host)
{
	struct route r;
	if (!route_find(t, host, &r))
		return -1;
	route_state_put(r.state);
	return r.tunnel[0];
}

static void test_lookup(void **state)
{
	struct route_table *t = route_table_new();
	(void)state;
	assert_int_equal(find(t, "a.test"), -1);
	assert_int_equal(set(t, 1, "a.test"), 0);
	assert_int_equal(set(t, 2, "*.a.test"), 0);
	assert_int_equal(set(t, 3, "x.a.test"), 0);
	assert_int_equal(find(t, "a.test"), -1); /* not published yet */
	assert_int_equal(route_publish(t), 0);
	assert_int_equal(find(t, "a.test"), 1);
	assert_int_equal(find(t, "x.a.test"), 3);
	assert_int_equal(find(t, "y.a.test"), 2);
	assert_int_equal(find(t, "z.y.a.test"), -1);
	assert_int_equal(find(t, "*.a.test"),
			 2); /* a label like any other; h1 lets no such Host in */
	assert_int_equal(find(t, "test"), -1);
	assert_int_equal(find(t, ""), -1);
	assert_int_equal(find(t, "."), -1);
	assert_int_equal(find(t, ".a.test"), -1);
	assert_int_equal(find(t, "a.test."), -1);
	struct route r;
	assert_true(route_find(t, "y.a.test", &r) && r.wildcard && r.enabled);
	assert_int_equal(r.target[0], 102);
	route_state_put(r.state);
	route_table_free(t);
}

static void test_changes(void **state)
{
	struct route_table *t = route_table_new();
	struct route a, b;
	(void)state;
	assert_int_equal(set(t, 1, "a.test"), 0);
	assert_int_equal(set(t, 2, "a.test"), KM_EEXIST);
	assert_int_equal(set(t, 2, "b.test"), 0);
	assert_int_equal(route_publish(t), 0);
	assert_true(route_find(t, "a.test", &a));

	/* Replaced: another serial, the same state, which outlives the entry. */
	struct route_entry e = entry(1, "c.test", false);
	assert_int_equal(route_set(t, &e, NULL), 0);
	assert_int_equal(find(t, "a.test"), 1);
	assert_int_equal(route_publish(t), 0);
	assert_int_equal(find(t, "a.test"), -1);
	assert_true(route_find(t, "c.test", &b));
	assert_ptr_equal(a.state, b.state);
	assert_int_not_equal(a.serial, b.serial);
	assert_false(b.enabled);

	route_remove(t, e.tunnel);
	route_remove(t, e.tunnel);
	assert_int_equal(route_publish(t), 0);
	assert_int_equal(find(t, "c.test"), -1);
	assert_int_equal(route_count(t), 1);
	atomic_fetch_add(&a.state->requests, 1);
	route_state_put(a.state);
	route_state_put(b.state);
	assert_int_equal(set(t, 3, "../etc"), KM_EINVAL);
	route_table_free(t);
}

/* ---- paths ---- */

static void count(void *arg, const struct route_entry *e)
{
	(void)e;
	++*(size_t *)arg;
}

static int set_at(struct route_table *t, uint8_t id, const char *domain, const char *path,
		  enum route_tls tls, struct km_errtext *err)
{
	struct route_entry e = entry(id, domain, true);
	e.path = path;
	e.tls = tls;
	return route_set(t, &e, err);
}

/* The tunnel's number, or minus what else route_match says. */
static int match(const struct route_table *t, const char *host, const char *target)
{
	struct route r;
	enum route_found found = route_match(t, host, target, strlen(target), &r);
	if (found != ROUTE_FOUND)
		return -(int)found;
	route_drop(&r);
	return r.tunnel[0];
}

#define NO_HOST -ROUTE_NO_HOST
#define NO_PATH -ROUTE_NO_PATH
#define UNCLEAR -ROUTE_UNCLEAR

static void test_paths(void **state)
{
	static const struct {
		const char *host, *target;
		int want;
	} cases[] = {
	    /* a.test has /, /api and /api/v2; b.test has /only; *.a.test has /, c.test one without
	       a path. */
	    {"a.test", "/", 1},
	    {"a.test", "", 1},
	    {"a.test", "*", 1},
	    {"a.test", "?q", 1},
	    {"a.test", "/x", 1},
	    {"a.test", "/api", 2},
	    {"a.test", "/api/", 2},
	    {"a.test", "/api?/api/v2", 2},
	    {"a.test", "/apix", 1},
	    {"a.test", "/API", 1},
	    {"a.test", "/api/v2", 3},
	    {"a.test", "/api/v2/x?y", 3},
	    {"a.test", "/api/v21", 2},
	    {"b.test", "/only/x", 5},
	    {"b.test", "/", NO_PATH},
	    {"b.test", "*", NO_PATH},
	    {"b.test", "", NO_PATH},
	    {"b.test", "/onl", NO_PATH},
	    {"x.a.test", "/api", 4},
	    {"y.x.a.test", "/", NO_HOST},
	    {"c.test", "/api/../x", 6},
	    {"c.test", "*", 6},
	    /* Several readings, all in the same tunnel. */
	    {"a.test", "/api/x/../y", 2},
	    {"a.test", "/x/../y", 1},
	    {"a.test", "/api/a%2Fb", 2},
	    {"a.test", "/x;y", 1},
	    {"a.test", "/caf%C3%A9", 1},
	    {"a.test", "/api/x//y", 2},
	    {"a.test", "/?/api/../x", 1},
	    {"b.test", "/x/../y", NO_PATH},
	    /* Several readings, in different ones. */
	    {"a.test", "/api/../x", UNCLEAR},
	    {"a.test", "/x/../api", UNCLEAR},
	    {"a.test", "/api/%2e%2e/x", UNCLEAR},
	    {"a.test", "/api/.%2E", UNCLEAR},
	    {"a.test", "/api/..%2fx", UNCLEAR},
	    {"a.test", "/api/..%5cx", UNCLEAR},
	    {"a.test", "/api\\x", UNCLEAR},
	    {"a.test", "/api%2fx", UNCLEAR},
	    {"a.test", "//api/x", UNCLEAR},
	    {"a.test", "/./api", UNCLEAR},
	    {"a.test", "/%61pi", UNCLEAR},
	    {"a.test", "/api/..;/x", UNCLEAR},
	    {"a.test", "/api;x/y", UNCLEAR},
	    {"a.test", "/x/;/../../api", UNCLEAR},
	    {"a.test", "/api//v2", UNCLEAR},
	    {"a.test", "/api/v2/..", UNCLEAR},
	    {"a.test", "/api/../b%2F..%2Fapi", UNCLEAR}, /* only who leaves %2F leaves /api */
	    {"a.test", "/x//../api/..%2F..",
	     UNCLEAR}, /* only who merges, but leaves %2F, sees it */
	    {"b.test", "/only/../x", UNCLEAR},
	    {"b.test", "/x/../only", UNCLEAR},
	};
	struct route_table *t = route_table_new();
	struct route r;
	(void)state;
	assert_int_equal(set_at(t, 2, "a.test", "/api", ROUTE_TLS_AUTO, NULL), 0);
	assert_int_equal(set_at(t, 1, "a.test", "/", ROUTE_TLS_AUTO, NULL), 0);
	assert_int_equal(set_at(t, 3, "a.test", "/api/v2", ROUTE_TLS_AUTO, NULL), 0);
	assert_int_equal(set_at(t, 4, "*.a.test", NULL, ROUTE_TLS_AUTO, NULL), 0);
	assert_int_equal(set_at(t, 5, "b.test", "/only", ROUTE_TLS_AUTO, NULL), 0);
	assert_int_equal(set_at(t, 6, "c.test", "", ROUTE_TLS_AUTO, NULL), 0);
	assert_int_equal(route_publish(t), 0);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (match(t, cases[i].host, cases[i].target) != cases[i].want)
			fail_msg("%s%s: %d", cases[i].host, cases[i].target,
				 match(t, cases[i].host, cases[i].target));
	assert_int_equal(find(t, "a.test"), 1); /* the shortest stands for the domain */
	assert_int_equal(route_match(t, "a.test", "/api/x", 6, &r), ROUTE_FOUND);
	assert_int_equal(r.path_len, 4);
	route_drop(&r);
	route_drop(&r);
	size_t n = 0, domains = 0;
	route_each(t, count, &n);
	route_each_domain(t, count, &domains);
	assert_int_equal(n, 6);
	assert_int_equal(domains, 4);
	route_table_free(t);
}

static void refused(struct route_table *t, uint8_t id, const char *domain, const char *path,
		    enum route_tls tls, int rc, const char *why)
{
	struct km_errtext err = {0};
	assert_int_equal(set_at(t, id, domain, path, tls, &err), rc);
	assert_string_equal(err.text, why);
}

static void test_conflicts(void **state)
{
	struct route_table *t = route_table_new();
	uint8_t one[16], two[16];
	(void)state;
	memset(one, 1, sizeof(one));
	memset(two, 2, sizeof(two));
	assert_int_equal(set_at(t, 1, "a.test", "/x", ROUTE_TLS_AUTO, NULL), 0);
	refused(t, 2, "a.test", "/x", ROUTE_TLS_AUTO, KM_EEXIST,
		"a.test/x: another tunnel has this path");
	refused(t, 2, "a.test", "/y", ROUTE_TLS_OFF, KM_EEXIST,
		"a.test/y: tls is off here, but auto in another tunnel of this domain");
	refused(t, 2, "a.test", "/", ROUTE_TLS_PASSTHROUGH, KM_EEXIST,
		"a.test: tls is passthrough here, but auto in another tunnel of this domain");
	refused(t, 2, "a.test", "/x/", ROUTE_TLS_AUTO, KM_EINVAL, "a.test: \"/x/\" is not a path");
	refused(t, 2, "b.test", "/y", ROUTE_TLS_PASSTHROUGH, KM_EINVAL,
		"b.test/y: a tunnel with tls = passthrough has no path");
	assert_int_equal(route_count(t), 1);
	/* The only tunnel of a domain may change its mode, and its path. */
	assert_int_equal(set_at(t, 1, "a.test", "/", ROUTE_TLS_PASSTHROUGH, NULL), 0);
	refused(t, 2, "a.test", "/y", ROUTE_TLS_AUTO, KM_EEXIST,
		"a.test/y: tls is auto here, but passthrough in another tunnel of this domain");
	assert_int_equal(set_at(t, 2, "b.test", NULL, ROUTE_TLS_OFF, NULL), 0);
	refused(t, 1, "b.test", "", ROUTE_TLS_OFF, KM_EEXIST,
		"b.test: another tunnel has this domain");
	assert_int_equal(route_publish(t), 0);
	assert_true(route_any_passthrough(t));
	assert_int_equal(match(t, "a.test", "/"), 1); /* keeps its older version */
	route_remove(t, one);
	assert_int_equal(set_at(t, 2, "a.test", NULL, ROUTE_TLS_AUTO, NULL), 0);
	assert_int_equal(route_publish(t), 0);
	assert_false(route_any_passthrough(t));
	assert_int_equal(match(t, "b.test", "/"), NO_HOST);
	assert_int_equal(match(t, "a.test", "/"), 2);
	route_remove(t, two);
	assert_int_equal(route_publish(t), 0);
	assert_int_equal(match(t, "a.test", "/"), NO_HOST);
	route_table_free(t);
}

/* The tunnels of a domain change their mode one after the other; no reader sees half of it. */
static void test_leaving(void **state)
{
	struct route_table *t = route_table_new();
	uint8_t one[16];
	struct route r;
	(void)state;
	memset(one, 1, sizeof(one));
	assert_int_equal(set_at(t, 1, "a.test", NULL, ROUTE_TLS_AUTO, NULL), 0);
	assert_int_equal(set_at(t, 2, "a.test", "/x", ROUTE_TLS_AUTO, NULL), 0);
	assert_int_equal(route_publish(t), 0);
	assert_int_equal(route_match(t, "a.test", "/", 1, &r), ROUTE_FOUND);
	assert_int_equal(set_at(t, 1, "a.test", NULL, ROUTE_TLS_OFF, NULL), KM_EEXIST);
	route_leave(t, one);
	assert_int_equal(set_at(t, 2, "a.test", "/x", ROUTE_TLS_OFF, NULL), 0);
	assert_int_equal(set_at(t, 1, "a.test", NULL, ROUTE_TLS_OFF, NULL), 0);
	assert_int_equal(match(t, "a.test", "/x"), 2);
	assert_int_equal(route_publish(t), 0);
	struct route_state *was = r.state;
	route_drop(&r);
	assert_int_equal(route_match(t, "a.test", "/", 1, &r), ROUTE_FOUND);
	assert_int_equal(r.tls, ROUTE_TLS_OFF);
	assert_ptr_equal(r.state, was);
	route_drop(&r);
	assert_int_equal(match(t, "a.test", "/x"), 2);

	/* One that cannot follow goes; one that nobody has overtaken stays. */
	route_leave(t, one);
	route_stay(t, one);
	assert_int_equal(route_count(t), 2);
	route_leave(t, one);
	assert_int_equal(set_at(t, 2, "a.test", "/x", ROUTE_TLS_OWN, NULL), 0);
	route_stay(t, one);
	assert_int_equal(route_publish(t), 0);
	assert_int_equal(match(t, "a.test", "/"), NO_PATH);
	assert_int_equal(match(t, "a.test", "/x"), 2);
	route_table_free(t);
}

/* Rules live as long as somebody has them. */
static void test_rules_kept(void **state)
{
	struct km_msg_tunnel m = {.target = (char *)"127.0.0.1:80",
				  .target_protocol = (char *)"h2c"};
	struct route_table *t = route_table_new();
	struct route_entry e = entry(1, "a.test", true);
	struct route r;
	(void)state;
	assert_int_equal(route_rules_compile(&e.rules, &m, NULL), 0);
	assert_int_equal(route_set(t, &e, NULL), 0);
	route_rules_put(e.rules);
	assert_int_equal(route_publish(t), 0);
	assert_int_equal(route_match(t, "a.test", "/", 1, &r), ROUTE_FOUND);
	assert_ptr_equal(r.rules, e.rules);
	assert_int_equal(set(t, 1, "a.test"), 0);
	assert_int_equal(route_publish(t), 0);
	assert_int_equal(r.rules->proto, ROUTE_PROTO_H2C);
	assert_int_equal(atomic_load(&r.rules->refs), 1);
	route_drop(&r);
	route_table_free(t);
}

static void test_domains(void **state)
{
	static const char *const good[] = {"a", "a.b", "*.a", "a-b.c_d.0", "xn--bcher-kva.example"};
	static const char *const bad[] = {"",    ".",   "a.",        ".a",    "a..b", "A.b",
					  "*",   "*.",  "**.a",      "a.*",   "a/b",  "..",
					  "a b", "a\n", "b\xc3\xbc", "*.*.a", "a*.b"};
	char label[80] = {0};
	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(route_domain_ok(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(route_domain_ok(bad[i]));
	memset(label, 'a', 63);
	assert_true(route_domain_ok(label));
	memset(label, 'a', 64);
	assert_false(route_domain_ok(label));
}

static void test_allowed(void **state)
{
	char *patterns[] = {(char *)"one.test", (char *)"*.Two.test"};
	(void)state;
	assert_true(route_domain_allowed("one.test", patterns, 2));
	assert_false(route_domain_allowed("x.one.test", patterns, 2));
	assert_true(route_domain_allowed("x.two.test", patterns, 2));
	assert_true(route_domain_allowed("y.x.two.test", patterns, 2));
	assert_true(route_domain_allowed("*.two.test", patterns, 2));
	assert_false(route_domain_allowed("two.test", patterns, 2));
	assert_false(route_domain_allowed("xtwo.test", patterns, 2));
	assert_false(route_domain_allowed("one.test", patterns, 0));
}

/* ---- readers beside the writer ---- */

struct race {
	struct route_table *t;
	atomic_bool stop;
	atomic_long seen;
};

static void *reader(void *arg)
{
	struct race *r = arg;
	urcu_memb_register_thread();
	while (!atomic_load(&r->stop)) {
		struct route a;
		/* "fixed.test" stands in every table; the other one comes and goes. */
		if (!route_find(r->t, "fixed.test", &a) || a.tunnel[0] != 1)
			abort();
		atomic_fetch_add(&a.state->requests, 1);
		route_drop(&a);
		if (route_find(r->t, "moving.test", &a)) {
			if (a.tunnel[0] != 2)
				abort();
			route_drop(&a);
		}
		enum route_found found = route_match(r->t, "fixed.test", "/path/x", 7, &a);
		if (found != ROUTE_FOUND || (a.tunnel[0] != 1 && a.tunnel[0] != 3))
			abort();
		if (a.tunnel[0] == 3 && (a.path_len != 5 || a.rules->proto != ROUTE_PROTO_H2C))
			abort();
		route_drop(&a);
		atomic_fetch_add(&r->seen, 1);
	}
	urcu_memb_unregister_thread();
	return NULL;
}

static void test_readers(void **state)
{
	struct race r = {.t = route_table_new()};
	pthread_t threads[3];
	uint8_t two[16], three[16];
	struct km_msg_tunnel m = {.target = (char *)"127.0.0.1:80",
				  .target_protocol = (char *)"h2c"};
	(void)state;
	memset(two, 2, sizeof(two));
	memset(three, 3, sizeof(three));
	assert_int_equal(set(r.t, 1, "fixed.test"), 0);
	assert_int_equal(route_publish(r.t), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reader, &r), 0);
	for (int i = 0; i < 200 || atomic_load(&r.seen) < 1000; i++) {
		assert_int_equal(set(r.t, 1, "fixed.test"), 0);
		assert_int_equal(set(r.t, 2, "moving.test"), 0);
		struct route_entry e = entry(3, "fixed.test", true);
		e.path = "/path";
		assert_int_equal(route_rules_compile(&e.rules, &m, NULL), 0);
		assert_int_equal(route_set(r.t, &e, NULL), 0);
		route_rules_put(e.rules);
		assert_int_equal(route_publish(r.t), 0);
		route_remove(r.t, two);
		route_remove(r.t, three);
		assert_int_equal(route_publish(r.t), 0);
	}
	atomic_store(&r.stop, true);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	route_table_free(r.t);
}

#define MANY 100000

static void test_many(void **state)
{
	struct route_table *t = route_table_new();
	char host[64];
	size_t n = 0;
	(void)state;
	for (int i = 0; i < MANY; i++) {
		struct route_entry e = entry(0, "x", true);
		snprintf(e.domain, sizeof(e.domain), "h%d.test", i / 2);
		e.path = i % 2 ? "/odd" : NULL;
		memcpy(e.tunnel, &i, sizeof(i));
		assert_int_equal(route_set(t, &e, NULL), 0);
	}
	assert_int_equal(route_publish(t), 0);
	for (int i = 0; i < MANY; i++) {
		struct route r;
		snprintf(host, sizeof(host), "h%d.test", i / 2);
		assert_int_equal(route_match(t, host, i % 2 ? "/odd/x" : "/x", i % 2 ? 6 : 2, &r),
				 ROUTE_FOUND);
		assert_memory_equal(r.tunnel, &i, sizeof(i));
		route_drop(&r);
	}
	route_each(t, count, &n);
	assert_int_equal(n, MANY);
	route_table_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_lookup),     cmocka_unit_test(test_changes),
	    cmocka_unit_test(test_paths),      cmocka_unit_test(test_conflicts),
	    cmocka_unit_test(test_rules_kept), cmocka_unit_test(test_leaving),
	    cmocka_unit_test(test_domains),    cmocka_unit_test(test_allowed),
	    cmocka_unit_test(test_readers),    cmocka_unit_test(test_many),
	};
	urcu_memb_register_thread();
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	urcu_memb_unregister_thread();
	return rc;
}
