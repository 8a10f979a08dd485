/* SPDX-License-Identifier: MIT */
/* A stranger's connection from accept to close; what happens between a request's head and the end
 * of its answer is in exchange.c. */
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/heads.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <openssl/err.h>
#include <poll.h>
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

void conn_new(struct worker *w, int fd, const struct sockaddr *sa, bool secure)
{
	struct conn *c = calloc(1, sizeof(*c));
	SSL *ssl = NULL;
	bool peek = secure && route_any_passthrough(w->sh->routes);
	if (!c || km_addr_from_sa(&c->addr, &c->port, sa))
		goto fail;
	if (secure && !peek && !(ssl = tls_accept(w->sh->tls, fd, &c->peer)))
		goto fail;
	if (io_open(&c->io, w->base, fd, ssl, on_woken))
		goto fail;
	c->w = w;
	c->secure = secure;
	c->state = peek ? CONN_PEEK : secure ? CONN_TLS : CONN_HEAD;
	c->timer.fired = on_late;
	km_buf_init(&c->in, w->sh->buf_max);
	km_buf_init(&c->out, w->sh->buf_max);
	km_buf_init(&c->x.again, w->sh->buf_max);
	DL_APPEND(w->conns, c);
	km_metric_add(w->sh->m_accepted, 1);
	km_metric_add(w->sh->m_conns, 1);
	timer_set(&w->timers, &c->timer, w->draining ? TIMER_LINGER : TIMER_HEADER, w->now);
	return;
fail:
	SSL_free(ssl);
	close(fd);
	free(c);
	atomic_fetch_sub_explicit(&w->sh->conns, 1, memory_order_relaxed);
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
	exchange_drop(c, c->polite);
	io_close(&c->io, c->polite);
	tls_peer_clear(&c->peer);
	km_buf_free(&c->in);
	km_buf_free(&c->out);
	if (c->later_on)
		LL_DELETE2(w->later, c, later_next);
	DL_DELETE(w->conns, c);
	km_metric_add(w->sh->m_conns, -1);
	atomic_fetch_sub_explicit(&w->sh->conns, 1, memory_order_relaxed);
	free(c);
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

/* Ends our side and waits for the client to end its own: closed at once, what it still sends would
 * reset the connection before it has read our last bytes. */
static void linger_begin(struct conn *c)
{
	if (c->io.ssl) {
		ERR_clear_error();
		SSL_shutdown(c->io.ssl);
	}
	(void)shutdown(c->io.fd, SHUT_WR);
	c->state = CONN_LINGER;
	c->io.can_read = true;
	timer_set(&c->w->timers, &c->timer, TIMER_LINGER, c->w->now);
}

/* ---- handshake ---- */

void conn_tls_begin(struct conn *c)
{
	c->io.ssl = tls_accept(c->w->sh->tls, c->io.fd, &c->peer);
	c->state = CONN_TLS;
	c->scan_at = 0;
	if (!c->io.ssl)
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
	struct pollfd p = {.fd = c->io.fd, .events = POLLRDHUP};
	if (c->io.can_read && poll(&p, 1, 0) > 0) {
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

static bool tls_step(struct conn *c)
{
	ERR_clear_error();
	bool waited = c->peer.wait != NULL;
	int rc = SSL_do_handshake(c->io.ssl);
	if (rc != 1 && SSL_get_error(c->io.ssl, rc) == SSL_ERROR_WANT_CLIENT_HELLO_CB) {
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
		linger_begin(c);
		return true;
	}
	if (rc == 1) {
		c->state = CONN_HEAD;
		/* OpenSSL may have read the request together with the end of the handshake, and
		 * then no edge will come for it. */
		c->io.can_read = true;
		return true;
	}
	switch (SSL_get_error(c->io.ssl, rc)) {
	case SSL_ERROR_WANT_READ:
		c->io.can_read = false;
		return false;
	case SSL_ERROR_WANT_WRITE:
		c->io.can_write = false;
		return false;
	default:
		if (!c->peer.refused)
			km_metric_add(c->w->sh->m_handshake_errors, 1);
		c->io.broken = true;
		conn_over(c, true);
		return false;
	}
}

/* ---- answers of our own ---- */

void conn_answer(struct conn *c, int status, const char *what, bool close)
{
	struct heads_answer a = {.status = status, .what = what};
	a.html = c->x.html;
	a.head = c->x.head;
	a.close = close || c->w->draining || !c->x.keep_alive;
	a.keep_alive = c->x.minor == 0;
	if (heads_answer(&c->out, &a)) {
		conn_over(c, false);
		return;
	}
	c->close_after = a.close;
	c->served = true;
	c->state = CONN_HEAD;
	timer_set(&c->w->timers, &c->timer, TIMER_BODY, c->w->now);
}

static void answer_bad(struct conn *c, int status, const char *why)
{
	char ip[KM_ADDR_STRLEN];
	uint32_t held;
	struct edge_shared *sh = c->w->sh;
	km_metric_add(sh->m_bad, 1);
	if (km_log_allow(&sh->bad_log, c->w->now, 10, 10000, &held))
		km_info("bad request", km_ks("client", km_addr_str(&c->addr, ip)),
			km_ki("status", status), km_ks("why", why), km_ki("held", held));
	c->x.html = c->x.head = false;
	conn_answer(c, status, NULL, true);
}

static void answer_redirect(struct conn *c, const struct http_request *r)
{
	struct heads_answer a = {.status = 301, .html = c->x.html, .head = c->x.head};
	char port[16] = "";
	struct km_buf *location = &c->w->head;
	if (c->w->sh->https_port != 443)
		snprintf(port, sizeof(port), ":%d", c->w->sh->https_port);
	a.close = c->w->draining || !c->x.keep_alive || r->body != HTTP_BODY_NONE;
	a.keep_alive = c->x.minor == 0;
	km_buf_clear(location);
	if (km_buf_addf(location, "https://%s%s%s", r->host, port,
			r->target_query || !r->target.n ? "/" : "") ||
	    km_buf_add(location, r->target.p, r->target.n) || km_buf_add(location, "", 1))
		goto fail;
	a.location = (const char *)km_buf_head(location);
	if (heads_answer(&c->out, &a))
		goto fail;
	c->close_after = a.close;
	c->served = true;
	timer_set(&c->w->timers, &c->timer, TIMER_BODY, c->w->now);
	return;
fail:
	conn_over(c, false);
}

/* ---- requests ---- */

static const char acme_path[] = "/.well-known/acme-challenge/";

static bool challenge_path(const struct http_request *r)
{
	return r->target.n >= sizeof(acme_path) - 1 &&
	       !memcmp(r->target.p, acme_path, sizeof(acme_path) - 1);
}

/* RFC 8555 section 8.3: the CA asks for the proof that we hold this name, whoever's tunnel it is.
 */
static bool challenge_answered(struct conn *c, const struct http_request *r)
{
	char text[CHALLENGE_KEY_AUTH_MAX + 1];
	const char *token = r->target.p + sizeof(acme_path) - 1;
	size_t n = r->target.n - (sizeof(acme_path) - 1);
	struct edge_shared *sh = c->w->sh;
	if (!sh->challenges || !(http_str_is(r->method, "GET") || r->head) ||
	    !challenges_http(sh->challenges, r->host, token, n, text))
		return false;
	km_metric_add(sh->m_challenged, 1);
	c->x.html = false;
	conn_answer(c, 200, text, true);
	return true;
}

/* A request for the tunnel of c->x.route. */
static void tunnel_request(struct conn *c, const struct http_request *r)
{
	if (c->x.route.enabled) {
		exchange_begin(c, r);
		return;
	}
	conn_answer(c, 503, "Tunnel disabled", r->body != HTTP_BODY_NONE);
	exchange_drop(c, true);
}

static void plain_request(struct conn *c, const struct http_request *r)
{
	bool close = r->body != HTTP_BODY_NONE;
	struct exchange *x = &c->x;
	if (challenge_path(r) && challenge_answered(c, r))
		return;
	bool known = route_find(c->w->sh->routes, r->host, &x->route);
	x->active = known && x->route.tls == ROUTE_TLS_OFF;
	if (x->active) {
		tunnel_request(c, r);
		return;
	}
	if (known)
		route_state_put(x->route.state);
	if (challenge_path(r))
		conn_answer(c, 404, NULL, close);
	else if (r->target.n == 1 && r->target.p[0] == '*')
		conn_answer(c, 400, NULL, close);
	else if (!known)
		conn_answer(c, 404, "Tunnel not found", close);
	else
		answer_redirect(c, r);
}

static void secure_request(struct conn *c, const struct http_request *r)
{
	bool close = r->body != HTTP_BODY_NONE;
	struct exchange *x = &c->x;
	if (!route_find(c->w->sh->routes, r->host, &x->route)) {
		conn_answer(c, 404, "Tunnel not found", close);
		return;
	}
	x->active = true;
	/* Neither is served behind TLS of ours, though a certificate here may name it. */
	bool elsewhere = x->route.tls == ROUTE_TLS_PASSTHROUGH || x->route.tls == ROUTE_TLS_OFF;
	if (!elsewhere && (!strcmp(r->host, c->peer.sni) || cert_covers(c->peer.cert, r->host))) {
		tunnel_request(c, r);
		return;
	}
	conn_answer(c, 421, NULL, close);
	exchange_drop(c, true);
}

static void on_head(struct conn *c, size_t n)
{
	struct worker *w = c->w;
	struct http_request *r = &w->req;
	struct exchange *x = &c->x;
	const char *why;
	km_metric_add(w->sh->m_requests, 1);
	int status =
	    h1_request_parse(r, (const char *)km_buf_head(&c->in), n, &w->sh->limits, &why);
	if (status) {
		answer_bad(c, status, why);
		return;
	}
	x->minor = r->minor;
	x->head = r->head;
	x->html = http_prefers_html(r->accept);
	x->keep_alive = r->keep_alive;
	if (c->secure)
		secure_request(c, r);
	else
		plain_request(c, r);
	km_buf_consume(&c->in, n);
	c->scan_at = 0;
	c->skipped = false;
}

/* An empty line before a request is allowed (RFC 9112 section 2.2): one. */
static void skip_empty_line(struct conn *c)
{
	if (c->skipped || c->scan_at || c->in.len < 2 || memcmp(km_buf_head(&c->in), "\r\n", 2))
		return;
	km_buf_consume(&c->in, 2);
	c->skipped = true;
}

/* Nothing is at hand: an idle connection keeps no buffers. */
static void on_quiet(struct conn *c)
{
	km_buf_free(&c->in);
	km_buf_free(&c->out);
	if (c->timer.kind == TIMER_BODY || !c->timer.on)
		timer_set(&c->w->timers, &c->timer, c->w->draining ? TIMER_LINGER : TIMER_IDLE,
			  c->w->now);
}

static bool head_read(struct conn *c)
{
	bool first = !c->in.len;
	if (first && !c->io.can_read && !c->io.eof) {
		on_quiet(c);
		return false;
	}
	switch (io_read(&c->io, &c->in, CONN_READ)) {
	case IO_BYTES:
		if (first ? c->served : c->timer.kind == TIMER_BODY)
			timer_set(&c->w->timers, &c->timer, TIMER_HEADER, c->w->now);
		return true;
	case IO_WAIT:
		if (first)
			on_quiet(c);
		return false;
	case IO_END:
		conn_over(c, true);
		return false;
	default:
		conn_over(c, false);
		return false;
	}
}

static bool out_flush(struct conn *c)
{
	size_t n;
	enum io_got got = io_write(&c->io, &c->out, &n);
	if (got == IO_BYTES)
		timer_set(&c->w->timers, &c->timer, TIMER_BODY, c->w->now);
	else if (got == IO_BROKEN)
		conn_over(c, false);
	return got == IO_BYTES;
}

static bool head_step(struct conn *c)
{
	if (c->out.len) {
		bool moved = out_flush(c);
		if (c->state != CONN_HEAD || c->out.len)
			return moved && c->state == CONN_HEAD;
	}
	if (c->close_after) {
		linger_begin(c);
		return true;
	}
	skip_empty_line(c);
	/* A lone CR may be half of that line. */
	bool half = c->in.len == 1 && !c->skipped && *km_buf_head(&c->in) == '\r';
	int n = half ? 0
		     : h1_scan((const char *)km_buf_head(&c->in), c->in.len, &c->scan_at,
			       c->w->sh->limits.head);
	if (n < 0) {
		c->x.keep_alive = false;
		answer_bad(c, -n, "malformed or too large head");
		return true;
	}
	if (n > 0) {
		on_head(c, (size_t)n);
		return true;
	}
	return head_read(c);
}

/* ---- the end ---- */

static bool linger_step(struct conn *c)
{
	char drop[4096];
	for (;;) {
		ssize_t n = recv(c->io.fd, drop, sizeof(drop), 0);
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
	case CONN_RAW:
		exchange_late(c);
		break;
	case CONN_PASS:
		pass_late(c);
		break;
	case CONN_WAIT:
		c->peer.wait_late = true; /* the alert says so */
		break;
	case CONN_HEAD:
		if (c->out.len) { /* a client that does not read */
			conn_over(c, false);
		} else if (c->in.len && !c->close_after) {
			c->x.keep_alive = false;
			answer_bad(c, 408, "head took too long");
		} else {
			conn_over(c, true);
		}
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
	bool waits = c->state == CONN_PEEK || c->state == CONN_TLS || c->state == CONN_WAIT ||
		     (c->state == CONN_HEAD && !c->in.len && !c->out.len);
	if (waits)
		timer_set(&c->w->timers, &c->timer, TIMER_LINGER, c->w->now);
}

/* ---- */

static bool step(struct conn *c)
{
	switch (c->state) {
	case CONN_PEEK:
		return peek_step(c);
	case CONN_TLS:
		return tls_step(c);
	case CONN_WAIT:
		return wait_step(c);
	case CONN_HEAD:
		return head_step(c);
	case CONN_EXCHANGE:
		return exchange_step(c);
	case CONN_RAW:
		return raw_step(c);
	case CONN_PASS:
		return pass_step(c);
	case CONN_LINGER:
		return linger_step(c);
	default:
		return false;
	}
}

void conn_drive(struct conn *c)
{
	int budget = 16;
	c->w->now = km_now_ms();
	while (c->state != CONN_OVER && step(c)) {
		if (--budget)
			continue;
		if (!c->later_on) {
			c->later_on = true;
			LL_PREPEND2(c->w->later, c, later_next);
			(void)event_add(c->w->later_ev, &(struct timeval){0, 0});
		}
		break;
	}
	if (c->state == CONN_OVER)
		conn_free(c);
}
