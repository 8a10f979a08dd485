/* SPDX-License-Identifier: MIT */
/* One request and its answer between a client's connection and one to an agent. Both bodies stream
 * at once; a full buffer on one side is not read into on the other. */
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/heads.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* A request that cannot be sent twice is not sent on a connection that has been unused for longer,
 * or whose target is not known to keep connections: the target may be closing it. */
#define UNSAFE_IDLE_MS 1000

void exchange_drop(struct conn *c, bool polite)
{
	struct exchange *x = &c->x;
	size_t max = x->again.max;
	pool_drop(c->w->pool, c->up, polite);
	c->up = NULL;
	if (x->active) {
		struct route_state *s = x->route.state;
		atomic_fetch_add_explicit(&s->requests, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&s->bytes_in, x->bytes_in, memory_order_relaxed);
		atomic_fetch_add_explicit(&s->bytes_out, x->bytes_out, memory_order_relaxed);
		route_state_put(s);
	}
	if (x->bytes_in)
		km_metric_add(c->w->sh->m_bytes_in, (int64_t)x->bytes_in);
	if (x->bytes_out)
		km_metric_add(c->w->sh->m_bytes_out, (int64_t)x->bytes_out);
	km_buf_free(&x->again);
	memset(x, 0, sizeof(*x));
	km_buf_init(&x->again, max);
}

/* ---- failures ---- */

/* The target gave no whole answer: says so, or, when an answer has begun, cuts the client, which
 * must not take half an answer for a whole one. */
static void fail(struct conn *c, int status, const char *why)
{
	struct edge_shared *sh = c->w->sh;
	struct exchange *x = &c->x;
	char id[KM_UUID_STRLEN];
	uint32_t held;
	km_metric_add(sh->m_upstream_errors, 1);
	atomic_fetch_add_explicit(&x->route.state->errors, 1, memory_order_relaxed);
	if (km_log_allow(&sh->upstream_log, c->w->now, 10, 10000, &held))
		km_warn("no answer from the target",
			km_ks("tunnel", km_uuid_str(x->route.tunnel, id)), km_ki("status", status),
			km_ks("why", why), km_ki("held", held));
	if (x->answer_begun) {
		conn_over(c, false);
		return;
	}
	conn_answer(c, status, NULL, !x->req.done);
	exchange_drop(c, false);
}

/* What pool_take's error means. */
static const char *why_of(int rc)
{
	return rc == KM_EIO ? strerror(errno) : km_strerror(rc);
}

/* The connection to the agent is broken or refused. */
static void up_failed(struct conn *c, const char *why)
{
	struct exchange *x = &c->x;
	struct up *u = NULL;
	bool again = c->up->reused && x->again.len && !x->answer_any;
	if (!again) {
		fail(c, 502, why);
		return;
	}
	pool_drop(c->w->pool, c->up, false);
	c->up = NULL;
	int rc = pool_take(c->w->pool, &x->route, -1, c->w->now, c, &u);
	if (rc) {
		fail(c, 502, why_of(rc));
		return;
	}
	c->up = u;
	x->scan_at = 0;
	timer_set(&c->w->timers, &c->timer, TIMER_CONNECT, c->w->now);
	if (km_buf_add(&u->out, km_buf_head(&x->again), x->again.len))
		fail(c, 502, "no memory");
	km_buf_free(&x->again);
}

/* What waited for its connection goes out on another one, whatever it is: nothing was sent. */
static void up_again(struct conn *c)
{
	struct up *u = NULL, *old = c->up;
	int rc = pool_take(c->w->pool, &c->x.route, -1, c->w->now, c, &u);
	if (!rc) {
		struct km_buf out = u->out;
		u->out = old->out;
		old->out = out;
	}
	pool_drop(c->w->pool, old, false);
	c->up = u;
	if (rc)
		fail(c, 502, why_of(rc));
	else
		timer_set(&c->w->timers, &c->timer, TIMER_CONNECT, c->w->now);
}

void exchange_agent_gone(struct conn *c)
{
	if (c->state == CONN_RAW || c->state == CONN_PASS)
		conn_over(c, false);
	else if (c->state == CONN_EXCHANGE)
		up_failed(c, "the agent is no longer one of ours");
}

void exchange_net_gone(struct conn *c)
{
	if (c->state == CONN_RAW || c->state == CONN_PASS)
		conn_over(c, false);
	else if (c->state == CONN_EXCHANGE && !c->up->connected)
		up_again(c);
	else if (c->state == CONN_EXCHANGE)
		up_failed(c, "the private network was lost");
}

/* ---- the request ---- */

void exchange_begin(struct conn *c, const struct http_request *r)
{
	struct worker *w = c->w;
	struct exchange *x = &c->x;
	bool whole = r->body == HTTP_BODY_NONE;
	int64_t max_idle = r->idempotent && whole ? INT64_MAX : UNSAFE_IDLE_MS;

	c->state = CONN_EXCHANGE;
	x->upgrade = r->upgrade;
	body_begin(&x->req, r->body, r->length, r->body == HTTP_BODY_CHUNKED);
	km_buf_clear(&w->head);
	if (heads_request(&w->head, r, &c->addr, c->secure)) {
		fail(c, 502, "no memory");
		return;
	}
	int rc = pool_take(w->pool, &x->route, max_idle, w->now, c, &c->up);
	if (rc) {
		fail(c, 502, why_of(rc));
		return;
	}
	if (km_buf_add(&c->up->out, km_buf_head(&w->head), w->head.len) ||
	    (c->up->reused && r->idempotent && whole &&
	     km_buf_add(&x->again, km_buf_head(&w->head), w->head.len))) {
		fail(c, 502, "no memory");
		return;
	}
	timer_set(&w->timers, &c->timer, c->up->connected ? TIMER_UPSTREAM : TIMER_CONNECT, w->now);
}

/* ---- the rounds ---- */

static bool connect_check(struct conn *c)
{
	struct up *u = c->up;
	if (u->connected)
		return false;
	int error = pool_connect_check(u, c->w->now);
	if (error) {
		up_failed(c, strerror(error));
		return true;
	}
	return u->connected;
}

/* The client has ended its side. One that has asked for all that it wants may do so and still wait
 * for the answer; only its reset says that nobody does. */
static void client_ended(struct conn *c)
{
	bool whole = c->x.req.done || c->in.len; /* what is in hand may be the rest of the body */
	if (!whole || io_gone(&c->io))
		conn_over(c, false);
}

static bool client_read(struct conn *c)
{
	struct exchange *x = &c->x;
	if (c->io.eof) {
		client_ended(c);
		return false;
	}
	if (c->in.len >= CONN_READ || (!x->req.done && c->up->out.len >= CONN_HIGH))
		return false;
	switch (io_read(&c->io, &c->in, CONN_READ - c->in.len)) {
	case IO_BYTES:
		return true;
	case IO_WAIT:
		return false;
	case IO_END:
		client_ended(c);
		return false;
	default: /* nobody waits for the answer any more */
		conn_over(c, false);
		return false;
	}
}

static bool request_move(struct conn *c)
{
	struct exchange *x = &c->x;
	size_t before = c->in.len;
	if (x->req.done)
		return false;
	if (c->up->no_write) {
		km_buf_clear(&c->in); /* the target takes no more of it */
		return false;
	}
	if (body_move(&x->req, &c->in, &c->up->out, CONN_HIGH, &x->bytes_in)) {
		km_metric_add(c->w->sh->m_bad, 1);
		if (x->answer_begun)
			conn_over(c, false);
		else
			conn_answer(c, 400, NULL, true);
		if (c->state != CONN_EXCHANGE)
			exchange_drop(c, false);
		return true;
	}
	return c->in.len != before;
}

static bool up_flush(struct conn *c)
{
	struct up *u = c->up;
	size_t n;
	if (!u->connected || u->no_write || !u->out.len)
		return false;
	if (io_write(&u->io, &u->out, &n) == IO_BROKEN) {
		/* It may have answered before it closed. */
		u->no_write = u->io.can_read = true;
		km_buf_free(&u->out);
		return true;
	}
	return n > 0;
}

static bool up_read(struct conn *c)
{
	struct up *u = c->up;
	size_t head = c->w->sh->limits.head;
	size_t most = c->x.answer_begun || head < CONN_HIGH ? CONN_HIGH : head;
	if (!u->connected || u->io.eof || u->io.broken || u->in.len >= most ||
	    c->out.len >= CONN_HIGH)
		return false;
	switch (io_read(&u->io, &u->in, most - u->in.len)) {
	case IO_WAIT:
		return false;
	case IO_BYTES:
		c->x.answer_any = true;
		return true;
	default:
		return true;
	}
}

/* ---- the answer ---- */

static int upgraded(struct conn *c, const struct http_response *r)
{
	struct heads_response how = {.framing = HTTP_BODY_NONE, .upgrade = true};
	if (!c->x.upgrade || !r->upgrade)
		return KM_EPROTO;
	c->x.answer_begun = true;
	c->x.status = 101;
	c->state = CONN_RAW;
	timer_set(&c->w->timers, &c->timer, TIMER_UPGRADE, c->w->now);
	return heads_response(&c->out, r, &how);
}

static int interim(struct conn *c, const struct http_response *r)
{
	struct heads_response how = {.framing = HTTP_BODY_NONE};
	if (r->status == 101)
		return upgraded(c, r);
	if (++c->x.interims > CONN_INTERIM_MAX)
		return KM_EPROTO;
	return c->x.minor ? heads_response(&c->out, r, &how) : 0;
}

static int final(struct conn *c, const struct http_response *r)
{
	struct exchange *x = &c->x;
	struct heads_response how = {.framing = r->body};
	if (r->body == HTTP_BODY_CHUNKED || r->body == HTTP_BODY_CLOSE)
		how.framing = x->minor ? HTTP_BODY_CHUNKED : HTTP_BODY_CLOSE;
	if (how.framing == HTTP_BODY_CLOSE || c->w->draining || !x->req.done)
		x->keep_alive = false;
	how.close = !x->keep_alive;
	how.keep_alive = x->keep_alive && !x->minor;
	x->up_keep = r->keep_alive;
	x->answer_begun = true;
	x->status = r->status;
	body_begin(&x->resp, r->body, r->length, how.framing == HTTP_BODY_CHUNKED);
	return heads_response(&c->out, r, &how);
}

static bool answer_head(struct conn *c)
{
	struct exchange *x = &c->x;
	struct up *u = c->up;
	struct http_response *r = &c->w->resp;
	const char *why = "malformed or too large head of the answer";
	if (x->answer_begun)
		return false;
	int n = h1_scan((const char *)km_buf_head(&u->in), u->in.len, &x->scan_at,
			c->w->sh->limits.head);
	if (n == 0 && !u->io.eof && !u->io.broken)
		return false;
	if (n == 0) {
		up_failed(c, u->in.len ? "closed in the head of the answer"
				       : "closed without an answer");
		return true;
	}
	int rc = KM_EPROTO;
	if (n > 0 && !h1_response_parse(r, (const char *)km_buf_head(&u->in), (size_t)n, x->head,
					&c->w->sh->limits, &why))
		rc = r->status < 200 ? interim(c, r) : final(c, r);
	if (rc == KM_EPROTO) {
		fail(c, 502, why ? why : "answer not understood");
		return true;
	}
	if (rc) { /* no memory, and perhaps half a head written */
		conn_over(c, false);
		return false;
	}
	km_buf_consume(&u->in, (size_t)n);
	x->scan_at = 0;
	return true;
}

/* The answer is whole. */
static void finish(struct conn *c)
{
	struct exchange *x = &c->x;
	struct up *u = c->up;
	char id[KM_UUID_STRLEN];
	if (km_log_on(KM_LOG_DEBUG))
		km_debug("request", km_ks("tunnel", km_uuid_str(x->route.tunnel, id)),
			 km_ki("status", x->status), km_ki("in", x->bytes_in),
			 km_ki("out", x->bytes_out));
	c->close_after = !x->keep_alive || !x->req.done;
	if (x->req.done && x->up_keep && !u->in.len && !u->out.len) {
		pool_give(c->w->pool, u, c->w->now);
		c->up = NULL;
	}
	exchange_drop(c, true);
	c->served = true;
	c->state = CONN_HEAD;
	timer_set(&c->w->timers, &c->timer, TIMER_BODY, c->w->now);
}

static bool answer_move(struct conn *c)
{
	struct exchange *x = &c->x;
	struct up *u = c->up;
	size_t before = u->in.len;
	if (!x->answer_begun)
		return false;
	if (body_move(&x->resp, &u->in, &c->out, CONN_HIGH, &x->bytes_out)) {
		fail(c, 502, "malformed body of the answer");
		return true;
	}
	if (!x->resp.done && !u->in.len && (u->io.eof || u->io.broken) &&
	    (u->io.broken || body_source_ended(&x->resp, &c->out))) {
		fail(c, 502, "closed in the middle of the answer");
		return true;
	}
	if (x->resp.done) {
		finish(c);
		return true;
	}
	return u->in.len != before;
}

static bool client_flush(struct conn *c)
{
	size_t n;
	if (io_write(&c->io, &c->out, &n) == IO_BROKEN)
		conn_over(c, false);
	return n > 0;
}

static void quiet(struct km_buf *b)
{
	if (!b->len)
		km_buf_free(b);
}

bool exchange_step(struct conn *c)
{
	static bool (*const rounds[])(struct conn *) = {connect_check, client_read, request_move,
							up_flush,      up_read,     answer_head,
							answer_move,   client_flush};
	bool moved = false;
	for (size_t i = 0; i < KM_ARRAY_LEN(rounds); i++) {
		moved |= rounds[i](c);
		if (c->state != CONN_EXCHANGE)
			return c->state != CONN_OVER;
	}
	struct up *u = c->up;
	if (!moved) {
		quiet(&c->in);
		quiet(&c->out);
		quiet(&u->in);
		quiet(&u->out);
	} else if (u->connected) {
		bool waits = c->x.req.done && !u->out.len && !c->x.answer_begun;
		timer_set(&c->w->timers, &c->timer, waits ? TIMER_UPSTREAM : TIMER_BODY, c->w->now);
	}
	return moved;
}

void exchange_late(struct conn *c)
{
	struct up *u = c->up;
	if (c->state == CONN_RAW || c->x.answer_begun) {
		conn_over(c, false);
	} else if (!u->connected) {
		fail(c, 502, "connection to the agent took too long");
	} else if (!c->x.req.done && !u->out.len) {
		conn_answer(c, 408, NULL, true);
		exchange_drop(c, false);
	} else {
		fail(c, 504, "answer took too long");
	}
}

/* ---- after an upgrade ---- */

static bool raw_write(struct conn *c, struct io *to, struct km_buf *b, uint64_t *count)
{
	size_t n;
	if (!b->len)
		return false;
	if (io_write(to, b, &n) == IO_BROKEN)
		conn_over(c, false);
	*count += n;
	return n > 0;
}

static bool raw_read(struct io *from, struct km_buf *b)
{
	return !from->eof && b->len < CONN_READ && io_read(from, b, CONN_READ) != IO_WAIT;
}

bool raw_step(struct conn *c)
{
	struct up *u = c->up;
	struct exchange *x = &c->x;
	uint64_t heads = 0;
	bool moved = raw_read(&c->io, &c->in);
	moved |= raw_read(&u->io, &u->in);
	moved |= u->out.len ? raw_write(c, &u->io, &u->out, &heads)
			    : raw_write(c, &u->io, &c->in, &x->bytes_in);
	moved |= c->out.len ? raw_write(c, &c->io, &c->out, &heads)
			    : raw_write(c, &c->io, &u->in, &x->bytes_out);
	if (c->state == CONN_OVER)
		return false;
	if (c->io.eof && !c->in.len && !u->out.len) {
		conn_over(c, !c->io.broken);
		return false;
	}
	if (u->io.eof && !u->in.len && !c->out.len) {
		if (u->io.broken) {
			conn_over(c, false);
			return false;
		}
		exchange_drop(c, true);
		c->close_after = true;
		c->state = CONN_HEAD;
		return true;
	}
	if (moved) {
		timer_set(&c->w->timers, &c->timer, TIMER_UPGRADE, c->w->now);
	} else {
		quiet(&c->in);
		quiet(&c->out);
		quiet(&u->in);
		quiet(&u->out);
	}
	return moved;
}
