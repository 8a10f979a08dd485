/* SPDX-License-Identifier: MIT */
#include "gatewayd/upstream/h2_parts.h"
#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

/* ---- what the target says ---- */

static void ended(struct up_h2_stream *s, bool broken)
{
	s->broken |= broken && !s->ended;
	s->ended = true;
	up_h2_changed(s);
}

/* What the library finds no fault with: the stream is reset. */
static void refuse(struct up_h2_stream *s, const char *why)
{
	snprintf(s->h->why, sizeof(s->h->why), "%s", why);
	nghttp2_submit_rst_stream(s->h->session, NGHTTP2_FLAG_NONE, s->id,
				  NGHTTP2_ENHANCE_YOUR_CALM);
	ended(s, true);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct up_h2_stream *s = up_h2_of(session, frame->hd.stream_id);
	(void)arg;
	if (s && frame->hd.type == NGHTTP2_HEADERS)
		s->in_trailers = s->head_done;
	return 0;
}

static int pair_put(struct km_buf *b, const uint8_t *name, size_t n, const uint8_t *value, size_t m)
{
	uint32_t lengths[2] = {(uint32_t)n, (uint32_t)m};
	int rc = km_buf_add(b, lengths, sizeof(lengths));
	if (!rc)
		rc = km_buf_add(b, name, n);
	return rc ? rc : km_buf_add(b, value, m);
}

static int line_put(struct up_h2_stream *s, const uint8_t *name, size_t n, const uint8_t *value,
		    size_t m)
{
	struct km_buf *b = &s->head;
	if (n == 7 && !memcmp(name, ":status", 7)) {
		s->interim = value[0] == '1';
		return km_buf_addf(b, "HTTP/1.1 %.*s \r\n", (int)m, (const char *)value);
	}
	int rc = km_buf_add(b, name, n);
	if (!rc)
		rc = km_buf_adds(b, ": ");
	if (!rc)
		rc = km_buf_add(b, value, m);
	return rc ? rc : km_buf_adds(b, "\r\n");
}

/* Names and values have passed the library's own look: they hold no line's end, and :status, three
 * digits, comes first and once. */
static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
		     size_t n, const uint8_t *value, size_t m, uint8_t flags, void *arg)
{
	struct up_h2_stream *s = up_h2_of(session, frame->hd.stream_id);
	(void)flags, (void)arg;
	if (!s || s->ended)
		return 0;
	if (s->in_trailers ? pair_put(&s->trailers, name, n, value, m)
			   : line_put(s, name, n, value, m))
		refuse(s, "too large head of the answer");
	return 0;
}

static void on_headers_end(struct up_h2_stream *s)
{
	if (s->ended || s->in_trailers)
		return;
	if (km_buf_adds(&s->head, "\r\n"))
		refuse(s, "too large head of the answer");
	s->head_done = !s->interim;
	up_h2_changed(s);
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
		   void *arg)
{
	struct up_h2_stream *s = up_h2_of(session, id);
	(void)flags, (void)arg;
	/* One slow reader keeps no other from reading: only its own window waits for it. */
	nghttp2_session_consume_connection(session, n);
	if (!s || s->ended || km_buf_add(s->in, p, n)) {
		nghttp2_session_consume_stream(session, id, n);
		if (s && !s->ended)
			refuse(s, "no room for the body of the answer");
		return 0;
	}
	s->held += n;
	up_h2_changed(s);
	return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *f, void *arg)
{
	struct up_h2 *h = arg;
	struct up_h2_stream *s = up_h2_of(session, f->hd.stream_id);
	if (f->hd.type == NGHTTP2_SETTINGS && !(f->hd.flags & NGHTTP2_FLAG_ACK))
		h->settled = true;
	if (f->hd.type == NGHTTP2_GOAWAY)
		h->draining = true;
	if (f->hd.type == NGHTTP2_PING && (f->hd.flags & NGHTTP2_FLAG_ACK))
		h->pinging = false;
	if (s && f->hd.type == NGHTTP2_HEADERS)
		on_headers_end(s);
	if (s && (f->hd.type == NGHTTP2_HEADERS || f->hd.type == NGHTTP2_DATA) &&
	    (f->hd.flags & NGHTTP2_FLAG_END_STREAM))
		ended(s, false);
	return 0;
}

/* GOAWAY closes what it does not count as processed with REFUSED_STREAM (RFC 9113 section 6.8). */
static int on_close(nghttp2_session *session, int32_t id, uint32_t error, void *arg)
{
	struct up_h2_stream *s = up_h2_of(session, id);
	struct up_h2 *h = arg;
	if (!s)
		return 0;
	s->id = 0;
	s->no_write = true;
	s->refused |= error == NGHTTP2_REFUSED_STREAM && !s->ended;
	s->reset |= error != NGHTTP2_REFUSED_STREAM && !s->ended;
	if (error != NGHTTP2_NO_ERROR && !s->ended && !h->why[0])
		snprintf(h->why, sizeof(h->why), "the target has reset the stream: %s",
			 nghttp2_http2_strerror(error));
	ended(s, true); /* if it has not ended properly before */
	return 0;
}

static int on_sent(nghttp2_session *session, const nghttp2_frame *f, void *arg)
{
	struct up_h2_stream *s = up_h2_of(session, f->hd.stream_id);
	(void)arg;
	if (s && f->hd.type == NGHTTP2_HEADERS)
		s->sent = true;
	return 0;
}

/* A request that had to wait, and may not begin any more. */
static int on_not_sent(nghttp2_session *session, const nghttp2_frame *f, int code, void *arg)
{
	struct up_h2 *h = arg;
	struct up_h2_stream *s;
	(void)session, (void)code;
	if (f->hd.type != NGHTTP2_HEADERS || f->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	DL_FOREACH (h->streams, s) {
		if (s->id != f->hd.stream_id)
			continue;
		s->id = 0;
		s->refused = s->no_write = true;
		ended(s, true);
		break;
	}
	return 0;
}

static int on_error(nghttp2_session *session, int code, const char *msg, size_t n, void *arg)
{
	struct up_h2 *h = arg;
	(void)session;
	if (h->why[0])
		return 0;
	if (code == NGHTTP2_ERR_SETTINGS_EXPECTED)
		snprintf(h->why, sizeof(h->why), "the target does not speak HTTP/2%s",
			 h->o.https ? ", which it has chosen" : " without TLS");
	else
		snprintf(h->why, sizeof(h->why), "HTTP/2 of the target: %.*s", (int)n, msg);
	return 0;
}

/* ---- life ---- */

static nghttp2_session *session_new(struct up_h2 *h)
{
	nghttp2_session_callbacks *c = NULL;
	nghttp2_option *o = NULL;
	nghttp2_session *session = NULL;
	if (nghttp2_session_callbacks_new(&c) || nghttp2_option_new(&o))
		goto out;
	nghttp2_session_callbacks_set_on_begin_headers_callback(c, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(c, on_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, on_data);
	nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame);
	nghttp2_session_callbacks_set_on_stream_close_callback(c, on_close);
	nghttp2_session_callbacks_set_on_frame_send_callback(c, on_sent);
	nghttp2_session_callbacks_set_on_frame_not_send_callback(c, on_not_sent);
	nghttp2_session_callbacks_set_error_callback2(c, on_error);
	nghttp2_option_set_no_auto_window_update(o, 1);
	/* Until the target has said how many it takes, one; others stand behind it. */
	nghttp2_option_set_peer_max_concurrent_streams(o, 1);
	nghttp2_option_set_max_send_header_block_length(o, 2 * h->o.limits.head + 65536);
	if (nghttp2_session_client_new2(&session, c, h, o))
		session = NULL;
out:
	nghttp2_option_del(o);
	nghttp2_session_callbacks_del(c);
	return session;
}

struct up_h2 *up_h2_new(const struct up_h2_opts *o)
{
	const nghttp2_settings_entry settings[] = {
	    {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
	    {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, UP_H2_WINDOW},
	    {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)o->limits.head},
	};
	struct up_h2 *h = calloc(1, sizeof(*h));
	if (!h)
		return NULL;
	h->o = *o;
	h->session = session_new(h);
	if (h->session &&
	    !nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, settings,
				     KM_ARRAY_LEN(settings)) &&
	    !nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, 0,
						   UP_H2_WINDOW_ALL))
		return h;
	up_h2_free(h);
	return NULL;
}

void up_h2_free(struct up_h2 *h)
{
	if (!h)
		return;
	nghttp2_session_del(h->session);
	free(h);
}

/* ---- the connection ---- */

void up_h2_lost(struct up_h2 *h, bool sent)
{
	struct up_h2_stream *s;
	h->broken = true;
	DL_FOREACH (h->streams, s) {
		s->refused |= !s->ended && !(sent && s->sent);
		s->no_write = true;
		ended(s, true);
	}
}

/* The library closes no streams when it ends a session by itself. */
static int alive(struct up_h2 *h)
{
	if (h->broken || nghttp2_session_want_read(h->session) ||
	    nghttp2_session_want_write(h->session))
		return h->broken ? KM_EPROTO : 0;
	if (!h->n && h->draining)
		return 0;
	up_h2_lost(h, true);
	return KM_EPROTO;
}

int up_h2_receive(struct up_h2 *h, const void *p, size_t n)
{
	ssize_t used = nghttp2_session_mem_recv(h->session, p, n);
	if (used < 0) {
		on_error(h->session, 0, nghttp2_strerror((int)used),
			 strlen(nghttp2_strerror((int)used)), h);
		up_h2_lost(h, true);
		return KM_EPROTO;
	}
	return alive(h);
}

int up_h2_send(struct up_h2 *h, struct km_buf *out, size_t high)
{
	const uint8_t *p;
	while (out->len < high) {
		ssize_t n = nghttp2_session_mem_send(h->session, &p);
		int rc = n < 0 ? KM_ENOMEM : n ? km_buf_add(out, p, (size_t)n) : 0;
		if (rc)
			return rc;
		if (!n)
			break;
	}
	return 0;
}

bool up_h2_room(const struct up_h2 *h)
{
	uint32_t most = nghttp2_session_get_remote_settings(
	    h->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
	return !h->draining && !h->broken && h->n < UP_H2_STREAMS_MAX &&
	       (!h->settled || h->n < most) && nghttp2_session_check_request_allowed(h->session);
}

bool up_h2_over(const struct up_h2 *h)
{
	return !h->n && (h->draining || h->broken);
}

void up_h2_drain(struct up_h2 *h)
{
	h->draining = true;
}

size_t up_h2_streams(const struct up_h2 *h)
{
	return h->n;
}

struct up_h2_stream *up_h2_first(const struct up_h2 *h)
{
	return h->streams;
}

const char *up_h2_why(const struct up_h2 *h)
{
	return h->why[0] ? h->why : "closed without an answer";
}

void up_h2_ping(struct up_h2 *h)
{
	if (!h->pinging && !nghttp2_submit_ping(h->session, NGHTTP2_FLAG_NONE, NULL))
		h->pinging = true;
}

bool up_h2_pinging(const struct up_h2 *h)
{
	return h->pinging;
}
