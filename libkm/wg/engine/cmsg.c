/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/cmsg.h"
#include <netinet/in.h>
#include <netinet/udp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

_Static_assert(CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(struct in_pktinfo)) +
		       2 * CMSG_SPACE(sizeof(int)) <=
		   WG_CMSG_ROOM,
	       "room for all");

/* An IPv6 socket speaks to IPv4 too, and then tells the address in IPv6's form, but not the type of
 * service. */
void wg_cmsg_enable(int fd, bool v6)
{
	const int one = 1;

	(void)setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &one, sizeof(one));
	if (v6) {
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &one, sizeof(one));
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one));
	} else {
		(void)setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one));
	}
}

static void put(struct msghdr *h, int level, int type, const void *data, size_t n)
{
	struct cmsghdr *c = (struct cmsghdr *)((char *)h->msg_control + h->msg_controllen);

	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(n);
	memcpy(CMSG_DATA(c), data, n);
	h->msg_controllen += CMSG_SPACE(n);
}

static void put_source(struct msghdr *h, bool v6, const struct wg_endpoint *to)
{
	struct in6_pktinfo i6;
	struct in_pktinfo i4;

	if (v6) {
		memset(&i6, 0, sizeof(i6));
		memcpy(&i6.ipi6_addr, to->src, 16);
		put(h, IPPROTO_IPV6, IPV6_PKTINFO, &i6, sizeof(i6));
	} else {
		memset(&i4, 0, sizeof(i4));
		memcpy(&i4.ipi_spec_dst, to->src + 12, 4);
		put(h, IPPROTO_IP, IP_PKTINFO, &i4, sizeof(i4));
	}
}

void wg_cmsg_put(struct msghdr *h, union wg_cmsg *c, bool v6, const struct wg_endpoint *to,
		 uint16_t segment, uint8_t tos)
{
	const int value = tos;

	h->msg_control = c->room;
	h->msg_controllen = 0;
	if (segment != 0)
		put(h, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment));
	if (wg_endpoint_has_src(to))
		put_source(h, v6, to);
	if (tos != 0 && wg_endpoint_v4(to))
		put(h, IPPROTO_IP, IP_TOS, &value, sizeof(value));
	else if (tos != 0)
		put(h, IPPROTO_IPV6, IPV6_TCLASS, &value, sizeof(value));
	if (h->msg_controllen == 0)
		h->msg_control = NULL;
}

/* As many bytes of it as there are, at most n. */
static void take(const struct cmsghdr *c, void *out, size_t n)
{
	size_t there = c->cmsg_len - CMSG_LEN(0);

	memcpy(out, CMSG_DATA(c), there < n ? there : n);
}

static void get_v4(const struct cmsghdr *c, struct wg_endpoint *from, uint8_t *tos)
{
	struct in_pktinfo i = {.ipi_ifindex = 0};

	if (c->cmsg_type == IP_TOS) {
		take(c, tos, 1);
	} else if (c->cmsg_type == IP_PKTINFO) {
		take(c, &i, sizeof(i));
		from->src[10] = from->src[11] = 0xff;
		memcpy(from->src + 12, &i.ipi_spec_dst, 4);
	}
}

static void get_v6(const struct cmsghdr *c, struct wg_endpoint *from, uint8_t *tos)
{
	int value = 0;

	if (c->cmsg_type == IPV6_TCLASS) {
		take(c, &value, sizeof(value));
		*tos = (uint8_t)value;
	} else if (c->cmsg_type == IPV6_PKTINFO) {
		take(c, from->src, 16); /* the address comes first */
	}
}

void wg_cmsg_get(struct msghdr *h, struct wg_endpoint *from, size_t *segment, uint8_t *tos)
{
	struct cmsghdr *c;
	int len = 0;

	*tos = 0;
	for (c = CMSG_FIRSTHDR(h); c != NULL; c = CMSG_NXTHDR(h, c)) {
		if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
			take(c, &len, sizeof(len));
		else if (c->cmsg_level == IPPROTO_IP)
			get_v4(c, from, tos);
		else if (c->cmsg_level == IPPROTO_IPV6)
			get_v6(c, from, tos);
	}
	*segment = len > 0 ? (size_t)len : 0;
}
