/* SPDX-License-Identifier: MIT */
/* Which requests' bodies are awaited; how, test_edge_bodies.py shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/gather.h"
#include "gatewayd/edge/h1.h"
#include <cmocka.h>
#include <string.h>

#define POST "POST / HTTP/1.1\r\nHost: a.test\r\n"

static struct gw_settings settings;
static struct edge_shared shared = {.settings = &settings};
static struct worker worker = {.sh = &shared};
static struct conn conn = {.w = &worker};

static bool wanted(const char *head)
{
	static struct http_request r;
	const struct http_limits lim = {65536, 128};
	const struct exchange x = {.c = &conn};
	const char *why;
	assert_int_equal(h1_request_parse(&r, head, strlen(head), &lim, &why), 0);
	return gather_wanted(&x, &r);
}

static void what_is_awaited(void **state)
{
	(void)state;
	settings.request_buffer = 65536;
	assert_true(wanted(POST "Content-Length: 1\r\n\r\n"));
	assert_true(wanted(POST "Content-Length: 10000000000\r\n\r\n"));
	assert_true(wanted("POST / HTTP/1.0\r\nHost: a.test\r\nContent-Length: 1\r\n\r\n"));
	/* With a body nothing is upgraded. */
	assert_true(wanted(POST "Content-Length: 1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"));
	assert_true(wanted(POST "TE: trailers\r\nConnection: TE\r\nContent-Length: 1\r\n\r\n"));
}

static void what_goes_on_at_once(void **state)
{
	(void)state;
	settings.request_buffer = 65536;
	assert_false(wanted("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"));
	assert_false(wanted(POST "Content-Length: 0\r\n\r\n"));
	assert_false(wanted(POST "Transfer-Encoding: chunked\r\n\r\n"));
	assert_false(wanted(POST "Content-Length: 1\r\nExpect: 100-continue\r\n\r\n"));
	settings.request_buffer = 0;
	assert_false(wanted(POST "Content-Length: 1\r\n\r\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_awaited),
	    cmocka_unit_test(what_goes_on_at_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
