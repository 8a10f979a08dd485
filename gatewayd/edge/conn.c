/* SPDX-License-Identifier: MIT */
/* A stranger's connection from accept to close; its requests are in front_h1.c. */
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/front_h1.h"
#include "gatewayd/edge/front_h2.h"
#include "gatewayd/edge/handover.h"
#include "gatewayd/edge/worker.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

static void on_woken(struct io *io)
{
	conn_drive((struct conn *)((char *)io - offsetof(struct conn, io)));
}

static void on_late(struct timer *t);
static void conn_free(struct conn *c);

void conn_refused(struct worker *w, const struct km_addr *who, enum refused kind, const char *why)
{
	struct edge_shared *sh = w->sh;
	char ip[KM_ADDR_STRLEN];
	uint32_t held;
	km_metric_add(sh->m_refused[kind], 1);
	if (km_log_allow(&sh->refused_log, w->now, 10, 10000, &held))
		km_info("connection refused", km_ks("client", km_addr_str(who, ip)),
			km_ks("why", why), km_ki("held", held));
}

bool conn_admit(struct conn *c)
{
	/* A proxy's connections are those of all its clients. */
	if (client_trusted(&c->w->sh->trust, &c->addr) ||
	    admit_enter(c->w->sh->admit, &c->addr, &c->counted))
		return true;
	conn_refused(c->w, &c->addr, REFUSED_ADDRESS, "too many connections of this address");
	conn_over(c, false);
	return false;
}

void conn_begin(struct conn *c)
{
	if (!c->secure)
		c->state = CONN_HEAD;
	else if (route_any_passthrough(c->w->sh->routes))
		c->state = CONN_PEEK;
	else
		conn_tls_begin(c);
}

static void first_state(struct conn *c, const struct listener *l)
{
	if (!l->proxied) {
		if (conn_admit(c))
			conn_begin(c);
		return;
	}
	c->state = CONN_PROXIED;
	if (admit_proxy(c->w->sh->admit, &c->addr))
		return;
	conn_refused(c->w, &c->addr, REFUSED_PROXY, "not in proxy_protocol_from");
	conn_over(c, false);
}

void conn_new(struct worker *w, int fd, const struct sockaddr *sa, const struct listener *l)
{
	struct conn *c = calloc(1, sizeof(*c));
	if (!c || km_addr_from_sa(&c->addr, &c->port, sa) ||
	    io_open(&c->io, w->loop, fd, NULL, on_woken)) {
		close(fd);
		free(c);
		worker_conn_gone(w);
		return;
	}
	c->w = w;
	c->secure = l->secure;
	c->timer.fired = on_late;
	km_buf_init(&c->in, w->sh->buf_max);
	km_buf_init(&c->out, w->sh->buf_max);
	DL_APPEND(w->conns, c);
	km_metric_add(w->sh->m_accepted, 1);
	km_metric_add(w->sh->m_conns, 1);
	timer_set(&w->timers, &c->timer, w->draining ? TIMER_LINGER : TIMER_HEADER, w->now);
	first_state(c, l);
	if (c->state == CONN_OVER)
		conn_free(c);
}

bool conn_exchange(struct conn *c)
{
	if (c->x)
		return true;
	c->x = malloc(sizeof(*c->x)); /* of calloc the C library keeps no quick list */
	if (!c->x) {
		conn_over(c, false);
		return false;
	}
	memset(c->x, 0, sizeof(*c->x));
	exchange_init(c->x, c, &front_h1, &c->in, &c->out, &c->timer);
	return true;
}

void conn_exchange_free(struct conn *c)
{
	if (!c->x)
		return;
	exchange_drop(c->x, true);
	free(c->x);
	c->x = NULL;
}

/* The handshake waits no longer, for better or worse. */
static void wait_end(struct conn *c)
{
	struct worker *w = c->w;
	if (!c->peer.wait)
		return;
	waits_leave(w->sh->waits, c->peer.wait);
	c->peer.wait = NULL;
	DL_DELETE2(w->waiting, c, wait_prev, wait_next);
	km_metric_add(w->sh->m_waiting, -1);
}

static void conn_free(struct conn *c)
{
	struct worker *w = c->w;
	wait_end(c);
	timer_stop(&w->timers, &c->timer);
	if (c->x)
		exchange_drop(c->x, c->polite);
	free(c->x);
	h2_free(c, c->polite);
	io_close(&c->io, c->polite);
	tls_peer_clear(&c->peer);
	km_buf_free(&c->in);
	km_buf_free(&c->out);
	if (c->later_on)
		LL_DELETE2(w->later, c, later_next);
	if (c->shaking_on)
		DL_DELETE2(w->shaking, c, shake_prev, shake_next);
	DL_DELETE(w->conns, c);
	km_metric_add(w->sh->m_conns, -1);
	if (c->counted)
		admit_leave(w->sh->admit, &c->addr);
	w->lingering -= c->lingers;
	free(c);
	worker_conn_gone(w);
}

void conn_over(struct conn *c, bool polite)
{
	c->polite = polite;
	c->state = CONN_OVER;
}

void conn_cut(struct conn *c)
{
	conn_over(c, false);
	conn_free(c);
}

void conn_linger(struct conn *c)
{
	io_shut(&c->io);
	c->state = CONN_LINGER;
	c->lingers = true;
	c->w->lingering++;
	c->io.can_read = true;
	timer_set(&c->w->timers, &c->timer, TIMER_LINGER, c->w->now);
}

/* ---- handshake ---- */

void conn_tls_begin(struct conn *c)
{
	SSL *ssl = tls_accept(c->w->sh->tls, &c->peer);
	c->state = CONN_TLS;
	if (ssl && !io_secure(&c->io, ssl))
		return;
	SSL_free(ssl);
	conn_over(c, false);
}

/* OpenSSL reads nothing meanwhile; that the client is gone must be seen here. */
static void wait_begin(struct conn *c)
{
	struct worker *w = c->w;
	c->state = CONN_WAIT;
	DL_APPEND2(w->waiting, c, wait_prev, wait_next);
	km_metric_add(w->sh->m_waiting, 1);
	timer_set(&w->timers, &c->timer, w->draining ? TIMER_LINGER : TIMER_WAIT, w->now);
}

static bool wait_step(struct conn *c)
{
	if (c->io.can_read && io_hung_up(&c->io)) {
		conn_over(c, false);
		return false;
	}
	c->io.can_read = false;
	if (!c->peer.wait_late && waits_state(c->peer.wait) == WAIT_ON)
		return false;
	c->state = CONN_TLS;
	return true;
}

void conn_wake_waiting(struct worker *w)
{
	struct conn *c, *tmp;
	/* Driving one may free it, and no other. */
	DL_FOREACH_SAFE2(w->waiting, c, tmp, wait_next)
	conn_drive(c);
}

/* A step of a handshake may take as long as fifty requests: many that come at once have it one by one,
 * each when the requests of all connections have had their turn. */
static bool tls_later(struct conn *c)
{
	struct worker *w = c->w;
	if (w->shakes)
		return false;
	if (!c->shaking_on) {
		c->shaking_on = true;
		DL_APPEND2(w->shaking, c, shake_prev, shake_next);
	}
	return true;
}

bool conn_shake(struct worker *w)
{
	struct conn *c = w->shaking;
	if (!c)
		return false;
	DL_DELETE2(w->shaking, c, shake_prev, shake_next);
	c->shaking_on = false;
	w->shakes = true;
	conn_drive(c);
	w->shakes = false;
	return true;
}

static bool tls_step(struct conn *c)
{
	if (tls_later(c))
		return false;
	bool waited = c->peer.wait != NULL;
	int error, rc = io_handshake(&c->io, &error);
	if (error == SSL_ERROR_WANT_CLIENT_HELLO_CB) {
		wait_begin(c);
		return true;
	}
	if (waited) {
		wait_end(c);
		/* What came meanwhile had its edge. */
		c->io.can_read = true;
		timer_set(&c->w->timers, &c->timer, TIMER_HEADER, c->w->now);
	}
	if (rc == 1 && c->peer.challenge) {
		conn_linger(c);
		return true;
	}
	if (rc == 1) {
		bool h2 = tls_is_h2(c->io.ssl);
		io_handover(&c->io, handover_records(c->io.ssl));
		c->state = CONN_HEAD;
		if (h2)
			h2_begin(c);
		return true;
	}
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
		return false;
	if (!c->peer.refused)
		km_metric_add(c->w->sh->m_handshake_errors, 1);
	c->io.broken = true;
	conn_over(c, true);
	return false;
}

/* ---- the end ---- */

static bool linger_step(struct conn *c)
{
	char drop[4096];
	for (;;) {
		ssize_t n = recv(io_fd(&c->io), drop, sizeof(drop), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return false;
		if (n > 0 && (c->lingered += (size_t)n) < CONN_LINGER_BYTES)
			continue;
		c->io.broken = true; /* said goodbye already */
		conn_over(c, true);
		return false;
	}
}

static void on_late(struct timer *t)
{
	struct conn *c = (struct conn *)((char *)t - offsetof(struct conn, timer));
	switch (c->state) {
	case CONN_EXCHANGE:
		exchange_late(c->x);
		break;
	case CONN_H2:
		h2_late(c);
		break;
	case CONN_PASS:
		pass_late(c);
		break;
	case CONN_PROXIED:
		proxied_late(c);
		break;
	case CONN_WAIT:
		c->peer.wait_late = true; /* the alert says so */
		break;
	case CONN_HEAD:
		h1_head_late(c);
		break;
	default:
		c->io.broken = c->state == CONN_LINGER;
		conn_over(c, true);
		break;
	}
	conn_drive(c);
}

void conn_drain(struct conn *c)
{
	bool waits = c->state == CONN_PROXIED || c->state == CONN_PEEK || c->state == CONN_TLS || c->state == CONN_WAIT ||
		     (c->state == CONN_HEAD && !c->in.len && !c->out.len);
	if (c->state == CONN_H2)
		h2_drain(c);
	if (waits)
		timer_set(&c->w->timers, &c->timer, TIMER_LINGER, c->w->now);
}

/* ---- */

static bool step(struct conn *c)
{
	switch (c->state) {
	case CONN_PROXIED:
		return proxied_step(c);
	case CONN_PEEK:
		return peek_step(c);
	case CONN_TLS:
		return tls_step(c);
	case CONN_WAIT:
		return wait_step(c);
	case CONN_HEAD:
		return h1_head_step(c);
	case CONN_EXCHANGE:
		return exchange_step(c->x);
	case CONN_H2:
		return h2_step(c);
	case CONN_PASS:
		return pass_step(c);
	case CONN_LINGER:
		return linger_step(c);
	default:
		return false;
	}
}

void conn_later(struct conn *c)
{
	if (c->later_on)
		return;
	c->later_on = true;
	LL_PREPEND2(c->w->later, c, later_next);
}

void conn_drive(struct conn *c)
{
	int budget = 4;
	c->w->now = km_now_ms();
	while (c->state != CONN_OVER && step(c)) {
		if (--budget)
			continue;
		conn_later(c);
		break;
	}
	if (c->state == CONN_OVER)
		conn_free(c);
}
