/* SPDX-License-Identifier: MIT */
#include "libkm/base/proxy2.h"
#include "libkm/base/buf.h"
#include <string.h>

#define FIXED 16 /* signature, version and command, family and transport, length */

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

static bool fixed_ok(uint8_t command, uint8_t family)
{
	return (command == CMD_LOCAL || command == CMD_PROXY) && family >> 4 <= AF_UNIX2 &&
	       (family & 15) <= TRANSPORT_DGRAM;
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

static bool read_tlvs(struct km_proxy2 *h, struct km_cur *c)
{
	while (c->left) {
		uint8_t type = km_cur_u8(c);
		struct km_cur v = km_cur_sub(c, km_cur_be16(c));

		if (c->bad)
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
	if (head && !fixed_ok(head[0], n > match + 1 ? head[1] : 0))
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
	struct km_cur body = km_cur_sub(&c, len);

	read_addrs(h, &body, family);
	if (body.bad || !read_tlvs(h, &body)) {
		memset(h, 0, sizeof(*h));
		return KM_EPROTO;
	}
	return 0;
}
