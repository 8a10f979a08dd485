/* SPDX-License-Identifier: MIT */
/* HTTP/2 towards targets: the other side is libnghttp2's server in memory, and frames by hand where
 * it would not misbehave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/edge/h1.h"
#include "gatewayd/upstream/h2.h"
#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include <cmocka.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a server ---- */

struct server {
	nghttp2_session *session;
	char seen[8192]; /* "name: value\n" of requests and their trailers, "#id\n" before each */
	char body[8192];
	size_t left;   /* of the answer's body */
	bool trailers; /* behind it */
	bool hold;     /* answers nothing by itself */
	bool early;    /* 103 before */
	int status;
	uint32_t refuse; /* reset streams with this */
	int resets, done;
	const char *extra[2]; /* a field more */
	FILE *record;
};

static ssize_t srv_data(nghttp2_session *session, int32_t id, uint8_t *buf, size_t n,
			uint32_t *flags, nghttp2_data_source *source, void *arg)
{
	struct server *v = arg;
	(void)source;
	if (n > v->left)
		n = v->left;
	memset(buf, 'x', n);
	v->left -= n;
	if (!v->left) {
		*flags |= NGHTTP2_DATA_FLAG_EOF;
		if (v->trailers) {
			nghttp2_nv nv[] = {{(uint8_t *)"grpc-status", (uint8_t *)"0", 11, 1, 0},
					   {(uint8_t *)"x-more", (uint8_t *)"a b", 6, 3, 0}};
			*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
			nghttp2_submit_trailer(session, id, nv, 2);
		}
	}
	return (ssize_t)n;
}

static void srv_answer(struct server *v, int32_t id)
{
	const nghttp2_data_provider provider = {.read_callback = srv_data};
	char status[4];
	snprintf(status, sizeof(status), "%d", v->status);
	nghttp2_nv nv[3] = {{(uint8_t *)":status", (uint8_t *)status, 7, 3, 0},
			    {(uint8_t *)"content-type", (uint8_t *)"text/x", 12, 6, 0}};
	size_t n = 2;
	if (v->extra[0])
		nv[n++] = (nghttp2_nv){(uint8_t *)v->extra[0], (uint8_t *)v->extra[1],
				       strlen(v->extra[0]), strlen(v->extra[1]), 0};
	if (v->early) {
		nghttp2_nv early[] = {{(uint8_t *)":status", (uint8_t *)"103", 7, 3, 0},
				      {(uint8_t *)"link", (uint8_t *)"</a>", 4, 4, 0}};
		nghttp2_submit_headers(v->session, 0, id, NULL, early, 2, NULL);
	}
	nghttp2_submit_response(v->session, id, nv, n, v->left || v->trailers ? &provider : NULL);
}

static int srv_header(nghttp2_session *session, const nghttp2_frame *f, const uint8_t *name,
		      size_t n, const uint8_t *value, size_t m, uint8_t flags, void *arg)
{
	struct server *v = arg;
	(void)session, (void)f, (void)flags;
	size_t at = strlen(v->seen);
	snprintf(v->seen + at, sizeof(v->seen) - at, "%.*s: %.*s\n", (int)n, (const char *)name,
		 (int)m, (const char *)value);
	return 0;
}

static int srv_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *p,
		     size_t n, void *arg)
{
	struct server *v = arg;
	(void)session, (void)flags, (void)id;
	size_t at = strlen(v->body);
	snprintf(v->body + at, sizeof(v->body) - at, "%.*s", (int)n, (const char *)p);
	return 0;
}

static int srv_frame(nghttp2_session *session, const nghttp2_frame *f, void *arg)
{
	struct server *v = arg;
	if (f->hd.type == NGHTTP2_RST_STREAM)
		v->resets++;
	if (f->hd.type == NGHTTP2_HEADERS && v->refuse)
		nghttp2_submit_rst_stream(session, 0, f->hd.stream_id, v->refuse);
	else if ((f->hd.type == NGHTTP2_HEADERS || f->hd.type == NGHTTP2_DATA) &&
		 (f->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
		v->done++;
		if (!v->hold)
			srv_answer(v, f->hd.stream_id);
	}
	return 0;
}

static void srv_new(struct server *v, uint32_t streams)
{
	nghttp2_session_callbacks *c;
	nghttp2_settings_entry set[] = {{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, streams}};
	memset(v, 0, sizeof(*v));
	v->status = 200;
	nghttp2_session_callbacks_new(&c);
	nghttp2_session_callbacks_set_on_header_callback(c, srv_header);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, srv_chunk);
	nghttp2_session_callbacks_set_on_frame_recv_callback(c, srv_frame);
	assert_int_equal(nghttp2_session_server_new(&v->session, c, v), 0);
	nghttp2_session_callbacks_del(c);
	nghttp2_submit_settings(v->session, 0, set, streams ? 1 : 0);
}

/* ---- our side ---- */

struct client {
	struct up_h2 *h;
	struct up_h2_stream s;
	struct km_buf in, out;
	struct http_request req;
	int changes;
};

static const struct http_limits limits = {16384, 100};

static void on_changed(void *owner)
{
	struct client *c = owner;
	c->changes++;
}

static struct up_h2 *h2_make(void)
{
	struct up_h2 *h = up_h2_new(&(struct up_h2_opts){.limits = limits, .changed = on_changed});
	assert_non_null(h);
	return h;
}

static void ask(struct client *c, struct up_h2 *h, const char *head)
{
	const char *why;
	memset(c, 0, sizeof(*c));
	c->h = h;
	km_buf_init(&c->in, UP_H2_WINDOW);
	km_buf_init(&c->out, 65536);
	up_h2_begin(h, &c->s, c, &c->in, &c->out);
	assert_int_equal(h1_request_parse(&c->req, head, strlen(head), &limits, &why), 0);
	assert_int_equal(up_h2_request(&c->s, &c->req), 0);
}

static void done(struct client *c)
{
	up_h2_drop(&c->s);
	km_buf_free(&c->in);
	km_buf_free(&c->out);
}

/* Both sides talk until neither has anything to say. */
static int talk(struct up_h2 *h, struct server *v)
{
	int rc = 0;
	for (int i = 0; i < 50; i++) {
		struct km_buf b;
		const uint8_t *p;
		ssize_t n;
		km_buf_init(&b, 1 << 20);
		assert_int_equal(up_h2_send(h, &b, 65536), 0);
		bool moved = b.len > 0;
		if (b.len)
			assert_int_equal(
			    nghttp2_session_mem_recv(v->session, km_buf_head(&b), b.len), b.len);
		km_buf_free(&b);
		while ((n = nghttp2_session_mem_send(v->session, &p)) > 0) {
			moved = true;
			if (v->record)
				fwrite(p, 1, (size_t)n, v->record);
			if (!rc)
				rc = up_h2_receive(h, p, (size_t)n);
		}
		if (!moved)
			break;
	}
	return rc;
}

static const char *head_of(struct client *c)
{
	static char text[4096];
	snprintf(text, sizeof(text), "%.*s", (int)c->s.head.len,
		 (const char *)km_buf_head(&c->s.head));
	return text;
}

#define GET "GET /a?b HTTP/1.1\r\nHost: a.test\r\nX-Up: 1\r\nX-Forwarded-For: 192.0.2.1\r\n"

static void test_a_request_and_its_answer(void **state)
{
	struct up_h2 *h = h2_make();
	struct server v;
	struct client c;
	(void)state;
	srv_new(&v, 0);
	v.left = 5;
	ask(&c, h, GET "TE: trailers\r\nConnection: TE\r\n\r\n");
	assert_int_equal(talk(h, &v), 0);
	assert_string_equal(v.seen, ":method: GET\n:scheme: http\n:authority: a.test\n:path: /a?b\n"
				    "x-up: 1\nx-forwarded-for: 192.0.2.1\nte: trailers\n");
	assert_string_equal(head_of(&c), "HTTP/1.1 200 \r\ncontent-type: text/x\r\n\r\n");
	assert_int_equal(c.in.len, 5);
	assert_true(c.s.ended && !c.s.broken && c.s.head_done && c.changes);
	done(&c);
	assert_int_equal(up_h2_streams(h), 0);
	assert_int_equal(talk(h, &v), 0);
	assert_int_equal(v.resets, 0); /* it had ended by itself */
	ask(&c, h, "OPTIONS * HTTP/1.1\r\nHost: a.test:81\r\n\r\n");
	v.seen[0] = '\0';
	assert_int_equal(talk(h, &v), 0);
	assert_string_equal(v.seen,
			    ":method: OPTIONS\n:scheme: http\n:authority: a.test:81\n:path: *\n");
	done(&c);
	nghttp2_session_del(v.session);
	up_h2_free(h);
}

static void test_bodies_and_trailers(void **state)
{
	struct up_h2 *h = h2_make();
	struct server v;
	struct client c;
	struct km_buf trailers;
	struct body b;
	(void)state;
	srv_new(&v, 0);
	v.trailers = true;
	v.left = 3;
	ask(&c, h,
	    "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nTrailer: "
	    "x-sum\r\n\r\n");
	assert_int_equal(talk(h, &v), 0);
	assert_int_equal(v.done, 0);
	assert_int_equal(km_buf_adds(&c.out, "hello "), 0);
	up_h2_flush(&c.s, false, NULL);
	assert_int_equal(talk(h, &v), 0);
	assert_string_equal(v.body, "hello ");
	assert_int_equal(km_buf_adds(&c.out, "you"), 0);
	km_buf_init(&trailers, 100);
	assert_int_equal(km_buf_adds(&trailers, "X-Sum: 12\r\n"), 0);
	up_h2_flush(&c.s, true, &trailers);
	assert_int_equal(talk(h, &v), 0);
	assert_string_equal(v.body, "hello you");
	assert_non_null(strstr(v.seen, "trailer: x-sum\nx-sum: 12\n"));
	assert_null(strstr(v.seen, "transfer-encoding"));
	assert_int_equal(v.done, 1);
	memset(&b, 0, sizeof(b));
	body_begin(&b, HTTP_BODY_CLOSE, 0, false);
	body_keep_trailers(&b, NULL, 0);
	assert_true(c.s.ended && !c.s.broken);
	assert_int_equal(up_h2_trailers(&c.s, &b), 0);
	assert_int_equal(b.trailers.len, strlen("grpc-status: 0\r\nx-more: a b\r\n"));
	assert_memory_equal(km_buf_head(&b.trailers), "grpc-status: 0\r\nx-more: a b\r\n",
			    b.trailers.len);
	body_end(&b);
	km_buf_free(&trailers);
	done(&c);
	/* With a length; and one of nothing. */
	ask(&c, h,
	    "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
	assert_int_equal(km_buf_adds(&c.out, "abc"), 0);
	up_h2_flush(&c.s, true, NULL);
	v.seen[0] = v.body[0] = '\0';
	assert_int_equal(talk(h, &v), 0);
	assert_string_equal(v.body, "abc");
	assert_non_null(strstr(v.seen, "expect: 100-continue\ncontent-length: 3\n"));
	done(&c);
	ask(&c, h, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n");
	v.seen[0] = '\0';
	assert_int_equal(talk(h, &v), 0);
	assert_non_null(strstr(v.seen, "content-length: 0\n"));
	assert_int_equal(v.done, 3);
	done(&c);
	nghttp2_session_del(v.session);
	up_h2_free(h);
}

static void test_interim_answers(void **state)
{
	struct up_h2 *h = h2_make();
	struct server v;
	struct client c;
	(void)state;
	srv_new(&v, 0);
	v.early = true;
	ask(&c, h, GET "\r\n");
	assert_int_equal(talk(h, &v), 0);
	assert_string_equal(head_of(&c), "HTTP/1.1 103 \r\nlink: </a>\r\n\r\n"
					 "HTTP/1.1 200 \r\ncontent-type: text/x\r\n\r\n");
	assert_true(c.s.ended && !c.s.broken && !c.s.in_trailers);
	done(&c);
	nghttp2_session_del(v.session);
	up_h2_free(h);
}

/* A reader that does not read holds back its own stream alone, at the window. */
static void test_the_pace_is_the_readers(void **state)
{
	struct up_h2 *h = h2_make();
	struct server v;
	struct client slow, other;
	(void)state;
	srv_new(&v, 0);
	v.left = 3 * UP_H2_WINDOW;
	ask(&slow, h, GET "\r\n");
	assert_int_equal(talk(h, &v), 0);
	assert_int_equal(slow.in.len, UP_H2_WINDOW);
	assert_int_equal(talk(h, &v), 0);
	assert_int_equal(slow.in.len, UP_H2_WINDOW);
	size_t left = v.left;
	v.left = 10;
	ask(&other, h, GET "\r\n");
	assert_int_equal(talk(h, &v), 0);
	assert_true(other.s.ended && other.in.len == 10);
	done(&other);
	v.left = left;
	km_buf_consume(&slow.in, UP_H2_WINDOW);
	up_h2_taken(&slow.s);
	assert_int_equal(talk(h, &v), 0);
	assert_int_equal(slow.in.len, UP_H2_WINDOW);
	km_buf_consume(&slow.in, UP_H2_WINDOW);
	up_h2_taken(&slow.s);
	assert_int_equal(talk(h, &v), 0);
	assert_true(slow.s.ended && !slow.s.broken);
	/* One that goes in the middle is cancelled. */
	v.left = 3 * UP_H2_WINDOW;
	done(&slow);
	ask(&other, h, GET "\r\n");
	assert_int_equal(talk(h, &v), 0);
	done(&other);
	assert_int_equal(talk(h, &v), 0);
	assert_int_equal(v.resets, 1);
	assert_true(up_h2_room(h));
	nghttp2_session_del(v.session);
	up_h2_free(h);
}

static void test_what_was_not_processed(void **state)
{
	struct up_h2 *h = h2_make();
	struct server v;
	struct client a, b, c;
	(void)state;
	srv_new(&v, 0);
	v.refuse = NGHTTP2_REFUSED_STREAM;
	ask(&a, h, GET "\r\n");
	assert_int_equal(talk(h, &v), 0);
	assert_true(a.s.ended && a.s.broken && a.s.refused && a.s.no_write);
	done(&a);
	assert_true(up_h2_room(h));
	v.refuse = NGHTTP2_INTERNAL_ERROR;
	ask(&a, h, GET "\r\n");
	assert_int_equal(talk(h, &v), 0);
	assert_true(a.s.ended && a.s.broken && !a.s.refused);
	assert_non_null(strstr(up_h2_why(h), "INTERNAL_ERROR"));
	done(&a);
	/* GOAWAY: the first may still be answered, the second was not looked at. */
	v.refuse = 0;
	v.hold = true;
	ask(&a, h, GET "\r\n");
	assert_int_equal(talk(h, &v), 0);
	ask(&b, h, GET "\r\n");
	ask(&c, h, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\n");
	nghttp2_submit_goaway(v.session, 0, nghttp2_session_get_last_proc_stream_id(v.session), 0,
			      NULL, 0);
	const uint8_t *p;
	ssize_t n;
	while ((n = nghttp2_session_mem_send(v.session, &p)) > 0)
		assert_int_equal(up_h2_receive(h, p, (size_t)n), 0);
	assert_false(up_h2_room(h));
	assert_int_equal(talk(h, &v), 0);
	assert_true(b.s.refused && b.s.ended && c.s.refused && c.s.ended);
	assert_false(a.s.ended);
	done(&b);
	done(&c);
	srv_answer(&v, a.s.id);
	(void)talk(h, &v);
	assert_true(a.s.ended && !a.s.broken);
	done(&a);
	assert_true(up_h2_over(h));
	nghttp2_session_del(v.session);
	up_h2_free(h);
}

static void test_a_connection_that_is_lost(void **state)
{
	struct up_h2 *h = h2_make();
	struct server v;
	struct client a, b;
	(void)state;
	srv_new(&v, 0);
	v.hold = true;
	ask(&a, h, GET "\r\n");
	assert_int_equal(talk(h, &v), 0);
	ask(&b, h, GET "\r\n");
	up_h2_lost(h, true);
	assert_true(a.s.ended && a.s.broken && !a.s.refused);
	assert_true(b.s.ended && b.s.broken && b.s.refused);
	done(&a);
	done(&b);
	assert_true(up_h2_over(h));
	nghttp2_session_del(v.session);
	up_h2_free(h);
}

static void test_no_more_streams_than_wished(void **state)
{
	struct up_h2 *h = h2_make();
	struct server v;
	struct client c[UP_H2_STREAMS_MAX];
	(void)state;
	for (int i = 0; i < UP_H2_STREAMS_MAX; i++) {
		assert_true(up_h2_room(h));
		ask(&c[i], h, GET "\r\n");
	}
	assert_false(up_h2_room(h));
	for (int i = 1; i < UP_H2_STREAMS_MAX; i++)
		done(&c[i]);
	assert_true(up_h2_room(h));
	ask(&c[1], h, GET "\r\n");
	srv_new(&v, 1);
	v.hold = true;
	assert_int_equal(talk(h, &v), 0);
	assert_int_equal(v.done, 1); /* those that went before they were sent never went out */
	done(&c[1]);
	assert_false(up_h2_room(h));
	done(&c[0]);
	assert_true(up_h2_room(h));
	up_h2_drain(h);
	assert_false(up_h2_room(h));
	nghttp2_session_del(v.session);
	up_h2_free(h);
}

/* Nobody knows how many a target takes before it has said so; then all go that may. */
static void test_many_before_the_target_has_spoken(void **state)
{
	struct up_h2 *h = h2_make();
	struct server v;
	struct client c[10];
	(void)state;
	for (int i = 0; i < 10; i++)
		ask(&c[i], h, GET "\r\n");
	struct km_buf b;
	km_buf_init(&b, 65536);
	srv_new(&v, 0); /* any number */
	v.hold = true;
	assert_int_equal(up_h2_send(h, &b, 65536), 0);
	assert_int_equal(nghttp2_session_mem_recv(v.session, km_buf_head(&b), b.len), b.len);
	km_buf_free(&b);
	assert_int_equal(v.done, 1);
	assert_int_equal(talk(h, &v), 0);
	assert_int_equal(v.done, 10);
	for (int i = 0; i < 10; i++)
		done(&c[i]);
	nghttp2_session_del(v.session);
	up_h2_free(h);
}

static void test_signs_of_life(void **state)
{
	struct up_h2 *h = h2_make();
	struct server v;
	(void)state;
	srv_new(&v, 0);
	up_h2_ping(h);
	up_h2_ping(h);
	assert_true(up_h2_pinging(h));
	assert_int_equal(talk(h, &v), 0);
	assert_false(up_h2_pinging(h));
	nghttp2_session_del(v.session);
	up_h2_free(h);
}

static void test_who_does_not_speak_it(void **state)
{
	static const char no[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
	struct up_h2 *h = h2_make();
	struct client c;
	(void)state;
	ask(&c, h, GET "\r\n");
	assert_int_equal(up_h2_receive(h, no, sizeof(no) - 1) ? KM_EPROTO : 0, 0);
	struct km_buf b;
	km_buf_init(&b, 65536);
	assert_int_equal(up_h2_send(h, &b, 65536), 0); /* the farewell */
	km_buf_free(&b);
	assert_int_equal(up_h2_receive(h, no, 0), KM_EPROTO);
	assert_true(c.s.ended && c.s.broken);
	assert_non_null(strstr(up_h2_why(h), "does not speak HTTP/2"));
	done(&c);
	up_h2_free(h);
}

/* ---- answers that must not pass ---- */

/* A frame by hand; fields as literals without indexing. */
static size_t frame(uint8_t *p, uint8_t type, uint8_t flags, uint8_t id, const void *payload,
		    size_t n)
{
	const uint8_t head[9] = {0, (uint8_t)(n >> 8), (uint8_t)n, type, flags, 0, 0, 0, id};
	memcpy(p, head, sizeof(head));
	memcpy(p + sizeof(head), payload, n);
	return n + sizeof(head);
}

static size_t fields(uint8_t *p, const char *const *pairs)
{
	size_t at = 0;
	for (; pairs[0]; pairs += 2) {
		p[at++] = 0;
		for (int i = 0; i < 2; i++) {
			size_t n = strlen(pairs[i]);
			assert_true(n < 127);
			p[at++] = (uint8_t)n;
			memcpy(p + at, pairs[i], n);
			at += n;
		}
	}
	return at;
}

static void test_answers_that_are_refused(void **state)
{
	static const char *const cases[][9] = {
	    {"content-type", "x", NULL}, /* no :status */
	    {":status", "20", NULL},
	    {":status", "2000", NULL},
	    {":status", "abc", NULL},
	    {":status", "101", NULL},
	    {":status", "200", ":status", "200", NULL},
	    {"a", "b", ":status", "200", NULL}, /* not first */
	    {":status", "200", ":path", "/", NULL},
	    {":status", "200", "Upper", "x", NULL},
	    {":status", "200", "sp ace", "x", NULL},
	    {":status", "200", "", "x", NULL},
	    {":status", "200", "a", "x\r\nb: c", NULL},
	    {":status", "200", "a", "x\nb", NULL},
	    {":status", "200", "a", " x", NULL},
	    {":status", "200", "connection", "close", NULL},
	    {":status", "200", "transfer-encoding", "chunked", NULL},
	    {":status", "200", "keep-alive", "timeout=5", NULL},
	    {":status", "200", "upgrade", "h2c", NULL},
	    {":status", "200", "content-length", "x", NULL},
	    {":status", "200", "content-length", "7", NULL}, /* but ended */
	    {":status", "200", "content-length", "0", "content-length", "0", NULL},
	    {":status", "600", NULL},
	};
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		struct up_h2 *h = h2_make();
		struct http_response r;
		const char *why = "";
		struct client c;
		uint8_t bytes[1024], block[512];
		struct km_buf out;
		ask(&c, h, GET "\r\n");
		km_buf_init(&out, 65536);
		assert_int_equal(up_h2_send(h, &out, 65536), 0);
		size_t n = frame(bytes, 4, 0, 0, "", 0);
		n += frame(bytes + n, 1, 5, 1, block, fields(block, cases[i]));
		(void)!up_h2_receive(h, bytes, n);
		km_buf_clear(&out);
		assert_int_equal(up_h2_send(h, &out, 65536), 0);
		(void)!up_h2_receive(h, "", 0);
		size_t at = 0;
		int len = h1_scan((const char *)km_buf_head(&c.s.head), c.s.head.len, &at, 16384);
		bool refused = (c.s.ended && c.s.broken) || len <= 0 ||
			       h1_response_parse(&r, (const char *)km_buf_head(&c.s.head),
						 (size_t)len, false, &limits, &why);
		if (!refused)
			fail_msg("case %zu was taken", i);
		km_buf_free(&out);
		done(&c);
		up_h2_free(h);
	}
}

static void test_a_head_has_a_bound(void **state)
{
	struct up_h2 *h = h2_make();
	struct client c;
	struct server v;
	char *large = calloc(1, 40000);
	(void)state;
	memset(large, 'x', 39999);
	srv_new(&v, 0);
	v.extra[0] = "x-large";
	v.extra[1] = large;
	ask(&c, h, GET "\r\n");
	assert_int_equal(talk(h, &v), 0);
	assert_true(c.s.ended && c.s.broken);
	assert_true(c.s.head.len <= 2 * limits.head);
	done(&c);
	nghttp2_session_del(v.session);
	up_h2_free(h);
	free(large);
}

/* What a good server said, damaged: nothing is read out of bounds, nothing hangs, and the stream's
 * owner always comes to know an end. */
static void test_damaged_bytes(void **state)
{
	char *bytes = NULL;
	size_t n = 0;
	unsigned seed = 7;
	(void)state;
	for (int round = 0; round < 2000; round++) {
		struct up_h2 *h = h2_make();
		struct client c;
		struct server v;
		struct km_buf out;
		ask(&c, h, GET "\r\n");
		if (!bytes) {
			srv_new(&v, 0);
			v.early = v.trailers = true;
			v.left = 100;
			v.record = open_memstream(&bytes, &n);
			assert_int_equal(talk(h, &v), 0);
			fclose(v.record);
			nghttp2_session_del(v.session);
			done(&c);
			up_h2_free(h);
			continue;
		}
		km_buf_init(&out, 1 << 20);
		char *copy = malloc(n);
		memcpy(copy, bytes, n);
		for (int k = rand_r(&seed) % 3; k >= 0; k--)
			copy[(size_t)rand_r(&seed) % n] ^= (char)(1 << rand_r(&seed) % 8);
		size_t cut = (size_t)rand_r(&seed) % n + 1;
		assert_int_equal(up_h2_send(h, &out, 65536), 0);
		int rc = up_h2_receive(h, copy, cut);
		assert_int_equal(up_h2_send(h, &out, 65536), 0);
		if (!rc)
			rc = up_h2_receive(h, copy + cut, n - cut);
		assert_int_equal(up_h2_send(h, &out, 65536), 0);
		if (!rc)
			up_h2_lost(h, true);
		assert_true(c.s.ended);
		free(copy);
		km_buf_free(&out);
		done(&c);
		up_h2_free(h);
	}
	free(bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_a_request_and_its_answer),
	    cmocka_unit_test(test_bodies_and_trailers),
	    cmocka_unit_test(test_interim_answers),
	    cmocka_unit_test(test_the_pace_is_the_readers),
	    cmocka_unit_test(test_what_was_not_processed),
	    cmocka_unit_test(test_a_connection_that_is_lost),
	    cmocka_unit_test(test_no_more_streams_than_wished),
	    cmocka_unit_test(test_many_before_the_target_has_spoken),
	    cmocka_unit_test(test_signs_of_life),
	    cmocka_unit_test(test_who_does_not_speak_it),
	    cmocka_unit_test(test_answers_that_are_refused),
	    cmocka_unit_test(test_a_head_has_a_bound),
	    cmocka_unit_test(test_damaged_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
