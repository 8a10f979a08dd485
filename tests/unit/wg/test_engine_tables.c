/* SPDX-License-Identifier: MIT */
/* The replay window and the table of allowed IPs, each beside a plain model of what it should say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include "libkm/wg/engine/allowed.h"
#include "libkm/wg/engine/replay.h"

/* ---- the replay window ---- */

/* The oldest counter that is taken after g is g - 8128: 8129 in all. None from 2^64 - 8130 on. */
#define WIDTH 8128ULL
#define END (UINT64_MAX - 8129)

struct step {
	uint64_t counter;
	bool taken;
};

static void walk(const struct step *s, size_t n)
{
	struct wg_replay r = {0};

	for (size_t i = 0; i < n; i++)
		if (wg_replay_accept(&r, s[i].counter) != s[i].taken)
			fail_msg("step %zu: %llu should be %s", i, (unsigned long long)s[i].counter,
				 s[i].taken ? "taken" : "refused");
}
#define WALK(...)                                                                                  \
	walk((const struct step[]){__VA_ARGS__},                                                   \
	     sizeof((const struct step[]){__VA_ARGS__}) / sizeof(struct step))

static void test_window_edges(void **state)
{
	(void)state;
	assert_int_equal(WG_REPLAY_BITS, 8192);
	assert_int_equal(WG_REPLAY_WINDOW, WIDTH);
	assert_int_equal(WG_REJECT_AFTER_MESSAGES, END);
	/* In order, again, and out of order near zero. */
	WALK({0, true}, {0, false}, {1, true}, {1, false}, {9, true}, {8, true}, {7, true},
	     {7, false}, {9, false}, {2, true}, {2, false}, {0, false}, {3, true}, {4, true},
	     {5, true}, {6, true});
	/* The first one may be any; 0 is taken while the greatest is 8128, and no longer. */
	WALK({WIDTH, true}, {0, true}, {0, false});
	WALK({WIDTH + 1, true}, {0, false}, {1, true}, {1, false});
	WALK({WIDTH + 1, true}, {WIDTH, true}, {WIDTH, false}, {WIDTH - 1, true}, {2, true},
	     {2, false}, {WIDTH + 17, true}, {3, false}, {16, false}, {17, true},
	     {WIDTH + 17, false});
	/* A leap over several windows: what it has passed is refused whether it was seen or not,
	 * what it has not is new, even where an old counter had the same place in the bitmap. */
	WALK({WIDTH + 17, true}, {4 * WIDTH + 4, true}, {3 * WIDTH + 4, true}, {10, false},
	     {3 * WIDTH + 3, false}, {3 * WIDTH + 2, false}, {3 * WIDTH + 5, true},
	     {3 * WIDTH + 4, false}, {4 * WIDTH + 4, false}, {0, false});
	WALK({5, true}, {8192 + 5, true}, {8192 + 4, true}, {8192 + 5, false}, {5, false},
	     {69, true});
	WALK({0, true}, {8191, true}, {8192, true}, {64, true}, {63, false}, {0, false});
	/* The end: nothing from END on, and the window below it goes on. */
	WALK({0, true}, {END, false}, {END - 1, true}, {END, false}, {END - 1, false},
	     {END - 2, true}, {END + 1, false}, {END + 2, false}, {UINT64_MAX, false},
	     {UINT64_MAX - 1, false}, {END - 2, false}, {END - 3, true}, {0, false},
	     {END - 1 - WIDTH, true}, {END - 2 - WIDTH, false});
}

/* Whole windows, forwards and backwards, then their neighbours. */
static void test_window_full(void **state)
{
	struct wg_replay r;
	uint64_t i, from;

	(void)state;
	for (from = 0; from <= 2; from++) {
		memset(&r, 0, sizeof(r));
		for (i = from; i <= from + WIDTH; i++)
			assert_true(wg_replay_accept(&r, i));
		for (i = 0; i <= from + WIDTH; i++)
			assert_false(wg_replay_accept(&r, i));
		memset(&r, 0, sizeof(r));
		for (i = from + WIDTH + 1; i-- > from;)
			assert_true(wg_replay_accept(&r, i));
		for (i = 0; i <= from + WIDTH; i++)
			assert_false(wg_replay_accept(&r, i));
		assert_true(wg_replay_accept(&r, from + WIDTH + 1));
		assert_false(wg_replay_accept(&r, from + WIDTH + 1));
		assert_false(wg_replay_accept(&r, from));
	}
	/* All but one of a window, then that one, at both of its last moments. */
	memset(&r, 0, sizeof(r));
	for (i = WIDTH; i > 0; i--)
		assert_true(wg_replay_accept(&r, i));
	assert_true(wg_replay_accept(&r, 0));
	memset(&r, 0, sizeof(r));
	for (i = WIDTH + 1; i > 0; i--)
		assert_true(wg_replay_accept(&r, i));
	assert_false(wg_replay_accept(&r, 0));
}

#define SPAN 65536
/* Steps of every size in both directions, beside an array of what was seen. */
static void test_window_random(void **state)
{
	bool *seen = km_xcalloc(SPAN, sizeof(*seen));
	struct wg_replay r = {0};
	uint64_t greatest = 0, counter;
	bool any = false, want;
	unsigned taken = 0;

	(void)state;
	for (int i = 0; i < 200000; i++) {
		counter = km_random_below(3)     ? greatest + km_random_below(4)
			  : km_random_below(100) ? greatest - km_random_below(9000)
						 : greatest + km_random_below(10000);
		if (counter > SPAN - 1) { /* or below zero */
			if (greatest < SPAN - 10004)
				continue;
			memset(&r, 0, sizeof(r));
			memset(seen, 0, SPAN * sizeof(*seen));
			greatest = 0;
			any = false;
			continue;
		}
		want = !seen[counter] && (!any || counter + WIDTH >= greatest);
		if (wg_replay_accept(&r, counter) != want)
			fail_msg("%llu after %llu", (unsigned long long)counter,
				 (unsigned long long)greatest);
		if (want) {
			seen[counter] = any = true;
			greatest = counter > greatest ? counter : greatest;
			taken++;
		}
	}
	assert_true(taken > 50000);
	free(seen);
}

/* ---- allowed IPs ---- */

struct prefix {
	uint8_t addr[16];
	size_t naddr;
	unsigned bits;
	const char *peer;
};
#define MODEL 600
struct model {
	struct prefix p[MODEL];
	size_t n;
};
static char peers[32];

static bool holds(const struct prefix *p, const uint8_t *addr, size_t naddr)
{
	unsigned i = 0;

	while (p->naddr == naddr && i < p->bits &&
	       !((p->addr[i / 8] ^ addr[i / 8]) >> (7 - i % 8) & 1))
		i++;
	return p->naddr == naddr && i == p->bits;
}

static struct prefix *model_exact(struct model *m, const struct prefix *x)
{
	for (size_t i = 0; i < m->n; i++)
		if (m->p[i].bits == x->bits && holds(&m->p[i], x->addr, x->naddr))
			return &m->p[i];
	return NULL;
}

static const char *model_find(const struct model *m, const uint8_t *addr, size_t naddr)
{
	const struct prefix *best = NULL;

	for (size_t i = 0; i < m->n; i++)
		if (holds(&m->p[i], addr, naddr) && (best == NULL || m->p[i].bits > best->bits))
			best = &m->p[i];
	return best ? best->peer : NULL;
}

/* Few different bits, so that prefixes meet; sometimes one of the model's, a little changed. */
static void random_prefix(const struct model *m, struct prefix *x)
{
	unsigned bit;

	*x = (struct prefix){.naddr = km_random_below(2) ? 4 : 16,
			     .peer = &peers[km_random_below(32)]};
	km_random(x->addr, x->naddr);
	for (size_t i = 0; i < x->naddr; i++)
		x->addr[i] &= i < 2 ? 0x03 : 0xc1;
	x->bits = km_random_below((uint32_t)x->naddr * 8 + 1);
	if (m->n == 0 || km_random_below(2))
		return;
	*x = m->p[km_random_below((uint32_t)m->n)];
	x->peer = &peers[km_random_below(32)];
	if (km_random_below(2)) {
		bit = km_random_below((uint32_t)x->naddr * 8);
		x->addr[bit / 8] ^= (uint8_t)(0x80 >> bit % 8);
	}
	if (km_random_below(2))
		x->bits = km_random_below((uint32_t)x->naddr * 8 + 1);
}

static void insert(struct wg_allowed *t, struct model *m, const struct prefix *x)
{
	struct prefix *there = model_exact(m, x);

	if (there == NULL && m->n == MODEL)
		return;
	assert_int_equal(wg_allowed_insert(t, x->addr, x->naddr, x->bits, (void *)x->peer), 0);
	if (there == NULL)
		m->p[m->n++] = *x;
	else
		there->peer = x->peer;
}

static void take_out(struct wg_allowed *t, struct model *m, const struct prefix *x)
{
	struct prefix *there = model_exact(m, x);

	wg_allowed_remove(t, x->addr, x->naddr, x->bits, x->peer);
	if (there != NULL && there->peer == x->peer)
		*there = m->p[--m->n];
}

static void take_out_peer(struct wg_allowed *t, struct model *m, const char *peer)
{
	for (size_t i = 0; i < m->n;)
		if (m->p[i].peer == peer) {
			wg_allowed_remove(t, m->p[i].addr, m->p[i].naddr, m->p[i].bits, peer);
			m->p[i] = m->p[--m->n];
		} else {
			i++;
		}
}

static void test_allowed(void **state)
{
	struct model *m = km_xcalloc(1, sizeof(*m));
	struct wg_allowed t = {.root4 = NULL};
	struct prefix x, *there;
	size_t found = 0;

	(void)state;
	for (int i = 0; i < 30000; i++) {
		random_prefix(m, &x);
		switch (km_random_below(1000) < 2 ? 0 : 1 + km_random_below(5)) {
		case 0:
			take_out_peer(&t, m, x.peer);
			break;
		case 1:
			insert(&t, m, &x);
			break;
		case 2:
			if ((there = model_exact(m, &x)) != NULL && km_random_below(4))
				x.peer = there->peer;
			take_out(&t, m, &x);
			break;
		default:
			assert_ptr_equal(wg_allowed_find(&t, x.addr, x.naddr),
					 model_find(m, x.addr, x.naddr));
			found += model_find(m, x.addr, x.naddr) != NULL;
			there = model_exact(m, &x);
			assert_ptr_equal(wg_allowed_exact(&t, x.addr, x.naddr, x.bits),
					 there ? there->peer : NULL);
		}
		if (i % 100 == 0)
			wg_allowed_reclaim(&t);
	}
	assert_true(found > 1000);
	/* To the last one, and nothing is found any more. */
	for (size_t i = 0; i < sizeof(peers); i++)
		take_out_peer(&t, m, &peers[i]);
	assert_int_equal(m->n, 0);
	assert_null(t.root4);
	assert_null(t.root6);
	wg_allowed_free(&t);
	free(m);
}

static void test_allowed_bounds(void **state)
{
	struct wg_allowed t = {.root4 = NULL};
	uint8_t a[16] = {10, 1, 2, 3}, b[16] = {10, 1, 2, 4};

	(void)state;
	assert_int_equal(wg_allowed_insert(&t, a, 4, 33, peers), KM_EINVAL);
	assert_int_equal(wg_allowed_insert(&t, a, 16, 129, peers), KM_EINVAL);
	assert_int_equal(wg_allowed_insert(&t, a, 5, 8, peers), KM_EINVAL);
	assert_int_equal(wg_allowed_insert(&t, a, 4, 8, NULL), KM_EINVAL);
	assert_null(wg_allowed_find(&t, a, 4));
	assert_int_equal(wg_allowed_insert(&t, a, 4, 32, &peers[1]), 0);
	assert_int_equal(wg_allowed_insert(&t, a, 4, 0, &peers[2]), 0);
	assert_int_equal(wg_allowed_insert(&t, a, 16, 128, &peers[3]), 0);
	assert_ptr_equal(wg_allowed_find(&t, a, 4), &peers[1]);
	assert_ptr_equal(wg_allowed_find(&t, b, 4), &peers[2]);
	assert_ptr_equal(wg_allowed_find(&t, a, 16), &peers[3]);
	assert_null(wg_allowed_find(&t, b, 16));
	wg_allowed_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_window_edges),   cmocka_unit_test(test_window_full),
	    cmocka_unit_test(test_window_random),  cmocka_unit_test(test_allowed),
	    cmocka_unit_test(test_allowed_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
