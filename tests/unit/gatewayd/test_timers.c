/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/edge/timers.h"
#include <cmocka.h>

static struct timers ts;
static struct timer all[3 * TIMERS_BATCH];
static int fired, order[3 * TIMERS_BATCH];

static void on_fired(struct timer *t)
{
	assert_false(t->on);
	order[fired++] = (int)(t - all);
}

static int setup(void **state)
{
	(void)state;
	ts = (struct timers){.ms = {[TIMER_BODY] = 100, [TIMER_IDLE] = 10}};
	fired = 0;
	for (int i = 0; i < 3 * TIMERS_BATCH; i++)
		all[i] = (struct timer){.fired = on_fired};
	return 0;
}

static void test_in_their_order_and_not_before(void **state)
{
	(void)state;
	timer_set(&ts, &all[0], TIMER_BODY, 1000);
	timer_set(&ts, &all[1], TIMER_BODY, 1001);
	timer_set(&ts, &all[2], TIMER_IDLE, 1050);
	assert_false(timers_run(&ts, 1059));
	assert_int_equal(fired, 0);
	timer_set(&ts, &all[0], TIMER_BODY, 1002);
	timer_set(&ts, &all[0], TIMER_BODY, 1002);
	assert_false(timers_run(&ts, 1101));
	assert_int_equal(fired, 2);
	assert_true(order[0] + order[1] == 3);
	timer_stop(&ts, &all[0]);
	timer_stop(&ts, &all[0]);
	assert_false(timers_run(&ts, 2000));
	assert_int_equal(fired, 2);
}

static void test_many_at_once_leave_others_their_turn(void **state)
{
	(void)state;
	for (int i = 0; i < 2 * TIMERS_BATCH + 1; i++)
		timer_set(&ts, &all[i], TIMER_BODY, 1000);
	assert_true(timers_run(&ts, 1100));
	assert_int_equal(fired, TIMERS_BATCH);
	assert_true(timers_run(&ts, 1100));
	assert_int_equal(fired, 2 * TIMERS_BATCH);
	assert_false(timers_run(&ts, 1100));
	assert_int_equal(fired, 2 * TIMERS_BATCH + 1);
	for (int i = 0; i < fired; i++)
		assert_int_equal(order[i], i);
}

static void on_fired_again(struct timer *t)
{
	fired++;
	timer_set(&ts, t, (enum timer_kind)t->kind, 1100);
	timer_stop(&ts, t + 1);
}

static void test_what_a_timer_does_to_others(void **state)
{
	(void)state;
	all[0].fired = on_fired_again;
	for (int i = 0; i < 3; i++)
		timer_set(&ts, &all[i], TIMER_BODY, 1000);
	assert_false(timers_run(&ts, 1100));
	assert_int_equal(fired, 2);
	assert_true(all[0].on && !all[1].on && !all[2].on);
}

static void test_hurry_takes_the_next(void **state)
{
	(void)state;
	assert_false(timers_hurry(&ts, TIMER_IDLE));
	timer_set(&ts, &all[0], TIMER_IDLE, 1000);
	timer_set(&ts, &all[1], TIMER_IDLE, 1005);
	timer_set(&ts, &all[2], TIMER_BODY, 0);
	assert_true(timers_hurry(&ts, TIMER_IDLE));
	assert_int_equal(order[0], 0);
	assert_true(timers_hurry(&ts, TIMER_IDLE));
	assert_int_equal(order[1], 1);
	assert_false(timers_hurry(&ts, TIMER_IDLE));
	assert_true(all[2].on);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_in_their_order_and_not_before, setup),
	    cmocka_unit_test_setup(test_many_at_once_leave_others_their_turn, setup),
	    cmocka_unit_test_setup(test_what_a_timer_does_to_others, setup),
	    cmocka_unit_test_setup(test_hurry_takes_the_next, setup),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
