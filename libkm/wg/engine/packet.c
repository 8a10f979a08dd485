/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/packet.h"
#include "libkm/base/err.h"
#include <string.h>

enum { TCP = 6, UDP = 17 };
enum { F_FIN = 1, F_PSH = 8, F_ACK = 16, F_ECE = 64, F_CWR = 128 };
enum { T_SEQ = 4, T_OFF = 12, T_FLAGS = 13, T_SUM = 16, T_URG = 18, T_MIN = 20 };
enum { U_LEN = 4, U_SUM = 6, U_MIN = 8 };

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
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

/* ---- checksums: sums of 16-bit words as they lie in memory ---- */

static uint64_t load64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t add_carry(uint64_t a, uint64_t b)
{
	a += b;
	return a + (a < b);
}

static uint16_t fold(uint64_t s)
{
	s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return (uint16_t)s;
}

uint16_t wg_sum(const void *data, size_t n, uint64_t sum)
{
	const uint8_t *p = data;
	uint64_t a = sum, b = 0, c = 0, d = 0, last = 0;

	for (; n >= 32; n -= 32, p += 32) {
		a = add_carry(a, load64(p));
		b = add_carry(b, load64(p + 8));
		c = add_carry(c, load64(p + 16));
		d = add_carry(d, load64(p + 24));
	}
	a = add_carry(add_carry(a, b), add_carry(c, d));
	for (; n >= 8; n -= 8, p += 8)
		a = add_carry(a, load64(p));
	memcpy(&last, p, n); /* zero bytes behind an odd end add nothing */
	return fold(add_carry(a, last));
}

/* A word in network order as it would lie in memory. */
static uint64_t word(size_t v)
{
	uint8_t b[2] = {(uint8_t)(v >> 8), (uint8_t)v};
	uint16_t w;

	memcpy(&w, b, 2);
	return w;
}

static void put_sum(uint8_t *at, uint16_t sum)
{
	memcpy(at, &sum, 2);
}

/* The pseudo header of a packet whose transport part has n bytes. */
static uint64_t pseudo(const uint8_t *ip, bool v6, unsigned proto, size_t n)
{
	return (uint64_t)wg_sum(v6 ? ip + 8 : ip + 12, v6 ? 32 : 8, 0) + word(proto) + word(n);
}

static void ip4_sum(uint8_t *ip, size_t hlen)
{
	put_sum(ip + 10, 0);
	put_sum(ip + 10, (uint16_t)~wg_sum(ip, hlen, 0));
}

bool wg_ip_parse(struct wg_ip *ip, const uint8_t *pkt, size_t n)
{
	if (n >= 20 && pkt[0] >> 4 == 4) {
		ip->src = pkt + 12;
		ip->dst = pkt + 16;
		ip->naddr = 4;
		ip->total = get16(pkt + 2);
		return ip->total >= 20 && ip->total <= n;
	}
	if (n >= 40 && pkt[0] >> 4 == 6) {
		ip->src = pkt + 8;
		ip->dst = pkt + 24;
		ip->naddr = 16;
		ip->total = 40 + (size_t)get16(pkt + 4);
		return ip->total <= n;
	}
	return false;
}

/* ---- cutting ---- */

static int cut_whole(struct wg_cut *c, const struct virtio_net_hdr *vh)
{
	c->sum = (vh->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0;
	c->l4 = vh->csum_start;
	c->sum_at = vh->csum_offset;
	if (c->sum && c->l4 + c->sum_at + 2 > c->n)
		return KM_EINVAL;
	return 1;
}

static size_t cut_headers(struct wg_cut *c)
{
	size_t tcp;

	if (c->udp)
		return c->l4 + U_MIN <= c->n ? c->l4 + U_MIN : 0;
	if (c->l4 + T_MIN > c->n)
		return 0;
	tcp = (size_t)(c->pkt[c->l4 + T_OFF] >> 4) * 4;
	return tcp >= T_MIN && c->l4 + tcp <= c->n ? c->l4 + tcp : 0;
}

int wg_cut_begin(struct wg_cut *c, const struct virtio_net_hdr *vh, const uint8_t *pkt, size_t n)
{
	unsigned type = vh->gso_type & ~VIRTIO_NET_HDR_GSO_ECN;

	memset(c, 0, sizeof(*c));
	c->pkt = pkt;
	c->n = n;
	c->pieces = 1;
	if (n < 20 || n > WG_SUPER_MAX)
		return KM_EINVAL;
	c->v6 = pkt[0] >> 4 == 6;
	if (type == VIRTIO_NET_HDR_GSO_NONE)
		return cut_whole(c, vh);
	c->udp = type == VIRTIO_NET_HDR_GSO_UDP_L4;
	if ((type != VIRTIO_NET_HDR_GSO_TCPV4 && type != VIRTIO_NET_HDR_GSO_TCPV6 && !c->udp) ||
	    (type == VIRTIO_NET_HDR_GSO_TCPV4 && c->v6) ||
	    (type == VIRTIO_NET_HDR_GSO_TCPV6 && !c->v6))
		return KM_EINVAL;
	c->l4 = vh->csum_start;
	if (!(vh->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) || vh->gso_size == 0 ||
	    (c->v6 ? c->l4 < 40 : c->l4 != (size_t)(pkt[0] & 15) * 4 || c->l4 < 20))
		return KM_EINVAL;
	c->payload = cut_headers(c);
	if (c->payload == 0)
		return KM_EINVAL;
	c->size = vh->gso_size;
	n -= c->payload;
	c->pieces = n == 0 ? 1 : (unsigned)((n + c->size - 1) / c->size);
	return (int)c->pieces;
}

/* One packet of a TCP stream that could as well have been two: no options of IPv4, no fragment, no
 * extension headers, nothing that opens or ends the connection at once. */
static bool cut_segment(struct wg_cut *c)
{
	const uint8_t *p = c->pkt;
	struct wg_ip ip;

	if (!wg_ip_parse(&ip, p, c->n) || ip.total != c->n ||
	    (c->v6 ? p[6] != TCP : p[9] != TCP || p[0] != 0x45 || (get16(p + 6) & 0x3fff) != 0))
		return false;
	c->l4 = c->v6 ? 40 : 20;
	c->payload = cut_headers(c);
	return c->payload != 0 && c->payload < c->n &&
	       (p[c->l4 + T_FLAGS] & ~(F_FIN | F_PSH | F_CWR | F_ECE)) == F_ACK;
}

bool wg_cut_narrow(struct wg_cut *c, size_t max)
{
	struct wg_cut t = *c;

	if (t.udp || t.piece != 0 || (t.size == 0 && !cut_segment(&t)) || max < t.payload + 8)
		return false;
	t.size = max - t.payload;
	t.pieces = (unsigned)((t.n - t.payload + t.size - 1) / t.size);
	*c = t;
	return true;
}

size_t wg_cut_len(const struct wg_cut *c)
{
	return c->pieces == 1 ? c->n : c->payload + c->size;
}

static size_t next_whole(struct wg_cut *c, uint8_t *out)
{
	uint16_t sum;

	memcpy(out, c->pkt, c->n);
	if (!c->sum)
		return c->n;
	/* The field holds the pseudo header's sum; 0 in a UDP header would mean: no checksum. */
	sum = (uint16_t)~wg_sum(out + c->l4, c->n - c->l4, 0);
	put_sum(out + c->l4 + c->sum_at, sum == 0 && c->sum_at == U_SUM ? 0xffff : sum);
	return c->n;
}

static void fix_ip(const struct wg_cut *c, uint8_t *ip, size_t total)
{
	if (c->v6) {
		put16(ip + 4, total - 40);
		return;
	}
	put16(ip + 2, total);
	put16(ip + 4, (size_t)get16(ip + 4) + c->piece);
	ip4_sum(ip, c->l4);
}

static void fix_transport(const struct wg_cut *c, uint8_t *ip, size_t total, bool last)
{
	uint8_t *h = ip + c->l4, *at = h + (c->udp ? U_SUM : T_SUM);
	size_t n = total - c->l4;
	uint16_t sum;

	if (c->udp) {
		put16(h + U_LEN, n);
	} else {
		put32(h + T_SEQ, get32(h + T_SEQ) + (uint32_t)c->at);
		if (!last)
			h[T_FLAGS] &= (uint8_t) ~(F_FIN | F_PSH);
		if (c->piece > 0)
			h[T_FLAGS] &= (uint8_t)~F_CWR;
	}
	put_sum(at, 0);
	sum = (uint16_t)~wg_sum(h, n, pseudo(ip, c->v6, c->udp ? UDP : TCP, n));
	put_sum(at, sum == 0 && c->udp ? 0xffff : sum);
}

size_t wg_cut_next(struct wg_cut *c, uint8_t *out)
{
	size_t left = c->n - c->payload - c->at, n;
	bool last;

	if (c->piece == c->pieces)
		return 0;
	if (c->size == 0) {
		c->piece++;
		return next_whole(c, out);
	}
	n = left < c->size ? left : c->size;
	last = n == left;
	memcpy(out, c->pkt, c->payload);
	memcpy(out + c->payload, c->pkt + c->payload + c->at, n);
	fix_ip(c, out, c->payload + n);
	fix_transport(c, out, c->payload + n, last);
	c->at += n;
	c->piece++;
	return c->payload + n;
}

/* ---- merging ---- */

/* Where the transport header is, if this is a packet that could be merged with others. */
static bool plain(const uint8_t *p, size_t n, bool *v6, bool *udp, size_t *l4)
{
	unsigned proto;

	*v6 = p[0] >> 4 == 6;
	if (*v6) {
		proto = p[6];
		*l4 = 40;
	} else {
		if (p[0] != 0x45 || (get16(p + 6) & 0x3fff) != 0) /* options, or a fragment */
			return false;
		proto = p[9];
		*l4 = 20;
	}
	*udp = proto == UDP;
	return proto == TCP ? *l4 + T_MIN < n : *udp && *l4 + U_MIN < n;
}

static bool sum_right(const struct wg_merge *m, const uint8_t *p, size_t n)
{
	if (m->udp && get16(p + m->l4 + U_SUM) == 0)
		return false;
	if (!m->v6 && wg_sum(p, m->l4, 0) != 0xffff)
		return false;
	return wg_sum(p + m->l4, n - m->l4, pseudo(p, m->v6, m->udp ? UDP : TCP, n - m->l4)) ==
	       0xffff;
}

static void merge_first(struct wg_merge *m, uint8_t *p, size_t n)
{
	bool ok = plain(p, n, &m->v6, &m->udp, &m->l4);

	m->n = 1;
	m->head = p;
	m->head_len = m->total = n;
	m->closed = false;
	m->iov[1] = (struct iovec){p, n};
	if (ok && m->udp) {
		m->payload = m->l4 + U_MIN;
		ok = m->udp_too && get16(p + m->l4 + U_LEN) == n - m->l4;
	} else if (ok) {
		m->payload = m->l4 + (size_t)(p[m->l4 + T_OFF] >> 4) * 4;
		ok = m->payload >= m->l4 + T_MIN && m->payload < n &&
		     (p[m->l4 + T_FLAGS] & ~F_PSH) == F_ACK;
		m->push = ok && (p[m->l4 + T_FLAGS] & F_PSH) != 0;
		m->closed = m->push;
		m->seq = get32(p + m->l4 + T_SEQ) + (uint32_t)(n - m->payload);
	}
	m->mergeable = ok;
	m->size = n - m->payload;
}

/* Equal but for lengths, sequence, checksums and PSH. IPv4's identification does not matter either:
 * merged packets are no fragments. */
static bool same_flow(const struct wg_merge *m, const uint8_t *p)
{
	const uint8_t *h = m->head, *t = p + m->l4, *u = h + m->l4;

	if (m->v6 ? memcmp(p, h, 4) != 0 || memcmp(p + 6, h + 6, 34) != 0
		  : memcmp(p, h, 2) != 0 || memcmp(p + 6, h + 6, 4) != 0 ||
			memcmp(p + 12, h + 12, 8) != 0)
		return false;
	if (memcmp(t, u, 4) != 0)
		return false;
	if (m->udp)
		return true;
	return get32(t + T_SEQ) == m->seq && memcmp(t + 8, u + 8, 5) == 0 &&
	       (t[T_FLAGS] & ~F_PSH) == F_ACK && memcmp(t + 14, u + 14, 2) == 0 &&
	       memcmp(t + T_URG, u + T_URG, m->payload - m->l4 - T_URG) == 0;
}

static bool continues(const struct wg_merge *m, const uint8_t *p, size_t n)
{
	size_t l4, size = n - m->payload;
	bool v6, udp;

	if (!m->mergeable || m->closed || m->n >= WG_MERGE_MAX || n <= m->payload ||
	    size > m->size || m->total + size > WG_SUPER_MAX)
		return false;
	if (!plain(p, n, &v6, &udp, &l4) || v6 != m->v6 || udp != m->udp || !same_flow(m, p))
		return false;
	if (udp && get16(p + l4 + U_LEN) != n - l4)
		return false;
	return (m->n > 1 || sum_right(m, m->head, m->head_len)) && sum_right(m, p, n);
}

bool wg_merge_add(struct wg_merge *m, uint8_t *p, size_t n)
{
	if (m->n == 0) {
		merge_first(m, p, n);
		return true;
	}
	if (!continues(m, p, n))
		return false;
	m->iov[++m->n] = (struct iovec){p + m->payload, n - m->payload};
	m->total += n - m->payload;
	m->closed = n - m->payload < m->size;
	if (!m->udp) {
		m->seq += (uint32_t)(n - m->payload);
		m->push = (p[m->l4 + T_FLAGS] & F_PSH) != 0;
		m->closed |= m->push;
	}
	return true;
}

static void finish_super(struct wg_merge *m)
{
	uint8_t *ip = m->head, *h = ip + m->l4;
	size_t n = m->total - m->l4;

	if (m->v6) {
		put16(ip + 4, m->total - 40);
	} else {
		put16(ip + 2, m->total);
		ip4_sum(ip, m->l4);
	}
	if (m->udp)
		put16(h + U_LEN, n);
	else if (m->push)
		h[T_FLAGS] |= F_PSH;
	m->vh.csum_offset = m->udp ? U_SUM : T_SUM;
	put_sum(h + m->vh.csum_offset, fold(pseudo(ip, m->v6, m->udp ? UDP : TCP, n)));
	m->vh.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	m->vh.gso_type = m->udp  ? VIRTIO_NET_HDR_GSO_UDP_L4
			 : m->v6 ? VIRTIO_NET_HDR_GSO_TCPV6
				 : VIRTIO_NET_HDR_GSO_TCPV4;
	m->vh.hdr_len = (uint16_t)m->payload;
	m->vh.gso_size = (uint16_t)m->size;
	m->vh.csum_start = (uint16_t)m->l4;
}

int wg_merge_end(struct wg_merge *m)
{
	int pieces = (int)m->n + 1;

	if (m->n == 0)
		return 0;
	memset(&m->vh, 0, sizeof(m->vh));
	if (m->n > 1)
		finish_super(m);
	m->iov[0] = (struct iovec){&m->vh, WG_VNET_LEN};
	m->n = 0;
	return pieces;
}
