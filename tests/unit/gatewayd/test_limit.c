/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/limit.h"
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MS INT64_C(1000000)
#define S (1000 * MS)

/* The bucket with numbers, and against a plain one that counts tokens. */
static void test_bucket(void **state)
{
	struct route_rate rate = route_rate_of(10, 1000, 3);
	_Atomic int64_t b = 0;
	(void)state;
	for (int i = 0; i < 3; i++)
		assert_int_equal(limit_take(&b, &rate, 5 * S), 0);
	assert_int_equal(limit_take(&b, &rate, 5 * S), 100 * MS);
	assert_int_equal(limit_take(&b, &rate, 5 * S), 100 * MS); /* a refusal takes nothing */
	assert_int_equal(limit_take(&b, &rate, 5 * S + 99 * MS), 1 * MS);
	assert_int_equal(limit_take(&b, &rate, 5 * S + 100 * MS), 0);
	assert_int_equal(limit_take(&b, &rate, 5 * S + 100 * MS), 100 * MS);
	for (int i = 0; i < 3; i++) /* full again, and not more than full */
		assert_int_equal(limit_take(&b, &rate, 60 * S), 0);
	assert_int_not_equal(limit_take(&b, &rate, 60 * S), 0);
	assert_int_not_equal(limit_take(&b, &rate, 59 * S), 0); /* a clock that goes back */
}

static void test_model(void **state)
{
	struct route_rate rate = route_rate_of(7, 700, 5); /* a token in 100 ms */
	_Atomic int64_t b = 0;
	int64_t now = 1000, tokens_ms = 500;
	uint32_t seed = 7;
	(void)state;
	for (int i = 0; i < 100000; i++) {
		seed = seed * 1664525 + 1013904223;
		int64_t step = (seed >> 16) % 200;
		now += step;
		tokens_ms = tokens_ms + step < 500 ? tokens_ms + step : 500;
		bool may = tokens_ms >= 100;
		if (may)
			tokens_ms -= 100;
		assert_int_equal(limit_take(&b, &rate, now * MS) == 0, may);
	}
}

static void test_extremes(void **state)
{
	static const struct {
		int64_t requests, per_ms, burst;
	} t[] = {{1, 86400000, 1000000000},
		 {1000000000, 1, 1000000000},
		 {1, INT64_MAX, INT64_MAX},
		 {1000000000, INT64_MAX, INT64_MAX},
		 {1, 1, 1}};
	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct route_rate r = route_rate_of(t[i].requests, t[i].per_ms, t[i].burst);
		_Atomic int64_t b = 0;
		assert_true(r.interval_ns >= 1 && r.burst >= 1);
		int64_t century = INT64_C(3155760000) * S;
		assert_int_equal(limit_take(&b, &r, century), 0);
		for (int j = 0; j < 1000; j++)
			assert_true(limit_take(&b, &r, century) >= 0 && b > 0);
	}
}

static void test_parse(void **state)
{
	struct route_rate r;
	(void)state;
	assert_int_equal(limit_parse(&r, NULL), 0);
	assert_int_equal(r.interval_ns, 0);
	assert_int_equal(limit_parse(&r, "100/1s"), 0);
	assert_int_equal(r.interval_ns, 10 * MS);
	assert_int_equal(r.burst, 100);
	assert_int_equal(limit_parse(&r, "100"), KM_EINVAL);
	assert_int_equal(limit_parse(&r, "100/s"), 0);
	assert_int_equal(r.interval_ns, 10 * MS);
	assert_int_equal(limit_parse(&r, "10/ms"), 0);
	assert_int_equal(r.interval_ns, MS / 10);
	assert_int_equal(limit_parse(&r, "100/"), KM_EINVAL);
	assert_int_equal(limit_parse(&r, "100/x"), KM_EINVAL);
	assert_int_equal(limit_parse(&r, "100/-s"), KM_EINVAL);
	assert_int_equal(limit_parse(&r, "0/1s"), KM_EINVAL);
}

/* ---- tunnels and addresses ---- */

struct fixture {
	struct limits l;
	struct route_rules rules;
	struct route_state state;
	struct route route;
};

static void set_up(struct fixture *f)
{
	memset(f, 0, sizeof(*f));
	f->l.addresses =
	    byaddr_new(&(struct byaddr_opts){.max = 256, .value = sizeof(int64_t), .evict = true});
	assert_non_null(f->l.addresses);
	f->route.state = &f->state;
	f->route.rules = &f->rules;
	memset(f->route.tunnel, 1, sizeof(f->route.tunnel));
}

static int64_t ask(struct fixture *f, const char *from, int64_t now_ms)
{
	struct km_addr a;
	assert_int_equal(km_addr_parse(&a, from), 0);
	return limits_wait(&f->l, &f->route, &a, now_ms);
}

static void test_tunnel_and_address(void **state)
{
	struct fixture f;
	(void)state;
	set_up(&f);
	for (int i = 0; i < 100; i++) /* nothing is bounded */
		assert_int_equal(ask(&f, "192.0.2.1", 1000), 0);
	assert_int_equal(byaddr_count(f.l.addresses), 0);

	f.rules.rate = route_rate_of(5, 10000, 5);
	f.rules.address_rate = route_rate_of(2, 1500, 2);
	assert_int_equal(ask(&f, "192.0.2.1", 1000), 0);
	assert_int_equal(ask(&f, "192.0.2.1", 1000), 0);
	for (int i = 0; i < 100; i++) /* one that asks on takes nothing from the others */
		assert_int_equal(ask(&f, "192.0.2.1", 1000), 1);
	assert_int_equal(ask(&f, "192.0.2.2", 1000), 0);
	assert_int_equal(ask(&f, "2001:db8::1", 1000), 0);
	assert_int_equal(ask(&f, "2001:db8::2", 1000), 0); /* the same /64 */
	assert_int_equal(ask(&f, "192.0.2.3", 1000), 2);   /* the tunnel's bucket is empty */
	assert_int_equal(ask(&f, "192.0.2.3", 3000), 0);
	assert_int_equal(ask(&f, "2001:db8::3", 5000), 0);

	/* Another tunnel has buckets of its own. */
	struct route_state other = {0};
	f.route.state = &other;
	f.route.tunnel[0] = 2;
	assert_int_equal(ask(&f, "192.0.2.1", 1000), 0);
	byaddr_free(f.l.addresses);
}

static void test_defaults(void **state)
{
	struct fixture f;
	(void)state;
	set_up(&f);
	f.l.rate = route_rate_of(1, 1000, 1);
	f.route.rules = NULL;
	assert_int_equal(ask(&f, "192.0.2.1", 1000), 0);
	assert_int_equal(ask(&f, "192.0.2.1", 1000), 1);
	f.route.rules = &f.rules; /* options, but no rate among them */
	assert_int_equal(ask(&f, "192.0.2.1", 1000), 1);
	f.rules.rate = route_rate_of(1000, 1, 1000); /* one of its own, in place of the gateway's */
	assert_int_equal(ask(&f, "192.0.2.1", 1001), 1);
	assert_int_equal(ask(&f, "192.0.2.1", 2000), 0);
	assert_int_equal(ask(&f, "192.0.2.1", 2000), 0);
	byaddr_free(f.l.addresses);
}

/* A flood of addresses fills the table, and does not set free whoever asks on meanwhile. */
static void test_flood(void **state)
{
	struct fixture f;
	char from[32];
	(void)state;
	set_up(&f);
	f.rules.address_rate = route_rate_of(1, 3600000, 1);
	assert_int_equal(ask(&f, "192.0.2.1", 1000), 0);
	for (int i = 0; i < 20000; i++) {
		snprintf(from, sizeof(from), "10.%d.%d.%d", i >> 16, (i >> 8) & 255, i & 255);
		assert_int_equal(ask(&f, from, 1000), 0);
		if (i % 50 == 0)
			assert_int_equal(ask(&f, "192.0.2.1", 1000), 3600);
	}
	assert_true(byaddr_count(f.l.addresses) < 2000);
	byaddr_free(f.l.addresses);
}

/* ---- all workers at once ---- */

static struct route_rate shared_rate;
static _Atomic int64_t shared_bucket, granted;

static void *taker(void *arg)
{
	(void)arg;
	for (int i = 0; i < 20000; i++)
		if (!limit_take(&shared_bucket, &shared_rate, 1000 * S + i))
			atomic_fetch_add(&granted, 1);
	return NULL;
}

static void test_threads(void **state)
{
	pthread_t t[4];
	(void)state;
	shared_rate = route_rate_of(1, 60000, 1000);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&t[i], NULL, taker, NULL), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(granted, 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_bucket),
	    cmocka_unit_test(test_model),
	    cmocka_unit_test(test_extremes),
	    cmocka_unit_test(test_parse),
	    cmocka_unit_test(test_tunnel_and_address),
	    cmocka_unit_test(test_defaults),
	    cmocka_unit_test(test_flood),
	    cmocka_unit_test(test_threads),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
