/* SPDX-License-Identifier: MIT */
#include "gatewayd/upstream/h2c.h"
#include "gatewayd/edge/h1.h"
#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define NV_MAX (HTTP_FIELDS_ROOM + 8)

struct h2c {
	struct h2c_opts o;
	nghttp2_session *session;
	struct h2c_stream *streams;
	size_t n;
	bool settled; /* the target has said what it takes */
	bool draining, broken, pinging;
	char why[128];
};

static void changed(struct h2c_stream *s)
{
	s->h->o.changed(s->owner);
}

/* ---- what the target says ---- */

static struct h2c_stream *stream_of(nghttp2_session *session, int32_t id)
{
	return nghttp2_session_get_stream_user_data(session, id);
}

static void ended(struct h2c_stream *s, bool broken)
{
	s->broken |= broken && !s->ended;
	s->ended = true;
	changed(s);
}

/* What the library finds no fault with: the stream is reset. */
static void refuse(struct h2c_stream *s, const char *why)
{
	snprintf(s->h->why, sizeof(s->h->why), "%s", why);
	nghttp2_submit_rst_stream(s->h->session, NGHTTP2_FLAG_NONE, s->id,
				  NGHTTP2_ENHANCE_YOUR_CALM);
	ended(s, true);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *arg)
{
	struct h2c_stream *s = stream_of(session, frame->hd.stream_id);
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

static int line_put(struct h2c_stream *s, const uint8_t *name, size_t n, const uint8_t *value,
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
	struct h2c_stream *s = stream_of(session, frame->hd.stream_id);
	(void)flags, (void)arg;
	if (!s || s->ended)
		return 0;
	if (s->in_trailers ? pair_put(&s->trailers, name, n, value, m)
			   : line_put(s, name, n, value, m))
		refuse(s, "too large head of the answer");
	return 0;
}

static void on_headers_end(struct h2c_stream *s)
{
	if (s->ended || s->in_trailers)
		return;
	if (km_buf_adds(&s->head, "\r\n"))
		refuse(s, "too large head of the answer");
	s->head_done = !s->interim;
	changed(s);
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *p, size_t n,
		   void *arg)
{
	struct h2c_stream *s = stream_of(session, id);
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
	changed(s);
	return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *f, void *arg)
{
	struct h2c *h = arg;
	struct h2c_stream *s = stream_of(session, f->hd.stream_id);
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
	struct h2c_stream *s = stream_of(session, id);
	struct h2c *h = arg;
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
	struct h2c_stream *s = stream_of(session, f->hd.stream_id);
	(void)arg;
	if (s && f->hd.type == NGHTTP2_HEADERS)
		s->sent = true;
	return 0;
}

/* A request that had to wait, and may not begin any more. */
static int on_not_sent(nghttp2_session *session, const nghttp2_frame *f, int code, void *arg)
{
	struct h2c *h = arg;
	struct h2c_stream *s;
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
	struct h2c *h = arg;
	(void)session;
	if (h->why[0])
		return 0;
	if (code == NGHTTP2_ERR_SETTINGS_EXPECTED)
		snprintf(h->why, sizeof(h->why), "the target does not speak HTTP/2 without TLS");
	else
		snprintf(h->why, sizeof(h->why), "HTTP/2 of the target: %.*s", (int)n, msg);
	return 0;
}

/* ---- life ---- */

static nghttp2_session *session_new(struct h2c *h)
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

struct h2c *h2c_new(const struct h2c_opts *o)
{
	const nghttp2_settings_entry settings[] = {
	    {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
	    {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, H2C_WINDOW},
	    {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)o->limits.head},
	};
	struct h2c *h = calloc(1, sizeof(*h));
	if (!h)
		return NULL;
	h->o = *o;
	h->session = session_new(h);
	if (h->session &&
	    !nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, settings,
				     KM_ARRAY_LEN(settings)) &&
	    !nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, 0,
						   H2C_WINDOW_ALL))
		return h;
	h2c_free(h);
	return NULL;
}

void h2c_free(struct h2c *h)
{
	if (!h)
		return;
	nghttp2_session_del(h->session);
	free(h);
}

/* ---- the connection ---- */

void h2c_lost(struct h2c *h, bool sent)
{
	struct h2c_stream *s;
	h->broken = true;
	DL_FOREACH (h->streams, s) {
		s->refused |= !s->ended && !(sent && s->sent);
		s->no_write = true;
		ended(s, true);
	}
}

/* The library closes no streams when it ends a session by itself. */
static int alive(struct h2c *h)
{
	if (h->broken || nghttp2_session_want_read(h->session) ||
	    nghttp2_session_want_write(h->session))
		return h->broken ? KM_EPROTO : 0;
	if (!h->n && h->draining)
		return 0;
	h2c_lost(h, true);
	return KM_EPROTO;
}

int h2c_receive(struct h2c *h, const void *p, size_t n)
{
	ssize_t used = nghttp2_session_mem_recv(h->session, p, n);
	if (used < 0) {
		on_error(h->session, 0, nghttp2_strerror((int)used),
			 strlen(nghttp2_strerror((int)used)), h);
		h2c_lost(h, true);
		return KM_EPROTO;
	}
	return alive(h);
}

int h2c_send(struct h2c *h, struct km_buf *out, size_t high)
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

bool h2c_room(const struct h2c *h)
{
	uint32_t most = nghttp2_session_get_remote_settings(
	    h->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
	return !h->draining && !h->broken && h->n < H2C_STREAMS_MAX &&
	       (!h->settled || h->n < most) && nghttp2_session_check_request_allowed(h->session);
}

bool h2c_over(const struct h2c *h)
{
	return !h->n && (h->draining || h->broken);
}

void h2c_drain(struct h2c *h)
{
	h->draining = true;
}

size_t h2c_streams(const struct h2c *h)
{
	return h->n;
}

struct h2c_stream *h2c_first(const struct h2c *h)
{
	return h->streams;
}

const char *h2c_why(const struct h2c *h)
{
	return h->why[0] ? h->why : "closed without an answer";
}

void h2c_ping(struct h2c *h)
{
	if (!h->pinging && !nghttp2_submit_ping(h->session, NGHTTP2_FLAG_NONE, NULL))
		h->pinging = true;
}

bool h2c_pinging(const struct h2c *h)
{
	return h->pinging;
}

/* ---- a request ---- */

void h2c_begin(struct h2c *h, struct h2c_stream *s, void *owner, struct km_buf *in,
	       struct km_buf *out)
{
	s->h = h;
	s->owner = owner;
	s->in = in;
	s->out = out;
	km_buf_init(&s->head, 2 * h->o.limits.head);
	km_buf_init(&s->trailers, H1_TRAILER_MAX);
	DL_APPEND(h->streams, s);
	h->n++;
}

static int trailers_submit(struct h2c_stream *s)
{
	struct http_str rest = {(const char *)km_buf_head(s->out_trailers), s->out_trailers->len};
	nghttp2_nv nv[NV_MAX];
	struct http_field f;
	size_t n = 0;
	while (n < NV_MAX && h1_field_next(&rest, &f))
		nv[n++] = (nghttp2_nv){(uint8_t *)(uintptr_t)f.name.p,
				       (uint8_t *)(uintptr_t)f.value.p, f.name.n, f.value.n, 0};
	return nghttp2_submit_trailer(s->h->session, s->id, nv, n);
}

static ssize_t on_body(nghttp2_session *session, int32_t id, uint8_t *buf, size_t n,
		       uint32_t *flags, nghttp2_data_source *source, void *arg)
{
	struct h2c_stream *s = stream_of(session, id);
	(void)source, (void)arg;
	if (!s)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	if (n > s->out->len)
		n = s->out->len;
	if (!n && !s->out_ended)
		return NGHTTP2_ERR_DEFERRED;
	if (n)
		memcpy(buf, km_buf_head(s->out), n);
	km_buf_consume(s->out, n);
	if (s->out_ended && !s->out->len) {
		*flags |= NGHTTP2_DATA_FLAG_EOF;
		if (s->out_trailers && s->out_trailers->len && !trailers_submit(s))
			*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
	}
	changed(s);
	return (ssize_t)n;
}

static nghttp2_nv pair(const char *name, struct http_str value)
{
	return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value.p, strlen(name),
			    value.n, 0};
}

/* Whether HTTP/2 has it too. Those about the client are the gateway's own. */
static bool field_goes(const struct http_field *f, const struct http_request *r)
{
	switch (f->id) {
	case HTTP_FORWARDED:
		return true;
	case HTTP_HOST:
	case HTTP_CONTENT_LENGTH:
	case HTTP_EXPECT:
	case HTTP_TE:
		return false;
	case HTTP_TRAILER:
		return r->body == HTTP_BODY_CHUNKED;
	default:
		return !f->hop;
	}
}

int h2c_request(struct h2c_stream *s, const struct http_request *r)
{
	static const struct http_str http = {"http", 4}, te = {"trailers", 8},
				     expect = {"100-continue", 12};
	bool body = r->body == HTTP_BODY_CHUNKED || (r->body == HTTP_BODY_LENGTH && r->length);
	const nghttp2_data_provider provider = {.read_callback = on_body};
	char length[24];
	nghttp2_nv nv[NV_MAX];
	size_t n = 0;
	nv[n++] = pair(":method", r->method);
	nv[n++] = pair(":scheme", http);
	nv[n++] = pair(":authority", r->authority);
	nv[n++] = pair(":path", r->target);
	for (size_t i = 0; i < r->n_fields; i++) {
		const struct http_field *f = &r->fields[i];
		if (field_goes(f, r))
			nv[n++] = (nghttp2_nv){(uint8_t *)(uintptr_t)f->name.p,
					       (uint8_t *)(uintptr_t)f->value.p, f->name.n,
					       f->value.n, 0};
	}
	if (r->te_trailers)
		nv[n++] = pair("te", te);
	if (r->expect_continue)
		nv[n++] = pair("expect", expect);
	if (r->body == HTTP_BODY_LENGTH) {
		struct http_str v = {length, 0};
		v.n =
		    (size_t)snprintf(length, sizeof(length), "%llu", (unsigned long long)r->length);
		nv[n++] = pair("content-length", v);
	}
	int32_t id = nghttp2_submit_request(s->h->session, NULL, nv, n, body ? &provider : NULL, s);
	if (id < 0)
		return KM_ENOMEM;
	s->id = id;
	return 0;
}

void h2c_flush(struct h2c_stream *s, bool is_ended, const struct km_buf *trailers)
{
	s->out_trailers = trailers;
	s->out_ended |= is_ended;
	if (s->id && (s->out->len || s->out_ended))
		nghttp2_session_resume_data(s->h->session, s->id);
}

bool h2c_taken(struct h2c_stream *s)
{
	if (s->held <= s->in->len)
		return false;
	if (s->id)
		nghttp2_session_consume_stream(s->h->session, s->id, s->held - s->in->len);
	s->held = s->in->len;
	return true;
}

int h2c_trailers(struct h2c_stream *s, struct body *b)
{
	struct km_cur cur = km_cur_of(km_buf_head(&s->trailers), s->trailers.len);
	int rc = 0;
	while (cur.left && !cur.bad && !rc) {
		uint32_t n[2];
		const uint8_t *p = km_cur_take(&cur, sizeof(n));
		if (!p)
			break;
		memcpy(n, p, sizeof(n));
		struct http_str name = {(const char *)km_cur_take(&cur, n[0]), n[0]};
		struct http_str value = {(const char *)km_cur_take(&cur, n[1]), n[1]};
		if (!cur.bad)
			rc = body_trailer(b, name, value);
	}
	return rc;
}

void h2c_drop(struct h2c_stream *s)
{
	struct h2c *h = s->h;
	if (!h)
		return;
	if (s->id) {
		nghttp2_session_set_stream_user_data(h->session, s->id, NULL);
		nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, s->id, NGHTTP2_CANCEL);
	}
	DL_DELETE(h->streams, s);
	h->n--;
	if (!h->broken)
		h->why[0] = '\0';
	km_buf_free(&s->head);
	km_buf_free(&s->trailers);
	memset(s, 0, sizeof(*s));
}
