/* SPDX-License-Identifier: MIT */
/* Settings files are completed without touching what else is in them. */
#include "libkm/base/util.h"
#include "libkm/join/conf_edit.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
/* after the standard headers */
#include <cmocka.h>

static char *edited(const char *text, const struct km_conf_edit *e, size_t n, int wanted)
{
	struct km_buf b;
	char *out;

	km_buf_init(&b, 4096);
	assert_int_equal(km_conf_edit(&b, text, e, n), wanted);
	out = strndup((char *)km_buf_head(&b), b.len);
	assert_non_null(out);
	km_buf_free(&b);
	return out;
}

static void test_replace(void **state)
{
	static const char *const urls[] = {"wss://a:3001", "wss://b:3001"}, *const pin[] = {"x"};
	static const struct km_conf_edit e[] = {{"control", urls, 2}, {"control_pin", pin, 1}};
	static const struct {
		const char *before, *after;
	} cases[] = {
	    {"", "control = wss://a:3001\n\twss://b:3001\ncontrol_pin = x\n"},
	    {"# mine\nlog_level = debug\n",
	     "# mine\nlog_level = debug\ncontrol = wss://a:3001\n\twss://b:3001\ncontrol_pin = x\n"},
	    {"control=wss://old:1\n\twss://older:1\n  wss://oldest:1\nallow_targets = a:1\n\tb:2\n",
	     "allow_targets = a:1\n\tb:2\ncontrol = wss://a:3001\n\twss://b:3001\ncontrol_pin = x\n"},
	    {"control_pinned = 1\n# control = z\ncontrol_pin \t= y",
	     "control_pinned = 1\n# control = z\ncontrol = wss://a:3001\n\twss://b:3001\n"
	     "control_pin = x\n"},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		char *got = edited(cases[i].before, e, 2, 0), *again = edited(got, e, 2, 0);

		assert_string_equal(got, cases[i].after);
		assert_string_equal(again, cases[i].after);
		free(got);
		free(again);
	}
}

static void test_left_out(void **state)
{
	static const struct km_conf_edit e[] = {{"ca_pin", NULL, 0}};
	char *got = edited("a = 1\nca_pin = 00\nb = 2\n", e, 1, 0);

	(void)state;
	assert_string_equal(got, "a = 1\nb = 2\n");
	free(got);
}

static void test_bad_values(void **state)
{
	char value[256];
	const char *const values[] = {value};
	struct km_conf_edit e = {"k", values, 1};

	(void)state;
	strcpy(value, "a\nevil = 1");
	free(edited("", &e, 1, KM_EINVAL));
	memset(value, 'a', 255);
	value[255] = 0;
	free(edited("", &e, 1, KM_EINVAL));
	value[195] = 0;
	free(edited("", &e, 1, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_replace),
	    cmocka_unit_test(test_left_out),
	    cmocka_unit_test(test_bad_values),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
