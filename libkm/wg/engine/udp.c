/* SPDX-License-Identifier: MIT */
#include "libkm/base/err.h"
#include "libkm/wg/engine/engine_priv.h"
#include <errno.h>
#include <linux/errqueue.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#define SOCKET_BUFFER (7 << 20)
#define HANDSHAKE_TOS 0x88 /* AF41, no ECN */
#define TRIES 3

void wg_endpoint_from_sa(struct wg_endpoint *e, const struct sockaddr_storage *ss)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)ss;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)ss;

	memset(e, 0, sizeof(*e));
	if (ss->ss_family == AF_INET) {
		e->ip[10] = e->ip[11] = 0xff;
		memcpy(e->ip + 12, &in->sin_addr, 4);
		e->port = in->sin_port;
	} else if (ss->ss_family == AF_INET6) {
		memcpy(e->ip, &in6->sin6_addr, 16);
		e->port = in6->sin6_port;
		e->scope = in6->sin6_scope_id;
	}
}

socklen_t wg_endpoint_to_sa(const struct wg_endpoint *e, struct sockaddr_storage *ss, bool v4)
{
	struct sockaddr_in *in = (struct sockaddr_in *)ss;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;

	if (v4 && wg_endpoint_v4(e)) {
		memset(in, 0, sizeof(*in));
		in->sin_family = AF_INET;
		in->sin_port = e->port;
		memcpy(&in->sin_addr, e->ip + 12, 4);
		return sizeof(*in);
	}
	memset(in6, 0, sizeof(*in6));
	in6->sin6_family = AF_INET6;
	in6->sin6_port = e->port;
	in6->sin6_scope_id = e->scope;
	memcpy(&in6->sin6_addr, e->ip, 16);
	return sizeof(*in6);
}

/* As large as allowed; the forced form needs CAP_NET_ADMIN. */
static void enlarge(int fd, int force, int plain)
{
	const int size = SOCKET_BUFFER;

	if (setsockopt(fd, SOL_SOCKET, force, &size, sizeof(size)))
		(void)setsockopt(fd, SOL_SOCKET, plain, &size, sizeof(size));
}

/* Not fragmented, an outer packet says so (DF) and is as large as we want it, whatever the kernel
 * thinks of the path: that is our affair (pmtu.h). */
void wg_udp_fragment(int fd, bool v4_only, bool may)
{
	const int v4 = may ? IP_PMTUDISC_DONT : IP_PMTUDISC_PROBE;
	const int v6 = may ? IPV6_PMTUDISC_DONT : IPV6_PMTUDISC_PROBE;

	(void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &v4, sizeof(v4));
	if (!v4_only)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &v6, sizeof(v6));
}

/* And the error queue tells what came of it. */
static void no_fragments(int fd, int family)
{
	const int one = 1;

	wg_udp_fragment(fd, family == AF_INET, false);
	(void)setsockopt(fd, IPPROTO_IP, IP_RECVERR, &one, sizeof(one));
	if (family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &one, sizeof(one));
}

/* What a kernel does not know it does without. */
static void tune(int fd, int family)
{
	const int one = 1;

	enlarge(fd, SO_RCVBUFFORCE, SO_RCVBUF);
	enlarge(fd, SO_SNDBUFFORCE, SO_SNDBUF);
	(void)setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof(one));
	wg_cmsg_enable(fd, family == AF_INET6);
	no_fragments(fd, family);
}

static int bind_family(int *out, int family, uint16_t port)
{
	const int zero = 0;
	const struct wg_endpoint any4 = {.ip = {[10] = 0xff, [11] = 0xff}, .port = htons(port)};
	const struct wg_endpoint any6 = {.port = htons(port)};
	struct sockaddr_storage ss;
	socklen_t len = wg_endpoint_to_sa(family == AF_INET ? &any4 : &any6, &ss, true);
	int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0), rc;

	if (fd < 0)
		return KM_EUNSUPPORTED;
	if (family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, (struct sockaddr *)&ss, len)) {
		rc = errno == EADDRINUSE                            ? KM_EEXIST
		     : errno == EADDRNOTAVAIL && family == AF_INET6 ? KM_EUNSUPPORTED
								    : KM_EIO;
		close(fd);
		return rc;
	}
	tune(fd, family);
	*out = fd;
	return 0;
}

int wg_udp_open(int *fd, uint16_t port)
{
	int rc = bind_family(fd, AF_INET6, port);

	return rc == KM_EUNSUPPORTED ? bind_family(fd, AF_INET, port) : rc;
}

bool wg_udp_segments(int fd)
{
	int value;
	socklen_t len = sizeof(value);

	return getsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &value, &len) == 0;
}

void wg_udp_send(int fd, bool v4_only, const struct wg_endpoint *to, const uint8_t *msg, size_t n)
{
	struct iovec iov = {(void *)msg, n};
	struct wg_endpoint via = *to;
	struct sockaddr_storage ss;
	socklen_t len = wg_endpoint_to_sa(to, &ss, v4_only);
	struct msghdr h = {.msg_name = &ss, .msg_namelen = len, .msg_iov = &iov, .msg_iovlen = 1};
	union wg_cmsg c;

	/* An error may be news of an earlier packet, or the local address may be gone. */
	for (int i = 0; i < TRIES; i++) {
		wg_cmsg_put(&h, &c, !v4_only, &via, 0, HANDSHAKE_TOS);
		if (sendmsg(fd, &h, MSG_DONTWAIT) >= 0)
			return;
		memset(via.src, 0, sizeof(via.src));
	}
}

static bool too_big(const struct sock_extended_err *e)
{
	if (e->ee_origin == SO_EE_ORIGIN_ICMP)
		return e->ee_type == ICMP_DEST_UNREACH && e->ee_code == ICMP_FRAG_NEEDED;
	return e->ee_origin == SO_EE_ORIGIN_ICMP6 && e->ee_type == ICMP6_PACKET_TOO_BIG;
}

bool wg_udp_error(int fd, struct wg_pmtu_news *n)
{
	union {
		char room[512];
		struct cmsghdr align;
	} room;
	struct sockaddr_storage ss = {.ss_family = AF_UNSPEC};
	struct iovec iov = {n->quote, sizeof(n->quote)};
	struct msghdr h = {.msg_name = &ss,
			   .msg_namelen = sizeof(ss),
			   .msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = room.room,
			   .msg_controllen = sizeof(room.room)};
	struct sock_extended_err e;
	ssize_t got = recvmsg(fd, &h, MSG_ERRQUEUE | MSG_DONTWAIT);

	if (got < 0)
		return false;
	wg_endpoint_from_sa(&n->to, &ss);
	n->n_quote = (uint8_t)got;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c != NULL; c = CMSG_NXTHDR(&h, c)) {
		if ((c->cmsg_level != IPPROTO_IP || c->cmsg_type != IP_RECVERR) &&
		    (c->cmsg_level != IPPROTO_IPV6 || c->cmsg_type != IPV6_RECVERR))
			continue;
		memcpy(&e, CMSG_DATA(c), sizeof(e));
		n->mtu = e.ee_info;
		if (too_big(&e))
			return true;
	}
	n->to.port = 0;
	return true;
}

/* Not getsockopt(IP_MTU): that is what the kernel thinks of the path, and it believes more than we
 * do. A datagram as large as can be is refused with the link's MTU in the error queue, and nothing
 * is sent. */
uint32_t wg_udp_link_mtu(const struct wg_endpoint *to, bool v4_only, uint32_t mark)
{
	static const uint8_t large[65500];
	struct sockaddr_storage ss;
	socklen_t len = wg_endpoint_to_sa(to, &ss, true);
	struct wg_pmtu_news n = {.mtu = 0};
	int fd;

	if (v4_only && ss.ss_family != AF_INET)
		return 0;
	fd = socket(ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return 0;
	if (mark != 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
	no_fragments(fd, ss.ss_family);
	if (connect(fd, (struct sockaddr *)&ss, len) ||
	    send(fd, large, sizeof(large), MSG_DONTWAIT) >= 0 || errno != EMSGSIZE ||
	    !wg_udp_error(fd, &n))
		n.mtu = 0;
	close(fd);
	return n.mtu;
}
