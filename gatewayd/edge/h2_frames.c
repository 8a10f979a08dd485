/* SPDX-License-Identifier: MIT */
/* What nghttp2 calls while frames come in and go out, in the order of a request. */
#include "gatewayd/edge/h2_session.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <string.h>
#include <utlist.h>

static struct h2_stream *stream_at(nghttp2_session *s, int32_t id)
{
	return nghttp2_session_get_stream_user_data(s, id);
}

void h2_stop(struct h2 *h, uint32_t error)
{
	if (h->stopped)
		return;
	h->stopped = true;
	(void)nghttp2_session_terminate_session(h->s, error);
}

/* nghttp2 reads nothing more of this. */
static int stop(struct h2 *h, uint32_t error)
{
	h2_stop(h, error);
	return NGHTTP2_ERR_CALLBACK_FAILURE;
}

/* ---- floods ---- */

void h2_flood(struct h2 *h, enum h2_flood kind)
{
	char ip[KM_ADDR_STRLEN];
	uint32_t held;
	struct worker *w = h->c->w;
	if (h->stopped)
		return;
	km_metric_add(h->sh->m_floods[kind], 1);
	if (km_log_allow(&h->sh->log, w->now, 10, 10000, &held))
		km_info("http/2 flood, connection closed",
			km_ks("client", km_addr_str(&h->c->addr, ip)),
			km_ks("kind", h2_flood_name(kind)), km_ki("held", held));
	h2_stop(h, NGHTTP2_ENHANCE_YOUR_CALM);
}

/* Nothing more is read of what a callback has failed for. */
static int spend(struct h2 *h, enum h2_flood kind)
{
	if (h2_limits_take(&h->limits, &h->sh->rates, kind, h->c->w->now))
		return 0;
	h2_flood(h, kind);
	return NGHTTP2_ERR_CALLBACK_FAILURE;
}

/* ---- heads ---- */

static int on_begin_headers(nghttp2_session *s, const nghttp2_frame *frame, void *arg)
{
	struct h2 *h = arg;
	int32_t id = frame->hd.stream_id;
	struct h2_stream *st;
	if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	if (!(st = h2_stream_new(h, id)))
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	h2_head_begin(&h->head, &h->c->w->sh->limits);
	h->head_stream = h->last_stream = id;
	(void)nghttp2_session_set_stream_user_data(s, id, st);
	return 0;
}

static int trailer(struct h2_stream *st, struct http_str name, struct http_str value)
{
	struct body *b = &st->x.req;
	st->trailer_bytes += name.n + value.n;
	if (st->trailer_bytes > H2_TRAILERS_MAX) {
		h2_flood(st->h, H2_FLOOD_HEADER);
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	}
	/* A target that has no use for them, or whose answer is whole, gets none. */
	if (st->x.state != EXCHANGE_RUNS || b->kind != HTTP_BODY_CLOSE || b->done)
		return 0;
	if (!h2_field_ok(name, value) || body_trailer(b, name, value))
		h2_stream_reset(st, NGHTTP2_PROTOCOL_ERROR);
	return 0;
}

static int on_header(nghttp2_session *s, const nghttp2_frame *frame, const uint8_t *name,
		     size_t namelen, const uint8_t *value, size_t valuelen, uint8_t flags,
		     void *arg)
{
	struct h2 *h = arg;
	struct h2_stream *st;
	struct http_str n = {(const char *)name, namelen}, v = {(const char *)value, valuelen};
	(void)flags;
	if (frame->hd.type != NGHTTP2_HEADERS)
		return 0;
	if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
		st = stream_at(s, frame->hd.stream_id);
		return st ? trailer(st, n, v) : 0;
	}
	h2_head_field(&h->head, n, v);
	if (!h2_head_bomb(&h->head))
		return 0;
	h2_flood(h, H2_FLOOD_HEADER);
	return NGHTTP2_ERR_CALLBACK_FAILURE;
}

/* Without this nghttp2 would drop the field and go on. */
static int on_invalid_header(nghttp2_session *s, const nghttp2_frame *frame, const uint8_t *name,
			     size_t namelen, const uint8_t *value, size_t valuelen, uint8_t flags,
			     void *arg)
{
	(void)s, (void)frame, (void)name, (void)namelen, (void)value, (void)valuelen, (void)flags;
	(void)arg;
	return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

/* ---- frames ---- */

/* What a frame costs that asks for nothing; -1: not one of those. */
static int flood_of(const nghttp2_frame_hd *hd)
{
	switch (hd->type) {
	case NGHTTP2_RST_STREAM:
		return H2_FLOOD_RESET;
	case NGHTTP2_PING:
		return H2_FLOOD_PING;
	case NGHTTP2_SETTINGS:
		return H2_FLOOD_SETTINGS;
	case NGHTTP2_WINDOW_UPDATE:
		return H2_FLOOD_WINDOW;
	case NGHTTP2_DATA:
	case NGHTTP2_HEADERS:
		return -1;
	default:
		return H2_FLOOD_PRIORITY;
	}
}

/* ---- what nghttp2 takes more easily than RFC 9113 ---- */

static bool reset_lately(const struct h2 *h, int32_t id)
{
	for (size_t i = 0; i < H2_RESETS; i++)
		if (h->resets[i] == id)
			return true;
	return false;
}

/* Sections 5.1 and 5.1.1: on a stream that is over, or was passed over, only what had been sent
 * before our RST_STREAM came is ignored. */
static int headers_check(struct h2 *h, const nghttp2_frame_hd *hd)
{
	if (hd->stream_id > h->last_stream || nghttp2_session_find_stream(h->s, hd->stream_id) ||
	    reset_lately(h, hd->stream_id))
		return 0;
	return stop(h, NGHTTP2_PROTOCOL_ERROR);
}

/* Section 6.9.2: SETTINGS that make a window too large end the connection, not its stream. */
static void windows_note(struct h2 *h)
{
	struct h2_stream *st;
	h->widest = 0;
	DL_FOREACH (h->streams, st) {
		int32_t n = nghttp2_session_get_stream_remote_window_size(h->s, st->id);
		h->widest = n > h->widest ? n : h->widest;
	}
	h->widest -=
	    nghttp2_session_get_remote_settings(h->s, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE);
}

static int windows_check(struct h2 *h, const nghttp2_settings *settings)
{
	for (size_t i = 0; h->streams && i < settings->niv; i++)
		if (settings->iv[i].settings_id == NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE &&
		    h->widest + settings->iv[i].value > INT32_MAX)
			return stop(h, NGHTTP2_FLOW_CONTROL_ERROR);
	return 0;
}

/* ---- */

static int on_begin_frame(nghttp2_session *s, const nghttp2_frame_hd *hd, void *arg)
{
	struct h2 *h = arg;
	int kind = flood_of(hd), rc = 0;
	(void)s;
	if (hd->type == NGHTTP2_HEADERS)
		rc = headers_check(h, hd);
	else if (hd->type == NGHTTP2_PRIORITY && !hd->stream_id) /* section 6.3 */
		rc = stop(h, NGHTTP2_PROTOCOL_ERROR);
	else if (hd->type == NGHTTP2_SETTINGS && !(hd->flags & NGHTTP2_FLAG_ACK))
		windows_note(h);
	return rc || kind < 0 ? rc : spend(h, (enum h2_flood)kind);
}

/* The drain's PING is back, so the client knows of it: no request that it has sent since counts. */
static void on_pong(struct h2 *h)
{
	if (!h->draining || h->drained)
		return;
	h->drained = true;
	(void)nghttp2_submit_goaway(h->s, NGHTTP2_FLAG_NONE,
				    nghttp2_session_get_last_proc_stream_id(h->s), NGHTTP2_NO_ERROR,
				    NULL, 0);
}

static int on_frame_recv(nghttp2_session *s, const nghttp2_frame *frame, void *arg)
{
	struct h2 *h = arg;
	const nghttp2_frame_hd *hd = &frame->hd;
	bool last = hd->flags & NGHTTP2_FLAG_END_STREAM;
	struct h2_stream *st;
	h->begun = true;
	if (hd->type == NGHTTP2_RST_STREAM)
		km_metric_add(h->sh->m_resets_client, 1);
	if (hd->type == NGHTTP2_PING && (hd->flags & NGHTTP2_FLAG_ACK))
		on_pong(h);
	if (hd->type == NGHTTP2_SETTINGS)
		return windows_check(h, &frame->settings);
	if (hd->type != NGHTTP2_HEADERS && hd->type != NGHTTP2_DATA)
		return 0;
	if (hd->type == NGHTTP2_DATA && !last && hd->length == frame->data.padlen)
		return spend(h, H2_FLOOD_EMPTY);
	if (hd->type == NGHTTP2_HEADERS)
		h->head_stream = 0;
	if (!(st = stream_at(s, hd->stream_id)))
		return 0;
	if (hd->type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
		h2_stream_request(st, last);
	} else if (last) {
		st->ended = true;
		h2_stream_ready(st);
	}
	return 0;
}

static int on_data(nghttp2_session *s, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
		   void *arg)
{
	struct h2_stream *st = stream_at(s, id);
	(void)flags, (void)arg;
	/* Nobody takes it, but the connection's window is for others too. */
	if (!st || (st->x.state != EXCHANGE_RUNS && st->x.state != EXCHANGE_RAW)) {
		(void)nghttp2_session_consume_connection(s, n);
		return 0;
	}
	if (km_buf_add(&st->in, p, n))
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	h2_stream_ready(st);
	return 0;
}

static int on_stream_close(nghttp2_session *s, int32_t id, uint32_t error, void *arg)
{
	struct h2 *h = arg;
	struct h2_stream *st = stream_at(s, id);
	(void)error;
	if (h->head_stream == id)
		h->head_stream = 0;
	if (st)
		h2_stream_free(st, false);
	return 0;
}

/* ---- going out ---- */

static int on_frame_send(nghttp2_session *s, const nghttp2_frame *frame, void *arg)
{
	struct h2 *h = arg;
	const nghttp2_frame_hd *hd = &frame->hd;
	struct h2_stream *st;
	if (hd->type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR)
		km_metric_add(h->sh->m_errors, 1);
	if (hd->type == NGHTTP2_RST_STREAM) {
		h->resets[h->n_resets++ % H2_RESETS] = hd->stream_id;
		st = stream_at(s, hd->stream_id);
		if ((st && st->reset) || h->stopped)
			return 0;
		/* nghttp2's own: the client has made it necessary. */
		km_metric_add(h->sh->m_resets_gateway, 1);
		if (!h2_limits_take(&h->limits, &h->sh->rates, H2_FLOOD_ERROR, h->c->w->now))
			h2_flood(h, H2_FLOOD_ERROR);
		return 0;
	}
	if ((hd->type != NGHTTP2_HEADERS && hd->type != NGHTTP2_DATA) ||
	    !(hd->flags & NGHTTP2_FLAG_END_STREAM))
		return 0;
	/* The answer is whole, the request need not be: RFC 9113 section 8.1. */
	st = stream_at(s, hd->stream_id);
	if (st && !st->ended)
		h2_stream_reset(st, NGHTTP2_NO_ERROR);
	return 0;
}

/* An answer's head that nghttp2 cannot write: the client must not wait for it. */
static int on_frame_not_send(nghttp2_session *s, const nghttp2_frame *frame, int error, void *arg)
{
	struct h2_stream *st = stream_at(s, frame->hd.stream_id);
	(void)error, (void)arg;
	if (st && frame->hd.type == NGHTTP2_HEADERS)
		h2_stream_reset(st, NGHTTP2_INTERNAL_ERROR);
	return 0;
}

void h2_frames_set(nghttp2_session_callbacks *cb)
{
	nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
	nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
	nghttp2_session_callbacks_set_on_invalid_header_callback(cb, on_invalid_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame_recv);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
	nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_send);
	nghttp2_session_callbacks_set_on_frame_not_send_callback(cb, on_frame_not_send);
	nghttp2_session_callbacks_set_send_data_callback(cb, h2_stream_send);
}
