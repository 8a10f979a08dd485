/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/throttle.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define HOUR 3600000LL
#define DAY (24 * HOUR)

static const struct throttle_rate orders = {10, 3 * HOUR}, domain = {4, 7 * DAY},
				  same = {5, 7 * DAY};

static int64_t wait(const struct throttle *t, const char *name, int64_t now, const char *want)
{
	char why[200] = "";
	int64_t ms = throttle_wait(t, name, now, why, sizeof(why));
	assert_string_equal(why, want);
	return ms;
}

static void registered(void **state)
{
	(void)state;
	assert_string_equal(throttle_registered("a.b.example.co.uk"), "example.co.uk");
	assert_string_equal(throttle_registered("example.com"), "example.com");
	assert_string_equal(throttle_registered("x.example.com"), "example.com");
	assert_string_equal(throttle_registered("co.uk"), "co.uk");
	assert_string_equal(throttle_registered("192.0.2.1"), "192.0.2.1");
}

static void account(void **state)
{
	struct throttle *t = throttle_new(orders, domain, same, NULL, 0, 0);
	char name[64];
	(void)state;
	for (int i = 0; i < 10; i++) {
		snprintf(name, sizeof(name), "x%d.com", i);
		assert_int_equal(wait(t, name, 0, ""), 0);
		throttle_order(t, name, 0);
	}
	int64_t ms = wait(t, "y.com", 0, "10 orders in 3h");
	assert_in_range(ms, 3 * HOUR / 10, 3 * HOUR / 10 + 2);
	assert_int_equal(wait(t, "y.com", ms, ""), 0);
	throttle_order(t, "y.com", ms);
	assert_true(wait(t, "z.com", ms, "10 orders in 3h") > 0);
	assert_int_equal(wait(t, "z.com", ms + 3 * HOUR, ""), 0);
	throttle_free(t);
}

static void below_a_domain(void **state)
{
	struct throttle *t = throttle_new(orders, domain, same, NULL, 0, 0);
	(void)state;
	throttle_order(t, "a.example.co.uk", 0);
	throttle_order(t, "b.example.co.uk", 0);
	throttle_order(t, "example.co.uk", 0);
	throttle_order(t, "*.example.co.uk", 0);
	assert_int_equal(wait(t, "other.co.uk", 0, ""), 0);
	assert_true(wait(t, "c.example.co.uk", 0, "4 certificates below example.co.uk in 7d") > DAY);
	throttle_undo(t, "a.example.co.uk", true, 0);
	assert_int_equal(wait(t, "c.example.co.uk", 0, ""), 0);
	throttle_free(t);
}

static void one_name(void **state)
{
	struct throttle *t = throttle_new((struct throttle_rate){1000, HOUR},
					  (struct throttle_rate){1000, HOUR}, same, NULL, 0, 0);
	(void)state;
	for (int i = 0; i < 5; i++)
		throttle_order(t, "a.org", 0);
	assert_true(wait(t, "a.org", 0, "5 certificates for a.org in 7d") > DAY);
	assert_int_equal(wait(t, "b.org", 0, ""), 0);
	for (int i = 0; i < 5; i++)
		throttle_failed(t, "b.org", 0);
	int64_t ms = wait(t, "b.org", 0, "5 failed validations of b.org in 1h");
	assert_in_range(ms, HOUR / 5, HOUR / 5 + 2);
	assert_true(wait(t, "*.b.org", 0, "5 failed validations of b.org in 1h") > 0);
	throttle_free(t);
}

static void over_a_restart(void **state)
{
	char dir[] = "/tmp/km-throttle-XXXXXX", path[64];
	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/limits", dir);
	struct throttle *t = throttle_new(orders, domain, same, path, 5000, DAY);
	for (int i = 0; i < 4; i++)
		throttle_order(t, "a.org", 5000);
	assert_int_equal(throttle_save(t, 5000, DAY), 0);
	throttle_free(t);

	t = throttle_new(orders, domain, same, path, 0, DAY + HOUR);
	int64_t ms = wait(t, "b.a.org", 0, "4 certificates below a.org in 7d");
	assert_in_range(ms, 7 * DAY / 4 - HOUR - 10, 7 * DAY / 4 - HOUR + 10);
	throttle_free(t);
	/* A clock that was put back forgives nothing, and takes nothing more. */
	t = throttle_new(orders, domain, same, path, 0, 1000);
	ms = wait(t, "b.a.org", 0, "4 certificates below a.org in 7d");
	assert_in_range(ms, 7 * DAY / 4 - 10, 7 * DAY / 4 + 10);
	throttle_free(t);

	FILE *f = fopen(path, "w");
	fputs("{\"at\":5,\"used\":{\"\":3,\"o\":\"x\",\"da.org\":1e300}", f);
	fclose(f);
	t = throttle_new(orders, domain, same, path, 0, DAY);
	assert_int_equal(wait(t, "b.a.org", 0, ""), 0);
	throttle_free(t);
	unlink(path);
	/* Where it cannot be written it works all the same. */
	rmdir(dir);
	t = throttle_new(orders, domain, same, path, 0, DAY);
	throttle_order(t, "a.org", 0);
	assert_int_equal(throttle_save(t, 0, DAY), KM_EIO);
	assert_int_equal(throttle_save(t, 0, DAY), KM_EIO);
	throttle_free(t);
}

static void many(void **state)
{
	struct throttle *t = throttle_new((struct throttle_rate){100000000, HOUR},
					  (struct throttle_rate){45, 7 * DAY}, same, NULL, 0, 0);
	char name[64];
	(void)state;
	for (int i = 0; i < THROTTLE_BUCKETS_MAX; i++) {
		snprintf(name, sizeof(name), "x%d.org", i);
		throttle_order(t, name, 0);
	}
	throttle_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(registered), cmocka_unit_test(account),	    cmocka_unit_test(below_a_domain),
	    cmocka_unit_test(one_name),	  cmocka_unit_test(over_a_restart), cmocka_unit_test(many),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
