/* SPDX-License-Identifier: MIT */
#include "libkm/privnet/wire.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

size_t km_wire_request_len(uint16_t op)
{
	const size_t head = sizeof(struct km_wire_head);

	switch (op) {
	case KM_WIRE_STOP:
	case KM_WIRE_ADDRESSES:
	case KM_WIRE_ROUTES:
	case KM_WIRE_PEERS_KEEP:
	case KM_WIRE_PEERS:
	case KM_WIRE_KEY_NEXT:
		return head;
	case KM_WIRE_OPEN:
		return head + sizeof(struct km_wire_open);
	case KM_WIRE_PEER_SET:
	case KM_WIRE_PEER_KICK:
		return head + sizeof(struct km_wire_peer);
	case KM_WIRE_PEER_REMOVE:
	case KM_WIRE_KEY_SWITCH:
		return head + KM_WG_KEY_LEN;
	case KM_WIRE_SOCKETS:
	case KM_WIRE_LISTEN:
		return head + sizeof(struct km_wire_socket);
	default:
		return 0;
	}
}

size_t km_wire_reply_len(uint16_t op, int32_t err)
{
	if (err)
		return sizeof(struct km_wire_head) + sizeof(struct km_errtext);
	return sizeof(struct km_wire_head) +
	       (op == KM_WIRE_OPEN || op == KM_WIRE_KEY_NEXT ? sizeof(struct km_wire_hello) : 0);
}

void km_wire_put_prefix(struct km_wire_prefix *w, const struct km_prefix *p)
{
	w->family = p->addr.family;
	w->bits = p->bits;
	memcpy(w->ip, p->addr.ip, sizeof(w->ip));
}

int km_wire_get_prefix(struct km_prefix *p, const struct km_wire_prefix *w)
{
	if ((w->family != AF_INET && w->family != AF_INET6) ||
	    w->bits > (w->family == AF_INET ? 32 : 128))
		return KM_EINVAL;
	memset(p, 0, sizeof(*p));
	p->addr.family = w->family;
	p->bits = w->bits;
	memcpy(p->addr.ip, w->ip, w->family == AF_INET ? 4 : 16);
	return 0;
}

static int put_endpoint(struct km_wire_endpoint *w, bool has, const struct sockaddr_storage *ss)
{
	struct km_addr a;
	uint16_t port;
	int rc;

	memset(w, 0, sizeof(*w));
	if (!has)
		return 0;
	rc = km_addr_from_sa(&a, &port, (const struct sockaddr *)ss);
	if (rc)
		return KM_EINVAL;
	w->family = a.family;
	memcpy(w->ip, a.ip, a.family == AF_INET ? 4 : 16);
	w->port[0] = (uint8_t)(port >> 8);
	w->port[1] = (uint8_t)port;
	return 0;
}

static int get_endpoint(bool *has, struct sockaddr_storage *ss, const struct km_wire_endpoint *w)
{
	struct km_addr a = {.family = w->family};

	memset(ss, 0, sizeof(*ss));
	*has = w->family != 0;
	if (!*has)
		return 0;
	if (w->family != AF_INET && w->family != AF_INET6)
		return KM_EINVAL;
	memcpy(a.ip, w->ip, sizeof(a.ip));
	km_addr_to_sa(ss, &a, (uint16_t)(w->port[0] << 8 | w->port[1]));
	return 0;
}

int km_wire_put_peer(struct km_wire_peer *w, const struct km_wg_peer *p)
{
	memset(w, 0, sizeof(*w));
	if (p->n_allowed > KM_WG_MAX_ALLOWED)
		return KM_EINVAL;
	memcpy(w->key, p->key, sizeof(w->key));
	w->keepalive_s = p->keepalive_s;
	w->mtu = p->mtu;
	w->n_allowed = p->n_allowed;
	for (uint8_t i = 0; i < p->n_allowed; i++)
		km_wire_put_prefix(&w->allowed[i], &p->allowed[i]);
	return put_endpoint(&w->endpoint, p->has_endpoint, &p->endpoint);
}

int km_wire_get_peer(struct km_wg_peer *p, const struct km_wire_peer *w)
{
	int rc = 0;

	memset(p, 0, sizeof(*p));
	if (w->n_allowed > KM_WG_MAX_ALLOWED)
		return KM_EINVAL;
	memcpy(p->key, w->key, sizeof(p->key));
	p->keepalive_s = w->keepalive_s;
	p->mtu = w->mtu;
	if (p->mtu != 0 && (p->mtu < KM_WG_MTU_MIN || p->mtu > KM_WG_MTU))
		return KM_EINVAL;
	p->n_allowed = w->n_allowed;
	for (uint8_t i = 0; !rc && i < w->n_allowed; i++)
		rc = km_wire_get_prefix(&p->allowed[i], &w->allowed[i]);
	return rc ? rc : get_endpoint(&p->has_endpoint, &p->endpoint, &w->endpoint);
}

void km_wire_put_status(struct km_wire_status *w, const struct km_wg_peer_status *s)
{
	memset(w, 0, sizeof(*w));
	memcpy(w->key, s->key, sizeof(w->key));
	(void)put_endpoint(&w->endpoint, s->has_endpoint, &s->endpoint); /* else: none known */
	w->last_handshake_ms = s->last_handshake_ms;
	w->rx_bytes = s->rx_bytes;
	w->tx_bytes = s->tx_bytes;
	w->mtu = s->mtu;
}

int km_wire_get_status(struct km_wg_peer_status *s, const struct km_wire_status *w)
{
	memset(s, 0, sizeof(*s));
	memcpy(s->key, w->key, sizeof(s->key));
	s->last_handshake_ms = w->last_handshake_ms;
	s->rx_bytes = w->rx_bytes;
	s->tx_bytes = w->tx_bytes;
	s->mtu = w->mtu;
	return get_endpoint(&s->has_endpoint, &s->endpoint, &w->endpoint);
}

int km_wire_list_make(const void *items, size_t bytes, int *fd)
{
	const char *p = items;
	size_t done = 0;
	ssize_t n;

	*fd = memfd_create("kakuremichi list", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (*fd < 0)
		return KM_EIO;
	while (done < bytes) {
		n = write(*fd, p + done, bytes - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			goto fail;
		done += (size_t)n;
	}
	if (!fcntl(*fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE))
		return 0;
fail:
	close(*fd);
	*fd = -1;
	return KM_EIO;
}

int km_wire_list_read(int fd, size_t bytes, void **out)
{
	int seals = fcntl(fd, F_GET_SEALS);
	size_t done = 0;
	ssize_t n;
	char *p;

	*out = NULL;
	if (seals < 0 || !(seals & F_SEAL_WRITE))
		return KM_EPROTO;
	if (!bytes)
		return 0;
	p = malloc(bytes);
	if (!p)
		return KM_ENOMEM;
	while (done < bytes) {
		n = pread(fd, p + done, bytes - done, (off_t)done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			free(p);
			return n ? KM_EIO : KM_EPROTO;
		}
		done += (size_t)n;
	}
	*out = p;
	return 0;
}

union control {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(KM_PRIVNET_SOCKETS_MAX * sizeof(int))];
};

static int failed(void)
{
	if (errno == EAGAIN)
		return KM_EAGAIN;
	return errno == EPIPE || errno == ECONNRESET ? KM_ECLOSED : KM_EIO;
}

int km_wire_send(int sock, const void *msg, size_t len, const int *fds, size_t n_fds, int flags)
{
	union control control;
	struct iovec iov = {(void *)(uintptr_t)msg, len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	struct cmsghdr *c;
	ssize_t n;

	if (n_fds) {
		memset(&control, 0, sizeof(control));
		m.msg_control = control.bytes;
		m.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	do {
		n = sendmsg(sock, &m, flags | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? failed() : 0;
}

static size_t take_fds(struct msghdr *m, int *fds)
{
	struct cmsghdr *c;
	size_t n = 0, here;

	for (c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds + n, CMSG_DATA(c), here * sizeof(int));
		n += here;
	}
	return n;
}

int km_wire_recv(int sock, void *msg, size_t cap, size_t *len,
		 int fds[static KM_PRIVNET_SOCKETS_MAX], size_t *n_fds, int flags)
{
	union control control;
	struct iovec iov = {msg, cap};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.bytes,
			   .msg_controllen = sizeof(control.bytes)};
	bool reset = false;
	ssize_t n;
	int rc = 0;

	*len = *n_fds = 0;
	for (;;) {
		n = recvmsg(sock, &m, flags | MSG_CMSG_CLOEXEC);
		/* A reset is told once, before the messages that were sent ahead of it. */
		if (n < 0 && errno == ECONNRESET && !reset)
			reset = true;
		else if (n >= 0 || errno != EINTR)
			break;
	}
	if (n < 0)
		return failed();
	*n_fds = take_fds(&m, fds);
	*len = (size_t)n;
	if (m.msg_flags & MSG_TRUNC)
		rc = KM_ETOOBIG;
	else if (m.msg_flags & MSG_CTRUNC)
		rc = KM_EFULL;
	else if (!n)
		rc = KM_ECLOSED;
	while (rc && *n_fds)
		close(fds[--*n_fds]);
	return rc;
}

int km_wire_socket_new(int family, int type, int protocol, int *fd)
{
	bool v6 = family == AF_INET6;
	bool tcp = type == SOCK_STREAM && (!protocol || protocol == IPPROTO_TCP);
	bool udp = type == SOCK_DGRAM && (!protocol || protocol == IPPROTO_UDP);
	bool icmp = type == SOCK_DGRAM && protocol == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);

	*fd = -1;
	if ((family != AF_INET && !v6) || (!tcp && !udp && !icmp))
		return KM_EINVAL;
	*fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
	return *fd < 0 ? KM_EIO : 0;
}

static int bind_and_listen(int fd, const struct km_addr *addr, uint16_t port, int backlog)
{
	const int one = 1;
	struct sockaddr_storage ss;
	socklen_t len = km_addr_to_sa(&ss, addr, port);
	bool v6 = addr->family == AF_INET6;

	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    setsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_FREEBIND : IP_FREEBIND, &one,
		       sizeof(one)) ||
	    (v6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one))) ||
	    bind(fd, (struct sockaddr *)&ss, len) || listen(fd, backlog))
		return errno == EADDRINUSE ? KM_EEXIST : KM_EIO;
	return 0;
}

int km_wire_listener_new(const struct km_addr *addr, uint16_t port, int backlog, int *fd)
{
	int rc = km_wire_socket_new(addr->family, SOCK_STREAM, 0, fd), saved;

	if (rc)
		return rc;
	rc = bind_and_listen(*fd, addr, port, backlog);
	if (!rc)
		return 0;
	saved = errno;
	close(*fd);
	*fd = -1;
	errno = saved;
	return rc;
}
