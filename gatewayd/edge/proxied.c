/* SPDX-License-Identifier: MIT */
/* Listeners behind a load balancer: each connection begins with a PROXY header, which is looked at while it
 * stays in the socket, and taken out of it when it is whole. */
#include "gatewayd/edge/proxy_in.h"
#include "gatewayd/edge/conn.h"
#include <errno.h>
#include <sys/socket.h>

static bool refuse(struct conn *c, const char *why)
{
	conn_refused(c->w, &c->addr, REFUSED_PROXY, why);
	conn_over(c, false);
	return false;
}

/* From here on the connection is the client's whom the header names. */
static bool take(struct conn *c, const struct proxy_in *h)
{
	if (h->known) {
		c->addr = h->src;
		c->port = h->src_port;
		c->local = h->dst;
		c->local_port = h->dst_port;
		if (!conn_admit(c))
			return false;
	}
	conn_begin(c);
	return c->state != CONN_OVER;
}

bool proxied_step(struct conn *c)
{
	uint8_t bytes[PROXY_IN_MAX];
	struct proxy_in h;
	size_t used;
	if (!c->io.can_read)
		return false;
	ssize_t n = recv(io_fd(&c->io), bytes, sizeof(bytes), MSG_PEEK);
	if (n < 0 && errno == EINTR)
		return true;
	bool none = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
	if (!none && n <= 0) { /* a look whether we are there, perhaps */
		conn_over(c, false);
		return false;
	}
	int rc = none ? KM_ETRUNC : proxy_in_parse(&h, bytes, (size_t)n, &used);
	if (rc == KM_ETRUNC) {
		/* The next bytes have an edge of their own; an end may have had it. */
		c->io.can_read = false;
		return io_hung_up(&c->io) ? refuse(c, "ended in the PROXY header") : false;
	}
	if (rc)
		return refuse(c, "no PROXY header, or a malformed one");
	if (recv(io_fd(&c->io), bytes, used, 0) != (ssize_t)used)
		return refuse(c, "reading failed");
	return take(c, &h);
}

void proxied_late(struct conn *c)
{
	refuse(c, "PROXY header took too long");
}
