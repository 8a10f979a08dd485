/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/schedule.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define HOUR 3600000LL
#define DAY (24 * HOUR)

struct thing {
	struct due due;
	int64_t at;
};

static void order_is_kept(void **state)
{
	enum { N = 2000 };
	struct schedule *s = schedule_new();
	struct thing *t = calloc(N, sizeof(*t));
	int64_t last = INT64_MIN;
	size_t n = 0;
	(void)state;
	assert_null(schedule_first(s));
	for (size_t i = 0; i < N; i++)
		assert_int_equal(schedule_set(s, &t[i].due, km_random_below(500)), 0);
	for (size_t i = 0; i < N; i += 3) /* moved, to both sides */
		assert_int_equal(schedule_set(s, &t[i].due, km_random_below(500)), 0);
	for (size_t i = 1; i < N; i += 3) {
		schedule_drop(s, &t[i].due);
		schedule_drop(s, &t[i].due);
		assert_int_equal(t[i].due.pos, 0);
	}
	for (struct due *d; (d = schedule_first(s)); n++) {
		assert_true(d->at_ms >= last);
		last = d->at_ms;
		schedule_drop(s, d);
	}
	assert_int_equal(n, N - (N + 1) / 3);
	schedule_free(s);
	free(t);
}

static int64_t due(int64_t life, uint32_t salt, int64_t ari)
{
	struct renewal r = {.not_before_ms = 1000, .not_after_ms = 1000 + life, .ari_ms = ari, .salt = salt};
	return renewal_due(&r) - 1000;
}

static void lifetimes(void **state)
{
	(void)state;
	static const int64_t lives[] = {90 * DAY, 64 * DAY, 45 * DAY, 160 * HOUR, HOUR, 40000};
	for (size_t i = 0; i < KM_ARRAY_LEN(lives); i++) {
		int64_t life = lives[i], left = life < 10 * DAY ? life / 2 : life / 3;
		assert_int_equal(due(life, 0, 0), life - left);
		int64_t soonest = due(life, UINT32_MAX, 0);
		assert_true(soonest < life - left);
		assert_true(soonest >= life - left - left / 10);
		assert_true(soonest >= life - left - DAY);
		/* The CA's word counts, until there is hardly anything left. */
		assert_int_equal(due(life, 7, 1000 + life / 4), life / 4);
		assert_int_equal(due(life, 7, 1000 + life), life - life / 20);
	}
	assert_true(due(0, 5, 0) <= 0);
	assert_true(due(-DAY, 5, 0) <= 0);
	struct renewal r = {.not_before_ms = 0, .not_after_ms = 100 * DAY};
	assert_false(renewal_urgent(&r, 95 * DAY));
	assert_true(renewal_urgent(&r, 95 * DAY + 1));
}

static void window(void **state)
{
	(void)state;
	for (int i = 0; i < 100; i++) {
		uint32_t rnd;
		km_random(&rnd, sizeof(rnd));
		int64_t t = renewal_pick(1000, 9000, 0, 0, 0, rnd);
		assert_true(t >= 1000 && t < 9000);
		assert_int_equal(renewal_pick(1000, 9000, 1000, 9000, t, rnd / 2), t);
		t = renewal_pick(1000, 9001, 1000, 9000, 8, rnd);
		assert_true(t >= 1000 && t <= 9001);
	}
	assert_int_equal(renewal_pick(1000, 500, 0, 0, 0, UINT32_MAX), 1000);
}

static void jumps(void **state)
{
	struct clock_watch w = {0};
	(void)state;
	assert_int_equal(clock_jumped(&w, 100, 5000000), 0);
	assert_int_equal(clock_jumped(&w, 60100, 5060000), 0);
	assert_int_equal(clock_jumped(&w, 60100, 5060000 + 30 * DAY), 30 * DAY);
	assert_int_equal(clock_jumped(&w, 61100, 5061000 + 30 * DAY), 0);
	assert_int_equal(clock_jumped(&w, 61100, 5061000), -30 * DAY);
	for (int i = 1; i < 100; i++) /* one that runs too fast */
		assert_int_equal(clock_jumped(&w, 61100, 5061000 + i * 20000), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(order_is_kept),
	    cmocka_unit_test(lifetimes),
	    cmocka_unit_test(window),
	    cmocka_unit_test(jumps),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
