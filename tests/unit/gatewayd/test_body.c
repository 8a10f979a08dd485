/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/body.h"
#include "gatewayd/edge/heads.h"
#include "libkm/base/err.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_buf(const struct km_buf *b, const char *want)
{
	if (b->len != strlen(want) || (b->len && memcmp(km_buf_head(b), want, b->len)))
		print_error("got: %.*s\n", (int)b->len, (const char *)km_buf_head(b));
	assert_int_equal(b->len, strlen(want));
	if (b->len)
		assert_memory_equal(km_buf_head(b), want, b->len);
}

/* Gives text to the body in steps and collects what comes out; returns the last verdict. */
static int run(struct body *b, const char *text, size_t step, struct km_buf *out, uint64_t *moved,
	       size_t *left)
{
	struct km_buf src;
	int rc = 0;
	km_buf_init(&src, 4096);
	for (size_t at = 0, n = strlen(text); at < n && !rc; at += step) {
		assert_int_equal(km_buf_add(&src, text + at, n - at < step ? n - at : step), 0);
		rc = body_move(b, &src, out, 4096, moved);
	}
	*left = src.len;
	km_buf_free(&src);
	return rc;
}

static void test_reframing(void **state)
{
	static const struct {
		enum http_body kind;
		uint64_t length;
		bool encode;
		const char *in, *out; /* out NULL: depends on the steps */
		int rc;
		uint64_t moved;
		size_t left;
		bool done;
	} cases[] = {
	    {HTTP_BODY_LENGTH, 5, false, "abcdeGET", "abcde", 0, 5, 3, true},
	    {HTTP_BODY_LENGTH, 5, false, "abc", "abc", 0, 3, 0, false},
	    {HTTP_BODY_LENGTH, 0, false, "GET", "", 0, 0, 3, true},
	    {HTTP_BODY_NONE, 9, false, "GET", "", 0, 0, 3, true},
	    {HTTP_BODY_CLOSE, 0, false, "abc", "abc", 0, 3, 0, false},
	    {HTTP_BODY_CHUNKED, 0, false, "3;x\r\nabc\r\n0\r\nT: u\r\n\r\nGET", "abc", 0, 3, 3,
	     true},
	    {HTTP_BODY_CHUNKED, 0, false, "3\r\nabcd\r\n", "abc", KM_EPROTO, 3, 0, false},
	    {HTTP_BODY_CHUNKED, 0, true, "3;x\r\nabc\r\n0\r\nT: u\r\n\r\nGET", NULL, 0, 3, 3, true},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (size_t step = 1; step <= 32; step++) {
			struct body b;
			struct km_buf out;
			uint64_t moved = 0;
			size_t left;
			km_buf_init(&out, 4096);
			body_begin(&b, cases[i].kind, cases[i].length, cases[i].encode);
			assert_int_equal(run(&b, cases[i].in, step, &out, &moved, &left),
					 cases[i].rc);
			assert_int_equal(moved, cases[i].moved);
			assert_int_equal(b.done, cases[i].done);
			if (cases[i].out)
				assert_buf(&out, cases[i].out);
			if (!cases[i].rc && cases[i].left)
				assert_int_equal(left, cases[i].left);
			km_buf_free(&out);
		}
	}
}

static void test_encoding(void **state)
{
	struct body b;
	struct km_buf out;
	uint64_t moved = 0;
	size_t left;
	(void)state;
	km_buf_init(&out, 4096);
	body_begin(&b, HTTP_BODY_CLOSE, 0, true);
	assert_int_equal(run(&b, "0123456789abcdef", 16, &out, &moved, &left), 0);
	assert_int_equal(body_source_ended(&b, &out), 0);
	assert_buf(&out, "10\r\n0123456789abcdef\r\n0\r\n\r\n");
	assert_true(b.done);
	assert_int_equal(body_source_ended(&b, &out), 0);
	km_buf_clear(&out);
	body_begin(&b, HTTP_BODY_LENGTH, 4, false);
	assert_int_equal(body_source_ended(&b, &out), KM_ETRUNC);
	body_begin(&b, HTTP_BODY_CHUNKED, 0, true);
	assert_int_equal(body_source_ended(&b, &out), KM_ETRUNC);
	assert_int_equal(out.len, 0);
	km_buf_free(&out);
}

static struct http_str str(const char *s)
{
	return (struct http_str){s, strlen(s)};
}

/* What a tunnel's rules are about comes in no trailer. */
static const struct rules_field rules[] = {{.field.name = {"X-User", 6}},
					   {.field.name = {"x-key", 5}, .set = true}};

static void test_trailers(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {
	    {"", ""},
	    {"Grpc-Status:0\r\nX:  y \t\r\nE:\r\n", "Grpc-Status: 0\r\nX: y\r\nE: \r\n"},
	    {"Host: b.test\r\nA: b\r\nContent-Length: 5\r\ntransfer-encoding: chunked\r\n",
	     "A: b\r\n"},
	    {"Connection: A\r\nTE: trailers\r\nTrailer: A\r\nUpgrade: x\r\nX-Forwarded-For: "
	     "::1\r\n",
	     ""},
	    {"Authorization: x\r\nCookie: x\r\nSet-Cookie: x\r\nCache-Control: no-store\r\n"
	     "If-None-Match: x\r\nContent-Type: x\r\nLocation: /\r\n",
	     ""},
	    {"Content_Length: 5\r\nSet_Cookie: x\r\nx_y: z\r\n", "x_y: z\r\n"},
	    {"X-User: root\r\nX_Key: y\r\nx-user: root\r\nX-Users: z\r\n", "X-Users: z\r\n"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (size_t step = 1; step <= 64; step++) {
			char in[512], want[512];
			struct body b;
			struct km_buf out;
			uint64_t moved = 0;
			size_t left;
			snprintf(in, sizeof(in), "3\r\nabc\r\n0\r\n%s\r\nGET", cases[i].in);
			snprintf(want, sizeof(want), "0\r\n%s\r\n", cases[i].out);
			km_buf_init(&out, 4096);
			memset(&b, 0, sizeof(b));
			body_begin(&b, HTTP_BODY_CHUNKED, 0, true);
			body_keep_trailers(&b, rules, 2);
			assert_int_equal(run(&b, in, step, &out, &moved, &left), 0);
			assert_true(b.done && moved == 3);
			assert_buf(&b.trailers, cases[i].out);
			assert_true(out.len > strlen(want));
			km_buf_consume(&out, out.len - strlen(want));
			assert_buf(&out, want);
			body_end(&b);
			assert_int_equal(b.trailers.len, 0);
			km_buf_free(&out);
		}
	}
}

/* A source that is no HTTP/1 adds them one by one; what no head could have is refused. */
static void test_trailers_added(void **state)
{
	struct body b = {0};
	struct km_buf out;
	(void)state;
	km_buf_init(&out, 4096);
	body_begin(&b, HTTP_BODY_CLOSE, 0, true);
	assert_int_equal(body_trailer(&b, str("dropped"), str("x")), 0);
	body_keep_trailers(&b, rules, 2);
	assert_int_equal(body_trailer(&b, str("grpc-status"), str("0")), 0);
	assert_int_equal(body_trailer(&b, str("host"), str("x")), 0);
	assert_int_equal(body_trailer(&b, str("x_user"), str("root")), 0);
	assert_int_equal(body_trailer(&b, str(":path"), str("x")), KM_EPROTO);
	assert_int_equal(body_trailer(&b, str("a:b"), str("x")), KM_EPROTO);
	assert_int_equal(body_trailer(&b, str(""), str("x")), KM_EPROTO);
	assert_int_equal(body_trailer(&b, str("a"), str("x\r\nb: c")), KM_EPROTO);
	assert_int_equal(body_trailer(&b, str("a"), str("x\n")), KM_EPROTO);
	assert_int_equal(body_trailer(&b, str("a"), str("x\r")), KM_EPROTO);
	assert_int_equal(body_trailer(&b, str("a b"), str("x")), KM_EPROTO);
	assert_int_equal(body_trailer(&b, (struct http_str){"a", 1}, (struct http_str){"\0", 1}),
			 KM_EPROTO);
	assert_int_equal(body_trailer(&b, str("b"), str("")), 0);
	assert_int_equal(body_source_ended(&b, &out), 0);
	assert_buf(&out, "0\r\ngrpc-status: 0\r\nb: \r\n\r\n");
	body_end(&b);
	km_buf_free(&out);
}

static void test_full_destination_waits(void **state)
{
	struct body b;
	struct km_buf src, dst;
	uint64_t moved = 0;
	(void)state;
	km_buf_init(&src, 4096);
	km_buf_init(&dst, 4096);
	body_begin(&b, HTTP_BODY_LENGTH, 1000, false);
	assert_int_equal(km_buf_adds(&dst, "0123456789"), 0);
	assert_int_equal(km_buf_adds(&src, "abc"), 0);
	assert_int_equal(body_move(&b, &src, &dst, 10, &moved), 0);
	assert_int_equal(moved, 0);
	assert_int_equal(src.len, 3);
	km_buf_consume(&dst, 1);
	assert_int_equal(body_move(&b, &src, &dst, 10, &moved), 0);
	assert_int_equal(moved, 1);
	assert_buf(&dst, "123456789a");
	km_buf_free(&src);
	km_buf_free(&dst);
}

/* More has come than the destination may ever hold. */
static void test_large_source(void **state)
{
	(void)state;
	for (int encode = 0; encode < 2; encode++) {
		struct body b = {0};
		struct km_buf src, dst;
		uint64_t moved = 0;
		char piece[1000] = "";
		km_buf_init(&src, 20000);
		km_buf_init(&dst, 5000);
		for (int i = 0; i < 20; i++)
			assert_int_equal(km_buf_add(&src, piece, sizeof(piece)), 0);
		body_begin(&b, HTTP_BODY_CLOSE, 0, encode);
		for (int i = 0; src.len; i++) {
			assert_true(i < 30);
			assert_int_equal(body_move(&b, &src, &dst, 2000, &moved), 0);
			assert_in_range(dst.len, 1, 2020);
			km_buf_consume(&dst, dst.len / 2 + 1);
		}
		assert_int_equal(moved, 20000);
		km_buf_free(&src);
		km_buf_free(&dst);
	}
}

/* ---- heads ---- */

static const struct http_limits limits = {65536, 128};

static void check_request(const char *in, const char *client, bool secure, const char *want)
{
	struct http_request *r = malloc(sizeof(*r));
	struct km_buf out;
	struct km_addr a;
	struct client from;
	const char *why;
	km_buf_init(&out, 65536);
	assert_int_equal(km_addr_parse(&a, client), 0);
	assert_int_equal(h1_request_parse(r, in, strlen(in), &limits, &why), 0);
	client_find(&from, &(struct client_trust){0}, &a, secure, r);
	assert_int_equal(heads_request(&out, r, &from), 0);
	assert_buf(&out, want);
	km_buf_free(&out);
	free(r);
}

static void test_requests(void **state)
{
	(void)state;
	check_request(
	    "GET /x HTTP/1.0\r\nX-Real-IP: 6.6.6.6\r\nA: b\r\nHost: a.test:8443\r\n"
	    "Connection: keep-alive, B\r\nB: c\r\n\r\n",
	    "192.0.2.1", true,
	    "GET /x HTTP/1.1\r\nHost: a.test:8443\r\nA: b\r\nX-Forwarded-For: 192.0.2.1\r\n"
	    "X-Real-IP: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n"
	    "X-Forwarded-Host: a.test:8443\r\n"
	    "Forwarded: for=192.0.2.1;proto=https;host=\"a.test:8443\"\r\n\r\n");
	check_request(
	    "PUT http://a.test?q HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n"
	    "Expect: 100-continue\r\n\r\n",
	    "2001:db8::1", false,
	    "PUT /?q HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 2001:db8::1\r\n"
	    "X-Real-IP: 2001:db8::1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a.test\r\n"
	    "Forwarded: for=\"[2001:db8::1]\";proto=http;host=\"a.test\"\r\n"
	    "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
	check_request(
	    "POST / HTTP/1.1\r\nHost: a.test\r\nTE: deflate, trailers\r\nTrailer: x\r\n"
	    "Transfer-Encoding: chunked\r\n\r\n",
	    "192.0.2.1", true,
	    "POST / HTTP/1.1\r\nHost: a.test\r\nTrailer: x\r\nX-Forwarded-For: 192.0.2.1\r\n"
	    "X-Real-IP: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.test\r\n"
	    "Forwarded: for=192.0.2.1;proto=https;host=\"a.test\"\r\n"
	    "Transfer-Encoding: chunked\r\nConnection: TE\r\nTE: trailers\r\n\r\n");
	check_request(
	    "GET http://a.test HTTP/1.1\r\nHost: a.test\r\nConnection: upgrade\r\n"
	    "Upgrade: websocket\r\nContent-Length: 0\r\n\r\n",
	    "192.0.2.1", true,
	    "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 192.0.2.1\r\n"
	    "X-Real-IP: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.test\r\n"
	    "Forwarded: for=192.0.2.1;proto=https;host=\"a.test\"\r\n"
	    "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
}

static void check_response(const char *in, struct heads_response how, const char *want)
{
	struct http_response *r = malloc(sizeof(*r));
	struct km_buf out;
	const char *why;
	km_buf_init(&out, 65536);
	assert_int_equal(h1_response_parse(r, in, strlen(in), false, &limits, &why), 0);
	assert_int_equal(heads_response(&out, r, &how), 0);
	assert_buf(&out, want);
	km_buf_free(&out);
	free(r);
}

static void test_responses(void **state)
{
	(void)state;
	check_response(
	    "HTTP/1.0 200 Fine\r\nContent-Length: 007\r\nConnection: close, A\r\nA: b\r\n"
	    "Keep-Alive: 5\r\nC: d\r\n\r\n",
	    (struct heads_response){.framing = HTTP_BODY_LENGTH},
	    "HTTP/1.1 200 Fine\r\nC: d\r\nContent-Length: 7\r\n\r\n");
	check_response("HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n",
		       (struct heads_response){.framing = HTTP_BODY_CHUNKED, .close = true},
		       "HTTP/1.1 200 Fine\r\nTrailer: x\r\nTransfer-Encoding: "
		       "chunked\r\nConnection: close\r\n\r\n");
	check_response("HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n",
		       (struct heads_response){.framing = HTTP_BODY_CLOSE, .close = true},
		       "HTTP/1.1 200 Fine\r\nConnection: close\r\n\r\n");
	check_response("HTTP/1.1 204 None\r\nContent-Length: 5\r\n\r\n",
		       (struct heads_response){.framing = HTTP_BODY_NONE},
		       "HTTP/1.1 204 None\r\n\r\n");
	check_response("HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n",
		       (struct heads_response){.framing = HTTP_BODY_NONE},
		       "HTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_reframing),
	    cmocka_unit_test(test_encoding),
	    cmocka_unit_test(test_trailers),
	    cmocka_unit_test(test_trailers_added),
	    cmocka_unit_test(test_full_destination_waits),
	    cmocka_unit_test(test_large_source),
	    cmocka_unit_test(test_requests),
	    cmocka_unit_test(test_responses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
