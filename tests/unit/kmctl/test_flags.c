/* SPDX-License-Identifier: MIT */
#include "kmctl/flags.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void durations_are_read(void **state)
{
	static const struct {
		const char *text;
		int64_t ns; /* -1: refused */
	} cases[] = {
	    {"0", 0},
	    {"0s", 0},
	    {"1s", 1000000000},
	    {"1h30m", 5400000000000},
	    {"1.5h", 5400000000000},
	    {".5s", 500000000},
	    {"2.s", 2000000000},
	    {"8760h", 31536000000000000},
	    {"1ms1us1ns", 1001001},
	    {"3\xc2\xb5s", 3000},
	    {"-5s", -5000000000},
	    {"+5s", 5000000000},
	    {"0.1234567891s", 123456789},
	    {"2562047h", 9223369200000000000},
	    {"2562048h", -1},
	    {"99999999999999999999s", -1},
	    {"", -1},
	    {"-", -1},
	    {"5", -1},
	    {"s", -1},
	    {".s", -1},
	    {"1y", -1},
	    {"1d", -1},
	    {"1h ", -1},
	    {"1h-1m", -1},
	    {"--1h", -1},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		int64_t ns;
		int rc = flags_duration(&ns, cases[i].text);

		if (rc != (cases[i].ns == -1 ? KM_EINVAL : 0) || (!rc && ns != cases[i].ns))
			fail_msg("%s: %d, %lld", cases[i].text, rc, (long long)ns);
	}
}

static void options_are_read(void **state)
{
	static const struct {
		const char *args[6];
		int rc;
		const char *name, *text, *said;
	} cases[] = {
	    {{"-name", "x"}, 0, "name", "x", ""},
	    {{"--name=x"}, 0, "name", "x", ""},
	    {{"-name="}, 0, "name", "", ""},
	    {{"-name", "-5s"}, 0, "name", "-5s", ""},
	    {{"-name", "x", "-name", "y"}, 0, "name", "y", ""},
	    {{"-bool", "-name", "x"}, 0, "bool", "true", ""},
	    {{"-bool=false"}, 0, "bool", "false", ""},
	    {{"-n", "4294967295"}, 0, "n", "4294967295", ""},
	    {{NULL}, 0, "n", "7", ""},
	    {{"-h"}, FLAGS_HELP, "n", "7", ""},
	    {{"-name", "x", "--help"}, FLAGS_HELP, "name", "x", ""},
	    {{"-bogus"}, KM_EINVAL, "n", "7", "flag provided but not defined: -bogus"},
	    {{"-bogus=1"}, KM_EINVAL, "n", "7", "flag provided but not defined: -bogus"},
	    {{"-nam", "x"}, KM_EINVAL, "n", "7", "not defined: -nam"},
	    {{"-name"}, KM_EINVAL, "n", "7", "flag needs an argument: -name"},
	    {{"x"}, KM_EINVAL, "n", "7", "unexpected argument: x"},
	    {{"-bool", "x"}, KM_EINVAL, "n", "7", "unexpected argument: x"},
	    {{"-bool=x"}, KM_EINVAL, "n", "7", "invalid value \"x\" for flag -bool"},
	    {{"-n", "4294967296"}, KM_EINVAL, "t", "1h", "invalid value"},
	    {{"-n", "-1"}, KM_EINVAL, "t", "1h", "invalid value"},
	    {{"-n", ""}, KM_EINVAL, "t", "1h", "invalid value"},
	    {{"-t", "1"}, KM_EINVAL, "n", "7", "invalid value \"1\" for flag -t"},
	    {{"-"}, KM_EINVAL, "n", "7", "unexpected argument: -"},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		struct flag flags[] = {
		    {.name = "name"},
		    {.name = "bool", .kind = FLAG_BOOL},
		    {.name = "n", .kind = FLAG_NUMBER, .text = "7"},
		    {.name = "t", .kind = FLAG_DURATION, .text = "1h"},
		};
		struct km_errtext err = {""};
		int argc = 0, rc;

		while (argc < 6 && cases[i].args[argc])
			argc++;
		rc = flags_parse(flags, KM_ARRAY_LEN(flags), argc, (char **)cases[i].args, &err);
		if (rc != cases[i].rc || !strstr(err.text, cases[i].said))
			fail_msg("case %zu: %d, %s", i, rc, err.text);
		assert_string_equal(flags_get(flags, KM_ARRAY_LEN(flags), cases[i].name)->text,
				    cases[i].text);
		if (!rc)
			assert_int_equal(flags[3].ns, 3600000000000);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(durations_are_read),
	    cmocka_unit_test(options_are_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
