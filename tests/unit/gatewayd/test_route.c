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
	return route_set(t, &e);
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
	assert_int_equal(find(t, "*.a.test"), 2); /* a label like any other; h1 lets no such Host in */
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
	assert_int_equal(route_set(t, &e), 0);
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

static void test_domains(void **state)
{
	static const char *const good[] = {"a", "a.b", "*.a", "a-b.c_d.0", "xn--bcher-kva.example"};
	static const char *const bad[] = {"",	 ".",	 "a.",	 ".a",	"a..b", "A.b", "*",
					  "*.",	 "**.a", "a.*", "a/b",	"..",	"a b",	"a\n",
					  "b\xc3\xbc", "*.*.a", "a*.b"};
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
		route_state_put(a.state);
		if (route_find(r->t, "moving.test", &a)) {
			if (a.tunnel[0] != 2)
				abort();
			route_state_put(a.state);
		}
		atomic_fetch_add(&r->seen, 1);
	}
	urcu_memb_unregister_thread();
	return NULL;
}

static void test_readers(void **state)
{
	struct race r = {.t = route_table_new()};
	pthread_t threads[3];
	uint8_t two[16];
	(void)state;
	memset(two, 2, sizeof(two));
	assert_int_equal(set(r.t, 1, "fixed.test"), 0);
	assert_int_equal(route_publish(r.t), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reader, &r), 0);
	for (int i = 0; i < 200 || atomic_load(&r.seen) < 1000; i++) {
		assert_int_equal(set(r.t, 1, "fixed.test"), 0);
		assert_int_equal(set(r.t, 2, "moving.test"), 0);
		assert_int_equal(route_publish(r.t), 0);
		route_remove(r.t, two);
		assert_int_equal(route_publish(r.t), 0);
	}
	atomic_store(&r.stop, true);
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	route_table_free(r.t);
}

static void count(void *arg, const struct route_entry *e)
{
	(void)e;
	++*(size_t *)arg;
}

static void test_many(void **state)
{
	struct route_table *t = route_table_new();
	char host[64];
	size_t n = 0;
	(void)state;
	for (int i = 0; i < 20000; i++) {
		struct route_entry e = entry(0, "x", true);
		snprintf(e.domain, sizeof(e.domain), "h%d.test", i);
		memcpy(e.tunnel, &i, sizeof(i));
		assert_int_equal(route_set(t, &e), 0);
	}
	assert_int_equal(route_publish(t), 0);
	for (int i = 0; i < 20000; i++) {
		snprintf(host, sizeof(host), "h%d.test", i);
		assert_true(route_find(t, host, NULL));
	}
	route_each(t, count, &n);
	assert_int_equal(n, 20000);
	route_table_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_lookup),  cmocka_unit_test(test_changes),
	    cmocka_unit_test(test_domains), cmocka_unit_test(test_allowed),
	    cmocka_unit_test(test_readers), cmocka_unit_test(test_many),
	};
	urcu_memb_register_thread();
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	urcu_memb_unregister_thread();
	return rc;
}
