/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "libkm/base/field.h"
#include <cmocka.h>

static void names(void **state)
{
	static const char *const good[] = {"A", "X-Frame-Options", "x_y", "!#$%&'*+-.^_`|~09az"},
				 *const bad[] = {"",         " ",     "a b",  "a:",  ":path",
						 "a\t",      "a\r\n", "\x7f", "a/b", "a(b",
						 "\xc3\xa9", "a,b",   "a;b",  "a=b", "\"a\""};
	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(km_field_name_ok(good[i]));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(km_field_name_ok(bad[i]));
}

static void values(void **state)
{
	char one[] = "a?b";
	(void)state;
	assert_true(km_field_value_ok(""));
	assert_true(km_field_value_ok("max-age=1; \"x\"\tand more"));
	assert_false(km_field_value_ok(" a"));
	assert_false(km_field_value_ok("a "));
	assert_false(km_field_value_ok("\ta"));
	assert_false(km_field_value_ok(" "));
	for (int c = 1; c < 256; c++) {
		one[1] = (char)c;
		assert_int_equal(km_field_value_ok(one), c == '\t' || (c >= ' ' && c < 0x7f));
	}
}

static void reserved(void **state)
{
	static const char *const no[] = {"host",
					 "HOST",
					 "Content-length",
					 "transfer-encoding",
					 "Connection",
					 "keep-alive",
					 "TE",
					 "Trailer",
					 "upgrade",
					 "Forwarded",
					 "x-forwarded-for",
					 "X-Forwarded-Anything",
					 "X-REAL-IP",
					 "Proxy-Authorization",
					 "proxy",
					 "Sec-WebSocket-Key",
					 "http2-settings",
					 "expect",
					 "x_forwarded.for",
					 "Content_Length",
					 "cdn-loop"},
				 *const yes[] = {
				     "Server",      "Cookie", "Authorization",
				     "X-Forwarded", "Hosts",  "Ted",
				     "X-Real-IPs",  "ETag",   "Strict-Transport-Security"};
	(void)state;
	for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
		if (!km_field_reserved(no[i]))
			fail_msg("%s", no[i]);
	for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++)
		if (km_field_reserved(yes[i]))
			fail_msg("%s", yes[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(names),
	    cmocka_unit_test(values),
	    cmocka_unit_test(reserved),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
