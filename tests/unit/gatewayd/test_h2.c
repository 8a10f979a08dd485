/* SPDX-License-Identifier: MIT */
/* HTTP/2 without a session: heads of requests, of answers, WebSocket keys, flood bounds. */
#include "gatewayd/edge/h2_answer.h"
#include "gatewayd/edge/h1.h"
#include "gatewayd/edge/h2_limits.h"
#include "gatewayd/edge/h2_ws.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct http_limits limits = {4096, 16};
static const char key[H2_WS_KEY + 1] = "dGhlIHNhbXBsZSBub25jZQ==";

struct pair {
	const char *name, *value;
};
#define GET {":method", "GET"}, {":scheme", "https"}
#define A {":authority", "a.test"}
#define P {":path", "/"}
#define WS {":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, P, A
#define PAIRS 20

struct vector {
	const char *what;
	struct pair pairs[PAIRS];
	bool body;
	int status;
	const char *line; /* method, target, Host, fields that go on */
	enum http_body kind;
};

static struct http_str str(const char *s)
{
	return (struct http_str){s, strlen(s)};
}

static int feed(struct h2_head *h, const struct vector *v, struct http_request *r)
{
	const char *why;
	h2_head_begin(h, &limits);
	for (const struct pair *p = v->pairs; p->name; p++) {
		/* Memory of its own, so that a byte read behind the end is seen. */
		char *name = strndup(p->name, strlen(p->name)), *value = strdup(p->value);
		h2_head_field(h, str(name), str(value));
		free(name);
		free(value);
	}
	int status = h2_head_end(h, v->body, key, r, &why);
	assert_true((status == 0) == (why == NULL));
	return status;
}

static void say(const struct http_request *r, char *out, size_t size)
{
	size_t n = (size_t)snprintf(out, size, "%.*s %.*s %.*s", (int)r->method.n, r->method.p,
				    (int)r->target.n, r->target.p, (int)r->authority.n,
				    r->authority.p);
	for (size_t i = 0; i < r->n_fields; i++)
		if (!r->fields[i].hop && r->fields[i].id != HTTP_HOST)
			n += (size_t)snprintf(out + n, size - n, "|%.*s=%.*s",
					      (int)r->fields[i].name.n, r->fields[i].name.p,
					      (int)r->fields[i].value.n, r->fields[i].value.p);
}

static const struct vector vectors[] = {
    {"plain", {GET, A, P}, false, 0, "GET / a.test", HTTP_BODY_NONE},
    {"any order", {P, A, {":scheme", "http"}, {":method", "GET"}}, false, 0, "GET / a.test", 0},
    {"fields", {GET, A, P, {"x", "1"}, {"y", ""}}, false, 0, "GET / a.test|x=1|y=", 0},
    {"body", {{":method", "POST"}, {":scheme", "https"}, A, P}, true, 0, "POST / a.test",
     HTTP_BODY_CLOSE},
    {"length", {GET, A, P, {"content-length", "3"}}, true, 0, "GET / a.test|content-length=3",
     HTTP_BODY_LENGTH},
    {"host alone", {GET, P, {"host", "a.test:8"}}, false, 0, "GET / a.test:8", 0},
    {"host too", {GET, A, P, {"host", "A.test."}, {"x", "1"}}, false, 0, "GET / a.test|x=1", 0},
    {"crumbs", {GET, A, P, {"cookie", "a=1"}, {"x", "1"}, {"cookie", "b=2"}, {"cookie", "c"}},
     false, 0, "GET / a.test|x=1|cookie=a=1; b=2; c", 0},
    {"asterisk", {{":method", "OPTIONS"}, {":scheme", "https"}, A, {":path", "*"}}, false, 0,
     "OPTIONS * a.test", 0},
    {"te", {GET, A, P, {"te", "trailers"}}, false, 0, NULL, 0},
    {"websocket", {WS, {"sec-websocket-key", "x"}, {"sec-websocket-version", "13"}}, true, 0,
     "GET / a.test|sec-websocket-version=13|sec-websocket-key=dGhlIHNhbXBsZSBub25jZQ==", 0},
    /* pseudo-header fields, RFC 9113 section 8.3 */
    {"no method", {{":scheme", "https"}, A, P}, .status = 400},
    {"empty method", {{":method", ""}, {":scheme", "https"}, A, P}, .status = 400},
    {"method with a space", {{":method", "GET /x"}, {":scheme", "https"}, A, P}, .status = 400},
    {"no scheme", {{":method", "GET"}, A, P}, .status = 400},
    {"other scheme", {{":method", "GET"}, {":scheme", "ftp"}, A, P}, .status = 400},
    {"no path", {GET, A}, .status = 400},
    {"empty path", {GET, A, {":path", ""}}, .status = 400},
    {"relative path", {GET, A, {":path", "x"}}, .status = 400},
    {"absolute path", {GET, A, {":path", "https://a.test/"}}, .status = 400},
    {"space in the path", {GET, A, {":path", "/ HTTP/1.1"}}, .status = 400},
    {"line end in the path", {GET, A, {":path", "/\r\nx: y"}}, .status = 400},
    {"fragment", {GET, A, {":path", "/#x"}}, .status = 400},
    {"asterisk with GET", {GET, A, {":path", "*"}}, .status = 400},
    {"byte above ASCII in the path", {GET, A, {":path", "/\xc3\xa9"}}, .status = 400},
    {"twice", {GET, A, P, P}, .status = 400},
    {"unknown", {GET, A, P, {":status", "200"}}, .status = 400},
    {"behind a field", {GET, A, {"x", "1"}, P}, .status = 400},
    {"no authority", {GET, P}, .status = 400},
    {"empty authority", {GET, P, {":authority", ""}}, .status = 400},
    {"user in the authority", {GET, P, {":authority", "u@a.test"}}, .status = 400},
    {"host differs", {GET, A, P, {"host", "b.test"}}, .status = 400},
    {"port differs", {GET, A, P, {"host", "a.test:81"}}, .status = 400},
    {"host twice", {GET, A, P, {"host", "a.test"}, {"host", "a.test"}}, .status = 400},
    {"CONNECT", {{":method", "CONNECT"}, {":authority", "a.test:1"}}, true, .status = 405},
    {"protocol without CONNECT", {GET, A, P, {":protocol", "websocket"}}, .status = 400},
    {"other protocol",
     {{":method", "CONNECT"}, {":protocol", "h9"}, {":scheme", "https"}, P, A},
     true,
     .status = 501},
    {"websocket that is over", {WS}, false, .status = 400},
    {"websocket with a length", {WS, {"content-length", "1"}}, true, .status = 400},
    /* fields, RFC 9113 section 8.2 */
    {"capital", {GET, A, P, {"X", "1"}}, .status = 400},
    {"empty name", {GET, A, P, {"", "1"}}, .status = 400},
    {"colon in a name", {GET, A, P, {"x:y", "1"}}, .status = 400},
    {"space in a name", {GET, A, P, {"x ", "1"}}, .status = 400},
    {"line end in a name", {GET, A, P, {"x\r\ny", "1"}}, .status = 400},
    {"no token", {GET, A, P, {"x(", "1"}}, .status = 400},
    {"line end in a value", {GET, A, P, {"x", "1\r\ny: 2"}}, .status = 400},
    {"LF in a value", {GET, A, P, {"x", "1\n"}}, .status = 400},
    {"CR in a value", {GET, A, P, {"x", "\r1"}}, .status = 400},
    {"control byte in a value", {GET, A, P, {"x", "1\x01"}}, .status = 400},
    {"space before a value", {GET, A, P, {"x", " 1"}}, .status = 400},
    {"tab behind a value", {GET, A, P, {"x", "1\t"}}, .status = 400},
    {"line end in a crumb", {GET, A, P, {"cookie", "a\r\nb: c"}}, .status = 400},
    {"connection", {GET, A, P, {"connection", "close"}}, .status = 400},
    {"keep-alive", {GET, A, P, {"keep-alive", "1"}}, .status = 400},
    {"proxy-connection", {GET, A, P, {"proxy-connection", "1"}}, .status = 400},
    {"upgrade", {GET, A, P, {"upgrade", "websocket"}}, .status = 400},
    {"chunked", {GET, A, P, {"transfer-encoding", "chunked"}}, true, .status = 400},
    {"te other", {GET, A, P, {"te", "trailers, gzip"}}, .status = 400},
    {"length twice", {GET, A, P, {"content-length", "1"}, {"content-length", "1"}}, true, .status = 400},
    {"length list", {GET, A, P, {"content-length", "1,1"}}, true, .status = 400},
    {"length sign", {GET, A, P, {"content-length", "+1"}}, true, .status = 400},
    {"length without a body", {GET, A, P, {"content-length", "1"}}, .status = 400},
    {"expectation", {GET, A, P, {"expect", "x"}}, .status = 417},
};

static void test_heads(void **state)
{
	struct h2_head h = {0};
	struct http_request *r = malloc(sizeof(*r));
	(void)state;
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		const struct vector *v = &vectors[i];
		char said[1024];
		int status = feed(&h, v, r);
		if (status != v->status)
			fail_msg("%s: %d", v->what, status);
		if (status)
			continue;
		say(r, said, sizeof(said));
		if (v->line)
			assert_string_equal(said, v->line);
		assert_int_equal(r->body, v->kind);
		assert_int_equal(r->major, 2);
		assert_true(r->upgrade == (v->pairs[1].name[1] == 'p' && v->body));
		assert_true(r->te_trailers == !strcmp(v->what, "te"));
	}
	h2_head_free(&h);
	free(r);
}

static void test_head_bounds(void **state)
{
	struct h2_head h = {0};
	struct http_request *r = malloc(sizeof(*r));
	const struct pair start[] = {GET, A, P, {"expect", "100-continue"}};
	const char *why;
	char big[1024];
	(void)state;
	memset(big, 'x', sizeof(big));
	for (size_t fields = 10; fields < 20; fields++) {
		h2_head_begin(&h, &limits);
		for (size_t i = 0; i < 5; i++)
			h2_head_field(&h, str(start[i].name), str(start[i].value));
		/* Host and expect stand before them. */
		for (size_t i = 0; i < fields; i++)
			h2_head_field(&h, str("x"), str("y"));
		assert_int_equal(h2_head_end(&h, true, key, r, &why), fields > 14 ? 431 : 0);
		if (fields <= 14)
			assert_true(r->expect_continue);
	}
	for (size_t n = 1; n < 20; n++) {
		h2_head_begin(&h, &limits);
		for (size_t i = 0; i < 4; i++)
			h2_head_field(&h, str(start[i].name), str(start[i].value));
		for (size_t i = 0; i < n; i++)
			h2_head_field(&h, str("cookie"), (struct http_str){big, sizeof(big)});
		assert_int_equal(h2_head_end(&h, false, key, r, &why), n > 3 ? 431 : 0);
		assert_true(h2_head_bomb(&h) == (n > 15));
		assert_true(h.cookies.len <= 3 * (sizeof(big) + 2));
	}
	h2_head_free(&h);
	free(r);
}

/* ---- answers ---- */

static void answer(const char *text, bool websocket, const char *wanted)
{
	struct http_response *r = malloc(sizeof(*r));
	struct h2_answer a;
	const struct http_limits lim = {65536, HTTP_FIELDS_MAX};
	const char *why;
	char said[1024] = "";
	size_t n = 0;
	assert_int_equal(h1_response_parse(r, text, strlen(text), false, &lim, &why), 0);
	h2_answer_head(&a, r, websocket);
	for (size_t i = 0; i < a.n; i++)
		n += (size_t)snprintf(said + n, sizeof(said) - n, "%.*s=%.*s|",
				      (int)a.nv[i].namelen, (char *)a.nv[i].name,
				      (int)a.nv[i].valuelen, (char *)a.nv[i].value);
	assert_string_equal(said, wanted);
	free(r);
}

static void test_answers(void **state)
{
	struct h2_answer a;
	(void)state;
	answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\nConnection: x, close\r\n\r\n",
	       false, ":status=200|Content-Length=5|");
	answer("HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\nKeep-Alive: 1\r\nA: b\r\n\r\n", false,
	       ":status=404|A=b|");
	answer("HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", false, ":status=204|");
	answer("HTTP/1.1 304 No\r\nContent-Length: 7\r\n\r\n", false,
	       ":status=304|Content-Length=7|");
	answer("HTTP/1.1 103 Early\r\nLink: x\r\n\r\n", false, ":status=103|Link=x|");
	answer("HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
	       "Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: p\r\n\r\n",
	       true, ":status=200|Sec-WebSocket-Protocol=p|");
	h2_answer_trailers(&a, str("grpc-status: 0\r\nX: \r\n"));
	assert_int_equal(a.n, 2);
	assert_memory_equal(a.nv[0].name, "grpc-status", a.nv[0].namelen);
	assert_int_equal(a.nv[1].valuelen, 0);
}

/* RFC 6455 section 1.3 */
static void test_websocket(void **state)
{
	static const char good[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
	static const uint8_t sample[] = "the sample nonce";
	static const struct {
		const char *upgrade, *accept, *second;
		bool ok;
	} cases[] = {{"websocket", good, NULL, true},
		     {"WebSocket", good, NULL, true},
		     {"h2c", good, NULL, false},
		     {"websocket", NULL, NULL, false},
		     {"websocket", "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=", NULL, false},
		     {"websocket", good, good, false}};
	struct http_response *r = calloc(1, sizeof(*r));
	char made[H2_WS_KEY + 1];
	(void)state;
	h2_ws_key(sample, made);
	assert_string_equal(made, key);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		r->upgrade_to = str(cases[i].upgrade);
		r->n_fields = 0;
		if (cases[i].accept)
			r->fields[r->n_fields++] = (struct http_field){
			    .name = str("Sec-WebSocket-Accept"), .value = str(cases[i].accept)};
		if (cases[i].second)
			r->fields[r->n_fields++] = r->fields[0];
		assert_true(h2_ws_accepted(r, key) == cases[i].ok);
	}
	free(r);
}

/* ---- floods ---- */

static int run(struct h2_limits *l, const struct h2_rates *r, enum h2_flood kind, int64_t now)
{
	int n = 0;
	while (n < 100000 && h2_limits_take(l, r, kind, now))
		n++;
	return n;
}

static void test_limits(void **state)
{
	struct h2_rates r;
	struct h2_limits l;
	(void)state;
	h2_rates_init(&r, 100, 10000);
	h2_limits_init(&l, &r, 5000);
	assert_int_equal(run(&l, &r, H2_FLOOD_RESET, 5000), 100);
	assert_int_equal(run(&l, &r, H2_FLOOD_RESET, 5099), 0);
	assert_int_equal(run(&l, &r, H2_FLOOD_RESET, 6099), 10);
	assert_int_equal(run(&l, &r, H2_FLOOD_RESET, 6000), 0); /* a clock that goes back */
	assert_int_equal(run(&l, &r, H2_FLOOD_RESET, INT64_MAX), 100);
	assert_int_equal(run(&l, &r, H2_FLOOD_ERROR, 5000), 100); /* apart from the first */
	assert_int_equal(run(&l, &r, H2_FLOOD_HEADER, 5000), 0);
	int window = run(&l, &r, H2_FLOOD_WINDOW, 5000);
	h2_limits_sent(&l, &r, 256 * 7);
	assert_int_equal(run(&l, &r, H2_FLOOD_WINDOW, 5000), 7);
	h2_limits_sent(&l, &r, UINT64_MAX);
	assert_int_equal(run(&l, &r, H2_FLOOD_WINDOW, 5000), window);
	for (int k = 0; k < H2_FLOODS; k++)
		assert_non_null(h2_flood_name((enum h2_flood)k));
	/* The largest that the settings take. */
	h2_rates_init(&r, INT64_MAX, INT64_MAX);
	h2_limits_init(&l, &r, 0);
	for (int i = 0; i < 1000000; i++)
		assert_true(h2_limits_take(&l, &r, H2_FLOOD_RESET, 0));
	assert_false(h2_limits_take(&l, &r, H2_FLOOD_RESET, 0));
	assert_true(h2_limits_take(&l, &r, H2_FLOOD_RESET, INT64_MAX));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_heads),     cmocka_unit_test(test_head_bounds),
	    cmocka_unit_test(test_answers),   cmocka_unit_test(test_websocket),
	    cmocka_unit_test(test_limits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
