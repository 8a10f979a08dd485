/* SPDX-License-Identifier: MIT */
#include "libkm/base/proxy2.h"
#include "libkm/base/buf.h"
#include <string.h>

#define FIXED 16 /* signature, version and command, family and transport, length */
#define TLV_CRC32C 0x03

static const uint8_t signature[12] = "\r\n\r\n\0\r\nQUIT\n";

enum { CMD_LOCAL = 0x20, CMD_PROXY = 0x21 };
enum { AF_UNSPEC2 = 0, AF_INET2 = 1, AF_INET62 = 2, AF_UNIX2 = 3 };
enum { TRANSPORT_UNSPEC = 0, TRANSPORT_STREAM = 1, TRANSPORT_DGRAM = 2 };

static uint8_t *put(uint8_t *p, const void *from, size_t n)
{
	memcpy(p, from, n);
	return p + n;
}

static uint8_t *put16(uint8_t *p, uint16_t v)
{
	*p++ = (uint8_t)(v >> 8);
	*p++ = (uint8_t)v;
	return p;
}

static uint8_t *put_id(uint8_t *p, uint8_t type, const uint8_t id[static 16])
{
	*p++ = type;
	return put(put16(p, 16), id, 16);
}

size_t km_proxy2_write(uint8_t out[static KM_PROXY2_WRITE_MAX], const struct km_proxy2 *h)
{
	bool addrs = h->proxied && h->has_addrs && h->src.family == h->dst.family &&
		     (h->src.family == AF_INET || h->src.family == AF_INET6);
	uint8_t *p = put(out, signature, sizeof(signature));

	*p++ = h->proxied ? CMD_PROXY : CMD_LOCAL;
	*p = 0;
	if (addrs)
		*p = (uint8_t)((h->src.family == AF_INET ? AF_INET2 : AF_INET62) << 4 |
			       (h->datagram ? TRANSPORT_DGRAM : TRANSPORT_STREAM));
	p += 3; /* the length follows at the end */
	if (addrs) {
		size_t n = h->src.family == AF_INET ? 4 : 16;

		p = put(put(p, h->src.ip, n), h->dst.ip, n);
		p = put16(put16(p, h->src_port), h->dst_port);
	}
	if (h->has_tunnel)
		p = put_id(p, KM_PROXY2_TLV_TUNNEL, h->tunnel);
	if (h->has_target)
		p = put_id(p, KM_PROXY2_TLV_TARGET, h->target);
	put16(out + 14, (uint16_t)(p - out - FIXED));
	return (size_t)(p - out);
}

/* Either both halves are unspecified or neither is. */
static bool family_ok(uint8_t family)
{
	bool unspec = family >> 4 == AF_UNSPEC2;

	return family >> 4 <= AF_UNIX2 && (family & 15) <= TRANSPORT_DGRAM &&
	       unspec == ((family & 15) == TRANSPORT_UNSPEC);
}

/* family NULL: not there yet. A LOCAL header's is not ours to judge. */
static bool fixed_ok(uint8_t command, const uint8_t *family)
{
	return command == CMD_LOCAL || (command == CMD_PROXY && (!family || family_ok(*family)));
}

static void read_addr(struct km_addr *a, struct km_cur *c, uint8_t family, size_t n)
{
	const uint8_t *ip = km_cur_take(c, n);

	memset(a, 0, sizeof(*a));
	a->family = family;
	if (ip)
		memcpy(a->ip, ip, n);
}

static void read_addrs(struct km_proxy2 *h, struct km_cur *c, uint8_t family)
{
	uint8_t af = family >> 4 == AF_INET2 ? AF_INET : AF_INET6;
	size_t n = af == AF_INET ? 4 : 16;

	if (family >> 4 == AF_UNSPEC2)
		return;
	if (family >> 4 == AF_UNIX2) {
		km_cur_take(c, 216);
		return;
	}
	read_addr(&h->src, c, af, n);
	read_addr(&h->dst, c, af, n);
	h->src_port = km_cur_be16(c);
	h->dst_port = km_cur_be16(c);
	h->has_addrs = h->proxied;
	h->datagram = (family & 15) == TRANSPORT_DGRAM;
}

static bool read_id(struct km_cur v, bool *has, uint8_t id[static 16])
{
	const uint8_t *p = km_cur_take(&v, 16);

	if (*has || !p || v.left)
		return false;
	*has = true;
	memcpy(id, p, 16);
	return true;
}

/* CRC-32C (RFC 3720 appendix B.4) as it is defined, a bit at a time: few headers have one. `skip` is taken
 * for 4 zeroes. */
static uint32_t crc32c(const uint8_t *p, size_t n, const uint8_t *skip)
{
	uint32_t crc = ~0U;

	for (size_t i = 0; i < n; i++) {
		crc ^= p + i >= skip && p + i < skip + 4 ? 0 : p[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78U : 0);
	}
	return ~crc;
}

/* whole: the header from its first byte. */
static bool crc_ok(const struct km_cur *whole, struct km_cur v, bool *seen)
{
	const uint8_t *at = v.p;
	uint32_t said = km_cur_be32(&v);

	if (*seen || v.bad || v.left)
		return false;
	*seen = true;
	return said == crc32c(whole->p, whole->left, at);
}

static bool read_tlvs(struct km_proxy2 *h, struct km_cur *c, const struct km_cur *whole)
{
	bool summed = false;

	while (c->left) {
		uint8_t type = km_cur_u8(c);
		struct km_cur v = km_cur_sub(c, km_cur_be16(c));

		if (c->bad || (type == TLV_CRC32C && !crc_ok(whole, v, &summed)))
			return false;
		if (type == KM_PROXY2_TLV_TUNNEL && !read_id(v, &h->has_tunnel, h->tunnel))
			return false;
		if (type == KM_PROXY2_TLV_TARGET && !read_id(v, &h->has_target, h->target))
			return false;
	}
	return !c->bad;
}

int km_proxy2_parse(struct km_proxy2 *h, const void *p, size_t n, size_t *used)
{
	struct km_cur c = km_cur_of(p, n);
	size_t match = n < sizeof(signature) ? n : sizeof(signature);
	const uint8_t *head;

	memset(h, 0, sizeof(*h));
	*used = FIXED;
	if (match && memcmp(p, signature, match) != 0)
		return KM_EPROTO;
	head = n > match ? (const uint8_t *)p + match : NULL;
	if (head && !fixed_ok(head[0], n > match + 1 ? head + 1 : NULL))
		return KM_EPROTO;
	if (n < FIXED)
		return KM_ETRUNC;
	km_cur_take(&c, sizeof(signature));
	h->proxied = km_cur_u8(&c) == CMD_PROXY;
	uint8_t family = km_cur_u8(&c);
	size_t len = km_cur_be16(&c);

	*used = FIXED + len;
	if (*used > KM_PROXY2_PARSE_MAX)
		return KM_ETOOBIG;
	if (n < *used)
		return KM_ETRUNC;
	if (!family_ok(family))
		return 0;
	const struct km_cur whole = km_cur_of(p, *used);
	struct km_cur body = km_cur_sub(&c, len);

	read_addrs(h, &body, family);
	if (body.bad || !read_tlvs(h, &body, &whole)) {
		memset(h, 0, sizeof(*h));
		return KM_EPROTO;
	}
	return 0;
}
