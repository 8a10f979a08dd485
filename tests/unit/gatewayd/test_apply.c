/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/apply.h"
#include "gatewayd/edge/h1.h"
#include "gatewayd/edge/heads.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct http_limits limits = {65536, 128};
static struct http_request request;
static struct http_response response;

static struct route route_of(const char *options, uint16_t path_len)
{
	char text[4096];
	struct km_errtext err = {0};
	struct km_msg_tunnel m;
	struct route r = {.path_len = path_len};
	snprintf(text, sizeof(text),
		 "{\"id\": \"00000000-0000-4000-8000-000000000001\", \"domain\": \"a.test\", "
		 "\"enabled\": true, \"targetId\": \"00000000-0000-4000-8000-000000000002\", "
		 "\"target\": \"127.0.0.1:80\", \"options\": {%s}}",
		 options);
	json_t *v = json_loads(text, 0, NULL);
	if (!v || km_msg_parse(&km_msg_desc_tunnel, &m, v, &err) ||
	    route_rules_compile(&r.rules, &m, &err))
		fail_msg("%s: %s", options, err.text);
	json_decref(v);
	km_msg_clear(&km_msg_desc_tunnel, &m);
	return r;
}

static void read_request(const char *head)
{
	const char *why;
	if (h1_request_parse(&request, head, strlen(head), &limits, &why))
		fail_msg("%s: %s", head, why);
}

/* The request as a target gets it, without what is said about the client. */
static char *written(char *out)
{
	struct km_buf b;
	struct client c;
	struct km_addr a;
	km_buf_init(&b, 1 << 20);
	assert_int_equal(km_addr_parse(&a, "192.0.2.1"), 0);
	client_find(&c, &(struct client_trust){0}, &a, true, &request);
	assert_int_equal(heads_request(&b, &request, &c), 0);
	assert_int_equal(km_buf_add(&b, "", 1), 0);
	strcpy(out, (char *)km_buf_head(&b));
	char *from = strstr(out, "X-Forwarded-For:"), *to = strstr(out, "\r\n\r\n");
	strcpy(from, to + 2);
	km_buf_free(&b);
	return out;
}

#define H "Host: a.test\r\n"

static void test_strip(void **state)
{
	static const struct {
		const char *target, *goes_as; /* NULL: refused */
	} cases[] = {
	    {"/api", "/"},
	    {"/api/", "/"},
	    {"/api/x?y", "/x?y"},
	    {"/api?y", "/?y"},
	    {"/api//x", NULL},
	    {"/api//", NULL},
	    {"/api/x//y", "/x//y"},
	    {"/api/%2Fx", "/%2Fx"},
	    {"http://a.test/api", "/"},
	    {"http://a.test/api?/x", "/?/x"},
	};
	struct route r = route_of("\"stripPath\": true", 4);
	char head[512], out[1024], want[512];
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(head, sizeof(head),
			 "GET %s HTTP/1.1\r\n" H "X-Forwarded-Prefix: /evil\r\n\r\n",
			 cases[i].target);
		read_request(head);
		assert_int_equal(apply_request(&request, &r), cases[i].goes_as != NULL);
		if (!cases[i].goes_as)
			continue;
		snprintf(want, sizeof(want),
			 "GET %s HTTP/1.1\r\n" H "X-Forwarded-Prefix: /api\r\n\r\n",
			 cases[i].goes_as);
		assert_string_equal(written(out), want);
	}
	r.path_len = 0; /* all of the domain: nothing to cut off */
	read_request("GET //x HTTP/1.1\r\n" H "\r\n");
	assert_true(apply_request(&request, &r));
	assert_string_equal(written(out), "GET //x HTTP/1.1\r\n" H "\r\n");
	route_rules_put(r.rules);
	struct route none = {.path_len = 4};
	read_request("GET /api/x HTTP/1.1\r\n" H "\r\n");
	assert_true(apply_request(&request, &none));
	assert_string_equal(written(out), "GET /api/x HTTP/1.1\r\n" H "\r\n");
}

static void test_request_fields(void **state)
{
	struct route r = route_of("\"hostHeader\": \"b.test:81\", \"requestHeaders\": ["
				  "{\"name\": \"X-A\", \"value\": \"new\"}, {\"name\": \"cookie\"},"
				  "{\"name\": \"X-B\", \"value\": \"\"}]",
				  0);
	char out[2048];
	(void)state;
	/* For CGI and its like X_A and X.A are X-A too. */
	read_request("GET / HTTP/1.1\r\nX-a: 1\r\n" H "x-A: 2\r\nCookie: c\r\nX-AA: 3\r\nX: 4\r\n"
		     "X_A: 5\r\nx.a: 6\r\nConnection: X\r\n\r\n");
	assert_true(apply_request(&request, &r));
	assert_string_equal(written(out), "GET / HTTP/1.1\r\nHost: b.test:81\r\nX-AA: 3\r\n"
					  "X-A: new\r\nX-B: \r\n\r\n");
	route_rules_put(r.rules);
}

/* As many fields as there may be, of both kinds: none gets lost. */
static void test_room(void **state)
{
	char head[16384], options[4096], name[16];
	int n = sprintf(head, "GET /api HTTP/1.1\r\n" H);
	int m = sprintf(options, "\"stripPath\": true, \"requestHeaders\": [");
	(void)state;
	for (int i = 1; i < HTTP_FIELDS_MAX; i++)
		n += sprintf(head + n, "A%d: x\r\n", i);
	sprintf(head + n, "\r\n");
	for (int i = 0; i < 64; i++)
		m += sprintf(options + m, "%s{\"name\": \"B%d\", \"value\": \"y\"}", i ? "," : "",
			     i);
	sprintf(options + m, "]");
	struct route r = route_of(options, 4);
	read_request(head);
	assert_true(apply_request(&request, &r));
	assert_int_equal(request.n_fields, HTTP_FIELDS_MAX + 65);
	assert_true(request.n_fields <= HTTP_FIELDS_ROOM);
	strcpy(name, "B63");
	assert_true(http_str_is(request.fields[request.n_fields - 2].name, name));
	assert_true(http_str_is(request.fields[request.n_fields - 1].name, "X-Forwarded-Prefix"));
	route_rules_put(r.rules);
}

static void check_response(const struct route *r, bool secure, const char *in, const char *want)
{
	struct heads_response how = {.framing = HTTP_BODY_NONE};
	struct km_buf b;
	const char *why;
	km_buf_init(&b, 65536);
	assert_int_equal(h1_response_parse(&response, in, strlen(in), false, &limits, &why), 0);
	apply_response(&response, r->rules, secure);
	assert_int_equal(heads_response(&b, &response, &how), 0);
	assert_int_equal(km_buf_add(&b, "", 1), 0);
	assert_string_equal((char *)km_buf_head(&b), want);
	km_buf_free(&b);
}

static void test_response(void **state)
{
	static const char in[] = "HTTP/1.1 204 No Content\r\nServer: x\r\nX-A: 1\r\nx-a: 2\r\n"
				 "strict-transport-security: max-age=1\r\n\r\n";
	struct route r =
	    route_of("\"responseHeaders\": [{\"name\": \"server\"}, "
		     "{\"name\": \"X-A\", \"value\": \"3\"}], \"hsts\": {\"maxAge\": 300}",
		     0);
	struct route none = {0};
	(void)state;
	check_response(&none, true, in, in);
	check_response(&r, true, in,
		       "HTTP/1.1 204 No Content\r\nX-A: 3\r\n"
		       "Strict-Transport-Security: max-age=300\r\n\r\n");
	check_response(&r, false, in,
		       "HTTP/1.1 204 No Content\r\nstrict-transport-security: max-age=1\r\n"
		       "X-A: 3\r\n\r\n");
	route_rules_put(r.rules);
}

static void test_redirects(void **state)
{
	static const struct {
		const char *target;
		int status;
		const char *to;
	} cases[] = {
	    {"/one", 301, "/1"},
	    {"/one?q", 301, "/1?q"},
	    {"/one/", 0, NULL},
	    {"/One", 0, NULL},
	    {"/two?q", 302, "/2?own"},
	    {"/old/a/b?c=/d", 308, "https://b.test/new/a/b?c=/d"},
	    {"/old/", 308, "https://b.test/new/"},
	    {"/old", 0, NULL},
	    {"/old/special", 308, "https://b.test/new/special"}, /* the first that fits */
	    {"/up/x", 302, "/x"},
	    {"/up//evil.test", 302, "/evil.test"},
	    {"/up///evil.test", 302, "/evil.test"},
	    {"/up/", 302, "/"},
	    {"/gone/x?y", 307, "/bye?y"},
	    {"http://a.test", 303, "/home"},
	    {"http://a.test?q", 303, "/home?q"},
	    {"/", 303, "/home"},
	    {"/?q", 303, "/home?q"},
	    {"/x", 0, NULL},
	};
	struct route r =
	    route_of("\"redirects\": [{\"from\": \"/one\", \"to\": \"/1\", \"status\": 301},"
		     "{\"from\": \"/two\", \"to\": \"/2?own\"},"
		     "{\"from\": \"/old/*\", \"to\": \"https://b.test/new/*\", \"status\": 308},"
		     "{\"from\": \"/old/special\", \"to\": \"/never\"}, {\"from\": \"/up/*\", "
		     "\"to\": \"/*\"},"
		     "{\"from\": \"/gone/*\", \"to\": \"/bye\", \"status\": 307},"
		     "{\"from\": \"/\", \"to\": \"/home\", \"status\": 303}]",
		     0);
	struct km_buf to;
	char head[512];
	(void)state;
	km_buf_init(&to, 4096);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(head, sizeof(head), "GET %s HTTP/1.1\r\n" H "\r\n", cases[i].target);
		read_request(head);
		int got = apply_redirect(&to, r.rules, &request);
		if (got != cases[i].status)
			fail_msg("%s: %d", cases[i].target, got);
		if (got)
			assert_string_equal((char *)km_buf_head(&to), cases[i].to);
	}
	km_buf_free(&to);
	km_buf_init(&to, 10); /* never half a place */
	read_request("GET /old/abcdefgh HTTP/1.1\r\n" H "\r\n");
	assert_int_equal(apply_redirect(&to, r.rules, &request), KM_ETOOBIG);
	km_buf_free(&to);
	route_rules_put(r.rules);
}

/* What goes with the gateway's own answers. */
static void test_answers(void **state)
{
	const struct heads_answer a = {.status = 429, .retry_after = 17, .hsts = {"max-age=1", 9}};
	static const struct {
		int64_t second;
		const char *text;
	} dates[] = {{784111777, "Sun, 06 Nov 1994 08:49:37 GMT"},
		     {0, "Thu, 01 Jan 1970 00:00:00 GMT"},
		     {1709251199, "Thu, 29 Feb 2024 23:59:59 GMT"}};
	char date[HEADS_DATE + 1];
	const struct heads_answer b = {
	    .status = 503, .date = {"Sun, 06 Nov 1994 08:49:37 GMT", HEADS_DATE}, .page = {"<p>later</p>", 12}, .html = true, .close = true};
	struct km_buf out;
	(void)state;
	km_buf_init(&out, 4096);
	assert_int_equal(heads_answer(&out, &a), 0);
	assert_int_equal(km_buf_add(&out, "", 1), 0);
	assert_string_equal(
	    (char *)km_buf_head(&out),
	    "HTTP/1.1 429 Too Many Requests\r\nContent-Type: text/plain; charset=utf-8\r\n"
	    "Content-Length: 18\r\nCache-Control: no-store\r\nRetry-After: 17\r\n"
	    "Strict-Transport-Security: max-age=1\r\n\r\nToo Many Requests\n");
	km_buf_clear(&out);
	assert_int_equal(heads_answer(&out, &b), 0);
	assert_int_equal(km_buf_add(&out, "", 1), 0);
	assert_string_equal(
	    (char *)km_buf_head(&out),
	    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/html; charset=utf-8\r\n"
	    "Content-Length: 12\r\nCache-Control: no-store\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
	    "Connection: close\r\n\r\n<p>later</p>");
	km_buf_free(&out);
	for (size_t i = 0; i < sizeof(dates) / sizeof(dates[0]); i++) {
		heads_date(date, dates[i].second);
		assert_string_equal(date, dates[i].text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_strip),     cmocka_unit_test(test_request_fields),
	    cmocka_unit_test(test_room),      cmocka_unit_test(test_response),
	    cmocka_unit_test(test_redirects), cmocka_unit_test(test_answers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
