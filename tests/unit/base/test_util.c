/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void iso8601(void **state)
{
	static const struct {
		const char *in;
		int64_t ms;
		bool ok;
		const char *out; /* NULL: as in */
	} table[] = {
	    {"1970-01-01T00:00:00.000Z", 0, true, NULL},
	    {"2026-11-21T07:02:13.123Z", 1795244533123, true, NULL},
	    {"2024-02-29T23:59:59.999Z", 1709251199999, true, NULL},
	    {"9999-12-31T23:59:59.999Z", 253402300799999, true, NULL},
	    {"1969-12-31T23:59:59Z", -1000, true, "1970-01-01T00:00:00.000Z"},
	    {"2026-11-21T07:02:13Z", 1795244533000, true, "2026-11-21T07:02:13.000Z"},
	    {"2026-11-21t07:02:13.1z", 1795244533100, true, "2026-11-21T07:02:13.100Z"},
	    {"2026-11-21T07:02:13.1239999Z", 1795244533123, true, "2026-11-21T07:02:13.123Z"},
	    {"2026-11-21T09:02:13.123456+02:00", 1795244533123, true, "2026-11-21T07:02:13.123Z"},
	    {"2026-11-21T01:32:13-05:30", 1795244533000, true, "2026-11-21T07:02:13.000Z"},
	    {"2026-11-21T07:02:13", 0, false, NULL},
	    {"2026-11-21T07:02:13.Z", 0, false, NULL},
	    {"2026-11-21 07:02:13Z", 0, false, NULL},
	    {"2026-11-21T07:02Z", 0, false, NULL},
	    {"2026-11-21", 0, false, NULL},
	    {"2023-02-29T00:00:00Z", 0, false, NULL},
	    {"1900-02-29T00:00:00Z", 0, false, NULL},
	    {"2026-13-01T00:00:00Z", 0, false, NULL},
	    {"2026-00-01T00:00:00Z", 0, false, NULL},
	    {"2026-01-00T00:00:00Z", 0, false, NULL},
	    {"2026-01-01T24:00:00Z", 0, false, NULL},
	    {"2026-01-01T00:60:00Z", 0, false, NULL},
	    {"2026-01-01T00:00:60Z", 0, false, NULL},
	    {"2026-01-01T00:00:00+2:00", 0, false, NULL},
	    {"2026-01-01T00:00:00+0200", 0, false, NULL},
	    {"2026-01-01T00:00:00+24:00", 0, false, NULL},
	    {"2026-01-01T00:00:00Z ", 0, false, NULL},
	    {"-026-01-01T00:00:00Z", 0, false, NULL},
	    {"", 0, false, NULL},
	};
	char text[KM_ISO8601_LEN];
	int64_t ms;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		if (km_iso8601_parse(&ms, table[i].in) != (table[i].ok ? 0 : KM_EINVAL))
			fail_msg("%s", table[i].in);
		if (!table[i].ok)
			continue;
		assert_true(ms == table[i].ms);
		assert_string_equal(km_iso8601(ms, text),
				    table[i].out ? table[i].out : table[i].in);
	}
	assert_string_equal(km_iso8601(INT64_MIN, text), "1970-01-01T00:00:00.000Z");
	assert_string_equal(km_iso8601(INT64_MAX, text), "9999-12-31T23:59:59.999Z");
}

/* Every way to cut a valid text short is refused without reading past its end. */
static void iso8601_truncated(void **state)
{
	const char *whole = "2026-11-21T09:02:13.123+02:00";
	int64_t ms;

	(void)state;
	for (size_t n = 0; n < strlen(whole); n++) {
		char *cut = strndup(whole, n);

		assert_int_equal(km_iso8601_parse(&ms, cut), KM_EINVAL);
		free(cut);
	}
}

static void clocks(void **state)
{
	int64_t a = km_now_ms(), b = km_now_ms();

	(void)state;
	assert_true(b >= a);
	assert_true(km_wall_ms() > 1700000000000);
}

static void randomness(void **state)
{
	unsigned hits[3] = {0};
	uint8_t a[32] = {0}, b[32] = {0};

	(void)state;
	km_random(a, sizeof(a));
	km_random(b, sizeof(b));
	assert_memory_not_equal(a, b, sizeof(a));
	assert_int_equal(km_random_below(0), 0);
	assert_int_equal(km_random_below(1), 0);
	for (int i = 0; i < 3000; i++)
		hits[km_random_below(3)]++;
	for (int i = 0; i < 3; i++)
		assert_in_range(hits[i], 800, 1200);
}

static void uuids(void **state)
{
	static const struct {
		const char *in;
		bool ok;
	} table[] = {
	    {"f81d4fae-7dec-41d0-a765-00a0c91e6bf6", true},
	    {"00000000-0000-0000-0000-000000000000", true},
	    {"F81D4FAE-7DEC-41D0-A765-00A0C91E6BF6", false},
	    {"f81d4fae-7dec-41d0-a765-00a0c91e6bf", false},
	    {"f81d4fae-7dec-41d0-a765-00a0c91e6bf60", false},
	    {"f81d4fae7dec-41d0-a765-00a0c91e6bf6--", false},
	    {"g81d4fae-7dec-41d0-a765-00a0c91e6bf6", false},
	    {"{f81d4fae-7dec-41d0-a765-00a0c91e6bf}", false},
	    {"", false},
	};
	char text[KM_UUID_STRLEN];
	uint8_t id[16];

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		assert_int_equal(km_uuid_ok(table[i].in), table[i].ok);
		assert_int_equal(km_uuid_parse(id, table[i].in), table[i].ok ? 0 : KM_EINVAL);
		if (table[i].ok)
			assert_string_equal(km_uuid_str(id, text), table[i].in);
	}
	for (int i = 0; i < 100; i++) {
		assert_true(km_uuid_ok(km_uuid_new(text)));
		assert_int_equal(text[14], '4');
		assert_non_null(strchr("89ab", text[19]));
	}
}

static void hex(void **state)
{
	uint8_t out[3];
	char text[7];

	(void)state;
	assert_string_equal(km_hex("\x00\x9f\xff", 3, text), "009fff");
	assert_string_equal(km_hex("", 0, text), "");
	assert_int_equal(km_unhex(out, 3, "009FfF"), 0);
	assert_memory_equal(out, "\x00\x9f\xff", 3);
	assert_int_equal(km_unhex(out, 3, "009ff"), KM_EINVAL);
	assert_int_equal(km_unhex(out, 3, "009fff0"), KM_EINVAL);
	assert_int_equal(km_unhex(out, 3, "009ffg"), KM_EINVAL);
	assert_int_equal(km_unhex(out, 0, ""), 0);
}

/* RFC 4648 section 10. */
static void base64(void **state)
{
	static const struct {
		const char *raw, *std, *url;
	} table[] = {
	    {"", "", ""},
	    {"f", "Zg==", "Zg"},
	    {"fo", "Zm8=", "Zm8"},
	    {"foo", "Zm9v", "Zm9v"},
	    {"foob", "Zm9vYg==", "Zm9vYg"},
	    {"fooba", "Zm9vYmE=", "Zm9vYmE"},
	    {"foobar", "Zm9vYmFy", "Zm9vYmFy"},
	    {"\xfb\xff\xbf", "+/+/", "-_-_"},
	};
	static const struct {
		size_t n;
		const char *text;
	} bad[] = {
	    {1, "Zh=="},	/* bits behind the last byte */
	    {1, "Zg="},	    {1, "Zg"},	  {1, "Zg=a"}, {1, "=g=="}, {2, "Zg=="}, {1, "Zm8="},
	    {3, "Zm9-"},    {3, "Zm9v="}, {3, "Zm 9"}, {0, "="},    {3, "Zm9"},	 {3, "\xff\xff\xff\xff"},
	};
	char text[KM_B64_LEN(300)];
	uint8_t raw[300], out[300];

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		size_t n = strlen(table[i].raw);

		assert_string_equal(km_b64(table[i].raw, n, text), table[i].std);
		assert_int_equal(km_unb64(out, n, text), 0);
		assert_memory_equal(out, table[i].raw, n);
		assert_string_equal(km_b64url(table[i].raw, n, text), table[i].url);
	}
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++)
		if (km_unb64(out, bad[i].n, bad[i].text) != KM_EINVAL)
			fail_msg("\"%s\" was taken", bad[i].text);
	for (size_t n = 0; n <= sizeof(raw); n++) {
		km_random(raw, n);
		km_b64(raw, n, text);
		assert_int_equal(strlen(text) + 1, KM_B64_LEN(n));
		assert_int_equal(km_unb64(out, n, text), 0);
		assert_memory_equal(out, raw, n);
	}
}

/* FIPS 180-2 appendix B.1. */
static void digest_and_compare(void **state)
{
	uint8_t sum[32];
	char text[65];

	(void)state;
	km_sha256(sum, "abc", 3);
	assert_string_equal(km_hex(sum, 32, text),
			    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_true(km_secret_eq("secret", "secret", 6));
	assert_false(km_secret_eq("secret", "secreT", 6));
	assert_true(km_secret_eq("a", "b", 0));
	km_wipe(text, sizeof(text));
	for (size_t i = 0; i < sizeof(text); i++)
		assert_int_equal(text[i], 0);
	km_wipe(NULL, 0);
}

static void errors_have_names(void **state)
{
	struct km_errtext e;
	char big[1000];

	(void)state;
	for (int err = 0; err >= KM_EGAP; err--)
		assert_string_not_equal(km_strerror(err), "unknown error");
	assert_string_equal(km_strerror(KM_EGAP - 1), "unknown error");
	assert_string_equal(km_strerror(1), "unknown error");
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	assert_int_equal(km_errtext_set(&e, KM_EPERM, "%s", big), KM_EPERM);
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
	assert_int_equal(km_errtext_set(NULL, KM_EIO, "%d", 1), KM_EIO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(iso8601),	  cmocka_unit_test(iso8601_truncated),
	    cmocka_unit_test(clocks),	  cmocka_unit_test(randomness),
	    cmocka_unit_test(uuids),	  cmocka_unit_test(hex),
	    cmocka_unit_test(base64),	  cmocka_unit_test(digest_and_compare),
	    cmocka_unit_test(errors_have_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
