/* SPDX-License-Identifier: MIT */
/* Which of a peer's sessions is used when, and the indexes by which they are found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sodium.h>

#include "libkm/base/util.h"
#include "libkm/wg/engine/core_priv.h"
#include "tests/unit/wg/world.h"

static int setup(void **state)
{
	struct world *w = km_xcalloc(1, sizeof(*w));

	wg_x25519_private(w->key_a);
	wg_x25519_private(w->key_b);
	world_init(w);
	wg_peer_set_endpoint(w->b.peer, &w->a.at);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	world_free(*state);
	free(*state);
	return 0;
}

/* The packet that x sends now, taken off the wire. */
static struct packet catch_data(struct node *x)
{
	struct packet p;

	send_data(x);
	assert_int_equal(other(x)->n_wire, 1);
	p = other(x)->wire[0];
	other(x)->n_wire = 0;
	assert_int_equal(p.data[WG_AEAD_LEAD], 4);
	return p;
}

static bool late(struct node *x, const struct packet *p)
{
	struct packet copy = *p;
	const unsigned got = x->got;

	receive_data(x, &copy);
	wg_core_attend(x->core, &x->w->now);
	return x->got > got;
}

/* Packets of an older session come after those of a newer one: the one before is taken, the one
 * before that no longer; the older packet does not bring its session back into use. */
static void test_out_of_order(void **state)
{
	struct world *w = *state;
	struct packet p[3];
	struct wg_session *now_used;

	for (int i = 0; i < 3; i++) {
		send_data(&w->a);
		pass(w, 500);
		p[i] = catch_data(&w->a);
		assert_int_equal(w->a.initiations, i + 1);
		if (i < 2)
			pass(w, 121000);
	}
	now_used = atomic_load(&w->b.peer->current);
	assert_false(late(&w->b, &p[0]));
	assert_true(late(&w->b, &p[1]));
	assert_false(late(&w->b, &p[1]));
	assert_true(late(&w->b, &p[2]));
	assert_ptr_equal(atomic_load(&w->b.peer->current), now_used);
	assert_ptr_equal(w->b.peer->previous->peer, w->b.peer);
	assert_null(w->b.peer->next);
}

/* The responder goes on under the old session until a packet has come under the new one. */
static void test_confirmation(void **state)
{
	struct world *w = *state;
	struct wg_session *old;
	struct packet p;

	send_data(&w->a);
	settle(w);
	old = atomic_load(&w->b.peer->current);
	assert_non_null(old);
	pass(w, 121000);
	send_data(&w->a); /* and asks for a new session */
	wg_core_attend(w->a.core, &w->now);
	while (w->b.n_wire > 0) /* the initiation; its response is on its way */
		deliver_unattended(&w->b);
	wg_core_attend(w->b.core, &w->now);
	assert_non_null(w->b.peer->next);
	assert_ptr_equal(atomic_load(&w->b.peer->current), old);
	assert_ptr_equal(wg_path_sender(w->b.peer, w->now.ms), old);
	/* Data under the old one confirms nothing. */
	assert_int_equal(w->b.got, 2);
	assert_non_null(w->b.peer->next);
	deliver_unattended(&w->a);
	wg_core_attend(w->a.core, &w->now);
	assert_true(w->b.n_wire > 0); /* the empty packet that confirms */
	p = w->b.wire[0];
	p.data[WG_AEAD_LEAD + 20] ^= 1;
	assert_false(late(&w->b, &p));
	assert_non_null(w->b.peer->next);
	settle(w);
	assert_null(w->b.peer->next);
	assert_ptr_equal(w->b.peer->previous, old);
	assert_ptr_not_equal(atomic_load(&w->b.peer->current), old);
}

/* A second initiation before the first session is confirmed: the first one's place is taken. */
static void test_next_replaced(void **state)
{
	struct world *w = *state;
	uint32_t first;

	w->a.deaf = true; /* for the responses */
	send_data(&w->a);
	settle(w);
	assert_non_null(w->b.peer->next);
	first = w->b.peer->next->index.value;
	pass(w, 5400);
	assert_int_equal(w->b.responses, 2);
	assert_non_null(w->b.peer->next);
	assert_int_not_equal(w->b.peer->next->index.value, first);
	assert_null(wg_index_find(w->b.core, first));
	w->a.deaf = false;
	pass(w, 5400);
	assert_int_equal(w->b.got, 1);
}

/* A session is confirmed and, before anyone has looked, replaced by a newer offer: that one is not
 * confirmed by it. */
static void test_confirmed_too_late(void **state)
{
	struct world *w = *state;
	struct wg_keys k = {.local_index = 4711};
	struct wg_session *s;

	send_data(&w->a);
	wg_core_attend(w->a.core, &w->now);
	deliver_unattended(&w->b);
	deliver_unattended(&w->a);
	assert_non_null(w->b.peer->next);
	deliver_unattended(&w->b); /* the packet that confirms */
	assert_int_equal(w->b.got, 1);
	s = wg_session_begin(w->b.peer, &k, false, &w->now);
	wg_core_attend(w->b.core, &w->now);
	assert_ptr_equal(w->b.peer->next, s);
	assert_null(atomic_load(&w->b.peer->current));
	wg_core_reclaim(w->b.core);
}

/* Initiations of one peer less than 20 ms apart: the second is refused, with a new timestamp too.
 */
static void test_initiation_gap(void **state)
{
	struct world *w = *state;
	uint8_t msg[WG_INITIATION_LEN], eph[WG_KEY], stamp[WG_TIMESTAMP_LEN];
	struct wg_handshake h;
	static const struct {
		int64_t after_ms;
		unsigned responses;
	} steps[] = {{0, 1}, {19, 1}, {1, 2}, {10, 2}, {9, 2}, {1, 3}, {20, 4}};

	for (unsigned i = 0; i < KM_ARRAY_LEN(steps); i++) {
		w->now.ms += steps[i].after_ms;
		wg_timestamp(stamp, 1800000000 + i, 0);
		wg_x25519_private(eph);
		wg_initiation_make(w->a.core->crypto, &h, &w->a.core->self, &w->a.peer->remote, i,
				   eph, stamp, msg);
		wg_macs(w->a.core->crypto, &w->a.peer->remote, NULL, msg, sizeof(msg));
		wg_core_message(w->b.core, &w->a.at, msg, sizeof(msg), WG_CALM, &w->now);
		assert_int_equal(w->b.responses, steps[i].responses);
	}
}

/* ---- indexes; libsodium's generator gives what it is told to, then random numbers ---- */

static uint32_t given[64];
static unsigned n_given, at_given;

static const char *rng_name(void)
{
	return "told";
}

static uint32_t rng_random(void)
{
	uint32_t other_one;

	if (at_given < n_given)
		return given[at_given++];
	km_random(&other_one, sizeof(other_one));
	return other_one;
}

static void rng_buf(void *p, size_t n)
{
	km_random(p, n);
}

static void test_collisions(void **state)
{
	static const uint32_t same_bucket = 3 * WG_INDEX_BUCKETS + 5;
	struct wg_keys k = {.local_index = 5};
	struct world *w = *state;
	struct wg_core *c = w->a.core;
	struct wg_session *s[20];
	uint8_t key[WG_KEY] = {9};

	/* Sessions of one bucket are told apart, whichever is taken away. */
	for (uint32_t i = 0; i < 20; i++) {
		k.local_index = same_bucket + i * WG_INDEX_BUCKETS;
		w->a.peer->next = NULL;
		w->a.peer->previous = NULL;
		s[i] = wg_session_begin(w->a.peer, &k, false, &w->now);
		assert_non_null(s[i]);
	}
	for (uint32_t i = 0; i < 20; i++)
		assert_ptr_equal(wg_index_find(c, same_bucket + i * WG_INDEX_BUCKETS), s[i]);
	assert_null(wg_index_find(c, same_bucket + 20 * WG_INDEX_BUCKETS));
	assert_null(wg_index_find(c, same_bucket + 1));
	for (uint32_t n = 0; n < 20; n++) {
		uint32_t i = n * 7 % 20; /* in another order */

		w->a.peer->next = s[i];
		wg_peer_drop_sessions(w->a.peer);
		for (uint32_t j = 0; j < 20; j++)
			assert_ptr_equal(wg_index_find(c, same_bucket + j * WG_INDEX_BUCKETS),
					 s[j] != NULL && i != j ? s[j] : NULL);
		s[i] = NULL;
	}
	wg_core_reclaim(c);

	/* A new index is neither a session's nor that of a handshake under way. */
	k.local_index = 42;
	assert_non_null(wg_session_begin(w->a.peer, &k, false, &w->now));
	w->a.peer->handshake_index = 77;
	HASH_ADD(hh_index, c->by_index, handshake_index, sizeof(uint32_t), w->a.peer);
	w->a.peer->handshaking = true;
	n_given = at_given = 0;
	for (int i = 0; i < 3; i++) {
		given[n_given++] = 42;
		given[n_given++] = 77;
	}
	given[n_given++] = 43;
	assert_int_equal(wg_index_new(c), 43);
	assert_int_equal(at_given, n_given);
	/* Neither when it happens in a handshake: 42 is taken by the session. */
	wg_peer_end_handshake(w->a.peer);
	n_given = at_given = 0;
	for (int i = 0; i < 40; i++)
		given[n_given++] = i < 2 ? 42 : 1000 + (uint32_t)i;
	send_data(&w->a);
	wg_core_attend(c, &w->now);
	assert_int_equal(w->a.initiations, 1);
	assert_int_equal(w->a.peer->handshake_index, 1002);
	assert_non_null(wg_core_peer_new(c, key));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_out_of_order),   TEST(test_confirmation),       TEST(test_next_replaced),
	    TEST(test_initiation_gap), TEST(test_confirmed_too_late), TEST(test_collisions),
	};
	static randombytes_implementation told = {
	    .implementation_name = rng_name, .random = rng_random, .buf = rng_buf};

	randombytes_set_implementation(&told);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
