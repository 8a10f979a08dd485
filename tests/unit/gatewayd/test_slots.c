/* SPDX-License-Identifier: MIT */
/* Connections per target and the queue for them: the order, the bounds, and that no slot is ever
 * lost or given twice, with workers that take, wait, leave and put away at random. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/upstream/slots.h"
#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- one thread ---- */

static int wakes[2];
static struct slots_wait *granted[8];
static size_t n_granted, n_asked;

static void on_wake(void *arg)
{
	++*(int *)arg;
}

static void on_granted(void *arg, struct slots_wait *w)
{
	(void)arg;
	granted[n_granted++] = w;
}

static void on_asked(void *arg, struct slots *s)
{
	(void)arg, (void)s;
	n_asked++;
}

static const struct slots_calls calls = {on_granted, on_asked, NULL};

struct two {
	struct slots_hub *hub;
	struct slots_desk *a, *b;
	struct slots *s;
};

static struct two two_new(void)
{
	struct two t = {.hub = slots_hub_new(2), .s = slots_new()};
	assert_true(t.hub && t.s);
	memset(wakes, 0, sizeof(wakes));
	n_granted = n_asked = 0;
	t.a = slots_desk(t.hub, 0, on_wake, &wakes[0]);
	t.b = slots_desk(t.hub, 1, on_wake, &wakes[1]);
	return t;
}

static void two_free(struct two *t)
{
	slots_put(t->s);
	slots_hub_free(t->hub);
}

static void test_a_bound_and_a_queue(void **state)
{
	struct two t = two_new();
	struct slots_wait w[3] = {0};
	(void)state;
	assert_int_equal(slots_take(t.s, t.a, 2), 0);
	assert_int_equal(slots_wait(t.s, t.a, 2, 2, 0, &w[0]), 0);
	assert_int_equal(slots_take(t.s, t.a, 2), KM_EFULL);
	assert_int_equal(slots_wait(t.s, t.a, 2, 2, 0, &w[0]), KM_EAGAIN);
	assert_int_equal(slots_wait(t.s, t.b, 2, 2, 0, &w[1]), KM_EAGAIN);
	assert_int_equal(slots_wait(t.s, t.b, 2, 2, 0, &w[2]), KM_EFULL);
	assert_true(slots_wanted(t.s));
	/* Who has waited longest gets it, and nobody overtakes. */
	slots_release(t.s, t.a);
	assert_int_equal(slots_take(t.s, t.a, 2), KM_EFULL);
	slots_desk_run(t.a, &calls);
	assert_int_equal(n_granted, 1);
	assert_ptr_equal(granted[0], &w[0]);
	slots_release(t.s, t.a);
	slots_desk_run(t.a, &calls);
	assert_int_equal(n_granted, 1);
	slots_desk_run(t.b, &calls);
	assert_int_equal(n_granted, 2);
	assert_ptr_equal(granted[1], &w[1]);
	assert_false(slots_wanted(t.s));
	slots_release(t.s, t.a);
	assert_int_equal(slots_take(t.s, t.a, 2), 0);
	two_free(&t);
}

static void test_who_leaves_takes_nothing_along(void **state)
{
	struct two t = two_new();
	struct slots_wait w[3] = {0}, never = {0};
	(void)state;
	assert_false(slots_leave(&never));
	assert_int_equal(slots_take(t.s, t.a, 1), 0);
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(slots_wait(t.s, t.a, 1, 8, 0, &w[i]), KM_EAGAIN);
	assert_false(slots_leave(&w[1]));
	assert_false(slots_leave(&w[1]));
	slots_release(t.s, t.a); /* granted to the first, who leaves before it hears of it */
	assert_true(slots_leave(&w[0]));
	slots_release(t.s, t.a);
	slots_desk_run(t.a, &calls);
	assert_int_equal(n_granted, 1);
	assert_ptr_equal(granted[0], &w[2]);
	assert_false(slots_leave(&w[2])); /* it has it already */
	two_free(&t);
}

static void test_a_larger_maximum_lets_in_who_waits(void **state)
{
	struct two t = two_new();
	struct slots_wait w[3] = {0};
	(void)state;
	assert_int_equal(slots_take(t.s, t.a, 1), 0);
	assert_int_equal(slots_wait(t.s, t.a, 1, 8, 0, &w[0]), KM_EAGAIN);
	assert_int_equal(slots_wait(t.s, t.a, 3, 8, 0, &w[1]), KM_EAGAIN);
	slots_release(t.s, t.a);
	slots_desk_run(t.a, &calls);
	assert_int_equal(n_granted, 2);
	two_free(&t);
}

static void test_others_are_asked_once(void **state)
{
	struct two t = two_new();
	struct slots_wait w[2] = {0};
	(void)state;
	assert_int_equal(slots_take(t.s, t.a, 1), 0);
	assert_int_equal(slots_wait(t.s, t.a, 1, 8, 0, &w[0]), KM_EAGAIN);
	assert_int_equal(slots_wait(t.s, t.a, 1, 8, 0, &w[1]), KM_EAGAIN);
	assert_int_equal(wakes[1], 1);
	assert_int_equal(wakes[0], 0);
	slots_desk_run(t.b, &calls);
	assert_int_equal(n_asked, 1);
	slots_leave(&w[1]);
	assert_int_equal(slots_wait(t.s, t.a, 1, 8, 0, &w[1]), KM_EAGAIN);
	assert_int_equal(wakes[1], 2); /* again: it may have put one away meanwhile */
	slots_leave(&w[0]);
	slots_leave(&w[1]);
	two_free(&t); /* with what was asked still on the desk */
}

static bool fits(const struct slots_wait *w, const void *arg)
{
	return w != arg;
}

static void test_whose_turn_it_is(void **state)
{
	struct two t = two_new();
	struct slots_wait a = {0}, b = {0}, *w;
	(void)state;
	assert_int_equal(slots_turn(t.s, t.a, 0, fits, NULL, &w), SLOTS_NOBODY);
	assert_int_equal(slots_take(t.s, t.a, 1), 0);
	assert_int_equal(slots_wait(t.s, t.b, 1, 8, 100, &b), KM_EAGAIN);
	assert_int_equal(slots_turn(t.s, t.a, 100, fits, NULL, &w), SLOTS_YIELD);
	assert_int_equal(slots_wait(t.s, t.a, 1, 8, 110, &a), KM_EAGAIN);
	assert_int_equal(slots_turn(t.s, t.a, 100 + SLOTS_UNFAIR_MS, fits, NULL, &w), SLOTS_YIELD);
	assert_int_equal(slots_turn(t.s, t.a, 120, fits, &a, &w), SLOTS_YIELD);
	assert_int_equal(slots_turn(t.s, t.a, 120, fits, NULL, &w), SLOTS_HERE);
	assert_ptr_equal(w, &a);
	assert_int_equal(slots_turn(t.s, t.b, 1000, fits, NULL, &w), SLOTS_HERE);
	assert_ptr_equal(w, &b);
	slots_desk_run(t.a, &calls);
	slots_desk_run(t.b, &calls);
	assert_int_equal(n_granted, 2);
	two_free(&t);
}

/* ---- HTTP/2 ---- */

static void test_what_the_target_speaks(void **state)
{
	struct two t = two_new();
	(void)state;
	assert_int_equal(slots_speaks(t.s, 7), SLOTS_UNKNOWN);
	slots_spoke(t.s, 7, false);
	assert_int_equal(slots_speaks(t.s, 7), SLOTS_HTTP1);
	slots_spoke(t.s, 7, true);
	assert_int_equal(slots_speaks(t.s, 7), SLOTS_HTTP2);
	assert_int_equal(slots_speaks(t.s, 8), SLOTS_UNKNOWN); /* another version is another target */
	two_free(&t);
}

/* A connection of HTTP/2 serves one worker alone, so each has a place, however few there are. */
static void test_every_worker_has_a_place(void **state)
{
	struct two t = two_new();
	struct slots_wait a = {0}, b = {0}, *w;
	(void)state;
	slots_spoke(t.s, 1, true);
	assert_false(slots_leave(&a));
	assert_int_equal(slots_take(t.s, t.a, 1), 0);
	assert_int_equal(slots_take(t.s, t.a, 1), KM_EFULL); /* that is the other's */
	assert_int_equal(slots_wait(t.s, t.a, 1, 8, 0, &a), KM_EAGAIN);
	assert_int_equal(slots_take(t.s, t.b, 1), 0); /* whoever waits */
	assert_int_equal(slots_take(t.s, t.b, 1), KM_EFULL);
	assert_true(slots_own(t.s, t.a) && slots_own(t.s, t.b));
	/* It would be of no use to who waits elsewhere, so it is not closed for him. */
	assert_int_equal(slots_turn(t.s, t.b, 1000, fits, NULL, &w), SLOTS_NOBODY);
	assert_int_equal(slots_wait(t.s, t.b, 1, 8, 900, &b), KM_EAGAIN);
	assert_int_equal(slots_turn(t.s, t.b, 1000, fits, NULL, &w), SLOTS_HERE);
	assert_ptr_equal(w, &b);
	slots_desk_run(t.b, &calls);
	slots_release(t.s, t.b);
	slots_desk_run(t.a, &calls);
	assert_int_equal(n_granted, 1); /* the place is still kept */
	slots_spoke(t.s, 1, false);
	assert_int_equal(slots_waiting(t.s), 1);
	slots_release(t.s, t.a);
	slots_desk_run(t.a, &calls);
	assert_int_equal(n_granted, 2);
	assert_ptr_equal(granted[1], &a);
	two_free(&t);
}

static void test_places_are_kept_within_the_maximum(void **state)
{
	struct two t = two_new();
	(void)state;
	slots_spoke(t.s, 1, true);
	assert_int_equal(slots_take(t.s, t.a, 3), 0);
	assert_int_equal(slots_take(t.s, t.a, 3), 0);
	assert_int_equal(slots_take(t.s, t.a, 3), KM_EFULL);
	assert_false(slots_own(t.s, t.a));
	assert_int_equal(slots_take(t.s, t.b, 3), 0);
	assert_int_equal(slots_take(t.s, t.b, 3), KM_EFULL);
	slots_release(t.s, t.a);
	assert_int_equal(slots_take(t.s, t.b, 3), 0);
	two_free(&t);
}

/* Who began to wait before it was known gets his place then. */
static void test_it_turns_out_to_be_http_2(void **state)
{
	struct two t = two_new();
	struct slots_wait a = {0}, b = {0};
	(void)state;
	assert_int_equal(slots_take(t.s, t.a, 1), 0);
	assert_int_equal(slots_wait(t.s, t.a, 1, 8, 0, &a), KM_EAGAIN);
	assert_int_equal(slots_wait(t.s, t.b, 1, 8, 0, &b), KM_EAGAIN);
	slots_spoke(t.s, 1, true);
	slots_desk_run(t.a, &calls);
	assert_int_equal(n_granted, 0);
	slots_desk_run(t.b, &calls);
	assert_int_equal(n_granted, 1);
	assert_ptr_equal(granted[0], &b);
	slots_leave(&a);
	two_free(&t);
}

/* ---- workers ---- */

#define WORKERS 4
#define EACH 4000 /* connections that each worker wants one after another */
#define WAITERS 6 /* of a worker at once */
#define MAX 5

static _Atomic int open_now, open_most, served, left;

struct crew {
	struct slots *s;
	struct slots_desk *desk;
	pthread_mutex_t m;
	pthread_cond_t c;
	bool woken;
	unsigned seed;
	int idle, using, wanted;
	struct slots_wait w[WAITERS];
	bool waits[WAITERS];
	bool stuck;
};

static void crew_wake(void *arg)
{
	struct crew *k = arg;
	pthread_mutex_lock(&k->m);
	k->woken = true;
	pthread_cond_signal(&k->c);
	pthread_mutex_unlock(&k->m);
}

static void opened(struct crew *k)
{
	int n = atomic_fetch_add(&open_now, 1) + 1, most = atomic_load(&open_most);
	while (n > most && !atomic_compare_exchange_weak(&open_most, &most, n))
		;
	k->using ++;
	atomic_fetch_add(&served, 1);
}

static void closed(struct crew *k)
{
	atomic_fetch_sub(&open_now, 1);
	slots_release(k->s, k->desk);
}

static void crew_granted(void *arg, struct slots_wait *w)
{
	struct crew *k = arg;
	k->waits[w - k->w] = false;
	opened(k);
}

static void crew_asked(void *arg, struct slots *s)
{
	struct crew *k = arg;
	for (uint32_t n = slots_waiting(s); k->idle && n; n--) {
		k->idle--;
		closed(k);
	}
}

/* As a pool does when an answer is whole. */
static void crew_free_one(struct crew *k)
{
	struct slots_wait *w;
	k->using --;
	if (slots_wanted(k->s)) {
		switch (slots_turn(k->s, k->desk, 0, fits, NULL, &w)) {
		case SLOTS_HERE:
			atomic_fetch_sub(&open_now, 1); /* opened() counts it again */
			return;
		case SLOTS_YIELD:
			closed(k);
			return;
		default:
			break;
		}
	}
	k->idle++;
}

static void crew_want(struct crew *k)
{
	for (size_t i = 0; i < WAITERS; i++) {
		if (k->waits[i])
			continue;
		k->wanted++;
		if (k->idle) {
			k->idle--;
			k->using ++;
			atomic_fetch_add(&served, 1);
			return;
		}
		int rc = slots_wait(k->s, k->desk, MAX, WORKERS * WAITERS, 0, &k->w[i]);
		k->waits[i] = rc == KM_EAGAIN;
		if (!rc)
			opened(k);
		return;
	}
}

static void crew_leave(struct crew *k)
{
	size_t i = (size_t)rand_r(&k->seed) % WAITERS;
	if (!k->waits[i])
		return;
	k->waits[i] = false;
	atomic_fetch_add(&left, 1);
	if (slots_leave(&k->w[i]))
		slots_release(k->s, k->desk);
}

static int crew_waiting(const struct crew *k)
{
	int n = 0;
	for (size_t i = 0; i < WAITERS; i++)
		n += k->waits[i];
	return n;
}

/* What waits must be woken: a minute without is a lost slot. */
static void crew_sleep(struct crew *k)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 60;
	pthread_mutex_lock(&k->m);
	while (!k->woken && !k->stuck)
		k->stuck = pthread_cond_timedwait(&k->c, &k->m, &until) == ETIMEDOUT;
	pthread_mutex_unlock(&k->m);
}

static void *crew_work(void *arg)
{
	struct crew *k = arg;
	const struct slots_calls mine = {crew_granted, crew_asked, k};
	while (!k->stuck && (k->wanted < EACH || crew_waiting(k) || k->using)) {
		pthread_mutex_lock(&k->m);
		bool woken = k->woken;
		k->woken = false;
		pthread_mutex_unlock(&k->m);
		if (woken)
			slots_desk_run(k->desk, &mine);
		unsigned what = (unsigned)rand_r(&k->seed) % 8;
		if (what < 4 && k->wanted < EACH)
			crew_want(k);
		else if (what == 4)
			crew_leave(k);
		else if (k->using)
			crew_free_one(k);
		if (crew_waiting(k) == WAITERS && !k->using)
			crew_sleep(k);
		else if (k->wanted == EACH && crew_waiting(k) && !k->using)
			crew_sleep(k);
	}
	return NULL;
}

/* Those that are done go on putting unused connections at the others' disposal. */
static void *crew_run(void *arg)
{
	struct crew *k = arg;
	crew_work(k);
	while (k->idle) {
		k->idle--;
		closed(k);
	}
	return NULL;
}

static void test_workers_side_by_side(void **state)
{
	struct slots_hub *hub = slots_hub_new(WORKERS);
	struct slots *s = slots_new();
	struct crew crews[WORKERS];
	pthread_t threads[WORKERS];
	(void)state;
	assert_true(hub && s);
	memset(crews, 0, sizeof(crews));
	for (size_t i = 0; i < WORKERS; i++) {
		struct crew *k = &crews[i];
		k->s = s;
		k->seed = (unsigned)i + 1;
		pthread_mutex_init(&k->m, NULL);
		pthread_cond_init(&k->c, NULL);
		k->desk = slots_desk(hub, i, crew_wake, k);
	}
	for (size_t i = 0; i < WORKERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, crew_run, &crews[i]), 0);
	for (size_t i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < WORKERS; i++)
		assert_false(crews[i].stuck);
	assert_in_range(atomic_load(&open_most), 2, MAX);
	assert_int_equal(atomic_load(&open_now), 0);
	assert_int_equal(atomic_load(&served) + atomic_load(&left), WORKERS * EACH);
	assert_int_equal(slots_waiting(s), 0);
	for (uint32_t i = 0; i < MAX; i++) /* all are there again */
		assert_int_equal(slots_take(s, crews[0].desk, MAX), 0);
	assert_int_equal(slots_take(s, crews[0].desk, MAX), KM_EFULL);
	slots_put(s);
	slots_hub_free(hub);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_a_bound_and_a_queue),
	    cmocka_unit_test(test_who_leaves_takes_nothing_along),
	    cmocka_unit_test(test_a_larger_maximum_lets_in_who_waits),
	    cmocka_unit_test(test_others_are_asked_once),
	    cmocka_unit_test(test_whose_turn_it_is),
	    cmocka_unit_test(test_what_the_target_speaks),
	    cmocka_unit_test(test_every_worker_has_a_place),
	    cmocka_unit_test(test_places_are_kept_within_the_maximum),
	    cmocka_unit_test(test_it_turns_out_to_be_http_2),
	    cmocka_unit_test(test_workers_side_by_side),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
