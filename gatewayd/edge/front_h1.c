/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/front_h1.h"
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/h1.h"
#include "gatewayd/edge/heads.h"
#include "gatewayd/edge/patience.h"
#include "gatewayd/edge/request.h"
#include <string.h>

/* ---- for the exchange ---- */

/* What is in `out` goes first; then the next request, or the end. */
static void head_next(struct conn *c, bool close)
{
	c->h1.close_after = close;
	c->h1.served = true;
	c->state = CONN_HEAD;
	timer_set(&c->w->timers, &c->timer, TIMER_BODY, c->w->now);
}

static void on_answer(struct exchange *x, struct heads_answer *a)
{
	struct conn *c = x->c;
	a->close |= c->w->draining || !c->h1.keep_alive;
	a->keep_alive = c->h1.minor == 0;
	if (heads_answer(&c->out, a))
		conn_over(c, false);
	else
		head_next(c, a->close);
}

static void on_cut(struct exchange *x)
{
	x->state = EXCHANGE_OVER;
	conn_over(x->c, false);
}

static void on_done(struct exchange *x)
{
	head_next(x->c, !x->c->h1.keep_alive || !x->req.done);
}

static int on_interim(struct exchange *x, const struct http_response *r)
{
	struct heads_response how = {.framing = HTTP_BODY_NONE, .upgrade = r->status == 101};
	return x->c->h1.minor ? heads_response(x->out, r, &how) : 0;
}

static int on_answer_head(struct exchange *x, const struct http_response *r, bool *encode)
{
	struct h1_conn *h = &x->c->h1;
	struct heads_response how = {.framing = r->body};
	if (r->body == HTTP_BODY_CHUNKED || r->body == HTTP_BODY_CLOSE)
		how.framing = h->minor ? HTTP_BODY_CHUNKED : HTTP_BODY_CLOSE;
	/* A target of HTTP/2 need not say that there is no body. */
	if (r->body == HTTP_BODY_NONE && !x->head && !r->has_length && r->status >= 200 &&
	    r->status != 204 && r->status != 304)
		how.framing = HTTP_BODY_LENGTH;
	if (how.framing == HTTP_BODY_CLOSE || x->c->w->draining || !x->req.done)
		h->keep_alive = false;
	how.close = !h->keep_alive;
	how.keep_alive = h->keep_alive && !h->minor;
	*encode = how.framing == HTTP_BODY_CHUNKED;
	return heads_response(x->out, r, &how);
}

/* The client has ended its side. One that has asked for all that it wants may do so and still wait
 * for the answer; only its reset says that nobody does. Nobody stands in a queue for one that does so
 * there: it has mostly gone, and others have not. */
static void client_ended(struct exchange *x)
{
	bool whole = x->req.done || x->in->len; /* what is in hand may be the rest of the body */
	if (x->state == EXCHANGE_RAW)
		x->in_ended = true;
	else if (!whole || pool_queued(&x->wait) || io_gone(&x->c->io))
		on_cut(x);
}

static bool on_read(struct exchange *x, size_t most)
{
	struct io *io = &x->c->io;
	if ((io->eof && !io->broken) || (io->ending && pool_queued(&x->wait))) {
		client_ended(x);
		return false;
	}
	switch (io_read(io, x->in, most - x->in->len)) {
	case IO_BYTES:
		return true;
	case IO_WAIT:
		return false;
	case IO_END:
		client_ended(x);
		return false;
	default: /* nobody waits for the answer any more */
		on_cut(x);
		return false;
	}
}

static bool on_flush(struct exchange *x)
{
	size_t n;
	if (io_write(&x->c->io, x->out, &n) == IO_BROKEN)
		on_cut(x);
	return n > 0;
}

static void on_drive(struct exchange *x)
{
	conn_drive(x->c);
}

static void on_wake(struct exchange *x)
{
	conn_later(x->c);
}

const struct front front_h1 = {
    .read = on_read,
    .interim = on_interim,
    .head = on_answer_head,
    .flush = on_flush,
    .answer = on_answer,
    .cut = on_cut,
    .done = on_done,
    .drive = on_drive,
    .wake = on_wake,
};

/* ---- between exchanges ---- */

static void refuse(struct conn *c, int status, const char *why)
{
	c->h1.keep_alive = false;
	if (conn_exchange(c))
		request_refuse(c->x, status, why);
}

static void on_head(struct conn *c, size_t n)
{
	struct worker *w = c->w;
	struct http_request *r = &w->req;
	const char *why;
	if (!conn_exchange(c))
		return;
	km_metric_add(w->sh->m_requests, 1);
	int status =
	    h1_request_parse(r, (const char *)km_buf_head(&c->in), n, &w->sh->limits, &why);
	if (status) {
		refuse(c, status, why);
		return;
	}
	c->h1.minor = r->minor;
	c->h1.keep_alive = r->keep_alive;
	c->state = CONN_EXCHANGE;
	request_serve(c->x, r);
	km_buf_consume(&c->in, n);
	c->h1.scan_at = 0;
	c->h1.skipped = false;
}

/* An empty line before a request is allowed (RFC 9112 section 2.2): one. */
static void skip_empty_line(struct conn *c)
{
	struct h1_conn *h = &c->h1;
	if (h->skipped || h->scan_at || c->in.len < 2 || memcmp(km_buf_head(&c->in), "\r\n", 2))
		return;
	km_buf_consume(&c->in, 2);
	h->skipped = true;
}

/* Nothing is at hand: an idle connection keeps neither buffers nor an exchange. */
static void on_quiet(struct conn *c)
{
	km_buf_free(&c->in);
	km_buf_free(&c->out);
	conn_exchange_free(c);
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
		if (first ? c->h1.served : c->timer.kind == TIMER_BODY)
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
	patience_sent(c->x, n);
	if (got == IO_BROKEN || !patience_out(c->x))
		conn_over(c, false);
	return got == IO_BYTES;
}

bool h1_head_step(struct conn *c)
{
	struct h1_conn *h = &c->h1;
	if (c->out.len) {
		bool moved = out_flush(c);
		if (c->state != CONN_HEAD || c->out.len)
			return moved && c->state == CONN_HEAD;
	}
	if (h->close_after) {
		conn_linger(c);
		return true;
	}
	skip_empty_line(c);
	/* A lone CR may be half of that line. */
	bool half = c->in.len == 1 && !h->skipped && *km_buf_head(&c->in) == '\r';
	int n = half ? 0
		     : h1_scan((const char *)km_buf_head(&c->in), c->in.len, &h->scan_at,
			       c->w->sh->limits.head);
	if (n < 0) {
		refuse(c, -n, "malformed or too large head");
		return true;
	}
	if (n > 0) {
		on_head(c, (size_t)n);
		return true;
	}
	return head_read(c);
}

void h1_head_late(struct conn *c)
{
	if (c->out.len && patience_stalled(c->x))
		timer_set(&c->w->timers, &c->timer, TIMER_BODY, c->w->now);
	else if (c->out.len)
		conn_over(c, false);
	else if (c->in.len && !c->h1.close_after)
		refuse(c, 408, "head took too long");
	else
		conn_over(c, true);
}
