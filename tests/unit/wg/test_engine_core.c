/* SPDX-License-Identifier: MIT */
/* Peers, sessions and timers over a simulated network and clock: hours pass in milliseconds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libkm/base/util.h"
#include "libkm/wg/engine/core.h"
#include "tests/unit/wg/world.h"

static int setup(void **state)
{
	struct world *w = km_xcalloc(1, sizeof(*w));

	wg_x25519_private(w->key_a);
	wg_x25519_private(w->key_b);
	world_init(w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	world_free(*state);
	free(*state);
	return 0;
}

static void test_first_packet(void **state)
{
	struct world *w = *state;
	struct wg_endpoint e;

	send_data(&w->b); /* b knows no endpoint: waits */
	settle(w);
	assert_int_equal(w->b.initiations, 0);
	send_data(&w->a);
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->a.initiations, 1);
	assert_int_equal(w->b.responses, 1);
	assert_int_equal(w->b.got, 2);
	/* b has learned where a is, uses the session, and what waited there has come. */
	wg_endpoint_load(&w->b.peer->endpoint, &e);
	assert_true(wg_endpoint_same(&e, &w->a.at));
	assert_int_equal(w->a.got, 1);
	assert_true(w->a.peer->handshake_unix_ns > 0 && w->b.peer->handshake_unix_ns > 0);
	send_data(&w->b);
	settle(w);
	assert_int_equal(w->a.got, 2);
	assert_int_equal(w->b.initiations, 0);
}

/* The initiator confirms with an empty packet when nothing waits. */
static void test_confirm(void **state)
{
	struct world *w = *state;
	unsigned i;

	wg_peer_set_keepalive(w->a.peer, 25);
	pass(w, 100);
	assert_int_equal(w->a.initiations, 1);
	assert_int_equal(w->a.empty, 1);
	assert_non_null(atomic_load(&w->b.peer->current));
	/* The first keepalive of a session comes at any time, the next after 22 to 25 s. */
	pass(w, 25300);
	assert_in_range(w->a.empty, 2, 3);
	for (i = w->a.empty; w->a.empty == i;)
		pass(w, STEP_MS);
	pass(w, 21500);
	assert_int_equal(w->a.empty, i + 1);
	pass(w, 4000);
	assert_int_equal(w->a.empty, i + 2);
	/* For an hour, which renews the session as any packet does. */
	pass(w, 3600000);
	assert_in_range(w->a.empty, 144, 230);
	assert_in_range(w->a.initiations, 24, 33);
	assert_in_range(w->b.initiations, 0, 1);
}

/* Under steady traffic the initiator makes a new session every 120 s, and nothing is lost. */
static void test_rekey(void **state)
{
	struct world *w = *state;
	unsigned i;

	for (i = 0; i < 36000; i++) {
		send_data(&w->a);
		send_data(&w->b);
		pass(w, 100);
	}
	assert_in_range(w->a.initiations, 29, 33);
	assert_int_equal(w->b.initiations, 0);
	assert_int_equal(w->b.got, w->a.data);
	assert_int_equal(w->a.got, w->b.data);
	assert_int_equal(w->a.data, 36000);
	assert_int_equal(w->a.empty, w->a.initiations - 1); /* which confirm */
}

/* Who only receives renews too, as initiator, before the session ends. */
static void test_rekey_receiving(void **state)
{
	struct world *w = *state;
	unsigned i;

	send_data(&w->a);
	settle(w);
	for (i = 0; i < 3600; i++) {
		send_data(&w->b);
		pass(w, 100);
	}
	assert_in_range(w->a.initiations, 2, 4);
	assert_int_equal(w->a.got, 3600);
}

static void test_passive_keepalive(void **state)
{
	struct world *w = *state;

	send_data(&w->a);
	settle(w);
	assert_int_equal(w->b.empty, 0);
	pass(w, 9900);
	assert_int_equal(w->b.empty, 0);
	pass(w, 400);
	assert_int_equal(w->b.empty, 1);
	pass(w, 60000);
	assert_int_equal(w->b.empty, 1); /* empty packets are not answered */
	assert_int_equal(w->a.empty, 0);
	assert_int_equal(w->a.initiations, 1);
}

/* Data without an answer for 15 s: a new handshake. */
static void test_silence(void **state)
{
	struct world *w = *state;

	send_data(&w->a);
	settle(w);
	pass(w, 30000);
	w->b.deaf = true;
	send_data(&w->a);
	pass(w, 14900);
	assert_int_equal(w->a.initiations, 1);
	pass(w, 700);
	assert_int_equal(w->a.initiations, 2);
	w->b.deaf = false;
	pass(w, 6000);
	assert_int_equal(w->a.initiations, 3);
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->b.got, 2);
}

/* Initiations every 5 s for 90 s, then no more until there is a reason. */
static void test_retries(void **state)
{
	struct world *w = *state;

	w->b.deaf = true;
	send_data(&w->a);
	pass(w, 4900);
	assert_int_equal(w->a.initiations, 1);
	pass(w, 500);
	assert_int_equal(w->a.initiations, 2);
	pass(w, 200000);
	assert_int_equal(w->a.initiations, 19);
	assert_int_equal(w->a.dropped, 1);
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->a.initiations, 20);
	w->b.deaf = false;
	pass(w, 6000);
	assert_int_equal(w->b.got, 1);
}

/* A session is not used for longer than 180 s; then its keys go. */
static void test_expiry(void **state)
{
	struct world *w = *state;

	send_data(&w->a);
	settle(w);
	pass(w, 20000);
	w->b.deaf = true;
	pass(w, 159000);
	assert_non_null(atomic_load(&w->a.peer->current));
	pass(w, 2000);
	send_data(&w->a);
	assert_int_equal(w->a.staged, 1);
	assert_null(atomic_load(&w->a.peer->current));
	assert_null(atomic_load(&w->b.peer->current));
	assert_null(w->a.peer->previous);
}

/* The peer moves: what it sends tells where it is. */
static void test_roaming(void **state)
{
	struct world *w = *state;
	struct wg_endpoint e;

	send_data(&w->a);
	settle(w);
	w->a.at.port = 2000;
	w->a.at.ip[15] = 77;
	send_data(&w->a);
	settle(w);
	wg_endpoint_load(&w->b.peer->endpoint, &e);
	assert_true(wg_endpoint_same(&e, &w->a.at));
	send_data(&w->b);
	settle(w);
	assert_int_equal(w->a.got, 1);
}

/* b only sends; a moves, and says so: what b sends goes on arriving. */
static void test_announce(void **state)
{
	struct world *w = *state;
	unsigned got;

	wg_core_announce(w->a.core, &w->now); /* nobody to tell */
	settle(w);
	assert_int_equal(w->a.initiations, 0);
	send_data(&w->a);
	settle(w);
	w->a.at.port = 2000;
	got = w->a.got;
	send_data(&w->b);
	settle(w);
	assert_int_equal(w->a.got, got);
	wg_core_announce(w->a.core, &w->now);
	settle(w);
	send_data(&w->b);
	settle(w);
	assert_int_equal(w->a.got, got + 1);
	assert_int_equal(w->a.initiations, 1);
}

/* Both begin at once: one round, and both ways work. */
static void test_both_begin(void **state)
{
	struct world *w = *state;
	unsigned i;

	wg_peer_set_endpoint(w->b.peer, &w->a.at);
	send_data(&w->a);
	send_data(&w->b);
	settle(w);
	for (i = 0; i < 1000; i++) {
		send_data(&w->a);
		send_data(&w->b);
		pass(w, 100);
	}
	assert_int_equal(w->a.got, 1001);
	assert_int_equal(w->b.got, 1001);
	assert_in_range(w->a.initiations + w->b.initiations, 2, 4);
}

/* The responder under load wants a cookie; the next initiation carries it. */
static void test_under_load(void **state)
{
	struct world *w = *state;

	w->b.load = WG_LOADED;
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->b.cookies, 1);
	assert_int_equal(w->b.responses, 0);
	pass(w, 6000);
	assert_int_equal(w->a.initiations, 2);
	assert_int_equal(w->b.cookies, 1);
	assert_int_equal(w->b.responses, 1);
	assert_int_equal(w->b.got, 1);
	/* So does the initiator, of a response. */
	w->a.load = WG_LOADED;
	w->b.load = WG_CALM;
	pass(w, 130000);
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->a.cookies, 1);
	pass(w, 6000);
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->b.got, 3);
}

static void test_psk(void **state)
{
	struct world *w = *state;
	uint8_t psk[WG_KEY];

	memset(psk, 7, sizeof(psk));
	wg_peer_set_psk(w->a.peer, psk);
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->b.got, 0);
	assert_int_equal(w->b.responses, 1); /* which a cannot read */
	wg_peer_set_psk(w->b.peer, psk);
	pass(w, 6000);
	assert_int_equal(w->b.got, 1);
}

/* An initiation that is played again is not answered, nor one right after another. */
static void test_replayed_initiation(void **state)
{
	struct world *w = *state;
	struct packet p;

	send_data(&w->a);
	wg_core_attend(w->a.core, &w->now);
	assert_int_equal(w->b.n_wire, 1);
	p = w->b.wire[0];
	settle(w);
	assert_int_equal(w->b.responses, 1);
	pass(w, 10000);
	wg_core_message(w->b.core, &p.from, p.data + WG_AEAD_LEAD, p.n, WG_CALM, &w->now);
	assert_int_equal(w->b.responses, 1);
	/* cut and flipped */
	for (size_t n = 0; n < p.n; n++)
		wg_core_message(w->b.core, &p.from, p.data + WG_AEAD_LEAD, n, WG_CALM, &w->now);
	for (size_t i = 0; i < p.n * 8; i++) {
		p.data[WG_AEAD_LEAD + i / 8] ^= (uint8_t)(1 << i % 8);
		wg_core_message(w->b.core, &p.from, p.data + WG_AEAD_LEAD, p.n, WG_CALM, &w->now);
		p.data[WG_AEAD_LEAD + i / 8] ^= (uint8_t)(1 << i % 8);
	}
	assert_int_equal(w->b.responses, 1);
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->b.got, 2);
}

/* Peers come and go, keys change; nothing is left behind (the sanitizers look). */
static void test_peers(void **state)
{
	struct world *w = *state;
	uint8_t key[WG_KEY], net[16] = {10, 1, 2, 0};
	struct wg_peer *p;

	assert_int_equal(wg_peer_allow(w->a.peer, net, 4, 24), 0);
	assert_int_equal(wg_peer_allow(w->a.peer, net, 4, 33), KM_EINVAL);
	net[3] = 9;
	assert_ptr_equal(wg_path_route(w->a.core, net, 4), w->a.peer);
	memset(key, 9, sizeof(key));
	p = wg_core_peer_new(w->a.core, key);
	assert_non_null(p);
	assert_int_equal(wg_peer_allow(p, net, 4, 24), 0);
	assert_ptr_equal(wg_path_route(w->a.core, net, 4), p);
	assert_int_equal(w->a.peer->n_allowed, 0);
	wg_peer_remove(p);
	assert_null(wg_path_route(w->a.core, net, 4));
	assert_null(wg_core_peer(w->a.core, key));
	wg_core_reclaim(w->a.core);
	assert_null(wg_core_peer_new(w->a.core, w->a.core->self.pub));
	memset(key, 0, sizeof(key));
	assert_null(wg_core_peer_new(w->a.core, key));
	/* A new key of ours ends the session. */
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->b.got, 1);
	wg_x25519_private(key);
	wg_core_set_key(w->b.core, key);
	assert_null(atomic_load(&w->b.peer->current));
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->b.got, 1);
}

/* Peers that all want to speak do not do so at once, and each has its turn; whoever has a packet
 * that waits does not stand behind those who have none. */
static void test_many(void **state)
{
	struct world *w = *state;
	const struct wg_endpoint nowhere = {.ip = {1}, .port = 1};
	uint8_t key[WG_KEY];
	struct wg_peer *p, *tmp;
	unsigned before, i;

	for (i = 0; i < 1000; i++) {
		km_random(key, sizeof(key));
		p = wg_core_peer_new(w->a.core, key);
		assert_non_null(p);
		wg_peer_set_endpoint(p, &nowhere);
		wg_peer_set_keepalive(p, 25);
	}
	assert_int_equal(wg_core_tick(w->a.core, &w->now), WG_HURRY_MS);
	assert_int_equal(w->a.initiations, WG_INITIATION_BURST * 3 / 4);
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->b.got, 1);
	for (i = 0; i < 40; i++) {
		w->now.ms += WG_HURRY_MS;
		before = w->a.initiations;
		wg_core_tick(w->a.core, &w->now);
		assert_in_range(w->a.initiations - before, 0,
				WG_HURRY_MS * 1000 / WG_INITIATION_EACH_US + 1);
	}
	assert_int_equal(w->a.initiations, 1001);
	assert_int_equal(wg_core_tick(w->a.core, &w->now), WG_TICK_MS);
	/* Retries likewise, for as long as nobody answers. */
	for (i = 0; i < 9000; i++) {
		w->now.ms += WG_HURRY_MS;
		before = w->a.initiations;
		wg_core_tick(w->a.core, &w->now);
		assert_in_range(w->a.initiations - before, 0, WG_INITIATION_BURST * 3 / 4);
	}
	HASH_ITER (hh, w->a.core->peers, p, tmp)
		assert_true(p == w->a.peer || p->retries >= 15);
}

/* Packets for thousands of peers at once, as of a scan of the inside network. */
static void test_many_packets(void **state)
{
	struct world *w = *state;
	const struct wg_endpoint nowhere = {.ip = {1}, .port = 1};
	uint8_t key[WG_KEY];
	struct wg_peer *p;
	unsigned i;

	for (i = 0; i < 1000; i++) {
		km_random(key, sizeof(key));
		p = wg_core_peer_new(w->a.core, key);
		assert_non_null(p);
		wg_peer_set_endpoint(p, &nowhere);
		assert_null(wg_path_sender(p, w->now.ms));
	}
	assert_true(wg_core_attend(w->a.core, &w->now));
	assert_int_equal(w->a.initiations, WG_INITIATION_BURST);
	for (i = 0; i < 32; i++) {
		w->now.ms += WG_HURRY_MS;
		wg_core_tick(w->a.core, &w->now);
	}
	assert_int_equal(w->a.initiations, 1000);
	assert_false(wg_core_attend(w->a.core, &w->now));
}

/* Also when the machine has only just started. */
static void test_keepalive_after_boot(void **state)
{
	struct world *w = *state;

	w->now.ms = 1;
	wg_peer_set_keepalive(w->a.peer, 25);
	pass(w, 100);
	assert_int_equal(w->a.initiations, 1);
	assert_non_null(atomic_load(&w->b.peer->current));
}

/* The wall clock is put back by a year: our initiations are believed nevertheless. */
static void test_clock_back(void **state)
{
	struct world *w = *state;

	send_data(&w->a);
	settle(w);
	w->now.unix_ns -= 31536000LL * 1000000000;
	pass(w, 200000);
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->b.responses, 2);
	assert_int_equal(w->b.got, 2);
}

/* What is kept over a restart: the time that the next initiation bears, and must bear at least. */
static void test_stamp(void **state)
{
	const int64_t year = 31536000LL * 1000000000;
	struct world *w = *state;
	int64_t clock = w->now.unix_ns;

	assert_int_equal(wg_core_stamp(w->a.core, 0, &w->now), clock);
	assert_int_equal(wg_core_stamp(w->a.core, clock - year, &w->now), clock);
	assert_int_equal(wg_core_stamp(w->a.core, clock + year, &w->now), clock + year);
	w->now.ms += 1000;
	w->now.unix_ns -= year;
	assert_int_equal(wg_core_stamp(w->a.core, 0, &w->now), clock + year + 1000000000);
}

/* A packet that is to be sent while initiations go unanswered begins their count anew. */
static void test_retries_with_traffic(void **state)
{
	struct world *w = *state;
	unsigned i;

	w->b.deaf = true;
	for (i = 0; i < 60; i++) {
		send_data(&w->a);
		pass(w, 5000);
	}
	assert_int_equal(w->a.dropped, 0);
	assert_in_range(w->a.initiations, 50, 61);
	/* The last packet's 18 tries, then nothing. */
	i = w->a.initiations;
	pass(w, 200000);
	assert_in_range(w->a.initiations - i, 17, 19);
	assert_int_equal(w->a.dropped, 60);
}

/* A device without a key says nothing, whatever was under way when the key went; with the next key
 * it goes on. */
static void test_key_taken_away(void **state)
{
	static const uint8_t none[WG_KEY];
	struct world *w = *state;
	uint8_t key[WG_KEY];
	struct wg_peer *p;

	w->b.deaf = true;
	send_data(&w->a);
	settle(w);
	assert_int_equal(w->a.initiations, 1);
	memcpy(key, w->a.core->self.priv, sizeof(key));
	wg_core_set_key(w->a.core, none);
	pass(w, 60000);
	assert_int_equal(w->a.initiations, 1);
	w->b.deaf = false;
	wg_core_set_key(w->a.core, key);
	pass(w, 100);
	assert_int_equal(w->a.initiations, 2);
	assert_int_equal(w->b.got, 1);
	p = wg_core_peer(w->b.core, w->a.core->self.pub);
	assert_ptr_equal(p, w->b.peer);
}

/* b wants to speak, does not know where a is, and learns it from an initiation; the response gets
 * lost and a is silent. Then b begins. */
static void test_late_endpoint(void **state)
{
	struct world *w = *state;

	send_data(&w->b);
	settle(w);
	assert_int_equal(w->b.initiations, 0);
	send_data(&w->a);
	w->a.deaf = true;
	settle(w);
	assert_int_equal(w->b.responses, 1);
	wg_core_free(w->a.core); /* gone, and back without its sessions */
	node_init(w, &w->a, 1, w->key_a);
	w->a.peer = wg_core_peer_new(w->a.core, w->b.core->self.pub);
	w->a.deaf = false;
	pass(w, 5500);
	assert_int_equal(w->b.initiations, 1);
	assert_int_equal(w->a.got, 1);
}

/* What peers ask for while another peer is taken away is neither lost nor done at a wrong time. */
static void test_asked_while_reclaiming(void **state)
{
	struct world *w = *state;
	uint8_t key[WG_KEY] = {7};
	struct wg_peer *gone = wg_core_peer_new(w->a.core, key);

	assert_non_null(gone);
	wg_peer_set_endpoint(gone, &w->b.at);
	assert_null(wg_path_sender(gone, w->now.ms));
	send_data(&w->a);
	wg_peer_remove(gone);
	wg_core_reclaim(w->a.core);
	assert_int_equal(w->a.initiations, 0);
	settle(w);
	assert_int_equal(w->a.initiations, 1);
	assert_int_equal(w->b.got, 1);
	/* The confirmation of b's session meets a removal, too. */
	gone = wg_core_peer_new(w->b.core, key);
	pass(w, 121000);
	send_data(&w->a);
	wg_core_attend(w->a.core, &w->now);
	while (w->b.n_wire > 0 || w->a.n_wire > 0) {
		wg_peer_remove(gone);
		deliver_unattended(&w->b);
		wg_core_reclaim(w->b.core);
		gone = wg_core_peer_new(w->b.core, key);
		deliver_unattended(&w->a);
		wg_core_attend(w->a.core, &w->now);
	}
	settle(w);
	assert_int_equal(w->b.peer->handshake_unix_ns, w->now.unix_ns);
}

/* Types and lengths that are no handshake message's. */
static void test_expects(void **state)
{
	static const size_t len[] = {0, WG_INITIATION_LEN, WG_RESPONSE_LEN, WG_COOKIE_REPLY_LEN, 0};
	uint8_t msg[256];
	size_t n;
	unsigned type, i;

	(void)state;
	memset(msg, 0, sizeof(msg));
	for (type = 0; type < KM_ARRAY_LEN(len); type++)
		for (n = 0; n <= sizeof(msg); n++) {
			msg[0] = (uint8_t)type;
			assert_int_equal(wg_core_expects(msg, n), n > 0 && n == len[type]);
			for (i = 1; i < 4; i++) {
				msg[i] = 1;
				assert_false(wg_core_expects(msg, n));
				msg[i] = 0;
			}
		}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_first_packet),
	    TEST(test_confirm),
	    TEST(test_rekey),
	    TEST(test_rekey_receiving),
	    TEST(test_passive_keepalive),
	    TEST(test_silence),
	    TEST(test_retries),
	    TEST(test_expiry),
	    TEST(test_roaming),
	    TEST(test_announce),
	    TEST(test_both_begin),
	    TEST(test_under_load),
	    TEST(test_psk),
	    TEST(test_replayed_initiation),
	    TEST(test_peers),
	    TEST(test_many),
	    TEST(test_many_packets),
	    TEST(test_keepalive_after_boot),
	    TEST(test_clock_back),
	    TEST(test_stamp),
	    TEST(test_retries_with_traffic),
	    TEST(test_key_taken_away),
	    TEST(test_late_endpoint),
	    TEST(test_asked_while_reclaiming),
	    cmocka_unit_test(test_expects),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
