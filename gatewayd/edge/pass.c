/* SPDX-License-Identifier: MIT */
/* Tunnels whose target ends TLS itself: the server name is peeked at, then bytes go both ways as
 * they are, each way until its own end. */
#include "gatewayd/edge/access.h"
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/exchange_up.h"
#include "gatewayd/edge/hello.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* ---- whose is it ---- */

/* x.up is gone afterwards. */
static void pass_cut(struct conn *c, const char *why)
{
	c->x->error = why;
	exchange_drop(c->x, false);
	conn_over(c, false);
}

/* status: for the access log; there is nobody else to be told. */
static void pass_failed(struct conn *c, int status, const char *why)
{
	c->x->status = status;
	exchange_failed(c->x, 0, why);
	pass_cut(c, why);
}

/* x.route is held from here on; exchange_drop gives it back. */
static void pass_begin(struct conn *c, const char *sni)
{
	struct pool_client client = {
	    .src = c->addr, .src_port = c->port, .dst = c->local, .dst_port = c->local_port};
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	exchange_hold(c->x);
	account_pass(c->x, sni);
	c->state = CONN_PASS;
	km_metric_add(c->w->sh->m_passed, 1);
	if (!client.dst.family &&
	    (getsockname(io_fd(&c->io), (struct sockaddr *)&ss, &len) ||
	     km_addr_from_sa(&client.dst, &client.dst_port, (struct sockaddr *)&ss))) {
		pass_failed(c, 502, strerror(errno));
		return;
	}
	int rc = pool_dial(c->w->pool, &c->x->route, &client, c->x, &c->x->up);
	if (rc == KM_EFULL)
		pass_failed(c, 503, "the target has as many connections as it may");
	else if (rc)
		pass_failed(c, 502, km_why(rc));
	else
		timer_set(&c->w->timers, &c->timer, TIMER_CONNECT, c->w->now);
}

/* Whether the name is that of a tunnel with passthrough, now in x.route. A disabled one is left to
 * OpenSSL's callback, which refuses it as it does an unknown name. */
static bool passes(struct conn *c, const char *sni)
{
	struct route *r = &c->x->route;
	if (!sni[0] || !route_find(c->w->sh->routes, sni, r))
		return false;
	if (r->tls == ROUTE_TLS_PASSTHROUGH && r->enabled)
		return true;
	route_drop(r);
	return false;
}

bool peek_step(struct conn *c)
{
	uint8_t bytes[HELLO_PEEK_MAX];
	char sni[HTTP_HOST_MAX + 1];
	if (!c->io.can_read || !conn_exchange(c))
		return false;
	ssize_t n = recv(io_fd(&c->io), bytes, sizeof(bytes), MSG_PEEK);
	if (n < 0 && errno == EINTR)
		return true;
	bool none = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
	if (!none && n <= 0) {
		conn_over(c, false);
		return false;
	}
	int rc = none ? KM_ETRUNC : hello_peek(bytes, (size_t)n, sni);
	if (rc == KM_ETRUNC) {
		c->io.can_read =
		    false; /* the next bytes have an edge of their own; an end may have had it */
		if (io_hung_up(&c->io))
			conn_over(c, false);
		return false;
	}
	if (!rc && passes(c, sni))
		pass_begin(c, sni);
	else
		conn_tls_begin(c); /* OpenSSL says what is wrong with it */
	return c->state != CONN_OVER;
}

/* ---- both ways ---- */

/* Passes on what goes, and the end behind it (*shut). from_shut: we have ended our side towards
 * `from`, so that its own end there makes it look as if it were gone altogether. */
static bool way(struct conn *c, struct io *from, struct io *to, struct km_buf *b, bool *shut,
		bool from_shut, uint64_t *count)
{
	size_t n = 0;
	bool moved =
	    !from->eof && b->len < CONN_HIGH && io_read(from, b, CONN_HIGH - b->len) != IO_WAIT;
	bool lost = from->broken || (from->eof && !from_shut && io_gone(from));
	if (lost || (b->len && io_write(to, b, &n) == IO_BROKEN)) {
		pass_cut(c, (lost ? from : to) == &c->io ? "client reset" : "target reset");
		return false;
	}
	*count += n;
	if (from->eof && !b->len && !*shut) {
		(void)shutdown(io_fd(to), SHUT_WR);
		*shut = moved = true;
	}
	return moved || n;
}

static bool connect_step(struct conn *c)
{
	struct km_errtext why;
	struct exchange *x = c->x;
	if (pool_connect_check(x->up, c->w->now, &why)) {
		pass_failed(c, 502, why.text);
		return false;
	}
	if (x->up->connected) {
		x->status = 200;
		x->upstream = ACCESS_UP_NEW;
	}
	return x->up->connected;
}

bool pass_step(struct conn *c)
{
	struct up *u = c->x->up;
	struct exchange *x = c->x;
	if (x->lost) {
		pass_cut(c, exchange_up_lost_why(x));
		return false;
	}
	if (!u->connected)
		return connect_step(c);
	bool moved = way(c, &c->io, &u->io, &c->in, &x->in_shut, x->out_shut, &x->bytes_in);
	if (c->state != CONN_OVER)
		moved |= way(c, &u->io, &c->io, &u->in, &x->out_shut, x->in_shut, &x->bytes_out);
	if (x->bytes_out && !x->first_byte)
		x->first_byte = c->w->now;
	if (c->state == CONN_OVER)
		return false;
	if (x->in_shut && x->out_shut) {
		x->whole = true;
		conn_over(c, true);
		return false;
	}
	if (moved) {
		timer_set(&c->w->timers, &c->timer, TIMER_UPGRADE, c->w->now);
	} else {
		exchange_quiet(&c->in);
		exchange_quiet(&u->in);
	}
	return moved;
}

void pass_late(struct conn *c)
{
	if (c->x->up->connected)
		pass_cut(c, "no progress");
	else
		pass_failed(c, 502, "connection to the agent took too long");
}
