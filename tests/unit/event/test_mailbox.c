/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "libkm/base/err.h"
#include "libkm/event/mailbox.h"
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

static int readable(const struct km_mailbox *m, int timeout_ms)
{
	struct pollfd p = {.fd = km_mailbox_fd(m), .events = POLLIN};

	return poll(&p, 1, timeout_ms);
}

static void first_in_first_out(void **state)
{
	struct km_mailbox *m = km_mailbox_new(3);
	int a[4];

	(void)state;
	assert_non_null(m);
	assert_null(km_mailbox_take(m));
	assert_int_equal(readable(m, 0), 0);
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < 3; i++)
			assert_int_equal(km_mailbox_put(m, &a[i]), 0);
		assert_int_equal(km_mailbox_put(m, &a[3]), KM_EFULL);
		assert_ptr_equal(km_mailbox_take(m), &a[0]);
		assert_int_equal(km_mailbox_put(m, &a[3]), 0);
		for (int i = 1; i < 4; i++) {
			assert_int_equal(readable(m, 0), 1);
			assert_ptr_equal(km_mailbox_take(m), &a[i]);
		}
		assert_int_equal(readable(m, 0), 0);
		assert_null(km_mailbox_take(m));
	}
	km_mailbox_free(m, NULL);
	km_mailbox_free(NULL, NULL);
	assert_null(km_mailbox_new(0));
	assert_null(km_mailbox_new(SIZE_MAX));
}

static void closed_can_be_emptied(void **state)
{
	struct km_mailbox *m = km_mailbox_new(2);
	int a;

	(void)state;
	assert_int_equal(km_mailbox_put(m, &a), 0);
	km_mailbox_close(m);
	assert_int_equal(km_mailbox_put(m, &a), KM_ECLOSED);
	assert_int_equal(readable(m, 0), 1);
	assert_ptr_equal(km_mailbox_take(m), &a);
	assert_null(km_mailbox_take(m));
	km_mailbox_free(m, NULL);
}

static void what_is_left_is_dropped(void **state)
{
	struct km_mailbox *m = km_mailbox_new(10);

	(void)state;
	for (int i = 0; i < 7; i++)
		assert_int_equal(km_mailbox_put(m, malloc(1)), 0);
	km_mailbox_free(m, free); /* LeakSanitizer counts */
}

#define WRITERS 4
#define ITEMS 20000

struct item {
	int writer, n;
};
struct writer {
	struct km_mailbox *box;
	int number;
};

static void *write_items(void *arg)
{
	struct writer *w = arg;

	for (int n = 0; n < ITEMS; n++) {
		struct item *it = malloc(sizeof(*it));

		*it = (struct item){w->number, n};
		while (km_mailbox_put(w->box, it) == KM_EFULL)
			sched_yield();
	}
	return NULL;
}

/* Nothing is lost or doubled, each writer's order is kept, and a sleeping reader is woken. */
static void many_writers(void **state)
{
	struct km_mailbox *m = km_mailbox_new(16);
	struct writer w[WRITERS];
	pthread_t t[WRITERS];
	int next[WRITERS] = {0};

	(void)state;
	for (int i = 0; i < WRITERS; i++) {
		w[i] = (struct writer){m, i};
		assert_int_equal(pthread_create(&t[i], NULL, write_items, &w[i]), 0);
	}
	for (int got = 0; got < WRITERS * ITEMS;) {
		struct item *it;

		assert_int_equal(readable(m, 60000), 1);
		while ((it = km_mailbox_take(m))) {
			assert_int_equal(next[it->writer]++, it->n);
			free(it);
			got++;
		}
	}
	assert_int_equal(readable(m, 0), 0);
	for (int i = 0; i < WRITERS; i++)
		pthread_join(t[i], NULL);
	km_mailbox_free(m, free);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(first_in_first_out),
	    cmocka_unit_test(closed_can_be_emptied),
	    cmocka_unit_test(what_is_left_is_dropped),
	    cmocka_unit_test(many_writers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
