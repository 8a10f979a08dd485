/* SPDX-License-Identifier: MIT */
/* A session from the handshake to the last byte: reading, the streams' turns, writing, the end. */
#include "gatewayd/edge/front_h2.h"
#include "gatewayd/edge/h2_session.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <utlist.h>

/* ---- shared ---- */

static void metrics_make(struct h2_shared *sh)
{
	static const char resets[] = "kakuremichi_h2_resets_total";
	static const char resets_help[] = "HTTP/2 streams reset, by whom.";
	sh->m_streams = km_metric(KM_METRIC_GAUGE, "kakuremichi_h2_streams", "",
				  "Open HTTP/2 streams of strangers.");
	sh->m_resets_client = km_metric(KM_METRIC_COUNTER, resets, "by=\"client\"", resets_help);
	sh->m_resets_gateway = km_metric(KM_METRIC_COUNTER, resets, "by=\"gateway\"", resets_help);
	sh->m_errors = km_metric(KM_METRIC_COUNTER, "kakuremichi_h2_connection_errors_total", "",
				 "HTTP/2 connections closed because of what the client sent.");
	for (int i = 0; i < H2_FLOODS; i++) {
		char labels[64];
		snprintf(labels, sizeof(labels), "kind=\"%s\"", h2_flood_name((enum h2_flood)i));
		sh->m_floods[i] =
		    km_metric(KM_METRIC_COUNTER, "kakuremichi_h2_floods_total", labels,
			      "HTTP/2 connections closed because they flooded, by kind of frame.");
	}
}

static void options_set(nghttp2_option *o, const struct gw_settings *s)
{
	/* What may come from a target must go out; nghttp2 reckons with 12 bytes more for each field. */
	nghttp2_option_set_max_send_header_block_length(o, 2 * (size_t)s->max_header_size + 4096);
	nghttp2_option_set_no_auto_window_update(o, 1);
	nghttp2_option_set_no_closed_streams(o, 1);
	/* Ours are stricter, and counted; these only must not come first. */
	nghttp2_option_set_stream_reset_rate_limit(o, UINT32_MAX, UINT32_MAX);
}

struct h2_shared *h2_shared_new(const struct gw_settings *s)
{
	struct h2_shared *sh = calloc(1, sizeof(*sh));
	int64_t n, ms;
	if (!sh)
		return NULL;
	sh->max_streams = (uint32_t)s->h2_max_streams;
	sh->stream_window = (uint32_t)s->h2_stream_window;
	sh->conn_window = (uint32_t)s->h2_connection_window;
	if (gw_rate_parse(&n, &ms, s->h2_resets))
		goto fail; /* checked with the settings */
	h2_rates_init(&sh->rates, n, ms);
	metrics_make(sh);
	if (nghttp2_option_new(&sh->option) || nghttp2_session_callbacks_new(&sh->callbacks))
		goto fail;
	options_set(sh->option, s);
	h2_frames_set(sh->callbacks);
	return sh;
fail:
	h2_shared_free(sh);
	return NULL;
}

void h2_shared_free(struct h2_shared *sh)
{
	if (!sh)
		return;
	nghttp2_option_del(sh->option);
	nghttp2_session_callbacks_del(sh->callbacks);
	free(sh);
}

/* ---- life ---- */

static bool session_open(struct h2 *h)
{
	struct h2_shared *sh = h->sh;
	const nghttp2_settings_entry settings[] = {
	    {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, sh->max_streams},
	    {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, sh->stream_window},
	    {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)h->c->w->sh->limits.head},
	    {NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1},
	    {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
	};
	return !nghttp2_session_server_new2(&h->s, sh->callbacks, h, sh->option) &&
	       !nghttp2_submit_settings(h->s, NGHTTP2_FLAG_NONE, settings,
					KM_ARRAY_LEN(settings)) &&
	       !nghttp2_session_set_local_window_size(h->s, NGHTTP2_FLAG_NONE, 0,
						      (int32_t)sh->conn_window);
}

void h2_begin(struct conn *c)
{
	struct h2 *h = calloc(1, sizeof(*h));
	c->h2 = h;
	if (h) {
		h->c = c;
		h->sh = c->w->sh->h2;
		h2_limits_init(&h->limits, &h->sh->rates, c->w->now);
	}
	if (!h || !session_open(h)) {
		conn_over(c, false);
		return;
	}
	c->state = CONN_H2;
	if (c->w->draining)
		h2_drain(c);
}

void h2_free(struct conn *c, bool politely)
{
	struct h2 *h = c->h2;
	struct h2_stream *st, *tmp;
	if (!h)
		return;
	DL_FOREACH_SAFE (h->streams, st, tmp)
		h2_stream_free(st, politely);
	nghttp2_session_del(h->s);
	h2_head_free(&h->head);
	free(h);
	c->h2 = NULL;
}

/* ---- in ---- */

/* The session cannot go on: the client hears why, as far as it can. */
static void session_failed(struct h2 *h, int error)
{
	if (error == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS)
		h2_flood(h, H2_FLOOD_CONTINUATION);
	else if (error == NGHTTP2_ERR_FLOODED)
		h2_flood(h, H2_FLOOD_SETTINGS);
	h2_stop(h, error == NGHTTP2_ERR_BAD_CLIENT_MAGIC ? NGHTTP2_PROTOCOL_ERROR
							 : NGHTTP2_INTERNAL_ERROR);
}

/* The client has ended its side: requests that are whole still get their answers, unless they only
 * stand in a target's queue. */
static void client_ended(struct h2 *h)
{
	struct h2_stream *st;
	h->eof = true;
	DL_FOREACH (h->streams, st)
		if (!st->ended || pool_queued(&st->x.wait))
			h2_stream_reset(st, NGHTTP2_CANCEL);
}

static bool input(struct h2 *h)
{
	struct conn *c = h->c;
	if (h->stopped || c->out.len >= CONN_HIGH)
		return false;
	if (h->eof) {
		if (io_gone(&c->io))
			conn_over(c, false);
		return false;
	}
	switch (io_read(&c->io, &c->in, CONN_READ)) {
	case IO_WAIT:
		return false;
	case IO_END:
		client_ended(h);
		return true;
	case IO_BROKEN:
		conn_over(c, false);
		return false;
	default:
		break;
	}
	ssize_t n = nghttp2_session_mem_recv(h->s, km_buf_head(&c->in), c->in.len);
	km_buf_clear(&c->in);
	if (n < 0)
		session_failed(h, (int)n);
	return true;
}

/* ---- out ---- */

/* One of the worker's blocks, rather than growing frame by frame. */
static int out_add(struct km_buf *out, const uint8_t *p, size_t n)
{
	uint8_t *room;
	int rc = out->cap ? 0 : km_buf_reserve(out, CONN_HIGH, &room);
	return rc ? rc : km_buf_add(out, p, n);
}

/* What the session has to say goes behind what already waits, up to CONN_HIGH. */
static void pump(struct h2 *h)
{
	struct conn *c = h->c;
	while (c->out.len < CONN_HIGH) {
		const uint8_t *p;
		ssize_t n = nghttp2_session_mem_send(h->s, &p);
		if (n == 0)
			return;
		if (n < 0 || out_add(&c->out, p, (size_t)n)) {
			conn_over(c, false);
			return;
		}
	}
}

/* One write for all streams: when the loop's turn is over, or a record is full. */
static bool output(struct h2 *h)
{
	struct conn *c = h->c;
	size_t n;
	if (!c->out.len)
		return false;
	if (!c->w->closing && c->out.len < CONN_READ && !h->stopped) {
		conn_later(c);
		return false;
	}
	if (io_write(&c->io, &c->out, &n) == IO_BROKEN)
		conn_over(c, false);
	/* A client that takes nothing at all hears no RST_STREAM either. */
	if (c->out.len && (n || c->timer.kind != TIMER_BODY || !c->timer.on))
		timer_set(&c->w->timers, &c->timer, TIMER_BODY, c->w->now);
	return n > 0;
}

/* ---- the end ---- */

static bool over(const struct h2 *h)
{
	if (h->c->out.len)
		return false;
	if (h->stopped || (!h->streams && (h->eof || h->drained)))
		return true;
	return !nghttp2_session_want_read(h->s) && !nghttp2_session_want_write(h->s);
}

static void quiet(struct h2 *h)
{
	struct conn *c = h->c;
	struct worker *w = c->w;
	exchange_quiet(&c->in);
	exchange_quiet(&c->out);
	if (!h->streams)
		h2_head_free(&h->head);
	if (c->out.len)
		return;
	/* A head that has begun has its time, and so has silence; else the streams have theirs. */
	enum timer_kind kind = h->head_stream		    ? TIMER_HEADER
			       : h->draining && !h->streams ? TIMER_LINGER
							    : TIMER_IDLE;
	if (!h->head_stream && h->streams)
		timer_stop(&w->timers, &c->timer);
	else if (!c->timer.on || (c->timer.kind != kind && h->begun))
		timer_set(&w->timers, &c->timer, kind, w->now);
}

bool h2_step(struct conn *c)
{
	struct h2 *h = c->h2;
	bool moved = input(h);
	if (c->state == CONN_OVER)
		return false;
	if (!h->stopped)
		moved |= h2_streams_run(h);
	pump(h);
	if (c->state != CONN_OVER)
		moved |= output(h);
	if (c->state == CONN_OVER)
		return false;
	if (over(h)) {
		h2_free(c, false);
		conn_linger(c);
		return true;
	}
	if (!moved)
		quiet(h);
	return moved || h->ready;
}

void h2_late(struct conn *c)
{
	struct h2 *h = c->h2;
	if (c->out.len || h->stopped) { /* a client that does not read */
		conn_over(c, false);
		return;
	}
	h2_stop(h, h->head_stream ? NGHTTP2_ENHANCE_YOUR_CALM : NGHTTP2_NO_ERROR);
}

void h2_drain(struct conn *c)
{
	static const uint8_t opaque[8] = "drain";
	struct h2 *h = c->h2;
	if (h->draining)
		return;
	h->draining = true;
	(void)nghttp2_submit_shutdown_notice(h->s);
	(void)nghttp2_submit_ping(h->s, NGHTTP2_FLAG_NONE, opaque);
	conn_later(c);
}
