/* SPDX-License-Identifier: MIT */
#include "libkm/base/err.h"
#include "libkm/wg/engine/engine_priv.h"
#include <errno.h>
#include <netinet/in.h>
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

/* What a kernel does not know it does without. Outer packets may be fragmented, as the kernel's
 * WireGuard has it. */
static void tune(int fd, int family)
{
	const int one = 1, no = IP_PMTUDISC_DONT;

	enlarge(fd, SO_RCVBUFFORCE, SO_RCVBUF);
	enlarge(fd, SO_SNDBUFFORCE, SO_SNDBUF);
	(void)setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof(one));
	wg_cmsg_enable(fd, family == AF_INET6);
	(void)setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &no, sizeof(no));
	if (family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &no, sizeof(no));
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
