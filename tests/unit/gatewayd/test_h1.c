/* SPDX-License-Identifier: MIT */
/* Every vector is given whole, byte by byte, and cut at every byte, always against a page that may
 * not be read. */
#include "gatewayd/edge/h1.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define GUARD_ROOM (256 * 1024)

static const struct http_limits limits = {65536, 128};

/* n bytes that end where memory ends. */
static char *guarded(const char *p, size_t n)
{
	static char *map;
	long page = sysconf(_SC_PAGESIZE);
	if (!map) {
		map = mmap(NULL, GUARD_ROOM + (size_t)page, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		assert_true(map != MAP_FAILED);
		assert_int_equal(mprotect(map + GUARD_ROOM, (size_t)page, PROT_NONE), 0);
	}
	assert_true(n <= GUARD_ROOM);
	return memcpy(map + GUARD_ROOM - n, p, n);
}

/* ---- requests ---- */

/* Scan and parse; 0 or the status. The head's length goes to *head. */
static int feed(struct http_request *r, const char *p, size_t n, size_t step, size_t *head)
{
	size_t at = 0;
	const char *why;
	for (size_t have = step < n ? step : n;; have = have + step < n ? have + step : n) {
		char *g = guarded(p, have);
		int k = h1_scan(g, have, &at, limits.head);
		if (k < 0)
			return -k;
		if (k > 0) {
			*head = (size_t)k;
			return h1_request_parse(r, guarded(p, (size_t)k), (size_t)k, &limits, &why);
		}
		if (have == n)
			return -1; /* more is needed */
	}
}

static void check_status(const char *text, size_t n, int status)
{
	struct http_request *r = malloc(sizeof(*r));
	size_t head;
	int whole = feed(r, text, n, n, &head);
	if (whole != status)
		print_error("%.*s\n", (int)(n > 300 ? 300 : n), text);
	assert_int_equal(whole, status);
	assert_int_equal(feed(r, text, n, 1, &head), status);
	for (size_t cut = 0; cut < n && cut < 4096; cut++) {
		int rc = feed(r, text, cut, cut ? cut : 1, &head);
		/* A cut head is never taken for a whole one, and what is refused early stays so. */
		if (status == 0)
			assert_true(rc == -1 || (rc == 0 && head <= cut));
		else
			assert_true(rc == -1 || rc >= 400);
	}
	free(r);
}

#define H "Host: a.test\r\n"
#define GET "GET / HTTP/1.1\r\n"
#define POST "POST / HTTP/1.1\r\n" H
#define END "\r\n"

static const struct {
	const char *text;
	int status;
} refused[] = {
    /* request line */
    {"GET / HTTP/1.1\r\n" END, 400},
    {"GET /\r\n" H END, 400},
    {"GET  / HTTP/1.1\r\n" H END, 400},
    {"GET /  HTTP/1.1\r\n" H END, 400},
    {"GET / HTTP/1.1 \r\n" H END, 400},
    {" GET / HTTP/1.1\r\n" H END, 400},
    {"GET\t/ HTTP/1.1\r\n" H END, 400},
    {"GET / http/1.1\r\n" H END, 400},
    {"GET / HTTP/1.10\r\n" H END, 400},
    {"GET / HTTP/11\r\n" H END, 400},
    {"GET / HTTP/1.\r\n" H END, 400},
    {"GET / HTTP/1,1\r\n" H END, 400},
    {"GET / HTTPS/1.1\r\n" H END, 400},
    {"GET / HTTP/2.0\r\n" H END, 505},
    {"GET / HTTP/1.2\r\n" H END, 505},
    {"GET / HTTP/0.9\r\n" H END, 505},
    {"PRI * HTTP/2.0\r\n\r\n", 505},
    {"G@T / HTTP/1.1\r\n" H END, 400},
    {"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJ / HTTP/1.1\r\n" H END, 501},
    {"GET x HTTP/1.1\r\n" H END, 400},
    {"GET /a b HTTP/1.1\r\n" H END, 400},
    {"GET /a#b HTTP/1.1\r\n" H END, 400},
    {"GET /a\x7f HTTP/1.1\r\n" H END, 400},
    {"GET /a\x01 HTTP/1.1\r\n" H END, 400},
    {"GET /\xc3\xbc HTTP/1.1\r\n" H END, 400},
    {"GET * HTTP/1.1\r\n" H END, 400},
    {"GET ftp://a.test/ HTTP/1.1\r\n" H END, 400},
    {"GET http:///x HTTP/1.1\r\n" H END, 400},
    {"GET http://u@a.test/ HTTP/1.1\r\n" H END, 400},
    {"GET http://b.test/ HTTP/1.1\r\n" H END, 400},
    {"GET http://a.test:81/ HTTP/1.1\r\n" H END, 400},
    {"GET http://a.test@b.test/ HTTP/1.1\r\n" H END, 400},
    {"GET http://a.test/#x HTTP/1.1\r\n" H END, 400},
    {"GET http://a.test\\x HTTP/1.1\r\n" H END, 400},
    {"GET http:/a.test/ HTTP/1.1\r\n" H END, 400},
    {"GET //a.test/ HTTP/1.1\r\nHost: \r\n" END, 400},
    {"GET a.test:80 HTTP/1.1\r\n" H END, 400},
    {"GET ?x HTTP/1.1\r\n" H END, 400},
    {"GET \\x HTTP/1.1\r\n" H END, 400},
    {"GET /a\\b HTTP/1.1\r\n" H END, 400},
    {"GET http://a.test/a\\b HTTP/1.1\r\n" H END, 400},
    {"GET /a%00b HTTP/1.1\r\n" H END, 400},
    {"GET /a% HTTP/1.1\r\n" H END, 400},
    {"GET /a%4 HTTP/1.1\r\n" H END, 400},
    {"GET /a%4?b HTTP/1.1\r\n" H END, 400},
    {"GET /a%4g HTTP/1.1\r\n" H END, 400},
    {"GET /a%%41 HTTP/1.1\r\n" H END, 400},
    {"POST * HTTP/1.1\r\n" H END, 400},
    {"OPTIONS ** HTTP/1.1\r\n" H END, 400},
    {"OPTIONS *?x HTTP/1.1\r\n" H END, 400},
    {"get / HTTP/1.1\r\n" H END, 400},
    {"GeT / HTTP/1.1\r\n" H END, 400},
    {"GET! / HTTP/1.1\r\n" H END, 400},
    {"GET: / HTTP/1.1\r\n" H END, 400},
    {"GET/ HTTP/1.1\r\n" H END, 400},
    {"CONNECT a.test:443 HTTP/1.1\r\n" H END, 405},
    {"TRACE / HTTP/1.1\r\n" H END, 405},
    /* line ends and control bytes */
    {"GET / HTTP/1.1\n" H END, 400},
    {"GET / HTTP/1.1\r\nHost: a.test\n" END, 400},
    {"GET / HTTP/1.1\r\nHost: a.test\r\n\n", 400},
    {"GET / HTTP/1.1\r\nA: b\rc\r\n" H END, 400},
    {"GET / HTTP/1.1\r\nA: b\r\r\n" H END, 400},
    {"GET / HTTP/1.1\r\r\n" H END, 400},
    {"GET / HTTP/1.1\r\nA: b\x01\r\n" H END, 400},
    {"GET / HTTP/1.1\r\nA: b\x7f\r\n" H END, 400},
    {"GET / HTTP/1.1\r\nA: b\x0b\r\n" H END, 400},
    {"\r\nGET / HTTP/1.1\r\n" H END, 400}, /* the caller may skip one empty line; h1 does not */
    {"\x16\x03\x01", 400},
    {"{\"a\": 1}", 400},
    /* header lines */
    {GET H "A: b\r\n c\r\n" END, 400},
    {GET H "A: b\r\n\tc\r\n" END, 400},
    {GET " " H END, 400},
    {GET H "A : b\r\n" END, 400},
    {GET H "A\t: b\r\n" END, 400},
    {GET H ": b\r\n" END, 400},
    {GET H "A\r\n" END, 400},
    {GET H "A b: c\r\n" END, 400},
    {GET H "A(: c\r\n" END, 400},
    {GET H "\xc3\xa4: c\r\n" END, 400},
    {GET H "Connection: a b\r\n" END, 400},
    {GET H "Connection: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q\r\n" END, 400},
    /* Host */
    {GET "Host: a.test\r\nHost: a.test\r\n" END, 400},
    {GET "Host: a.test\r\nhost: b.test\r\n" END, 400},
    {GET "Host:\r\n" END, 400},
    {GET "Host: a.test, b.test\r\n" END, 400},
    {GET "Host: a.test b.test\r\n" END, 400},
    {GET "Host: a.test/\r\n" END, 400},
    {GET "Host: u@a.test\r\n" END, 400},
    {GET "Host: a..test\r\n" END, 400},
    {GET "Host: .a.test\r\n" END, 400},
    {GET "Host: a.test:\x30x\r\n" END, 400},
    {GET "Host: a.test:65536\r\n" END, 400},
    {GET "Host: a.test:0\r\n" END, 400},
    {GET "Host: a.test:443:443\r\n" END, 400},
    {GET "Host: [::1\r\n" END, 400},
    {GET "Host: [::g]\r\n" END, 400},
    {GET "Host: [::1]x\r\n" END, 400},
    {GET "Host: *.a.test\r\n" END, 400},
    {GET "Host: a.test\\b\r\n" END, 400},
    {GET "Host : a.test\r\n" END, 400},
    {"GET / HTTP/1.0\r\n" END, 400},
    /* framing: request smuggling */
    {POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" END, 400},
    {POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n" END, 400},
    {POST "Content-Length: 5\r\nContent-Length: 6\r\n" END, 400},
    {POST "Content-Length: 5\r\nContent-Length: 5\r\n" END, 400},
    {POST "Content-Length: 5, 5\r\n" END, 400},
    {POST "Content-Length: 5,6\r\n" END, 400},
    {POST "Content-Length:\r\n" END, 400},
    {POST "Content-Length: +5\r\n" END, 400},
    {POST "Content-Length: -5\r\n" END, 400},
    {POST "Content-Length: 0x5\r\n" END, 400},
    {POST "Content-Length: 5a\r\n" END, 400},
    {POST "Content-Length: 5 5\r\n" END, 400},
    {POST "Content-Length: 5.0\r\n" END, 400},
    {POST "Content-Length: \"5\"\r\n" END, 400},
    {POST "Content-Length: 1e3\r\n" END, 400},
    {POST "Content-Length: 9223372036854775808\r\n" END, 400},
    {POST "Content-Length: 18446744073709551617\r\n" END, 400},
    {POST "Content-Length: 99999999999999999999999999999\r\n" END, 400},
    {POST "Content-Length:\t5\r\n" END, 400},
    {POST "Content-Length: \t 5\r\n" END, 400},
    {POST "Content-Length: 5 \r\n" END, 400},
    {POST "Content-Length: 5\t\r\n" END, 400},
    {POST "Transfer-Encoding:\tchunked\r\n" END, 400},
    {POST "Transfer-Encoding: chunked \r\n" END, 400},
    {POST "Transfer-Encoding: chunked\t\r\n" END, 400},
    {POST "Content-Length : 5\r\n" END, 400},
    {POST "Content-Length\x0b: 5\r\n" END, 400},
    {POST " Content-Length: 5\r\n" END, 400},
    {POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" END, 400},
    {POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" END, 400},
    {POST "Transfer-Encoding: chunked, chunked\r\n" END, 400},
    {POST "Transfer-Encoding: gzip, chunked\r\n" END, 400},
    {POST "Transfer-Encoding: chunked, identity\r\n" END, 400},
    {POST "Transfer-Encoding: ,chunked\r\n" END, 400},
    {POST "Transfer-Encoding: chunked,\r\n" END, 400},
    {POST "Transfer-Encoding: identity\r\n" END, 501},
    {POST "Transfer-Encoding: xchunked\r\n" END, 501},
    {POST "Transfer-Encoding: chunkedx\r\n" END, 501},
    {POST "Transfer-Encoding: cow\r\n" END, 501},
    {POST "Transfer-Encoding: \"chunked\"\r\n" END, 400},
    {POST "Transfer-Encoding: chunked;q=1\r\n" END, 400},
    {POST "Transfer-Encoding:\r\n" END, 400},
    {POST "Transfer-Encoding: \x0b"
	  "chunked\r\n" END,
     400},
    {POST "Transfer-Encoding : chunked\r\n" END, 400},
    {POST "Transfer-Encoding\t: chunked\r\n" END, 400},
    {POST "Transfer-Encoding:\r\n chunked\r\n" END, 400},
    {POST "Transfer-Encoding\r\n: chunked\r\n" END, 400},
    {POST "Transfer-Encoding chunked\r\n" END, 400},
    {POST "X: y\nTransfer-Encoding: chunked\r\n" END, 400},
    {POST "X: y\rTransfer-Encoding: chunked\r\n" END, 400},
    {"POST / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n" END, 400},
    {GET H "Expect: 200-ok\r\n" END, 417},
    {GET H "Expect: 100-continue\r\nExpect: 100-continue\r\n" END, 417},
};

static void test_refused(void **state)
{
	(void)state;
	assert_true(sizeof(refused) / sizeof(refused[0]) >= 100);
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		check_status(refused[i].text, strlen(refused[i].text), refused[i].status);
	check_status("GET / HTTP/1.1\r\nA: \0\r\n" H END,
		     sizeof("GET / HTTP/1.1\r\nA: \0\r\n" H END) - 1, 400);
}

static const char *const taken[] = {
    GET H END,
    "GET /a/b?c=d&e=%20 HTTP/1.1\r\n" H END,
    "GET /|^{}[]\"<>`?\\%%0% HTTP/1.1\r\n" H END,
    "GET /a%5Cb%2f%7F%ff? HTTP/1.1\r\n" H END,
    "GET //a//b/../c;d=e HTTP/1.1\r\n" H END,
    "OPTIONS http://a.test HTTP/1.1\r\n" H END,
    "OPTIONS * HTTP/1.1\r\n" H END,
    "M-SEARCH / HTTP/1.1\r\n" H END,
    "GET / HTTP/1.0\r\n" H END,
    "GET http://a.test HTTP/1.1\r\n" H END,
    "GET HTTPS://A.test/x?y HTTP/1.1\r\n" H END,
    "GET http://a.test?q HTTP/1.1\r\n" H END,
    "GET http://a.test./x HTTP/1.1\r\n" H END,
    GET "Host:a.test\r\n" END,
    GET "HOST: \t a.test:443 \t\r\n" END,
    GET "Host: a.test:\r\n" END,
    GET "Host: a_b-c.test.\r\n" END,
    GET "Host: [::1]:80\r\n" END,
    GET "Host: 127.0.0.1\r\n" END,
    GET H "A:\r\n" END,
    GET H "A: \xff\xfe\t \x80\r\n" END,
    GET H "!#$%&'*+-.^_`|~09az: ok\r\n" END,
    POST "Content-Length: 0\r\n" END,
    POST "content-LENGTH:   9223372036854775807\r\n" END,
    POST "Content-Length:5\r\n" END,
    POST "Transfer-Encoding:chunked\r\n" END,
    POST "Content-Length: 0005\r\n" END,
    POST "Transfer-Encoding: Chunked\r\n" END,
    POST "Content_Length: 5\r\nContent-Length: 6\r\n" END,
    GET H "Connection: , ,close,,\r\n" END,
};

static void test_taken(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++)
		check_status(taken[i], strlen(taken[i]), 0);
}

/* One byte after the other. */
static int scan_slowly(const char *p, size_t n)
{
	size_t line = 0;
	for (size_t i = 0; i < n; i++) {
		if ((p[i] == '\n') != (i > 0 && p[i - 1] == '\r'))
			return -400;
		if (p[i] == '\n' && i - line == 1)
			return (int)i + 1;
		if (p[i] == '\n')
			line = i + 1;
	}
	return 0;
}

/* All ways to put CR, LF and another byte in eight places, wherever in a block of the scanner they
 * come, and wherever the bytes that have come end. */
static void test_scan(void **state)
{
	enum { PLACES = 8, WAYS = 6561, BEFORE = 70 };
	char text[BEFORE + PLACES];
	(void)state;
	memset(text, 'a', sizeof(text));
	for (size_t before = 1; before < BEFORE; before++) {
		size_t n = before + PLACES;
		for (int way = 0; way < WAYS; way++) {
			size_t at = 0, at2 = 0;
			for (int i = 0, w = way; i < PLACES; i++, w /= 3)
				text[before + (size_t)i] = "a\r\n"[w % 3];
			int want = scan_slowly(text, n), cut = 1 + way % (int)(n - 1);
			char *g = guarded(text, n);
			if (h1_scan(g, n, &at, 65536) != want)
				print_error("way %d at %zu\n", way, before);
			at = 0;
			assert_int_equal(h1_scan(g, n, &at, 65536), want);
			int part = h1_scan(guarded(text, (size_t)cut), (size_t)cut, &at2, 65536);
			if (part == 0)
				part = h1_scan(guarded(text, n), n, &at2, 65536);
			assert_int_equal(part, want);
		}
	}
}

static struct http_request *parsed(const char *text)
{
	struct http_request *r = calloc(1, sizeof(*r));
	const char *why = NULL;
	int status = h1_request_parse(r, text, strlen(text), &limits, &why);
	if (status)
		print_error("%d %s: %s\n", status, why, text);
	assert_int_equal(status, 0);
	assert_null(why);
	return r;
}

static void assert_str(struct http_str s, const char *want)
{
	assert_int_equal(s.n, strlen(want));
	assert_memory_equal(s.p, want, s.n);
}

static const struct http_field *field(const struct http_request *r, const char *name)
{
	for (size_t i = 0; i < r->n_fields; i++)
		if (http_str_is(r->fields[i].name, name))
			return &r->fields[i];
	fail_msg("no field %s", name);
	return NULL;
}

static void test_request_facts(void **state)
{
	struct http_request *r;
	(void)state;

	r = parsed(
	    "GET HTTPS://A.Test:8443/x?y HTTP/1.1\r\nhost: a.test:8443\r\nAccept: b\r\n" END);
	assert_str(r->method, "GET");
	assert_str(r->target, "/x?y");
	assert_str(r->authority, "a.test:8443");
	assert_string_equal(r->host, "a.test");
	assert_true(r->safe && r->idempotent && r->keep_alive && !r->head && r->minor == 1);
	assert_int_equal(r->body, HTTP_BODY_NONE);
	assert_str(r->accept, "b");
	free(r);

	r = parsed("GET http://a.test?y HTTP/1.1\r\n" H END);
	assert_true(r->target_query);
	assert_str(r->target, "?y");
	free(r);

	r = parsed("HEAD / HTTP/1.0\r\n" H "Connection: Keep-Alive\r\n" END);
	assert_true(r->head && r->safe && r->keep_alive && r->minor == 0);
	free(r);
	r = parsed("GET / HTTP/1.0\r\n" H END);
	assert_false(r->keep_alive);
	free(r);
	r = parsed("GET / HTTP/1.1\r\n" H "Connection: x, close\r\n" END);
	assert_false(r->keep_alive);
	free(r);
	r = parsed("OPTIONS http://a.test HTTP/1.1\r\n" H END);
	assert_str(r->target, "*");
	free(r);
	r = parsed("OPTIONS http://a.test/ HTTP/1.1\r\n" H END);
	assert_str(r->target, "/");
	free(r);
	r = parsed("GETX / HTTP/1.1\r\n" H END);
	assert_false(r->safe || r->idempotent);
	free(r);
	r = parsed("PUT / HTTP/1.1\r\n" H "Content-Length: 12\r\nExpect: 100-Continue\r\n" END);
	assert_true(r->idempotent && !r->safe && r->expect_continue);
	assert_int_equal(r->body, HTTP_BODY_LENGTH);
	assert_int_equal(r->length, 12);
	free(r);
	r = parsed("GET / HTTP/1.1\r\n" H "Content-Length: 0\r\n" END);
	assert_int_equal(r->body, HTTP_BODY_NONE);
	free(r);
	r = parsed(POST "Content-Length: 0\r\n" END);
	assert_int_equal(r->body, HTTP_BODY_LENGTH);
	free(r);
	r = parsed(POST "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n" END);
	assert_int_equal(r->body, HTTP_BODY_CHUNKED);
	assert_true(r->expect_continue && !r->idempotent);
	free(r);
}

static void test_hop_by_hop(void **state)
{
	struct http_request *r;
	(void)state;
	r = parsed(GET H
		   "Connection: X-One, keep-alive\r\nX-One: 1\r\nX-Two: 2\r\nKeep-Alive: 1\r\n"
		   "TE: trailers\r\nTrailer: x\r\nProxy-Connection: close\r\nX-Forwarded-For: 1\r\n"
		   "X_Forwarded_For: 1\r\nx-real_ip: 1\r\nForwarded: for=1\r\nTransfer_Encoding: "
		   "chunked\r\nHost_: x\r\nX.Forwarded~For: 1\r\nProxy: 1\r\n" END);
	static const char *const gone[] = {"connection",       "x-one",
					   "keep-alive",       "te",
					   "proxy-connection", "x-real_ip",
					   "forwarded",        "x-forwarded-for",
					   "x_forwarded_for",  "transfer_encoding",
					   "x.forwarded~for",  "proxy"};
	for (size_t i = 0; i < sizeof(gone) / sizeof(gone[0]); i++)
		assert_true(field(r, gone[i])->hop);
	assert_false(field(r, "x-two")->hop);
	assert_false(field(r, "host_")->hop);
	assert_false(field(r, "trailer")->hop);
	assert_int_equal(r->body, HTTP_BODY_NONE);
	free(r);
}

static void test_trailer_wishes(void **state)
{
	static const struct {
		const char *fields;
		bool te, ok;
	} cases[] = {
	    {"", false, true},
	    {"TE: trailers\r\nConnection: TE, close\r\n", true, true},
	    {"TE: gzip;q=0.5 , Trailers\r\n", true, true},
	    {"TE: gzip\r\nTE: trailers\r\n", true, true},
	    {"TE: trailersx, x\r\n", false, true},
	    {"Connection: Keep-Alive, Upgrade, Host\r\n", false, true},
	    {"Connection: X-Sum\r\n", false, false},
	};
	struct http_response *a = malloc(sizeof(*a));
	char text[256];
	const char *why;
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(text, sizeof(text), GET H "%s\r\n", cases[i].fields);
		struct http_request *r = parsed(text);
		assert_int_equal(r->te_trailers, cases[i].te);
		assert_int_equal(r->trailers_ok, cases[i].ok);
		free(r);
	}
	for (int told = 0; told < 2; told++) {
		int n = snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\nTrailer:%s\r\n\r\n",
				 told ? " x" : "");
		assert_int_equal(h1_response_parse(a, text, (size_t)n, false, &limits, &why), 0);
		assert_int_equal(a->trailers_told, told);
		assert_true(a->trailers_ok);
	}
	free(a);
}

static void test_upgrade(void **state)
{
	static const struct {
		const char *head;
		bool want;
	} cases[] = {
	    {GET H "Connection: Upgrade\r\nUpgrade: websocket\r\n" END, true},
	    {GET H "Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n" END, true},
	    {GET H "Upgrade: websocket\r\n" END, false},
	    {GET H "Connection: upgrade\r\n" END, false},
	    {GET H "Connection: upgrade\r\nUpgrade: h2c\r\n" END, false},
	    {GET H "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n" END, false},
	    {GET H "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n" END, false},
	    {GET H "Connection: upgrade\r\nUpgrade: HTTP/2.0\r\n" END, false},
	    {GET H "Connection: upgrade\r\nUpgrade: TLS/1.0\r\n" END, false},
	    {"GET / HTTP/1.0\r\n" H "Connection: upgrade\r\nUpgrade: websocket\r\n" END, false},
	    {POST "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n" END, false},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct http_request *r = parsed(cases[i].head);
		assert_int_equal(r->upgrade, cases[i].want);
		free(r);
	}
}

static void test_limits(void **state)
{
	char *text = malloc(GUARD_ROOM);
	size_t n, at;
	struct http_request *r = malloc(sizeof(*r));
	const char *why;
	(void)state;

	memset(text, 'a', GUARD_ROOM);
	memcpy(text, "GET /", 5);
	at = 0;
	assert_int_equal(h1_scan(text, 65535, &at, 65536), 0);
	assert_int_equal(h1_scan(text, 65536, &at, 65536), -414);
	memcpy(text, "GET / HTTP/1.1\r\nX: ", 19);
	at = 0;
	assert_int_equal(h1_scan(text, 65535, &at, 65536), 0);
	assert_int_equal(h1_scan(text, 65536, &at, 65536), -431);
	memcpy(text + 65532, "\r\n\r\n", 4);
	at = 0;
	assert_int_equal(h1_scan(text, 65536, &at, 65536), 65536);
	memcpy(text + 65532, "aaaa\r\n\r\n", 8);
	at = 0;
	assert_int_equal(h1_scan(text, 65540, &at, 65536), -431);

	for (int fields = 127; fields <= 129; fields++) {
		n = (size_t)sprintf(text, GET H);
		for (int i = 1; i < fields; i++)
			n += (size_t)sprintf(text + n, "X%d: y\r\n", i);
		n += (size_t)sprintf(text + n, "\r\n");
		assert_int_equal(h1_request_parse(r, text, n, &limits, &why),
				 fields > 128 ? 431 : 0);
	}
	free(r);
	free(text);
}

/* ---- responses ---- */

static const struct {
	const char *text;
	bool head;
	int status; /* 0: refused */
	enum http_body body;
	uint64_t length;
	bool keep_alive;
} responses[] = {
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" END, false, 200, HTTP_BODY_LENGTH, 5, true},
    {"HTTP/1.1 200 \r\nContent-Length: 5\r\n" END, false, 200, HTTP_BODY_LENGTH, 5, true},
    {"HTTP/1.1 200\r\nContent-Length: 5\r\n" END, false, 200, HTTP_BODY_LENGTH, 5, true},
    {"HTTP/1.1 200 \xc3\xa4\r\nContent-Length: 5\r\n" END, false, 200, HTTP_BODY_LENGTH, 5, true},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" END, true, 200, HTTP_BODY_NONE, 5, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" END, true, 200, HTTP_BODY_NONE, 0, true},
    {"HTTP/1.1 200 OK\r\nContent-Length:\t5 \r\n" END, false, 200, HTTP_BODY_LENGTH, 5, true},
    {"HTTP/1.1 200 OK\r\n" END, true, 200, HTTP_BODY_NONE, 0, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" END, true, 200, HTTP_BODY_NONE, 0, false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" END, false, 200, HTTP_BODY_CHUNKED, 0,
     true},
    {"HTTP/1.1 200 OK\r\n" END, false, 200, HTTP_BODY_CLOSE, 0, false},
    {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n" END, false, 200, HTTP_BODY_LENGTH, 1, false},
    {"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n" END, false, 200,
     HTTP_BODY_LENGTH, 1, true},
    {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n" END, false, 200,
     HTTP_BODY_LENGTH, 1, false},
    {"HTTP/1.1 204 No Content\r\n" END, false, 204, HTTP_BODY_NONE, 0, true},
    {"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n" END, false, 304, HTTP_BODY_NONE, 9,
     false},
    {"HTTP/1.1 304 Not Modified\r\n" END, false, 304, HTTP_BODY_NONE, 0, true},
    {"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n" END, false, 204, HTTP_BODY_NONE, 0,
     false},
    {"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n" END, false, 204, HTTP_BODY_NONE, 0, true},
    {"HTTP/1.1 100 Continue\r\n" END, false, 100, HTTP_BODY_NONE, 0, true},
    {"HTTP/1.1 101 Switching Protocols\r\nContent-Length: 0\r\n" END, false, 101, HTTP_BODY_NONE, 0,
     true},
    {"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.1 099 x\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.1 600 x\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.1 20 x\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.1 2000 x\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.1  200 x\r\n" END, false, 0, 0, 0, false},
    {"HTTP/2 200\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.1 200 a\x01\r\n" END, false, 0, 0, 0, false},
    {"ICY 200 OK\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n" END, false, 0, 0, 0,
     false},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.1 200 OK\r\nA : b\r\n" END, false, 0, 0, 0, false},
    {"HTTP/1.1 200 OK\r\n: b\r\n" END, false, 0, 0, 0, false},
};

static void test_responses(void **state)
{
	struct http_response *r = malloc(sizeof(*r));
	const char *why;
	(void)state;
	for (size_t i = 0; i < sizeof(responses) / sizeof(responses[0]); i++) {
		size_t n = strlen(responses[i].text);
		int rc = h1_response_parse(r, guarded(responses[i].text, n), n, responses[i].head,
					   &limits, &why);
		if ((rc == 0) != (responses[i].status != 0))
			print_error("%s", responses[i].text);
		assert_int_equal(rc, responses[i].status ? 0 : -1);
		if (rc)
			continue;
		assert_int_equal(r->status, responses[i].status);
		assert_int_equal(r->body, responses[i].body);
		assert_int_equal(r->length, responses[i].length);
		assert_int_equal(r->keep_alive, responses[i].keep_alive);
	}
	free(r);
}

/* ---- chunks ---- */

/* Decodes in steps; the body goes to out. Returns the last verdict and how much was used. */
static enum h1_chunk decode(const char *p, size_t n, size_t step, char *out, size_t *out_n,
			    size_t *used_all)
{
	struct h1_chunked c = {0};
	enum h1_chunk v = H1_CHUNK_MORE;
	size_t at = 0;
	*out_n = 0;
	while (at < n && v != H1_CHUNK_BAD && v != H1_CHUNK_END) {
		size_t k = n - at < step ? n - at : step, used, len;
		const char *data;
		char *g = guarded(p + at, k);
		v = h1_chunked_next(&c, g, k, &used, &data, &len);
		assert_true(used <= k);
		if (v == H1_CHUNK_DATA) {
			assert_true(len > 0 && data >= g && data + len <= g + k);
			memcpy(out + *out_n, data, len);
			*out_n += len;
		}
		assert_true(v == H1_CHUNK_BAD || used > 0);
		at += used;
	}
	*used_all = at;
	return v;
}

static const struct {
	const char *text, *body;
	size_t behind; /* bytes that belong to the next message */
} chunks_good[] = {
    {"0\r\n\r\n", "", 0},
    {"5\r\nabcde\r\n0\r\n\r\n", "abcde", 0},
    {"5\r\nabcde\r\n0\r\n\r\nGET / ", "abcde", 6},
    {"1\r\na\r\n2\r\nbc\r\n000\r\n\r\n", "abc", 0},
    {"A\r\n0123456789\r\n0\r\n\r\n", "0123456789", 0},
    {"0000000000000003\r\nabc\r\n0\r\n\r\n", "abc", 0},
    {"3;a=b;c=\"d\"\r\nabc\r\n0;x\r\n\r\n", "abc", 0},
    {"3;a=\"\";b=\";\\\" \xff\t\";c\r\nabc\r\n0\r\n\r\n", "abc", 0},
    {"3\r\n\r\n\r\r\n0\r\n\r\n", "\r\n\r", 0},
    {"1\r\na\r\n0\r\nX: y\r\nZ:\r\n\r\nrest", "a", 4},
};

static const char *const chunks_bad[] = {
    "\r\n",
    "g\r\n",
    "-1\r\n",
    "+1\r\na",
    " 1\r\na",
    "1 \r\na",
    "0x1\r\na",
    "1\na\r\n0\r\n\r\n",
    "1\r\nab\r\n",
    "1\r\na\n0\r\n\r\n",
    "1\r\na\r0\r\n\r\n",
    "1\ra\r\n",
    "1;\n",
    "1;\r\na\r\n0\r\n\r\n",
    "1;;a\r\na\r\n0\r\n\r\n",
    "1;a=\r\na\r\n0\r\n\r\n",
    "1;a=b=c\r\n",
    "1; a\r\n",
    "1;a \r\n",
    "1;a =b\r\n",
    "1;a= b\r\n",
    "1;a=\"b\r\n\"\r\n",
    "1;a=\"b\\\r\n\"\r\n",
    "1;a=\"b\"c\r\n",
    "1;a=\"b\n\"\r\n",
    "1;a\ra\r\n",
    "1;\xff\r\n",
    "1\t\r\na",
    "1_0\r\n",
    "1,\r\n",
    "\t1\r\n",
    "0\r\nX: \r\r\n\r\n",
    "0\r\nX: a\rb\r\n\r\n",
    "0\r\nX: a\r\n b\r\n\r\n",
    "0\r\n\xffX: a\r\n\r\n",
    "1;\x01\r\n",
    "1;\x7f\r\n",
    "00000000000000001\r\n",
    "8000000000000000\r\n",
    "ffffffffffffffff\r\n",
    "10000000000000000\r\n",
    "fffffffffffffffff\r\n",
    "0\r\n \r\n",
    "0\r\nX\r\n",
    "0\r\n: y\r\n",
    "0\r\nX : y\r\n",
    "0\r\nX: y\n\r\n",
    "0\r\nX: \x01\r\n",
    "0\r\n\n",
    "0\r\n\r\r",
    "0\n\r\n",
    "3\r\nabc0\r\n\r\n",
    ";a\r\n",
    "1\r\r\na",
};

static void test_chunks(void **state)
{
	char out[256];
	size_t n, used;
	(void)state;
	for (size_t i = 0; i < sizeof(chunks_good) / sizeof(chunks_good[0]); i++) {
		const char *t = chunks_good[i].text;
		size_t len = strlen(t), end = len - chunks_good[i].behind;
		for (size_t step = 1; step <= len; step++) {
			assert_int_equal(decode(t, len, step, out, &n, &used), H1_CHUNK_END);
			assert_int_equal(used, end);
			assert_int_equal(n, strlen(chunks_good[i].body));
			assert_memory_equal(out, chunks_good[i].body, n);
		}
		for (size_t cut = 1; cut < end; cut++) {
			enum h1_chunk v = decode(t, cut, cut, out, &n, &used);
			assert_true(v != H1_CHUNK_BAD && v != H1_CHUNK_END);
		}
	}
	for (size_t i = 0; i < sizeof(chunks_bad) / sizeof(chunks_bad[0]); i++) {
		size_t len = strlen(chunks_bad[i]);
		for (size_t step = 1; step <= len; step++) {
			enum h1_chunk v = decode(chunks_bad[i], len, step, out, &n, &used);
			if (v != H1_CHUNK_BAD)
				print_error("not refused: %s\n", chunks_bad[i]);
			assert_int_equal(v, H1_CHUNK_BAD);
		}
	}
}

static void test_chunk_bounds(void **state)
{
	static char text[40000], out[16];
	size_t n, used;
	(void)state;
	memset(text, 'a', sizeof(text));
	memcpy(text, "1;", 2);
	assert_int_equal(decode(text, 2 + H1_CHUNK_LINE_MAX, 7, out, &n, &used), H1_CHUNK_MORE);
	assert_int_equal(decode(text, 3 + H1_CHUNK_LINE_MAX, 7, out, &n, &used), H1_CHUNK_BAD);
	for (size_t i = 3; i + 4 < sizeof(text); i += 4)
		memcpy(text + i, "a:\r\n", 4);
	memcpy(text, "0\r\n", 3);
	assert_int_equal(decode(text, sizeof(text) - 5, 11, out, &n, &used), H1_CHUNK_BAD);
}

/* Many chunks of a byte, each with an extension: a little of that is borne, not as much as is sent.
 */
static void test_chunk_excess(void **state)
{
	static char text[1 << 20];
	size_t n = 0, used, len;
	const char *data;
	enum h1_chunk v;
	struct h1_chunked c = {0};
	(void)state;
	for (int i = 0; i < 1000; i++)
		n += (size_t)sprintf(text + n, "1;%0100d\r\na\r\n", 0);
	size_t at = 0;
	do
		v = h1_chunked_next(&c, text + at, n - at, &used, &data, &len);
	while ((at += used) < n && v == H1_CHUNK_DATA);
	assert_int_equal(v, H1_CHUNK_BAD);
	assert_in_range(at, H1_CHUNK_EXCESS_MAX, 2 * H1_CHUNK_EXCESS_MAX);
	/* As an upload in signed pieces is. */
	memset(text, 'a', sizeof(text));
	memset(&c, 0, sizeof(c));
	for (int i = 0; i < 1000; i++) {
		at = (size_t)sprintf(text, "200;chunk-signature=%064d\r\n", 0);
		memcpy(text + at + 0x200, "\r\n", 2);
		n = at + 0x202;
		assert_int_equal(h1_chunked_next(&c, text, n, &used, &data, &len), H1_CHUNK_DATA);
		assert_int_equal(len, 0x200);
		assert_int_equal(h1_chunked_next(&c, text + used, n - used, &used, &data, &len),
				 H1_CHUNK_MORE);
	}
}

static void test_names(void **state)
{
	static const char *const only[] = {
	    "TE",
	    "Age",
	    "Date",
	    "HOST",
	    "Vary",
	    "Proxy",
	    "Range",
	    "Accept",
	    "Cookie",
	    "Expect",
	    "Pragma",
	    "Expires",
	    "Trailer",
	    "Upgrade",
	    "Warning",
	    "CDN-Loop",
	    "If-Match",
	    "If-Range",
	    "Location",
	    "Forwarded",
	    "X-Real-IP",
	    "Connection",
	    "Keep-Alive",
	    "Set-Cookie",
	    "Retry-After",
	    "Content-Type",
	    "Max-Forwards",
	    "Authorization",
	    "Cache-Control",
	    "Content-Range",
	    "If-None-Match",
	    "Content-Length",
	    "HTTP2-Settings",
	    "X-Forwarded-For",
	    "X-Forwarded-SSL",
	    "Content-Encoding",
	    "Proxy-Connection",
	    "WWW-Authenticate",
	    "X-Forwarded-Host",
	    "X-Forwarded-Port",
	    "If-Modified-Since",
	    "Transfer-Encoding",
	    "X-Forwarded-Proto",
	    "Proxy-Authenticate",
	    "X-Forwarded-Scheme",
	    "X-Forwarded-Server",
	    "If-Unmodified-Since",
	    "Proxy-Authorization",
	};
	static const char *const other[] = {
	    "",
	    "a",
	    "x",
	    "ta",
	    "ETag",
	    "hosts",
	    "Content-MD5",
	    "X-Forwarded-Foo",
	    "X-Forwarded",
	    "content/length",
	    "Content-Lengtg",
	    "Grpc-Status",
	    "Upgrade-Insecure-Requests",
	};
	(void)state;
	for (size_t i = 0; i < sizeof(only) / sizeof(only[0]); i++) {
		size_t n = strlen(only[i]);
		struct http_field f = {.name = {guarded(only[i], n), n}};
		http_field_know(&f);
		if (!f.head_only)
			print_error("%s\n", only[i]);
		assert_true(f.head_only);
	}
	for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++) {
		size_t n = strlen(other[i]);
		struct http_field f = {.name = {guarded(other[i], n), n}};
		http_field_know(&f);
		assert_true(!f.head_only && !f.hop && f.id == HTTP_OTHER);
	}
}

/* Flipping any bit of a good message never makes the parsers leave their bytes. */
static void test_bit_flips(void **state)
{
	static const char head[] = "POST /a?b HTTP/1.1\r\nHost: a.test:80\r\nContent-Length: 5\r\n"
				   "Connection: close, x\r\nX: y\r\nExpect: 100-continue\r\n\r\n";
	static const char body[] = "5;x=y\r\nabcde\r\n0\r\nA: b\r\n\r\n";
	struct http_request *r = malloc(sizeof(*r));
	char copy[256], out[256];
	size_t n, used, at;
	const char *why;
	(void)state;
	for (size_t i = 0; i < (sizeof(head) - 1) * 8; i++) {
		memcpy(copy, head, sizeof(head));
		copy[i / 8] ^= (char)(1 << i % 8);
		at = 0;
		char *g = guarded(copy, sizeof(head) - 1);
		int k = h1_scan(g, sizeof(head) - 1, &at, 65536);
		if (k > 0)
			(void)h1_request_parse(r, guarded(copy, (size_t)k), (size_t)k, &limits,
					       &why);
	}
	for (size_t i = 0; i < (sizeof(body) - 1) * 8; i++) {
		memcpy(copy, body, sizeof(body));
		copy[i / 8] ^= (char)(1 << i % 8);
		(void)decode(copy, sizeof(body) - 1, 3, out, &n, &used);
	}
	free(r);
}

/* ---- small grammars ---- */

static void test_accept(void **state)
{
	static const struct {
		const char *accept;
		bool html;
	} cases[] = {
	    {"", false},
	    {"*/*", false},
	    {"text/html", true},
	    {"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true},
	    {"text/plain, text/html", false},
	    {"text/plain;q=0.5, text/html", true},
	    {"text/html;q=0.5, text/plain", false},
	    {"text/html;q=0", false},
	    {"text/*", false},
	    {"application/json, text/html;q=0.1", true},
	    {"TEXT/HTML ; Q=1", true},
	    {"text/html;level=1;q=0.4, */*;q=0.5", false},
	    {",,;q=", false},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t n = strlen(cases[i].accept);
		struct http_str s = {guarded(cases[i].accept, n), n};
		if (http_prefers_html(s) != cases[i].html)
			print_error("%s\n", cases[i].accept);
		assert_int_equal(http_prefers_html(s), cases[i].html);
	}
}

static void test_host(void **state)
{
	char out[HTTP_HOST_MAX + 1], text[300];
	uint32_t port;
	(void)state;
	memset(text, 'a', sizeof(text));
	for (size_t i = 50; i < 253; i += 50)
		text[i] = '.';
	assert_true(http_host_normal((struct http_str){guarded(text, 253), 253}, out, &port));
	assert_int_equal(strlen(out), 253);
	assert_false(http_host_normal((struct http_str){guarded(text, 254), 254}, out, &port));
	text[253] = '.';
	assert_true(http_host_normal((struct http_str){guarded(text, 254), 254}, out, &port));
	assert_int_equal(strlen(out), 253);
	assert_true(http_host_normal((struct http_str){"[2001:DB8::1]:443", 17}, out, &port));
	assert_int_equal(port, 443);
	assert_false(http_host_normal((struct http_str){"", 0}, out, &port));
	assert_false(http_host_normal((struct http_str){".", 1}, out, &port));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_refused),        cmocka_unit_test(test_taken),
	    cmocka_unit_test(test_request_facts),  cmocka_unit_test(test_hop_by_hop),
	    cmocka_unit_test(test_trailer_wishes), cmocka_unit_test(test_upgrade),
	    cmocka_unit_test(test_limits),         cmocka_unit_test(test_responses),
	    cmocka_unit_test(test_chunks),         cmocka_unit_test(test_chunk_bounds),
	    cmocka_unit_test(test_chunk_excess),   cmocka_unit_test(test_names),
	    cmocka_unit_test(test_scan),           cmocka_unit_test(test_bit_flips),
	    cmocka_unit_test(test_accept),         cmocka_unit_test(test_host),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
