/* SPDX-License-Identifier: MIT */
/* What the path to a peer carries: which news are believed, how long they hold, and what happens to
 * packets that are larger. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libkm/base/util.h"
#include "libkm/wg/engine/packet.h"
#include "libkm/wg/engine/toobig.h"
#include "tests/unit/wg/world.h"

static unsigned rung;
static uint32_t link_mtu;

static void io_width(void *arg)
{
	(void)arg;
	rung++;
}

static uint32_t io_link_mtu(void *arg, const struct wg_endpoint *to)
{
	(void)arg;
	(void)to;
	return link_mtu;
}

/* A session between a and b. */
static int setup(void **state)
{
	struct world *w = km_xcalloc(1, sizeof(*w));

	wg_x25519_private(w->key_a);
	wg_x25519_private(w->key_b);
	world_init(w);
	memset(w->a.at.ip + 10, 0xff, 2); /* IPv4 */
	memset(w->b.at.ip + 10, 0xff, 2);
	wg_peer_set_endpoint(w->a.peer, &w->b.at);
	w->a.core->io.width = io_width;
	w->a.core->io.link_mtu = io_link_mtu;
	send_data(&w->a);
	settle(w);
	rung = 0;
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	world_free(*state);
	free(*state);
	return 0;
}

/* An error about a's packet to b. */
static struct wg_pmtu_news news(struct world *w, uint32_t mtu, size_t quote, uint32_t index)
{
	struct wg_pmtu_news n = {.to = w->b.at, .mtu = mtu, .n_quote = (uint8_t)quote};

	n.quote[0] = 4;
	for (int i = 0; i < 4; i++)
		n.quote[4 + i] = (uint8_t)(index >> 8 * i);
	return n;
}

static uint32_t told(struct world *w, uint32_t mtu, size_t quote, uint32_t wrong)
{
	uint32_t index = atomic_load(&w->a.peer->current)->remote_index;
	struct wg_pmtu_news n = news(w, mtu, quote, index ^ wrong);

	wg_core_too_big(w->a.core, &n, &w->now);
	return wg_peer_mtu(w->a.peer, 1420);
}

static void test_believed(void **state)
{
	struct world *w = *state;

	assert_int_equal(wg_peer_mtu(w->a.peer, 1420), 1420);
	assert_int_equal(told(w, 1400, 8, 1), 1420); /* not our session */
	assert_int_equal(rung, 0);
	assert_int_equal(told(w, 1400, 8, 0), 1340);
	assert_int_equal(rung, 1);
	assert_int_equal(told(w, 1450, 8, 0), 1340); /* never raised */
	assert_int_equal(told(w, 1300, 0, 0), 1240); /* quotes nothing: IPv4 */
	assert_int_equal(told(w, 100, 0, 0), 1220);  /* but not below 1280 */
	assert_int_equal(told(w, 100, 7, 0), 1220);
	assert_int_equal(told(w, 900, 8, 7), 1220);
	assert_int_equal(told(w, 900, 8, 0), 840);
	assert_int_equal(told(w, 0, 8, 0), 840);
	assert_int_equal(told(w, 68, 8, 0), 516);
	assert_int_equal(rung, 5);
}

static void test_elsewhere(void **state)
{
	struct world *w = *state;
	uint32_t index = atomic_load(&w->a.peer->current)->remote_index;
	struct wg_pmtu_news n = news(w, 1300, 8, index);

	n.to.port ^= 1;
	wg_core_too_big(w->a.core, &n, &w->now);
	n.to.port ^= 1;
	n.to.ip[15] ^= 1;
	wg_core_too_big(w->a.core, &n, &w->now);
	n.to.ip[15] ^= 1;
	n.quote[0] = 1;
	wg_core_too_big(w->a.core, &n, &w->now);
	assert_int_equal(rung, 0);
	n.quote[0] = 4;
	wg_core_too_big(w->a.core, &n, &w->now);
	assert_int_equal(rung, 1);
}

static void test_v6(void **state)
{
	struct wg_pmtu_news n = {.to = {.ip = {0xfd}, .port = 1}, .mtu = 1300};

	(void)state;
	assert_int_equal(wg_pmtu_judge(&n, false, 0), 0); /* ICMPv6 quotes */
	assert_int_equal(wg_pmtu_judge(&n, true, 0), 1300);
	n.mtu = 1000;
	assert_int_equal(wg_pmtu_judge(&n, true, 0), 1280);
	assert_int_equal(wg_pmtu_judge(&n, true, 1280), 0);
	assert_int_equal(wg_pmtu_inner(1280, false), 1200);
	assert_int_equal(wg_pmtu_inner(1280, true), 1220);
	assert_int_equal(wg_pmtu_inner(40, true), 0);
}

static void test_expires(void **state)
{
	struct world *w = *state;
	struct wg_endpoint moved = w->b.at;

	assert_int_equal(told(w, 1300, 8, 0), 1240);
	pass(w, WG_PMTU_EXPIRE_MS - 1000);
	assert_int_equal(wg_peer_mtu(w->a.peer, 1420), 1240);
	pass(w, 2000);
	assert_int_equal(wg_peer_mtu(w->a.peer, 1420), 1420);
	assert_int_equal(rung, 2);
	/* Another address is another path; another port is the same. */
	send_data(&w->a);
	settle(w);
	assert_int_equal(told(w, 1300, 8, 0), 1240);
	moved.port ^= 1;
	wg_path_received(atomic_load(&w->a.peer->current), &moved, true, 1, w->now.ms);
	settle(w);
	assert_int_equal(wg_peer_mtu(w->a.peer, 1420), 1240);
	moved.ip[15] ^= 1;
	wg_path_received(atomic_load(&w->a.peer->current), &moved, true, 1, w->now.ms);
	wg_core_attend(w->a.core, &w->now);
	assert_int_equal(wg_peer_mtu(w->a.peer, 1420), 1420);
}

static void test_refused(void **state)
{
	struct world *w = *state;

	link_mtu = 1300;
	wg_path_refused(w->a.peer);
	wg_core_attend(w->a.core, &w->now);
	assert_int_equal(wg_peer_mtu(w->a.peer, 1420), 1240);
	link_mtu = 0;
	wg_path_refused(w->a.peer);
	wg_core_attend(w->a.core, &w->now);
	assert_int_equal(wg_peer_mtu(w->a.peer, 1420), 1240);
}

/* A probe's finding and what routers say: the smaller one holds. */
static void test_probed(void **state)
{
	struct world *w = *state;
	struct wg_peer *p = w->a.peer;

	wg_peer_set_probed(p, 1232);
	assert_int_equal(wg_peer_mtu(p, 1420), 1232);
	assert_true(atomic_load(&p->carry) & WG_CARRY_PROBED);
	assert_int_equal(told(w, 1400, 8, 0), 1232);
	assert_int_equal(told(w, 1280, 8, 0), 1220);
	assert_false(atomic_load(&p->carry) & WG_CARRY_PROBED);
	wg_peer_set_probed(p, 0);
	assert_int_equal(wg_peer_mtu(p, 1420), 1220);
	pass(w, WG_PMTU_EXPIRE_MS + 1000);
	assert_int_equal(wg_peer_mtu(p, 1420), 1420);
}

/* ---- packets ---- */

static uint8_t data[WG_SUPER_MAX], pieces[4 * WG_SUPER_MAX], joined[WG_SUPER_MAX];

static void put16(uint8_t *p, size_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static size_t get16(const uint8_t *p)
{
	return (size_t)p[0] << 8 | p[1];
}

/* An IP packet of n bytes with random payload; the transport header's room is zero. */
static void make(bool v6, uint8_t proto, size_t n)
{
	uint16_t sum;

	km_random(data, n);
	memset(data, 0, v6 ? 60 : 40);
	memset(data + (v6 ? 8 : 12), 10, v6 ? 32 : 8);
	data[v6 ? 39 : 19] = 11;
	data[0] = v6 ? 0x60 : 0x45;
	data[v6 ? 6 : 9] = proto;
	put16(data + (v6 ? 4 : 2), v6 ? n - 40 : n);
	if (v6)
		return;
	data[8] = 64;
	sum = (uint16_t)~wg_sum(data, 20, 0);
	memcpy(data + 10, &sum, 2);
}

static bool whole(const uint8_t *p, size_t n, unsigned proto)
{
	bool v6 = p[0] >> 4 == 6;
	size_t l4 = v6 ? 40 : 20;
	uint8_t tail[4] = {0, (uint8_t)proto, (uint8_t)((n - l4) >> 8), (uint8_t)(n - l4)};
	uint16_t sum =
	    proto == 1 ? 0 : wg_sum(tail, 4, wg_sum(p + l4 - (v6 ? 32 : 8), v6 ? 32 : 8, 0));

	return (v6 || wg_sum(p, 20, 0) == 0xffff) && wg_sum(p + l4, n - l4, sum) == 0xffff;
}

/* A stream's bytes, in order, in packets that are right and small enough. */
static void check_narrow(bool v6, bool super, size_t payload, size_t max)
{
	size_t l4 = v6 ? 40 : 20, head = l4 + 20, n = head + payload, at = 0, len;
	struct virtio_net_hdr vh = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				    .csum_start = (uint16_t)l4,
				    .csum_offset = 16,
				    .gso_size = 1380,
				    .gso_type = !super ? VIRTIO_NET_HDR_GSO_NONE
						: v6   ? VIRTIO_NET_HDR_GSO_TCPV6
						       : VIRTIO_NET_HDR_GSO_TCPV4};
	struct wg_cut c;

	make(v6, 6, n);
	data[l4 + 12] = 0x50;
	data[l4 + 13] = 16 | 8 | 1;
	assert_true(wg_cut_begin(&c, &vh, data, n) >= 1);
	assert_true(wg_cut_narrow(&c, max));
	assert_true(wg_cut_len(&c) <= max);
	while ((len = wg_cut_next(&c, pieces)) > 0) {
		assert_true(len <= max && whole(pieces, len, 6));
		assert_int_equal(get16(pieces + l4 + 4) << 16 | get16(pieces + l4 + 6), at);
		memcpy(joined + at, pieces + head, len - head);
		at += len - head;
		assert_int_equal(pieces[l4 + 13], at == payload ? 16 | 8 | 1 : 16);
	}
	assert_int_equal(at, payload);
	assert_memory_equal(joined, data + head, payload);
}

static void test_narrow(void **state)
{
	(void)state;
	for (int i = 0; i < 400; i++)
		check_narrow(i & 1, true, 1400 + km_random_below(60000),
			     300 + km_random_below(1100));
	for (int i = 0; i < 400; i++)
		check_narrow(i & 1, false, 1300 + km_random_below(80), 300 + km_random_below(1000));
}

/* What must stay as it is. */
static void test_narrow_not(void **state)
{
	static const uint8_t flags[] = {2, 18, 4, 20, 32 | 16, 0};
	struct virtio_net_hdr none = {.flags = 0};
	struct wg_cut c;

	(void)state;
	for (size_t i = 0; i <= sizeof(flags) + 3; i++) {
		make(false, 6, 1400);
		data[32] = 0x50;
		data[33] = i < sizeof(flags) ? flags[i] : 16;
		if (i == sizeof(flags))
			data[9] = 17;
		if (i == sizeof(flags) + 1)
			data[6] = 0x20; /* a fragment */
		if (i == sizeof(flags) + 2)
			data[7] = 1; /* likewise */
		if (i == sizeof(flags) + 3)
			data[0] = 0x46;
		assert_int_equal(wg_cut_begin(&c, &none, data, 1400), 1);
		assert_false(wg_cut_narrow(&c, 1200));
		assert_int_equal(wg_cut_next(&c, pieces), 1400);
		assert_memory_equal(pieces, data, 1400);
	}
}

static void test_answer(void **state)
{
	uint8_t out[WG_TOOBIG_ROOM];
	size_t n;

	(void)state;
	make(false, 17, 1400);
	n = wg_toobig_answer(out, data, 1400, 1240);
	assert_int_equal(n, 576);
	assert_true(whole(out, n, 1));
	assert_int_equal(get16(out + 2), n);
	assert_memory_equal(out + 12, data + 16, 4);
	assert_memory_equal(out + 16, data + 12, 4);
	assert_int_equal(get16(out + 20), 0x0304);
	assert_int_equal(get16(out + 26), 1240);
	assert_memory_equal(out + 28, data, n - 28);
	make(true, 17, 1400);
	n = wg_toobig_answer(out, data, 1400, 1300);
	assert_int_equal(n, 1280);
	assert_true(whole(out, n, 58));
	assert_memory_equal(out + 8, data + 24, 16);
	assert_int_equal(get16(out + 40), 0x0200);
	assert_int_equal(get16(out + 46), 1300);
	assert_memory_equal(out + 48, data, n - 48);
}

static void test_no_answer(void **state)
{
	uint8_t out[WG_TOOBIG_ROOM];

	(void)state;
	for (size_t n = 0; n < 60; n++) {
		make(false, 17, 1400);
		(void)wg_toobig_answer(out, memcpy(pieces, data, n), n, 1240);
		make(true, 17, 1400);
		(void)wg_toobig_answer(out, memcpy(pieces, data, n), n, 1240);
	}
	make(false, 1, 1400); /* an error, an echo */
	data[20] = 3;
	assert_int_equal(wg_toobig_answer(out, data, 1400, 1240), 0);
	data[20] = 8;
	assert_int_equal(wg_toobig_answer(out, data, 1400, 1240), 576);
	data[7] = 1; /* a later fragment */
	assert_int_equal(wg_toobig_answer(out, data, 1400, 1240), 0);
	data[7] = 0;
	data[12] = 224;
	assert_int_equal(wg_toobig_answer(out, data, 1400, 1240), 0);
	make(true, 58, 1400);
	data[40] = 1;
	assert_int_equal(wg_toobig_answer(out, data, 1400, 1240), 0);
	data[40] = 128;
	assert_int_equal(wg_toobig_answer(out, data, 1400, 1240), 1280);
	data[8] = 0xff;
	assert_int_equal(wg_toobig_answer(out, data, 1400, 1240), 0);
}

/* Put together, the fragments are the packet. */
static void check_fragments(size_t n, size_t offset, bool more, size_t mtu)
{
	struct wg_fragments f;
	size_t len, at = 0, flags;

	make(false, 17, n);
	put16(data + 6, offset | (more ? 0x2000 : 0));
	assert_true(wg_fragments_begin(&f, data, n, (uint32_t)mtu));
	while ((len = wg_fragments_len(&f)) > 0) {
		wg_fragments_next(&f, pieces);
		assert_true(len <= mtu && wg_sum(pieces, 20, 0) == 0xffff);
		assert_int_equal(get16(pieces + 2), len);
		flags = get16(pieces + 6);
		assert_int_equal(flags & 0x1fff, offset + at / 8);
		memcpy(joined + at, pieces + 20, len - 20);
		at += len - 20;
		assert_int_equal((flags & 0x2000) != 0, more || at < n - 20);
		assert_true(at == n - 20 || at % 8 == 0);
	}
	assert_int_equal(at, n - 20);
	assert_memory_equal(joined, data + 20, at);
}

static void test_fragments(void **state)
{
	static const uint8_t options[] = {7, 7, 4, 1, 2, 3, 4, 1, 0x94, 4, 0, 0};
	struct wg_fragments f;

	(void)state;
	check_fragments(1400, 0, false, 1240);
	check_fragments(65535, 0, false, 516);
	check_fragments(1401, 100, true, 1239);
	for (int i = 0; i < 300; i++)
		check_fragments(41 + km_random_below(60000), 0, false, 28 + km_random_below(1400));
	make(false, 17, 1400);
	data[6] = 0x40;
	assert_false(wg_fragments_begin(&f, data, 1400, 1240));
	make(true, 17, 1400);
	assert_false(wg_fragments_begin(&f, data, 1400, 1240));
	/* Options: a record of the route stays in the first, a router alert goes along. */
	make(false, 17, 1400);
	data[0] = 0x48;
	memcpy(data + 20, options, sizeof(options));
	assert_true(wg_fragments_begin(&f, data, 1400, 1240));
	wg_fragments_next(&f, pieces);
	assert_memory_equal(pieces + 20, options, sizeof(options));
	wg_fragments_next(&f, pieces);
	assert_memory_equal(pieces + 20, "\1\1\1\1\1\1\1\1\x94\4\0\0", sizeof(options));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_believed),
	    TEST(test_elsewhere),
	    cmocka_unit_test(test_v6),
	    TEST(test_expires),
	    TEST(test_refused),
	    TEST(test_probed),
	    cmocka_unit_test(test_narrow),
	    cmocka_unit_test(test_narrow_not),
	    cmocka_unit_test(test_answer),
	    cmocka_unit_test(test_no_answer),
	    cmocka_unit_test(test_fragments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
