/* SPDX-License-Identifier: MIT */
/* Cutting and merging of super-packets, against a reference that works byte by byte; the sealing of
 * data against the plain AEAD. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include "libkm/wg/engine/crypto.h"
#include "libkm/wg/engine/packet.h"

enum { FIN = 1, PSH = 8, ACK = 16, CWR = 128 };

struct shape {
	bool v6, udp;
	size_t options; /* of TCP, a multiple of 4 */
	uint8_t flags;
	uint32_t seq;
};

/* RFC 1071, two bytes at a time. */
static uint32_t slow_sum(uint32_t s, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i += 2)
		s += (uint32_t)p[i] << 8 | (i + 1 < n ? p[i + 1] : 0);
	return s;
}

static uint16_t slow_fold(uint32_t s)
{
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

static void put16(uint8_t *p, size_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v & 0xffff);
}

static size_t header_len(const struct shape *s)
{
	return (s->v6 ? 40 : 20) + (s->udp ? 8 : 20 + s->options);
}

/* The sum over the pseudo header of a packet of n bytes. */
static uint32_t pseudo(const uint8_t *p, const struct shape *s, size_t n)
{
	uint32_t sum = slow_sum(0, s->v6 ? p + 8 : p + 12, s->v6 ? 32 : 8);

	return sum + (s->udp ? 17 : 6) + (uint32_t)(n - (s->v6 ? 40 : 20));
}

/* A packet of this shape with its payload; complete when whole, else as the kernel gives a
 * super-packet: the pseudo header's sum in the checksum field. */
static size_t build(uint8_t *p, const struct shape *s, uint16_t id, const uint8_t *payload,
		    size_t n, bool whole)
{
	size_t l3 = s->v6 ? 40 : 20, total = header_len(s) + n;
	uint8_t *h = p + l3, *sum = h + (s->udp ? 6 : 16);
	uint16_t v;

	memset(p, 0, header_len(s));
	memset(p + (s->v6 ? 8 : 12), 0x21, s->v6 ? 32 : 8);
	p[0] = s->v6 ? 0x60 : 0x45;
	if (s->v6) {
		put16(p + 4, total - 40);
		p[6] = s->udp ? 17 : 6;
		p[7] = 64;
	} else {
		put16(p + 2, total);
		put16(p + 4, id);
		p[6] = 0x40;
		p[8] = 64;
		p[9] = s->udp ? 17 : 6;
		put16(p + 10, (uint16_t)~slow_fold(slow_sum(0, p, 20)));
	}
	put16(h, 4000);
	put16(h + 2, 80);
	if (s->udp) {
		put16(h + 4, n + 8);
	} else {
		put32(h + 4, s->seq);
		put32(h + 8, 0x12345678);
		h[12] = (uint8_t)((20 + s->options) / 4 << 4);
		h[13] = s->flags;
		put16(h + 14, 501);
		memset(h + 20, 1, s->options);
	}
	memcpy(p + header_len(s), payload, n);
	v = slow_fold(pseudo(p, s, total));
	if (whole) {
		v = (uint16_t)~slow_fold(slow_sum(pseudo(p, s, total), h, total - l3));
		v = v == 0 && s->udp ? 0xffff : v;
	}
	put16(sum, v);
	return total;
}

static struct virtio_net_hdr vnet(const struct shape *s, size_t size)
{
	return (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
				       .gso_type = s->udp  ? VIRTIO_NET_HDR_GSO_UDP_L4
						   : s->v6 ? VIRTIO_NET_HDR_GSO_TCPV6
							   : VIRTIO_NET_HDR_GSO_TCPV4,
				       .hdr_len = 0, /* not to be trusted */
				       .gso_size = (uint16_t)size,
				       .csum_start = s->v6 ? 40 : 20,
				       .csum_offset = s->udp ? 6 : 16};
}

static uint8_t payload[WG_SUPER_MAX], super[WG_SUPER_MAX], piece[WG_SUPER_MAX], want[WG_SUPER_MAX];
static uint8_t pieces[WG_SUPER_MAX * 2];

static struct shape random_shape(void)
{
	return (struct shape){.v6 = km_random_below(2),
			      .udp = km_random_below(4) == 0,
			      .options = 4 * km_random_below(11),
			      .flags = (uint8_t)(ACK | (km_random_below(2) ? PSH : 0)),
			      .seq = 0xffff0000 + km_random_below(0x20000)};
}

/* Each piece is what a sender without offload would have made. */
static void check_cut(struct shape s, size_t n, size_t size)
{
	size_t total = build(super, &s, 0xfffe, payload, n, false), at = 0, len, k = 0;
	struct virtio_net_hdr vh = vnet(&s, size);
	struct shape one = s;
	struct wg_cut c;

	assert_int_equal(wg_cut_begin(&c, &vh, super, total), n == 0 ? 1 : (n + size - 1) / size);
	do {
		len = n - at < size ? n - at : size;
		one.seq = s.seq + (uint32_t)at;
		one.flags = s.flags;
		if (at + len < n)
			one.flags &= (uint8_t) ~(FIN | PSH);
		if (k > 0)
			one.flags &= (uint8_t)~CWR;
		len = build(want, &one, (uint16_t)(0xfffe + k), payload + at, len, true);
		assert_true(len <= wg_cut_len(&c));
		assert_int_equal(wg_cut_next(&c, piece), len);
		assert_memory_equal(piece, want, len);
		at += len - header_len(&s);
		k++;
	} while (at < n);
	assert_int_equal(wg_cut_next(&c, piece), 0);
}

static void test_cut(void **state)
{
	static const struct shape full = {.flags = ACK | PSH | FIN | CWR, .seq = 0xfffffff0};
	struct shape s;
	size_t room;

	(void)state;
	km_random(payload, sizeof(payload));
	check_cut(full, 0, 1380);
	check_cut(full, 1, 1380);
	check_cut(full, 1380, 1380);
	check_cut(full, 1381, 1380);
	check_cut(full, 65000, 1381);
	check_cut(full, 65000, 1);
	for (int i = 0; i < 300; i++) {
		s = random_shape();
		room = WG_SUPER_MAX - header_len(&s);
		check_cut(s, km_random_below((uint32_t)room + 1), 1 + km_random_below(1500));
	}
}

/* A packet whose checksum only is to be finished, and one that is complete. */
static void test_cut_whole(void **state)
{
	struct virtio_net_hdr none = {.flags = 0}, vh;
	struct wg_cut c;
	struct shape s;
	size_t n, len;

	(void)state;
	for (int i = 0; i < 300; i++) {
		s = random_shape();
		n = km_random_below(1400);
		km_random(payload, n);
		len = build(super, &s, 7, payload, n, false);
		build(want, &s, 7, payload, n, true);
		vh = vnet(&s, 0);
		vh.gso_type = VIRTIO_NET_HDR_GSO_NONE;
		assert_int_equal(wg_cut_begin(&c, &vh, super, len), 1);
		assert_int_equal(wg_cut_next(&c, piece), len);
		assert_memory_equal(piece, want, len);
		assert_int_equal(wg_cut_begin(&c, &none, want, len), 1);
		assert_int_equal(wg_cut_next(&c, piece), len);
		assert_memory_equal(piece, want, len);
	}
	/* A UDP checksum that comes out as 0 is sent as ffff. */
	s = (struct shape){.udp = true};
	payload[0] = payload[1] = 0;
	len = build(super, &s, 7, payload, 2, true);
	memcpy(payload, super + 20 + 6, 2);
	len = build(super, &s, 7, payload, 2, false);
	vh = vnet(&s, 0);
	vh.gso_type = VIRTIO_NET_HDR_GSO_NONE;
	assert_int_equal(wg_cut_begin(&c, &vh, super, len), 1);
	wg_cut_next(&c, piece);
	assert_int_equal(piece[26], 0xff);
	assert_int_equal(piece[27], 0xff);
}

/* Whatever the TUN might give: no byte outside is touched (the sanitizers look). */
static void test_cut_garbage(void **state)
{
	struct virtio_net_hdr vh;
	struct wg_cut c;
	size_t n, len;
	uint8_t *p, *out;

	(void)state;
	for (int i = 0; i < 30000; i++) {
		n = km_random_below(200);
		p = malloc(n + 1);
		km_random(p, n + 1);
		km_random(&vh, sizeof(vh));
		if (n > 33) {
			p[0] = km_random_below(2) ? 0x45 : 0x60;
			vh.gso_type = (uint8_t[]){0, 1, 4, 5, 0x81}[km_random_below(5)];
			vh.flags = (uint8_t)km_random_below(2);
			vh.csum_start = (uint16_t)km_random_below(60);
			vh.csum_offset = (uint16_t)km_random_below(20);
			vh.gso_size = (uint16_t)km_random_below(100);
			p[32] = (uint8_t)(p[32] & 0x7f);
		}
		if (wg_cut_begin(&c, &vh, p, n) > 0) {
			len = wg_cut_len(&c);
			out = malloc(len);
			while (wg_cut_next(&c, out) > 0)
				;
			free(out);
		}
		free(p);
	}
}

/* Flattens what is to be written, and cuts it again as the kernel would. */
static size_t written(struct wg_merge *m, struct virtio_net_hdr *vh)
{
	int n = wg_merge_end(m);
	size_t len = 0;

	assert_true(n >= 2);
	assert_int_equal(m->iov[0].iov_len, WG_VNET_LEN);
	memcpy(vh, m->iov[0].iov_base, WG_VNET_LEN);
	for (int i = 1; i < n; i++) {
		assert_true(len + m->iov[i].iov_len <= sizeof(super));
		memcpy(super + len, m->iov[i].iov_base, m->iov[i].iov_len);
		len += m->iov[i].iov_len;
	}
	return len;
}

/* Cut, merged and cut again: the same pieces. */
static void check_merge(struct shape s, size_t n, size_t size)
{
	struct virtio_net_hdr vh = vnet(&s, size);
	struct wg_merge m = {.udp_too = true};
	size_t total = build(super, &s, 5, payload, n, false), at = 0, len, hlen = header_len(&s),
	       k;
	struct wg_cut c;
	int count = wg_cut_begin(&c, &vh, super, total);

	while ((len = wg_cut_next(&c, pieces + at)) > 0) {
		assert_true(wg_merge_add(&m, pieces + at, len));
		at += len;
	}
	len = written(&m, &vh);
	assert_int_equal(len, total);
	if (count == 1) {
		build(want, &s, 5, payload, n, true);
		assert_int_equal(vh.gso_type, VIRTIO_NET_HDR_GSO_NONE);
		assert_memory_equal(super, want, total);
		return;
	}
	assert_int_equal(vh.gso_size, size);
	assert_int_equal(vh.hdr_len, hlen);
	build(want, &s, 5, payload, n, false);
	assert_memory_equal(super, want, total);
	/* A byte that is damaged on its way is not merged over. */
	for (k = 0; k < 20; k++) {
		size_t second = hlen + size, spot = second + km_random_below(20 + (uint32_t)size);

		at = 0;
		wg_cut_begin(&c, &vh, want, total);
		while ((len = wg_cut_next(&c, pieces + at)) > 0)
			at += len;
		if (s.v6 && spot - second >= 4 && spot - second < 6)
			continue; /* the length, which the caller has read already */
		if (spot >= second + (total - hlen - size < size ? total - size : second))
			continue;
		pieces[spot] ^= 0x10;
		len = total - hlen - size < size ? total - size : second;
		assert_true(wg_merge_add(&m, pieces, second));
		assert_false(wg_merge_add(&m, pieces + second, len));
		(void)wg_merge_end(&m);
	}
}

static void test_merge(void **state)
{
	struct shape s;
	size_t size, n;

	(void)state;
	km_random(payload, sizeof(payload));
	for (int i = 0; i < 400; i++) {
		s = random_shape();
		size = 8 + km_random_below(1400);
		n = km_random_below(9) ? 1 + km_random_below((uint32_t)size * 40) : size;
		if (n > WG_SUPER_MAX - header_len(&s))
			n = WG_SUPER_MAX - header_len(&s);
		if ((n + size - 1) / size > WG_MERGE_MAX)
			continue;
		check_merge(s, n, size);
	}
}

/* What must stay apart. */
static void test_merge_not(void **state)
{
	struct shape s = {.flags = ACK, .seq = 1000}, t;
	struct wg_merge m = {.udp_too = false};
	uint8_t *a = pieces, *b = pieces + 4000;
	size_t na = build(a, &s, 1, payload, 100, true), nb;

	(void)state;
	for (int i = 0; i < 7; i++) {
		t = s;
		t.seq = s.seq + 100;
		t.seq += i == 0;                          /* a gap */
		t.flags |= i == 1 ? FIN : i == 2 ? 2 : 0; /* the end, a SYN */
		t.options = i == 3 ? 4 : 0;
		t.v6 = i == 4;
		nb = build(b, &t, 2, payload + 100, i == 5 ? 101 : i == 6 ? 0 : 100, true);
		assert_true(wg_merge_add(&m, a, na));
		assert_false(wg_merge_add(&m, b, nb));
		assert_int_equal(wg_merge_end(&m), 2);
	}
	/* PSH ends, a shorter one ends. */
	t = s;
	t.flags = ACK | PSH;
	na = build(a, &t, 1, payload, 100, true);
	t.seq += 100;
	nb = build(b, &t, 2, payload, 100, true);
	assert_true(wg_merge_add(&m, a, na));
	assert_false(wg_merge_add(&m, b, nb));
	wg_merge_end(&m);
	/* UDP only where the kernel takes it. */
	s.udp = true;
	na = build(a, &s, 1, payload, 100, true);
	nb = build(b, &s, 2, payload, 100, true);
	assert_true(wg_merge_add(&m, a, na));
	assert_false(wg_merge_add(&m, b, nb));
	wg_merge_end(&m);
	m.udp_too = true;
	assert_true(wg_merge_add(&m, a, na));
	assert_true(wg_merge_add(&m, b, nb));
	assert_int_equal(wg_merge_end(&m), 3);
	assert_int_equal(wg_merge_end(&m), 0);
}

/* Any bytes that look like IP. */
static void test_merge_garbage(void **state)
{
	struct wg_merge m = {.udp_too = true};
	struct wg_ip ip;
	uint8_t *kept[WG_MERGE_MAX + 2];
	size_t n, k = 0;
	uint8_t *p;

	(void)state;
	for (int i = 0; i < 30000; i++) {
		n = 1 + km_random_below(100);
		p = malloc(n);
		km_random(p, n);
		p[0] = km_random_below(2) ? 0x45 : 0x60;
		if (n > 40 && km_random_below(2)) {
			p[6] = p[0] == 0x45 ? 0x40 : 6;
			p[9] = 6;
			put16(p + (p[0] == 0x45 ? 2 : 4), p[0] == 0x45 ? n : n - 40);
		}
		if (!wg_ip_parse(&ip, p, n)) {
			free(p);
			continue;
		}
		assert_true(ip.total <= n);
		if (k > WG_MERGE_MAX || !wg_merge_add(&m, p, ip.total)) {
			wg_merge_end(&m);
			while (k > 0)
				free(kept[--k]);
			assert_true(wg_merge_add(&m, p, ip.total));
		}
		kept[k++] = p;
	}
	while (k > 0)
		free(kept[--k]);
}

static void test_sum(void **state)
{
	uint16_t v;

	(void)state;
	km_random(payload, 4096);
	for (size_t n = 0; n < 300; n++)
		for (size_t off = 0; off < 9; off++) {
			v = wg_sum(payload + off, n, 0);
			assert_int_equal((uint16_t)(v << 8 | v >> 8),
					 slow_fold(slow_sum(0, payload + off, n)));
		}
	memset(payload, 0xff, sizeof(payload));
	assert_int_equal(wg_sum(payload, sizeof(payload) - 1, 0xffff), 0xffff);
}

/* Data packets are RFC 8439's AEAD, in whatever way they are made. */
static void test_aead(void **state)
{
	uint8_t key[WG_KEY], buf[WG_AEAD_LEAD + 2048], lead[WG_AEAD_LEAD], plain[2048];
	uint8_t out[WG_AEAD_LEAD + 2048], ref[2048];
	struct wg_crypto *c = wg_crypto_new();
	struct wg_aead *a = wg_aead_new();
	uint64_t counter;
	size_t n;

	(void)state;
	for (int i = 0; i < 2000; i++) {
		n = i < 300 ? (size_t)i : km_random_below(2000);
		km_random(&counter, sizeof(counter));
		km_random(key, sizeof(key));
		km_random(buf, sizeof(buf));
		memcpy(lead, buf, sizeof(lead));
		memcpy(plain, buf + WG_AEAD_LEAD, n);
		wg_seal(c, ref, key, counter, plain, n, NULL, 0);
		wg_aead_seal(a, key, counter, buf + WG_AEAD_LEAD, n);
		assert_memory_equal(buf, lead, sizeof(lead));
		assert_memory_equal(buf + WG_AEAD_LEAD, ref, n + WG_TAG);
		assert_true(wg_aead_open(a, key, counter, buf + WG_AEAD_LEAD, n, out));
		assert_memory_equal(out + WG_AEAD_LEAD, plain, n);
		buf[WG_AEAD_LEAD + km_random_below((uint32_t)(n + WG_TAG))] ^= 1;
		assert_false(wg_aead_open(a, key, counter, buf + WG_AEAD_LEAD, n, out));
	}
	wg_aead_free(a);
	wg_crypto_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_sum),           cmocka_unit_test(test_cut),
	    cmocka_unit_test(test_cut_whole),     cmocka_unit_test(test_cut_garbage),
	    cmocka_unit_test(test_merge),         cmocka_unit_test(test_merge_not),
	    cmocka_unit_test(test_merge_garbage), cmocka_unit_test(test_aead),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
