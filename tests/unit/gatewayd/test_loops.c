/* SPDX-License-Identifier: MIT */
/* Requests that come round again: what each tunnel writes into them, and when it is too often. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/edge/h1.h"
#include "gatewayd/edge/loops.h"
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t one[16] = {0x30, 0xca, 0x96, 0x6b, 0x14, 0x4c, 0x41, 0x94, 1},
		     two[16] = {0x30, 0xca, 0x96, 0x6b, 0x14, 0x4c, 0x41, 0x95, 1};
#define ONE "kakuremichi; t=30ca966b144c4194"
#define TWO "kakuremichi; t=30ca966b144c4195"

static struct http_request request;
static char mark[LOOPS_MARK]; /* of the tunnel that it has come to last */

/* Whether a request with these lines may pass; its last fields are then what was added. */
static bool passes(const char *lines, const uint8_t tunnel[16], bool via)
{
	static char text[4096]; /* the fields point into it */
	static const struct http_limits limits = {sizeof(text), HTTP_FIELDS_MAX};
	const char *why;
	int n = snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: a.test\r\n%s\r\n", lines);
	assert_int_equal(h1_request_parse(&request, text, (size_t)n, &limits, &why), 0);
	loops_mark(mark, tunnel);
	return loops_pass(&request, mark, via);
}

static void expect_field(size_t from_end, const char *name, const char *value)
{
	const struct http_field *f = &request.fields[request.n_fields - from_end];
	assert_int_equal(f->name.n, strlen(name));
	assert_memory_equal(f->name.p, name, f->name.n);
	assert_int_equal(f->value.n, strlen(value));
	assert_memory_equal(f->value.p, value, f->value.n);
	assert_false(f->hop);
}

static void test_marks(void **state)
{
	(void)state;
	assert_true(passes("", one, false));
	assert_int_equal(request.n_fields, 2);
	expect_field(1, "CDN-Loop", ONE);
	assert_true(passes("", two, true));
	expect_field(2, "CDN-Loop", TWO);
	expect_field(1, "Via", "1.1 kakuremichi");
	request.n_fields = 0;
	request.minor = 0;
	assert_true(loops_pass(&request, mark, true));
	expect_field(1, "Via", "1.0 kakuremichi");
	request.major = 2;
	assert_true(loops_pass(&request, mark, true));
	expect_field(1, "Via", "2 kakuremichi");
}

static void test_times(void **state)
{
	static const struct {
		const char *lines;
		bool first, second; /* whether it may pass the tunnels */
	} cases[] = {
	    {"CDN-Loop: " ONE "\r\n", true, true},
	    {"CDN-Loop: " ONE ", " ONE "\r\n", true, true},
	    {"CDN-Loop: " ONE "\r\nA: b\r\ncdn-loop:" ONE "\r\nCDN-LOOP: " ONE "\r\n", false, true},
	    {"CDN-Loop: " ONE ", " ONE "," ONE "\r\n", false, true},
	    {"CDN-Loop: a.example, " ONE ",b;c=\"d\", " ONE ",\t" ONE ";x=y, " TWO "\r\n", false,
	     true},
	    {"CDN-Loop: " ONE ", " TWO ", " ONE ", " TWO ", " ONE ", " TWO "\r\n", false, false},
	    /* Of others, and what is none. */
	    {"X-CDN-Loop: " ONE "," ONE "," ONE "\r\n", true, true},
	    {"Via: " ONE "," ONE "," ONE "\r\n", true, true},
	    {"CDN-Loop: " ONE "," ONE ",kakuremichi; t=30ca966b144c419\r\n", true, true},
	    {"CDN-Loop:\r\nCDN-Loop: t=\r\n", true, true},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		if (passes(cases[i].lines, one, false) != cases[i].first ||
		    passes(cases[i].lines, two, false) != cases[i].second)
			fail_msg("%s", cases[i].lines);
	}
}

/* What others have written stays, and nothing is written where there is no room. */
static void test_room(void **state)
{
	(void)state;
	assert_true(passes("CDN-Loop: a.example\r\n", one, false));
	expect_field(2, "CDN-Loop", "a.example");
	expect_field(1, "CDN-Loop", ONE);
	while (request.n_fields < HTTP_FIELDS_ROOM)
		request.fields[request.n_fields++] = request.fields[0];
	assert_true(loops_pass(&request, mark, true));
	assert_int_equal(request.n_fields, HTTP_FIELDS_ROOM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_marks),
	    cmocka_unit_test(test_times),
	    cmocka_unit_test(test_room),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
