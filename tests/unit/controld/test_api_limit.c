/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "controld/api/limit.h"
#include <stdio.h>

static void burst_then_one_each(void **state)
{
	struct limit *l = limit_new(3, 1000, 10);
	int64_t now = 5000;
	(void)state;
	assert_int_equal(limit_wait_ms(l, "a", now), 0);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(limit_wait_ms(l, "a", now), 0);
		limit_failed(l, "a", now);
	}
	assert_int_equal(limit_wait_ms(l, "a", now), 1000);
	assert_int_equal(limit_wait_ms(l, "b", now), 0);
	assert_int_equal(limit_wait_ms(l, "a", now + 999), 1);
	assert_int_equal(limit_wait_ms(l, "a", now + 1000), 0);
	limit_failed(l, "a", now + 1000);
	assert_int_equal(limit_wait_ms(l, "a", now + 1000), 1000);
	assert_int_equal(limit_wait_ms(l, "a", now + 10000), 0);
	for (int i = 0; i < 3; i++)
		limit_failed(l, "a", now + 10000);
	assert_int_equal(limit_wait_ms(l, "a", now + 10000), 1000);
	limit_free(l);
}

static void table_is_bounded(void **state)
{
	struct limit *l = limit_new(1, 1000, 2);
	char key[32];
	(void)state;
	for (int i = 0; i < 1000; i++) {
		snprintf(key, sizeof(key), "%d", i);
		limit_failed(l, key, 0);
	}
	assert_int_equal(limit_wait_ms(l, "0", 0), 0);
	assert_true(limit_wait_ms(l, "998", 0) > 0);
	assert_true(limit_wait_ms(l, "999", 0) > 0);
	limit_failed(l, "998", 0); /* the one that failed longest ago goes, not the oldest key */
	limit_failed(l, "new", 0);
	assert_int_equal(limit_wait_ms(l, "999", 0), 0);
	assert_true(limit_wait_ms(l, "998", 0) > 0);
	limit_free(l);
	limit_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(burst_then_one_each),
	    cmocka_unit_test(table_is_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
