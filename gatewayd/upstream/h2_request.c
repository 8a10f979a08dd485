/* SPDX-License-Identifier: MIT */
/* What goes to the target: requests, their bodies and trailers; and what is read of an answer. */
#include "gatewayd/edge/h1.h"
#include "gatewayd/upstream/h2_parts.h"
#include "libkm/base/err.h"
#include <stdio.h>
#include <string.h>
#include <utlist.h>

#define NV_MAX (HTTP_FIELDS_ROOM + 8)

void up_h2_begin(struct up_h2 *h, struct up_h2_stream *s, void *owner, struct km_buf *in,
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

static int trailers_submit(struct up_h2_stream *s)
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
	struct up_h2_stream *s = up_h2_of(session, id);
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
	up_h2_changed(s);
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

int up_h2_request(struct up_h2_stream *s, const struct http_request *r)
{
	static const struct http_str http = {"http", 4}, https = {"https", 5}, te = {"trailers", 8},
				     expect = {"100-continue", 12};
	bool body = r->body == HTTP_BODY_CHUNKED || (r->body == HTTP_BODY_LENGTH && r->length);
	const nghttp2_data_provider provider = {.read_callback = on_body};
	char length[24];
	nghttp2_nv nv[NV_MAX];
	size_t n = 0;
	nv[n++] = pair(":method", r->method);
	nv[n++] = pair(":scheme", s->h->o.https ? https : http);
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

void up_h2_flush(struct up_h2_stream *s, bool is_ended, const struct km_buf *trailers)
{
	s->out_trailers = trailers;
	s->out_ended |= is_ended;
	if (s->id && (s->out->len || s->out_ended))
		nghttp2_session_resume_data(s->h->session, s->id);
}

bool up_h2_taken(struct up_h2_stream *s)
{
	if (s->held <= s->in->len)
		return false;
	if (s->id)
		nghttp2_session_consume_stream(s->h->session, s->id, s->held - s->in->len);
	s->held = s->in->len;
	return true;
}

int up_h2_trailers(struct up_h2_stream *s, struct body *b)
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

void up_h2_drop(struct up_h2_stream *s)
{
	struct up_h2 *h = s->h;
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
