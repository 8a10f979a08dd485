/* SPDX-License-Identifier: MIT */
/* First byte's lowest bit 0: a packet from the TUN, vnet header first, is cut; the other bits: for a
 * path that carries so many times 16 bytes (0: any), and what cannot be cut is put into fragments and
 * answered. 1: packets, each
 * after two bytes of its length, are merged; with the next bit, their lengths and checksums are put
 * right beforehand, else few would get past them. What was merged is cut again and must be as it
 * was. */
#include "libkm/base/util.h"
#include "libkm/wg/engine/packet.h"
#include "libkm/wg/engine/toobig.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

#define PACKETS 256
static uint8_t super[2 * WG_SUPER_MAX];
struct kept {
	uint8_t *now, *before; /* merging may write into the first of a super-packet */
	size_t n;
};

/* What the sending thread does with a packet that is too large. */
static void too_big(const uint8_t *p, size_t n, uint32_t carry)
{
	struct wg_fragments f;
	size_t len, total = 0;
	uint8_t *out = malloc(WG_TOOBIG_ROOM);

	if (wg_toobig_answer(out, p, n, carry) > WG_TOOBIG_ROOM)
		abort();
	free(out);
	(void)wg_is_echo(p, n);
	if (!wg_fragments_begin(&f, p, n, carry))
		return;
	while ((len = wg_fragments_len(&f)) > 0) {
		if (len > carry || len <= f.header)
			abort();
		out = malloc(len);
		wg_fragments_next(&f, out);
		free(out);
		total += len - f.header;
	}
	if (total != n - f.header)
		abort();
}

static void cut(const uint8_t *p, size_t n, uint32_t carry)
{
	struct virtio_net_hdr vh;
	struct wg_cut c;
	size_t room, len, total = 0;
	unsigned pieces = 0;
	uint8_t *out;

	if (n < WG_VNET_LEN)
		return;
	memcpy(&vh, p, WG_VNET_LEN);
	if (wg_cut_begin(&c, &vh, p + WG_VNET_LEN, n - WG_VNET_LEN) < 0)
		return;
	if (carry > 0 && wg_cut_len(&c) > carry) {
		too_big(p + WG_VNET_LEN, n - WG_VNET_LEN, carry);
		if (wg_cut_narrow(&c, carry) && wg_cut_len(&c) > carry)
			abort();
	}
	room = wg_cut_len(&c);
	out = malloc(room);
	for (; (len = wg_cut_next(&c, out)) > 0; pieces++) {
		if (len > room)
			abort();
		total += len;
	}
	if (pieces != c.pieces || total < n - WG_VNET_LEN)
		abort();
	free(out);
}

static void put16(uint8_t *p, size_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

/* Lengths and checksums of an IP packet without options, as its sender would have made them. */
static void put_right(uint8_t *p, size_t n)
{
	bool v6 = p[0] >> 4 == 6;
	size_t l4 = v6 ? 40 : 20;
	unsigned proto = n >= l4 ? p[v6 ? 6 : 9] : 0;
	uint8_t tail[4] = {0, (uint8_t)proto, (uint8_t)((n - l4) >> 8), (uint8_t)(n - l4)};
	uint16_t sum;

	if (n < l4 + 20 || (proto != 6 && proto != 17))
		return;
	if (v6) {
		put16(p + 4, n - 40);
	} else {
		p[0] = 0x45;
		put16(p + 2, n);
		put16(p + 10, 0);
		sum = (uint16_t)~wg_sum(p, 20, 0);
		memcpy(p + 10, &sum, 2);
	}
	if (proto == 17)
		put16(p + l4 + 4, n - l4);
	put16(p + l4 + (proto == 6 ? 16 : 6), 0);
	sum = wg_sum(tail, 4, wg_sum(v6 ? p + 8 : p + 12, v6 ? 32 : 8, 0));
	sum = (uint16_t)~wg_sum(p + l4, n - l4, sum);
	sum = proto == 17 && sum == 0 ? 0xffff : sum;
	memcpy(p + l4 + (proto == 6 ? 16 : 6), &sum, 2);
}

/* But for IPv4's identification and its header's checksum, which cutting makes anew, and the form
 * of a checksum of zero. */
static bool same(const uint8_t *a, const uint8_t *b, size_t n)
{
	uint8_t x[64], y[64];
	size_t head = n < 64 ? n : 64;
	const size_t sum = a[0] >> 4 == 6 ? 40 : 20,
		     at = sum + (a[sum == 40 ? 6 : 9] == 6 ? 16 : 6);

	memcpy(x, a, head);
	memcpy(y, b, head);
	if (a[0] >> 4 == 4) {
		memset(x + 4, 0, 2);
		memset(y + 4, 0, 2);
		memset(x + 10, 0, 2);
		memset(y + 10, 0, 2);
	}
	if (x[at] == y[at] && x[at + 1] == y[at + 1])
		return memcmp(x, y, head) == 0 && memcmp(a + head, b + head, n - head) == 0;
	if ((x[at] != 0 && x[at] != 0xff) || x[at] != x[at + 1] || x[at] + y[at] != 0xff)
		return false;
	memset(x + at, 0, 2);
	memset(y + at, 0, 2);
	return memcmp(x, y, head) == 0 && memcmp(a + head, b + head, n - head) == 0;
}

/* What stands in m is written out and cut again. */
static void end(struct wg_merge *m, const struct kept *k, unsigned n)
{
	const int pieces = wg_merge_end(m);
	struct virtio_net_hdr vh = {0};
	struct wg_cut c;
	size_t len = 0;
	uint8_t *out;

	if (pieces != (n ? (int)n + 1 : 0))
		abort();
	if (n == 0)
		return;
	memcpy(&vh, m->iov[0].iov_base, WG_VNET_LEN);
	for (int i = 1; i < pieces; len += m->iov[i++].iov_len) {
		if (len + m->iov[i].iov_len > sizeof(super))
			abort();
		memcpy(super + len, m->iov[i].iov_base, m->iov[i].iov_len);
	}
	if (n == 1) {
		if (len != k->n || memcmp(super, k->before, len) != 0 || vh.gso_type != 0)
			abort();
		return;
	}
	if (len > WG_SUPER_MAX || wg_cut_begin(&c, &vh, super, len) != (int)n)
		abort();
	out = malloc(wg_cut_len(&c));
	for (unsigned i = 0; i < n; i++)
		if (wg_cut_next(&c, out) != k[i].n || !same(out, k[i].before, k[i].n))
			abort();
	free(out);
}

static void merge(const uint8_t *p, size_t n, bool right)
{
	struct wg_merge m = {.udp_too = true};
	static struct kept kept[PACKETS];
	struct wg_ip ip;
	unsigned k = 0, first = 0;
	uint8_t *copy;
	size_t len;

	for (; n > 2 && k < PACKETS; p += len, n -= len) {
		len = (size_t)p[0] << 8 | p[1];
		p += 2;
		n -= 2;
		len = len < n ? len : n;
		copy = malloc(len + 1);
		memcpy(copy, p, len);
		if (right && len > 20)
			put_right(copy, len);
		if (!wg_ip_parse(&ip, copy, len)) {
			free(copy);
			continue;
		}
		kept[k] = (struct kept){realloc(copy, ip.total), malloc(ip.total), ip.total};
		memcpy(kept[k].before, kept[k].now, ip.total);
		if (!wg_merge_add(&m, kept[k].now, ip.total)) {
			end(&m, kept + first, k - first);
			first = k;
			if (!wg_merge_add(&m, kept[k].now, ip.total))
				abort();
		}
		k++;
	}
	end(&m, kept + first, k - first);
	while (k > 0) {
		free(kept[--k].now);
		free(kept[k].before);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	if (n > 0 && p[0] & 1)
		merge(p + 1, n - 1, (p[0] & 2) != 0);
	else if (n > 0)
		cut(p + 1, n - 1, (p[0] >> 1) * 16);
	return 0;
}
