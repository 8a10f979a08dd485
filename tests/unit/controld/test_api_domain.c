/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "controld/api/domain.h"
#include <string.h>

static void good(void **state)
{
	static const char *const rows[][2] = {
	    {"example.com", "example.com"},
	    {"EXAMPLE.Com", "example.com"},
	    {"example.com.", "example.com"},
	    {"*.Example.com", "*.example.com"},
	    {"a.b.c.d.e", "a.b.c.d.e"},
	    {"r3---sn-x.example", "r3---sn-x.example"},
	    {"1.2.3.4a", "1.2.3.4a"},
	    {"3com.example", "3com.example"},
	    {"B\xc3\x9c"
	     "cher.example",
	     "xn--bcher-kva.example"},
	    {"*.b\xc3\xbc"
	     "cher.example",
	     "*.xn--bcher-kva.example"},
	    {"stra\xc3\x9f"
	     "e.example",
	     "xn--strae-oqa.example"}, /* non-transitional */
	    {"xn--bcher-kva.example", "xn--bcher-kva.example"},
	    {"XN--BCHER-KVA.example", "xn--bcher-kva.example"},
	    {"\xe4\xbe\x8b\xe3\x81\x88.\xe3\x83\x86\xe3\x82\xb9\xe3\x83\x88",
	     "xn--r8jz45g.xn--zckzah"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char out[DOMAIN_STRLEN];
		struct km_errtext err = {""};
		int rc = domain_normalize(out, rows[i][0], &err);
		if (rc)
			fail_msg("%s: %s", rows[i][0], err.text);
		assert_string_equal(out, rows[i][1]);
	}
}

static void bad(void **state)
{
	static const char *const rows[] = {
	    "",
	    ".",
	    "*",
	    "*.",
	    "com",
	    "com.",
	    "*.com",
	    "a..b",
	    ".a.b",
	    "a.b..",
	    "-a.b",
	    "a-.b",
	    "a_b.c",
	    "a b.c",
	    " a.b",
	    "a.b ",
	    "a.*.b",
	    "**.a.b",
	    "*.*.a.b",
	    "a*.b.c",
	    "1.2.3.4",
	    "[::1]",
	    "::1",
	    "a.b/c",
	    "a.b:80",
	    "user@a.b",
	    "a.123",
	    "xn--a.example",
	    "xn--.example",
	    "\xff\xfe.example",
	    "a\xcc\x88\xe2\x80\xa8.b",
	    "\x01.b",
	    "a\n.b",
	};
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char out[DOMAIN_STRLEN];
		struct km_errtext err = {""};
		if (domain_normalize(out, rows[i], &err) != KM_EINVAL)
			fail_msg("\"%s\" was taken as %s", rows[i], out);
		assert_true(err.text[0]);
	}
}

static void of_length(char *out, size_t total)
{
	for (size_t i = 0; i < total; i++)
		out[i] = i % 50 == 49 && i + 1 < total ? '.' : 'a';
	out[total] = '\0';
}

static void lengths(void **state)
{
	char in[2048], out[DOMAIN_STRLEN];
	struct km_errtext err;
	(void)state;
	of_length(in, 253);
	assert_int_equal(domain_normalize(out, in, &err), 0);
	assert_int_equal(strlen(out), 253);
	of_length(in, 254);
	assert_int_equal(domain_normalize(out, in, &err), KM_EINVAL);
	of_length(in, 2000);
	assert_int_equal(domain_normalize(out, in, &err), KM_EINVAL);
	memcpy(in, "*.", 2);
	of_length(in + 2, 251);
	assert_int_equal(domain_normalize(out, in, &err), 0);
	of_length(in + 2, 252);
	assert_int_equal(domain_normalize(out, in, &err), KM_EINVAL);
	memset(in, 'a', 64);
	strcpy(in + 63, ".example");
	assert_int_equal(domain_normalize(out, in, &err), 0);
	memset(in, 'a', 64);
	strcpy(in + 64, ".example");
	assert_int_equal(domain_normalize(out, in, &err), KM_EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(good),
	    cmocka_unit_test(bad),
	    cmocka_unit_test(lengths),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
