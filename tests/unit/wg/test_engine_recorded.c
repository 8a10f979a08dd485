/* SPDX-License-Identifier: MIT */
/* A handshake that another writing of the protocol has made (recorded.py), from fixed keys: the
 * engine makes and takes the same bytes. Then each message with every bit flipped, cut at every
 * byte, too long, played again, and with Diffie-Hellman results of zero: refused, and nothing has
 * changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "libkm/wg/engine/core_priv.h"
#include "tests/unit/wg/recorded.h"
#include "tests/unit/wg/world.h"

#define INDEX_A 0x11223344
#define INDEX_B 0x55667788
#define DATA_LEN(n) (32 + ((n) + 15) / 16 * 16)
#define LOW_POINTS 7

static struct {
	uint8_t eph_a[WG_KEY], eph_b[WG_KEY], psk[WG_KEY], stamp[WG_TIMESTAMP_LEN];
	uint8_t init[WG_INITIATION_LEN], init2[WG_INITIATION_LEN]; /* 2: with a cookie */
	uint8_t resp[WG_RESPONSE_LEN], reply[WG_COOKIE_REPLY_LEN];
	uint8_t key_ab[WG_KEY], key_ba[WG_KEY];
	uint8_t empty[DATA_LEN(0)], data[DATA_LEN(28)], back[DATA_LEN(28)], packet[28];
	uint8_t source[18], secret[WG_HASH], cookie[WG_MAC];
} r;

static int setup(void **state)
{
	struct world *w = km_xcalloc(1, sizeof(*w));

	recorded("private_a", w->key_a, WG_KEY);
	recorded("private_b", w->key_b, WG_KEY);
	recorded("ephemeral_a", r.eph_a, WG_KEY);
	recorded("ephemeral_b", r.eph_b, WG_KEY);
	recorded("psk", r.psk, WG_KEY);
	recorded("timestamp", r.stamp, sizeof(r.stamp));
	recorded("initiation", r.init, sizeof(r.init));
	recorded("initiation_with_cookie", r.init2, sizeof(r.init2));
	recorded("response", r.resp, sizeof(r.resp));
	recorded("cookie_reply", r.reply, sizeof(r.reply));
	recorded("key_ab", r.key_ab, WG_KEY);
	recorded("key_ba", r.key_ba, WG_KEY);
	recorded("data_empty", r.empty, sizeof(r.empty));
	recorded("data_packet", r.data, sizeof(r.data));
	recorded("data_back", r.back, sizeof(r.back));
	recorded("packet", r.packet, sizeof(r.packet));
	recorded("source", r.source, sizeof(r.source));
	recorded("secret", r.secret, sizeof(r.secret));
	recorded("cookie", r.cookie, sizeof(r.cookie));
	world_init(w);
	wg_peer_set_psk(w->a.peer, r.psk);
	wg_peer_set_psk(w->b.peer, r.psk);
	/* a speaks from the recorded source. */
	memcpy(w->a.at.ip, r.source, 16);
	memcpy(&w->a.at.port, r.source + 16, 2);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	world_free(*state);
	free(*state);
	return 0;
}

/* a has sent the recorded initiation and waits. */
static void a_waits(struct world *w)
{
	struct wg_peer *p = w->a.peer;
	uint8_t msg[WG_INITIATION_LEN];

	p->handshake_index = INDEX_A;
	wg_initiation_make(w->a.core->crypto, &p->handshake, &w->a.core->self, &p->remote, INDEX_A,
			   r.eph_a, r.stamp, msg);
	wg_macs(w->a.core->crypto, &p->remote, NULL, msg, sizeof(msg));
	assert_memory_equal(msg, r.init, sizeof(msg));
	memcpy(p->cookie.last_mac1, msg + WG_INITIATION_LEN - 2 * WG_MAC, WG_MAC);
	p->cookie.sent = true;
	HASH_ADD(hh_index, w->a.core->by_index, handshake_index, sizeof(p->handshake_index), p);
	p->handshaking = true;
}

/* a and b have the recorded session; b has not heard anything under it yet. */
static void both_agreed(struct world *w)
{
	struct wg_keys k = {.local_index = INDEX_B, .remote_index = INDEX_A};

	a_waits(w);
	wg_core_message(w->a.core, &w->b.at, r.resp, sizeof(r.resp), WG_CALM, &w->now);
	assert_non_null(atomic_load(&w->a.peer->current));
	memcpy(k.send, r.key_ba, WG_KEY);
	memcpy(k.recv, r.key_ab, WG_KEY);
	assert_non_null(wg_session_begin(w->b.peer, &k, false, &w->now));
	w->b.n_wire = 0;
}

/* As the receiving thread and then the control thread treat it, data aside. */
static void take(struct node *x, const uint8_t *msg, size_t n)
{
	struct wg_core *c = x->core;

	if (wg_core_expects(msg, n) &&
	    (n == WG_COOKIE_REPLY_LEN || wg_mac1_ok(c->crypto, &c->self, msg, n)))
		wg_core_message(c, &other(x)->at, msg, n, x->load, &x->w->now);
}

/* Every part of a node that a message may change, but for counts of refusals. */
struct memory {
	struct wg_peer peer;
	unsigned initiations, responses, cookies, got;
	size_t handshaking;
	bool attention, index[2];
};

static void remember(const struct node *x, struct memory *m)
{
	memset(m, 0, sizeof(*m));
	memcpy(&m->peer, x->peer, sizeof(m->peer));
	m->initiations = x->initiations;
	m->responses = x->responses;
	m->cookies = x->cookies;
	m->got = x->got;
	m->handshaking = HASH_CNT(hh_index, x->core->by_index);
	m->attention = atomic_load(&x->core->attention) != NULL;
	m->index[0] = wg_index_find(x->core, INDEX_A) != NULL;
	m->index[1] = wg_index_find(x->core, INDEX_B) != NULL;
}

static void assert_same(const struct node *x, const struct memory *before)
{
	struct memory after;

	remember(x, &after);
	assert_memory_equal(&after, before, sizeof(after));
}

/* Cut at every byte, and longer by up to 64 bytes. */
static void refuse_lengths(struct node *x, const uint8_t *msg, size_t n)
{
	struct memory before;
	uint8_t *copy;

	remember(x, &before);
	for (size_t len = 0; len <= n + 64; len++) {
		if (len == n)
			continue;
		copy = km_xcalloc(1, len + 1);
		memcpy(copy, msg, len < n ? len : n);
		copy = realloc(copy, len ? len : 1); /* so that a byte read behind it is seen */
		take(x, copy, len);
		free(copy);
	}
	assert_same(x, &before);
}

static void refuse_bits(struct node *x, const uint8_t *msg, size_t n, size_t until)
{
	struct memory before;
	uint8_t bad[WG_INITIATION_LEN];

	remember(x, &before);
	for (size_t bit = 0; bit < until * 8; bit++) {
		memcpy(bad, msg, n);
		bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
		take(x, bad, n);
		assert_same(x, &before);
		/* The same by someone who can make a mac1, which alone covers the sender's index.
		 */
		if (n == WG_COOKIE_REPLY_LEN || bit / 8 >= n - 2 * WG_MAC ||
		    (bit / 8 >= 4 && bit / 8 < 8))
			continue;
		wg_macs(x->core->crypto, &other(x)->peer->remote, NULL, bad, n);
		take(x, bad, n);
		assert_same(x, &before);
	}
}

static void test_made(void **state)
{
	struct world *w = *state;
	struct wg_crypto *c = w->a.core->crypto;
	struct wg_handshake ha, hb;
	struct wg_keys ka, kb;
	uint8_t msg[WG_INITIATION_LEN], pub[WG_KEY], want[WG_KEY], stamp[WG_TIMESTAMP_LEN];

	recorded("public_a", want, WG_KEY);
	assert_memory_equal(w->a.core->self.pub, want, WG_KEY);
	recorded("public_b", want, WG_KEY);
	assert_memory_equal(w->b.core->self.pub, want, WG_KEY);
	wg_timestamp(stamp, 1700000000, 123456789);
	assert_memory_equal(stamp, r.stamp, sizeof(stamp));
	wg_initiation_make(c, &ha, &w->a.core->self, &w->a.peer->remote, INDEX_A, r.eph_a, r.stamp,
			   msg);
	wg_macs(c, &w->a.peer->remote, NULL, msg, sizeof(msg));
	assert_memory_equal(msg, r.init, sizeof(msg));
	wg_macs(c, &w->a.peer->remote, r.cookie, msg, sizeof(msg));
	assert_memory_equal(msg, r.init2, sizeof(msg));
	assert_true(wg_initiation_who(c, &hb, &w->b.core->self, r.init, pub));
	assert_memory_equal(pub, w->a.core->self.pub, WG_KEY);
	assert_true(wg_initiation_prove(c, &hb, &w->b.peer->remote, r.init, stamp));
	assert_memory_equal(stamp, r.stamp, sizeof(stamp));
	assert_true(wg_response_make(c, &hb, &w->b.peer->remote, INDEX_B, r.eph_b, msg, &kb));
	wg_macs(c, &w->b.peer->remote, NULL, msg, WG_RESPONSE_LEN);
	assert_memory_equal(msg, r.resp, WG_RESPONSE_LEN);
	assert_true(wg_response_take(c, &ha, &w->a.core->self, &w->a.peer->remote, r.resp, &ka));
	assert_memory_equal(ka.send, r.key_ab, WG_KEY);
	assert_memory_equal(ka.recv, r.key_ba, WG_KEY);
	assert_memory_equal(kb.send, r.key_ba, WG_KEY);
	assert_memory_equal(kb.recv, r.key_ab, WG_KEY);
}

static void test_initiation(void **state)
{
	struct world *w = *state;
	struct memory before;

	/* mac2 means nothing at rest. */
	refuse_bits(&w->b, r.init, sizeof(r.init), sizeof(r.init) - WG_MAC);
	refuse_lengths(&w->b, r.init, sizeof(r.init));
	take(&w->b, r.init, sizeof(r.init));
	assert_int_equal(w->b.responses, 1);
	assert_memory_equal(w->b.peer->timestamp, r.stamp, sizeof(r.stamp));
	remember(&w->b, &before);
	take(&w->b, r.init, sizeof(r.init)); /* again */
	w->now.ms += 100000;
	take(&w->b, r.init, sizeof(r.init));
	assert_same(&w->b, &before);
}

static void test_response(void **state)
{
	struct world *w = *state;
	struct memory before;

	remember(&w->a, &before);
	take(&w->a, r.resp, sizeof(r.resp)); /* unasked */
	assert_same(&w->a, &before);
	a_waits(w);
	refuse_bits(&w->a, r.resp, sizeof(r.resp), sizeof(r.resp) - WG_MAC);
	refuse_lengths(&w->a, r.resp, sizeof(r.resp));
	take(&w->a, r.resp, sizeof(r.resp));
	assert_non_null(atomic_load(&w->a.peer->current));
	assert_int_equal(atomic_load(&w->a.peer->current)->remote_index, INDEX_B);
	/* The initiator's first word, an empty packet. */
	assert_int_equal(w->b.n_wire, 1);
	assert_int_equal(w->b.wire[0].n, sizeof(r.empty));
	assert_memory_equal(w->b.wire[0].data + WG_AEAD_LEAD, r.empty, sizeof(r.empty));
	remember(&w->a, &before);
	take(&w->a, r.resp, sizeof(r.resp)); /* again */
	assert_same(&w->a, &before);
}

/* Another psk, another peer's static key, our own message sent back. */
static void test_not_for_us(void **state)
{
	struct world *w = *state;
	struct memory before;
	uint8_t psk[WG_KEY] = {9};

	a_waits(w);
	remember(&w->a, &before);
	take(&w->a, r.init, sizeof(r.init));
	assert_same(&w->a, &before);
	wg_peer_set_psk(w->a.peer, psk);
	remember(&w->a, &before);
	take(&w->a, r.resp, sizeof(r.resp));
	assert_same(&w->a, &before);
	wg_peer_remove(w->b.peer);
	w->b.peer = wg_core_peer_new(w->b.core, psk);
	remember(&w->b, &before);
	take(&w->b, r.init, sizeof(r.init));
	assert_same(&w->b, &before);
}

static void test_cookie(void **state)
{
	struct world *w = *state;
	struct memory before;
	uint8_t msg[WG_INITIATION_LEN];

	a_waits(w);
	refuse_bits(&w->a, r.reply, sizeof(r.reply), sizeof(r.reply));
	refuse_lengths(&w->a, r.reply, sizeof(r.reply));
	assert_null(wg_cookie_use(&w->a.peer->cookie, w->now.ms));
	take(&w->a, r.reply, sizeof(r.reply));
	assert_memory_equal(wg_cookie_use(&w->a.peer->cookie, w->now.ms), r.cookie, WG_MAC);
	w->now.ms += 100;
	remember(&w->a, &before);
	take(&w->a, r.reply, sizeof(r.reply)); /* again */
	assert_same(&w->a, &before);
	assert_non_null(wg_cookie_use(&w->a.peer->cookie, w->now.ms + WG_COOKIE_USE_MS - 101));
	assert_null(wg_cookie_use(&w->a.peer->cookie, w->now.ms + WG_COOKIE_USE_MS - 100));

	/* b under load: only a right mac2 is let in, whichever of its bits is wrong. */
	memcpy(w->b.core->jar.secret, r.secret, sizeof(r.secret));
	w->b.core->jar.made_ms = w->now.ms;
	w->b.load = WG_LOADED;
	for (size_t bit = 0; bit < WG_MAC * 8; bit++) {
		memcpy(msg, r.init2, sizeof(msg));
		msg[sizeof(msg) - WG_MAC + bit / 8] ^= (uint8_t)(1 << bit % 8);
		take(&w->b, msg, sizeof(msg));
		assert_int_equal(w->b.cookies, bit + 1);
		w->a.n_wire = 0;
	}
	w->b.load = WG_CROWDED; /* then nobody else is answered at all */
	take(&w->b, msg, sizeof(msg));
	assert_int_equal(w->b.cookies, WG_MAC * 8);
	w->b.load = WG_LOADED;
	take(&w->b, r.init, sizeof(r.init)); /* without */
	assert_int_equal(w->b.cookies, WG_MAC * 8 + 1);
	assert_int_equal(w->b.responses, 0);
	/* From elsewhere: another port, another address. */
	w->a.at.port ^= 1;
	take(&w->b, r.init2, sizeof(r.init2));
	w->a.at.port ^= 1;
	w->a.at.ip[15] ^= 1;
	take(&w->b, r.init2, sizeof(r.init2));
	w->a.at.ip[15] ^= 1;
	assert_int_equal(w->b.responses, 0);
	/* When the secret has been changed, and before. */
	w->now.ms += WG_COOKIE_SECRET_MS;
	take(&w->b, r.init2, sizeof(r.init2));
	assert_int_equal(w->b.responses, 0);
	assert_memory_not_equal(w->b.core->jar.secret, r.secret, sizeof(r.secret));
	memcpy(w->b.core->jar.secret, r.secret, sizeof(r.secret));
	w->b.core->jar.made_ms = w->now.ms - WG_COOKIE_SECRET_MS + 1;
	w->b.load = WG_CROWDED;
	take(&w->b, r.init2, sizeof(r.init2));
	assert_int_equal(w->b.responses, 1);
	take(&w->b, r.init2, sizeof(r.init2)); /* again */
	assert_int_equal(w->b.responses, 1);
}

/* Data of n bytes as the receiving thread takes it; whether it was accepted. */
static bool take_data(struct node *x, const uint8_t *msg, size_t n)
{
	struct packet p = {.from = other(x)->at, .n = n};
	const unsigned got = x->got;
	const uint64_t bytes = atomic_load(&x->peer->rx_bytes);

	memcpy(p.data + WG_AEAD_LEAD, msg, n);
	if (n >= 32 && msg[0] == 4 && msg[1] == 0 && msg[2] == 0 && msg[3] == 0)
		receive_data(x, &p);
	return x->got != got || atomic_load(&x->peer->rx_bytes) != bytes;
}

static void refuse_data(struct node *x, const uint8_t *msg, size_t n)
{
	struct memory before;
	uint8_t bad[256] = {0};

	remember(x, &before);
	for (size_t bit = 0; bit < n * 8; bit++) {
		memcpy(bad, msg, n);
		bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_false(take_data(x, bad, n));
	}
	memcpy(bad, msg, n);
	for (size_t len = 0; len < n + 64; len++)
		assert_true(len == n || !take_data(x, bad, len));
	assert_same(x, &before);
}

static void test_data(void **state)
{
	struct world *w = *state;
	struct wg_endpoint at;

	both_agreed(w);
	refuse_data(&w->b, r.data, sizeof(r.data));
	assert_null(atomic_load(&w->b.peer->current)); /* b does not use the session yet */
	refuse_data(&w->b, r.empty, sizeof(r.empty));
	assert_true(take_data(&w->b, r.data, sizeof(r.data)));
	assert_int_equal(w->b.got, 1);
	wg_core_attend(w->b.core, &w->now);
	assert_non_null(atomic_load(&w->b.peer->current));
	wg_endpoint_load(&w->b.peer->endpoint, &at);
	assert_true(wg_endpoint_same(&at, &w->a.at));
	assert_true(take_data(&w->b, r.empty, sizeof(r.empty))); /* late, but inside the window */
	/* again, and from elsewhere */
	w->a.at.port ^= 1;
	assert_false(take_data(&w->b, r.data, sizeof(r.data)));
	assert_false(take_data(&w->b, r.empty, sizeof(r.empty)));
	w->a.at.port ^= 1;
	wg_endpoint_load(&w->b.peer->endpoint, &at);
	assert_true(wg_endpoint_same(&at, &w->a.at));
	refuse_data(&w->a, r.back, sizeof(r.back));
	assert_true(take_data(&w->a, r.back, sizeof(r.back)));
	assert_false(take_data(&w->a, r.back, sizeof(r.back)));
	/* The session's last moment. */
	w->now.ms += WG_REJECT_AFTER_MS - 1;
	assert_non_null(wg_path_receiver(w->a.core, INDEX_A, w->now.ms));
	assert_null(wg_path_receiver(w->a.core, INDEX_A, w->now.ms + 1));
}

/* Messages by someone who needs no private key, were a zero shared secret taken: points of low
 * order as ephemeral keys; and as a peer's static key. */
static void test_low_order(void **state)
{
	struct world *w = *state;
	uint8_t point[WG_KEY], shared[WG_KEY], init[WG_INITIATION_LEN], resp[WG_RESPONSE_LEN];
	struct memory a, b;
	char name[32];

	a_waits(w);
	remember(&w->a, &a);
	remember(&w->b, &b);
	for (int i = 0; i < LOW_POINTS; i++) {
		snprintf(name, sizeof(name), "low_%d", i);
		recorded(name, point, sizeof(point));
		snprintf(name, sizeof(name), "low_initiation_%d", i);
		recorded(name, init, sizeof(init));
		snprintf(name, sizeof(name), "low_response_%d", i);
		recorded(name, resp, sizeof(resp));
		assert_memory_equal(init + 8, point, WG_KEY);
		assert_false(wg_x25519(shared, r.eph_a, point));
		assert_null(wg_core_peer_new(w->a.core, point));
		assert_true(wg_mac1_ok(w->b.core->crypto, &w->b.core->self, init, sizeof(init)));
		take(&w->b, init, sizeof(init));
		assert_same(&w->b, &b);
		assert_true(wg_mac1_ok(w->a.core->crypto, &w->a.core->self, resp, sizeof(resp)));
		take(&w->a, resp, sizeof(resp));
		assert_same(&w->a, &a);
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_made),   TEST(test_initiation), TEST(test_response),  TEST(test_not_for_us),
	    TEST(test_cookie), TEST(test_data),       TEST(test_low_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
