/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/backoff.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define S 1000LL
#define MIN (60 * S)
#define HOUR (60 * MIN)
#define DAY (24 * HOUR)

static void about(int64_t got, int64_t want)
{
	assert_in_range(got, want - want / 10, want + want / 10);
}

static void steps(void **state)
{
	static const struct {
		enum acme_cause cause;
		unsigned count;
		int64_t want;
	} rows[] = {
	    {ACME_VALIDATION, 1, MIN},	   {ACME_VALIDATION, 2, 10 * MIN}, {ACME_VALIDATION, 3, 100 * MIN},
	    {ACME_VALIDATION, 4, DAY},	   {ACME_VALIDATION, 4000000000, DAY}, {ACME_PROTOCOL, 1, MIN},
	    {ACME_REJECTED, 1, DAY},	   {ACME_UNSUPPORTED, 1, DAY},	   {ACME_NETWORK, 1, 15 * S},
	    {ACME_NETWORK, 99, 30 * MIN},  {ACME_LOCAL, 1, 30 * S},	   {ACME_LOCAL, 99, HOUR},
	    {ACME_RATE_LIMITED, 1, MIN},   {ACME_ACCOUNT, 2, 10 * MIN},
	};
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(rows); i++) {
		about(backoff_delay(rows[i].cause, rows[i].count, 0, 0, 0), rows[i].want);
		about(backoff_delay(rows[i].cause, rows[i].count, 0, 90 * DAY, UINT32_MAX), rows[i].want);
	}
	assert_true(backoff_delay(ACME_VALIDATION, 1, 0, 0, 0) <
		    backoff_delay(ACME_VALIDATION, 1, 0, 0, UINT32_MAX));
}

static void what_the_ca_asks_for(void **state)
{
	(void)state;
	for (unsigned rnd = 0; rnd < 2; rnd++) {
		uint32_t r = rnd ? UINT32_MAX : 0;
		int64_t d = backoff_delay(ACME_RATE_LIMITED, 5, 3 * HOUR, 0, r);
		assert_in_range(d, 3 * HOUR, 3 * HOUR + 10 * MIN);
		assert_true(backoff_delay(ACME_NETWORK, 1, HOUR, 0, r) >= HOUR);
		assert_true(backoff_delay(ACME_VALIDATION, 4, HOUR, 0, r) > 20 * HOUR);
		assert_true(backoff_delay(ACME_RATE_LIMITED, 1, 400 * DAY, 0, r) < 8 * DAY);
	}
}

static void short_lives(void **state)
{
	(void)state;
	about(backoff_delay(ACME_VALIDATION, 9, 0, 160 * HOUR, 0), 16 * HOUR);
	about(backoff_delay(ACME_REJECTED, 1, 0, 40 * S, 0), 5 * S);
	about(backoff_delay(ACME_VALIDATION, 1, 0, 160 * HOUR, 0), MIN);
}

static void preflight(void **state)
{
	(void)state;
	about(backoff_preflight(1, 0), 5 * S);
	about(backoff_preflight(2, 0), 10 * S);
	about(backoff_preflight(8, UINT32_MAX), 10 * MIN);
	about(backoff_preflight(UINT32_MAX, 0), 10 * MIN);
}

static void one_probe(void **state)
{
	struct outage o = {0};
	(void)state;
	for (int i = 0; i < 3; i++) {
		assert_true(outage_may(&o, 0));
		outage_begin(&o);
	}
	for (int i = 0; i < 3; i++)
		outage_failed(&o, 1000, 0, 0);
	assert_int_equal(o.count, 1);
	assert_false(outage_may(&o, 1000));
	assert_true(outage_may(&o, o.until_ms));
	outage_begin(&o);
	assert_false(outage_may(&o, o.until_ms));
	outage_failed(&o, o.until_ms, 0, 0);
	assert_int_equal(o.count, 2);
	assert_true(outage_may(&o, o.until_ms));
	outage_begin(&o);
	outage_unused(&o);
	assert_true(outage_may(&o, o.until_ms));
	outage_begin(&o);
	assert_true(outage_over(&o));
	assert_false(outage_over(&o));
	assert_true(outage_may(&o, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(steps),	 cmocka_unit_test(what_the_ca_asks_for),
	    cmocka_unit_test(short_lives), cmocka_unit_test(preflight),
	    cmocka_unit_test(one_probe),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
