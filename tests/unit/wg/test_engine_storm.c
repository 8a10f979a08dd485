/* SPDX-License-Identifier: MIT */
/* A gateway and many agents that begin all at once: nobody waits long, nothing comes in step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "storm.h"

#define AGENTS 500
/* What one core begins in 100 ms at most. */
#define MOST (WG_INITIATION_BURST + 100000 / WG_INITIATION_EACH_US)

static void test_storm(void **state)
{
	struct storm *s = storm_new(AGENTS);
	int64_t took;

	(void)state;
	/* The power is back: all dial at once. */
	took = storm_settle(s, 60000);
	assert_in_range(took, 0, 6000);
	assert_int_equal(s->agents_100ms.most, AGENTS);
	/* Ten minutes without traffic: what began in one moment has spread. */
	many_run(s->net, 300000);
	storm_mark(s);
	many_run(s->net, 300000);
	assert_in_range(s->initiations, AGENTS * 300 / 160, AGENTS * 300 / 110);
	assert_in_range(s->all_1s.most, 1, AGENTS / 12);
	assert_true(storm_settled(s));
	/* The gateway starts anew, and speaks first to where its agents were. */
	storm_restart(s, true);
	took = storm_settle(s, 60000);
	assert_in_range(took, 0, 6000);
	assert_in_range(s->gateway_100ms.most, WG_INITIATION_BURST * 3 / 4, MOST);
	/* It starts anew and knows nobody's place: agents notice when they are not answered. */
	s->probing = true;
	many_run(s->net, 10000);
	storm_restart(s, false);
	took = storm_settle(s, 60000);
	assert_in_range(took, 10000, 27000);
	assert_int_equal(s->gateway->dropped, 0);
	storm_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_storm)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
