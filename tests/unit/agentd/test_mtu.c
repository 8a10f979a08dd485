/* SPDX-License-Identifier: MIT */
/* The search for the largest packet that arrives, over a path of a given width. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agentd/health/mtu.h"

#define FULL 1420
#define EVERY 3000

struct world {
	struct mtu m;
	int64_t now;
	unsigned width, most, sent, largest, changes;
	bool busy, up;
	unsigned lose; /* so many of the next packets */
};

/* To the next time that it wants to be called. */
static void step(struct world *w)
{
	uint16_t sizes[MTU_SIZES];
	bool changed;
	size_t n;

	if (w->m.due_ms > w->now)
		w->now = w->m.due_ms;
	n = mtu_tick(&w->m, w->most, w->busy, w->up, w->now, sizes, &changed);
	assert_true(n <= MTU_SIZES);
	w->changes += changed;
	w->sent += (unsigned)n;
	for (size_t i = 0; i < n; i++) {
		assert_true(sizes[i] >= 576 && sizes[i] <= w->most);
		for (size_t k = 0; k < i; k++)
			assert_int_not_equal(sizes[i], sizes[k]);
		w->largest = sizes[i] > w->largest ? sizes[i] : w->largest;
		if (w->lose > 0)
			w->lose--;
		else if (sizes[i] <= w->width)
			mtu_reply(&w->m, sizes[i], w->now + 20);
	}
	/* It never asks to be called again at once. */
	assert_true(w->m.due_ms > w->now);
}

static void run(struct world *w, int64_t ms)
{
	int64_t until = w->now + ms;

	while (w->m.due_ms <= until)
		step(w);
	w->now = until;
}

static struct world make(unsigned width)
{
	struct world w = {.now = 1000, .width = width, .most = FULL, .busy = true, .up = true};

	mtu_init(&w.m, EVERY, w.now);
	return w;
}

static void test_wide(void **state)
{
	struct world w = make(FULL);

	(void)state;
	run(&w, 600000);
	assert_int_equal(w.m.limit, 0);
	assert_int_equal(w.changes, 0);
	assert_in_range(w.sent, 190, 201); /* one check for each interval */
	w.busy = false;
	w.sent = 0;
	run(&w, 600000);
	assert_in_range(w.sent, 9, 11);
}

/* Every width: the limit fits, and is not much less than what would; found within seconds. */
static void test_black_hole(void **state)
{
	(void)state;
	for (unsigned width = 576; width < FULL; width++) {
		struct world w = make(FULL);

		run(&w, 60000);
		w.width = width;
		run(&w, EVERY + MTU_MISSES * MTU_REPLY_MS + MTU_ROUND_MS + MTU_REPLY_MS);
		assert_true(w.m.limit != 0 && w.m.limit <= width);
		if (width >= 1200)
			assert_true(width - w.m.limit < 40);
		assert_int_equal(w.changes, 1);
		w.largest = 0;
		run(&w, 60000);
		assert_int_equal(w.changes, 1);
		assert_int_equal(w.largest, w.m.limit);
	}
}

static void test_grows_again(void **state)
{
	struct world w = make(1232);

	(void)state;
	run(&w, 60000);
	assert_int_equal(w.m.limit, 1232);
	w.width = 1392;
	run(&w, MTU_RAISE_MS);
	assert_int_equal(w.m.limit, 1392);
	w.width = FULL;
	mtu_again(&w.m, w.now);
	run(&w, 10000);
	assert_int_equal(w.m.limit, 0);
	assert_int_equal(w.changes, 3);
	/* And narrower than before. */
	w.width = 1200;
	run(&w, 10000);
	assert_int_equal(w.m.limit, 1200);
	w.width = 1024;
	run(&w, 10000);
	assert_int_equal(w.m.limit, 1024);
}

/* A dead path, and single losses, say nothing about its width. */
static void test_losses(void **state)
{
	struct world w = make(FULL);

	(void)state;
	for (int i = 0; i < 100; i++) {
		w.lose = 1;
		run(&w, 7000);
	}
	assert_int_equal(w.changes, 0);
	w.width = 0;
	run(&w, 60000); /* small packets are thought to pass */
	assert_int_equal(w.changes, 0);
	w.up = false;
	w.sent = 0;
	run(&w, 60000);
	assert_true(w.sent <= MTU_SIZES * MTU_ROUNDS);
	w.up = true;
	w.width = FULL;
	run(&w, 60000);
	assert_int_equal(w.changes, 0);
	assert_int_equal(w.m.limit, 0);
	/* Even a burst of losses that begins a search does not decide it. */
	w.lose = MTU_MISSES + MTU_SIZES;
	run(&w, 20000);
	assert_int_equal(w.m.limit, 0);
}

/* Routers speak: what is known to fit gets smaller by itself, and that is no miss. */
static void test_known_meanwhile(void **state)
{
	struct world w = make(FULL);

	(void)state;
	run(&w, 60000);
	w.width = 1240;
	w.lose = 1;
	step(&w);
	w.most = 1240;
	run(&w, 60000);
	assert_int_equal(w.changes, 0);
	w.most = FULL;
	w.width = FULL;
	run(&w, 60000);
	assert_int_equal(w.changes, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_wide),
	    cmocka_unit_test(test_black_hole),
	    cmocka_unit_test(test_grows_again),
	    cmocka_unit_test(test_losses),
	    cmocka_unit_test(test_known_meanwhile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
