/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/pace.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define BEGAN 1000000
static const struct pace_rule rule = {.window_ms = 60000, .min_rate = 240};

/* When a client that sends n bytes every `every` ms is found to be slow; 0: not within ten minutes. */
static int64_t found(const struct pace_rule *r, uint64_t n, int64_t every)
{
	struct pace p = {0};
	(void)pace_slow(&p, r, 0, true, BEGAN);
	for (int64_t t = every; t <= 600000; t += every)
		if (pace_slow(&p, r, n, true, BEGAN + t))
			return t;
	return 0;
}

static void who_trickles_is_found(void **state)
{
	(void)state;
	assert_int_equal(found(&rule, 1, 1000), 60000);
	assert_int_equal(found(&rule, 239, 1000), 60000);
	assert_int_equal(found(&rule, 240, 1000), 0);
	assert_int_equal(found(&rule, 24000, 100000), 0);
	assert_int_equal(found(&rule, 23999, 100000), 100000);
	assert_int_equal(found(&(struct pace_rule){.window_ms = 60000}, 1, 59000), 0);
}

/* What others take is not the client's. */
static void time_of_others(void **state)
{
	struct pace p = {0};
	int64_t now = BEGAN;
	(void)state;
	for (int i = 0; i < 59; i++) {
		assert_false(pace_slow(&p, &rule, 1, true, now));
		now += 1000;
		assert_false(pace_slow(&p, &rule, 0, false, now));
		now += 3600000;
	}
	/* A window is over, but nobody waits for the client any more. */
	assert_false(pace_slow(&p, &rule, 0, true, now));
	now += 1000;
	assert_false(pace_slow(&p, &rule, 0, false, now));
	/* The next one begins anew. */
	assert_false(pace_slow(&p, &rule, 0, true, now));
	assert_false(pace_slow(&p, &rule, 1, true, now + 59999));
	assert_true(pace_slow(&p, &rule, 1, true, now + 60000));
}

static void a_fast_beginning_lasts_a_window(void **state)
{
	struct pace p = {0};
	(void)state;
	assert_false(pace_slow(&p, &rule, 1 << 20, true, BEGAN));
	assert_false(pace_slow(&p, &rule, 1, true, BEGAN + 60000));
	assert_false(pace_slow(&p, &rule, 1, true, BEGAN + 119999));
	assert_true(pace_slow(&p, &rule, 1, true, BEGAN + 120000));
}

static void who_lags(void **state)
{
	struct pace p = {0};
	(void)state;
	assert_false(pace_lags(&p, &rule, 5000, BEGAN)); /* nobody waits for it */
	assert_false(pace_slow(&p, &rule, 0, true, BEGAN));
	assert_false(pace_lags(&p, &rule, 5000, BEGAN + 4999));
	assert_true(pace_lags(&p, &rule, 5000, BEGAN + 5000));
	assert_false(pace_slow(&p, &rule, 1200, true, BEGAN + 4000));
	assert_false(pace_lags(&p, &rule, 5000, BEGAN + 5000));
	assert_true(pace_lags(&p, &rule, 5000, BEGAN + 5005));
	/* The time of others is not its own. */
	assert_false(pace_slow(&p, &rule, 0, false, BEGAN + 4500));
	assert_false(pace_lags(&p, &rule, 5000, BEGAN + 50000));
	assert_false(pace_slow(&p, &rule, 0, true, BEGAN + 50000));
	assert_false(pace_lags(&p, &rule, 5000, BEGAN + 50499));
	assert_true(pace_lags(&p, &rule, 5000, BEGAN + 50505));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(who_trickles_is_found),
	    cmocka_unit_test(time_of_others),
	    cmocka_unit_test(a_fast_beginning_lasts_a_window),
	    cmocka_unit_test(who_lags),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
