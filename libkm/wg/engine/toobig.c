/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/toobig.h"
#include "libkm/wg/engine/packet.h"
#include <string.h>

enum { ICMP = 1, ICMP6 = 58 };
enum { UNREACHABLE = 3, FRAG_NEEDED = 4, ECHO4 = 8, TOO_BIG6 = 2, ECHO6 = 128 };
enum { DF = 0x4000, MF = 0x2000, OFFSET = 0x1fff };
enum { QUOTE4 = 576 - 20 - 8, ICMP_HEADER = 8 };

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, size_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put_sum(uint8_t *at, uint16_t sum)
{
	memcpy(at, &sum, 2);
}

static size_t header4(const uint8_t *pkt)
{
	return (size_t)(pkt[0] & 15) * 4;
}

/* Unspecified, multicast, broadcast, loopback: no answer goes there. */
static bool nobody4(const uint8_t *a)
{
	return a[0] == 0 || a[0] == 127 || a[0] >= 224;
}

static bool nobody6(const uint8_t *a)
{
	static const uint8_t none[16];

	return a[0] == 0xff || memcmp(a, none, 16) == 0;
}

static bool answered4(const uint8_t *pkt, size_t n)
{
	size_t h = header4(pkt);

	if (h < 20 || n < h + 1 || (get16(pkt + 6) & OFFSET) != 0 || nobody4(pkt + 12) ||
	    pkt[16] >= 224)
		return false;
	return pkt[9] != ICMP || pkt[h] == ECHO4 || pkt[h] == 0;
}

static bool answered6(const uint8_t *pkt, size_t n)
{
	if (nobody6(pkt + 8) || pkt[24] == 0xff)
		return false;
	return pkt[6] != ICMP6 || n < 41 || pkt[40] >= ECHO6;
}

static size_t answer4(uint8_t *out, const uint8_t *pkt, size_t n, uint32_t mtu)
{
	size_t quote = n < QUOTE4 ? n : QUOTE4, total = 20 + ICMP_HEADER + quote;

	memset(out, 0, 20 + ICMP_HEADER);
	out[0] = 0x45;
	put16(out + 2, total);
	out[8] = 64;
	out[9] = ICMP;
	memcpy(out + 12, pkt + 16, 4);
	memcpy(out + 16, pkt + 12, 4);
	put_sum(out + 10, (uint16_t)~wg_sum(out, 20, 0));
	out[20] = UNREACHABLE;
	out[21] = FRAG_NEEDED;
	put16(out + 26, mtu);
	memcpy(out + 28, pkt, quote);
	put_sum(out + 22, (uint16_t)~wg_sum(out + 20, total - 20, 0));
	return total;
}

static size_t answer6(uint8_t *out, const uint8_t *pkt, size_t n, uint32_t mtu)
{
	size_t room = WG_TOOBIG_ROOM - 40 - ICMP_HEADER, quote = n < room ? n : room;
	size_t len = ICMP_HEADER + quote;
	uint8_t tail[8] = {0, 0, (uint8_t)(len >> 8), (uint8_t)len, 0, 0, 0, ICMP6};

	memset(out, 0, 40 + ICMP_HEADER);
	out[0] = 0x60;
	put16(out + 4, len);
	out[6] = ICMP6;
	out[7] = 64;
	memcpy(out + 8, pkt + 24, 16);
	memcpy(out + 24, pkt + 8, 16);
	out[40] = TOO_BIG6;
	put16(out + 46, mtu);
	memcpy(out + 48, pkt, quote);
	/* The pseudo header: addresses, length, next header. */
	put_sum(out + 42,
		(uint16_t)~wg_sum(out + 40, len, wg_sum(tail, 8, wg_sum(out + 8, 32, 0))));
	return 40 + len;
}

size_t wg_toobig_answer(uint8_t out[static WG_TOOBIG_ROOM], const uint8_t *pkt, size_t n,
			uint32_t mtu)
{
	if (n >= 20 && pkt[0] >> 4 == 4)
		return answered4(pkt, n) ? answer4(out, pkt, n, mtu) : 0;
	return n >= 40 && answered6(pkt, n) ? answer6(out, pkt, n, mtu) : 0;
}

/* ---- fragments ---- */

bool wg_fragments_begin(struct wg_fragments *f, const uint8_t *pkt, size_t n, uint32_t mtu)
{
	if (n < 20 || pkt[0] >> 4 != 4 || (get16(pkt + 6) & DF) != 0)
		return false;
	*f = (struct wg_fragments){.pkt = pkt, .n = n, .header = header4(pkt)};
	if (f->header < 20 || f->header >= n || mtu < f->header + 8)
		return false;
	f->at = f->header;
	f->size = (mtu - f->header) & ~(size_t)7;
	return true;
}

size_t wg_fragments_len(const struct wg_fragments *f)
{
	size_t left = f->n - f->at;

	return left == 0 ? 0 : f->header + (left < f->size ? left : f->size);
}

/* Options that belong to the first fragment only (RFC 791, section 3.1) become empty ones. */
static void blank_options(uint8_t *at, size_t n)
{
	size_t len;

	for (; n > 0 && at[0] != 0; at += len, n -= len) {
		len = at[0] == 1 ? 1 : n > 1 ? at[1] : 0;
		if (len == 0 || len > n || (at[0] != 1 && len < 2))
			return;
		if ((at[0] & 0x80) == 0)
			memset(at, 1, len);
	}
}

void wg_fragments_next(struct wg_fragments *f, uint8_t *out)
{
	size_t total = wg_fragments_len(f), done = f->at - f->header;
	uint16_t field = get16(f->pkt + 6);

	memcpy(out, f->pkt, f->header);
	memcpy(out + f->header, f->pkt + f->at, total - f->header);
	if (done > 0)
		blank_options(out + 20, f->header - 20);
	f->at += total - f->header;
	put16(out + 2, total);
	/* A fragment may be cut again: what followed it still follows. */
	put16(out + 6, ((field & OFFSET) + done / 8) | (field & MF) | (f->at < f->n ? MF : 0));
	put_sum(out + 10, 0);
	put_sum(out + 10, (uint16_t)~wg_sum(out, f->header, 0));
}

bool wg_is_echo(const uint8_t *pkt, size_t n)
{
	size_t h;

	if (n >= 20 && pkt[0] >> 4 == 4) {
		h = header4(pkt);
		return pkt[9] == ICMP && h < n && pkt[h] == ECHO4;
	}
	return n > 40 && pkt[6] == ICMP6 && pkt[40] == ECHO6;
}
