/* SPDX-License-Identifier: MIT */
#include "libkm/link/envelope.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *text_of(struct km_frame *f)
{
	f->buf[KM_FRAME_PRE + f->len] = '\0';
	return (const char *)f->buf + KM_FRAME_PRE;
}

static void one_frame_holds_type_and_data(void **state)
{
	struct km_frame *f;
	size_t total;
	json_t *data = json_pack("{s:i}", "a", 1);

	(void)state;
	assert_int_equal(km_envelope_format(&f, &total, "config", data, 0), 0);
	assert_null(f->next);
	assert_int_equal(total, f->len);
	assert_string_equal(text_of(f), "{\"type\":\"config\",\"data\":{\"a\":1}}");
	km_frames_free(f);
	json_decref(data);
}

static void the_limit_is_exact(void **state)
{
	struct km_frame *f;
	size_t total, over = strlen("{\"type\":\"t\",\"data\":\"\"}");

	(void)state;
	for (int extra = 0; extra < 2; extra++) {
		size_t n = KM_LINK_TO_CONTROL_MAX - over + (size_t)extra;
		char *s = malloc(n + 1);
		memset(s, 'x', n);
		s[n] = '\0';
		json_t *data = json_string(s);
		int r = km_envelope_format(&f, &total, "t", data, 0);
		assert_int_equal(r, extra ? KM_ETOOBIG : 0);
		if (!extra)
			assert_int_equal(f->len, KM_LINK_TO_CONTROL_MAX);
		km_frames_free(f);
		json_decref(data);
		free(s);
	}
}

static void types_are_checked(void **state)
{
	static const char *const bad[] = {
	    "", "a b", "a\"", "é",
	    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"};
	struct km_frame *f;
	size_t total;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json_t *data = json_null();
		assert_int_equal(km_envelope_format(&f, &total, bad[i], data, 0), KM_EINVAL);
		assert_null(f);
	}
}

/* Everything that needs escaping or more than one byte, in every phase against the cuts. */
static json_t *awkward(size_t n)
{
	json_t *a = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(a,
				      json_sprintf("%zu \"quoted\\\" 隠れ道 \U0001F600 \t\x01 %*s",
						   i, (int)(i % 5), ""));
	return a;
}

static void parts_join_to_the_same(void **state)
{
	json_t *data = awkward(400);

	(void)state;
	for (size_t limit = 240; limit < 2600; limit += 37) {
		struct km_frame *list;
		struct km_joiner j = {0};
		struct km_envelope e = {0};
		struct km_errtext err;
		size_t total;
		int r = -1;
		assert_int_equal(km_envelope_format(&list, &total, "config", data, limit), 0);
		for (struct km_frame *f = list; f; f = f->next) {
			assert_true(f->len <= limit);
			assert_int_equal(km_envelope_parse(&e, text_of(f), f->len, &err), 0);
			r = km_joiner_feed(&j, &e, &err);
			assert_int_equal(r, f->next ? 0 : 1);
		}
		assert_int_equal(r, 1);
		assert_true(json_equal(e.data, data));
		assert_string_equal(e.type, "config");
		json_decref(e.data);
		km_joiner_clear(&j);
		km_frames_free(list);
	}
	json_decref(data);
}

static void bad_envelopes_are_named(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
	    {"", "not JSON"},
	    {"{", "not JSON"},
	    {"[]", "not a JSON object"},
	    {"\"x\"", "not JSON"},
	    {"{}", "type: missing"},
	    {"{\"type\":1}", "type: missing"},
	    {"{\"type\":\"\"}", "type: not 1 to"},
	    {"{\"type\":\"a b\"}", "type: not 1 to"},
	    {"{\"type\":\"a\",\"type\":\"b\"}", "duplicate"},
	    {"{\"type\":\"a\"} x", "not JSON"},
	    {"{\"type\":\"\xff\"}", "not JSON"},
	    {"{\"type\":\"a\\u0000b\"}", "not JSON"},
	    {"{\"type\":\"a\",\"part\":1}", "part and parts"},
	    {"{\"type\":\"a\",\"part\":0,\"parts\":1,\"data\":\"\"}", "part and parts"},
	    {"{\"type\":\"a\",\"part\":3,\"parts\":2,\"data\":\"\"}", "part and parts"},
	    {"{\"type\":\"a\",\"part\":1,\"parts\":99999,\"data\":\"\"}", "part and parts"},
	    {"{\"type\":\"a\",\"part\":\"1\",\"parts\":2,\"data\":\"\"}", "part and parts"},
	    {"{\"type\":\"a\",\"part\":1,\"parts\":2,\"data\":{}}", "must be a string"},
	};
	struct km_envelope e;
	struct km_errtext err;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(km_envelope_parse(&e, bad[i].text, strlen(bad[i].text), &err),
				 KM_EPROTO);
		if (!strstr(err.text, bad[i].says))
			fail_msg("%s: %s", bad[i].text, err.text);
	}
	assert_int_equal(km_envelope_parse(&e, "{\"type\":\"a\"}", 12, &err), 0);
	assert_true(json_is_null(e.data));
}

static void every_truncation_is_refused(void **state)
{
	const char *good = "{\"type\":\"a\",\"part\":1,\"parts\":2,\"data\":\"{\\\"x\\\":\"}";
	struct km_envelope e;
	struct km_errtext err;

	(void)state;
	for (size_t n = 0; n < strlen(good); n++)
		assert_int_equal(km_envelope_parse(&e, good, n, &err), KM_EPROTO);
}

static int feed(struct km_joiner *j, const char *text, struct km_errtext *err)
{
	struct km_envelope e;
	int r = km_envelope_parse(&e, text, strlen(text), err);

	assert_int_equal(r, 0);
	r = km_joiner_feed(j, &e, err);
	if (r == 1)
		json_decref(e.data);
	return r;
}

#define PART(t, k, n, d) "{\"type\":\"" t "\",\"part\":" #k ",\"parts\":" #n ",\"data\":\"" d "\"}"

static void parts_out_of_order_are_refused(void **state)
{
	static const char *const bad[][3] = {
	    {PART("a", 2, 2, "x")},
	    {PART("a", 1, 3, "[1"), PART("a", 3, 3, "]")},
	    {PART("a", 1, 2, "[1"), PART("a", 1, 2, "[1")},
	    {PART("a", 1, 2, "[1"), PART("b", 2, 2, "]")},
	    {PART("a", 1, 2, "[1"), PART("a", 2, 3, "]")},
	    {PART("a", 1, 2, "[1"), "{\"type\":\"a\",\"data\":1}"},
	    {PART("a", 1, 2, "[1"), "{\"type\":\"b\",\"data\":1}"},
	    {PART("a", 1, 2, "[1"), PART("a", 2, 2, "}")},
	};
	struct km_joiner j = {0};
	struct km_errtext err;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int r = 0;
		for (size_t k = 0; k < 3 && bad[i][k]; k++)
			r = feed(&j, bad[i][k], &err);
		assert_int_equal(r, KM_EPROTO);
		/* and it is ready for the next */
		assert_int_equal(feed(&j, PART("a", 1, 1, "[1]"), &err), 1);
	}
	km_joiner_clear(&j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(one_frame_holds_type_and_data),
	    cmocka_unit_test(the_limit_is_exact),
	    cmocka_unit_test(types_are_checked),
	    cmocka_unit_test(parts_join_to_the_same),
	    cmocka_unit_test(bad_envelopes_are_named),
	    cmocka_unit_test(every_truncation_is_refused),
	    cmocka_unit_test(parts_out_of_order_are_refused),
	};
	return cmocka_run_group_tests_name("link/envelope", tests, NULL, NULL);
}
