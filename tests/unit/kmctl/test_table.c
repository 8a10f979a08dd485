/* SPDX-License-Identifier: MIT */
#include "kmctl/bundle_diff.h"
#include "kmctl/control.h"
#include "libkm/base/table.h"
#include "libkm/base/util.h"
#include "libkm/cert/sign.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void columns_are_as_wide_as_their_widest_cell(void **state)
{
	static const char *const headings[] = {"A", "LONG", "C", NULL};
	struct km_table *t = km_table_new(headings);
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	(void)state;
	km_table_row(t, (const char *const[]){"wide cell", NULL, "\x1b[31mred"});
	km_table_row(t, (const char *const[]){"", "x", "caf\xc3\xa9"});
	km_table_print(t, "none", f);
	fclose(f);
	assert_string_equal(text, "A          LONG  C\n"
				  "wide cell  -     ?[31mred\n"
				  "-          x     caf??\n");
	free(text);
	km_table_free(t);
}

static void an_empty_table_is_a_sentence(void **state)
{
	static const char *const headings[] = {"A", NULL};
	struct km_table *t = km_table_new(headings);
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	(void)state;
	km_table_print(t, "There are none.", f);
	fclose(f);
	assert_string_equal(text, "There are none.\n");
	free(text);
	km_table_free(t);
	km_table_free(NULL);
}

static void a_table_grows(void **state)
{
	static const char *const headings[] = {"N", NULL};
	struct km_table *t = km_table_new(headings);
	char *text = NULL, cell[8];
	size_t n;
	FILE *f = open_memstream(&text, &n);

	(void)state;
	for (int i = 0; i < 100; i++) {
		snprintf(cell, sizeof(cell), "%d", i);
		km_table_row(t, (const char *const[]){cell});
	}
	km_table_print(t, "", f);
	fclose(f);
	assert_non_null(strstr(text, "\n0\n"));
	assert_non_null(strstr(text, "\n99\n"));
	free(text);
	km_table_free(t);
}

static void times_are_told_from_now(void **state)
{
	static const struct {
		const char *iso, *want;
	} cases[] = {
	    {"2027-02-19T12:00:00Z", "2027-02-19 (in 90 days)"},
	    {"2026-11-22T12:00:00Z", "2026-11-22 (in 24 hours)"},
	    {"2026-11-21T12:30:00.5Z", "2026-11-21 (in 30 minutes)"},
	    {"2026-11-21T12:00:01Z", "2026-11-21 (in 1 second)"},
	    {"2026-11-19T12:00:00Z", "2026-11-19 (2 days ago)"},
	    {NULL, "-"},
	    {"soon", "-"},
	};
	char out[KM_WHEN_LEN];
	int64_t now;

	(void)state;
	assert_int_equal(km_iso8601_parse(&now, "2026-11-21T12:00:00Z"), 0);
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++)
		assert_string_equal(km_when(cases[i].iso, now, out), cases[i].want);
}

static void names_and_ids_are_found(void **state)
{
	json_t *items = json_loads("[{\"id\":\"1\",\"name\":\"a\"},{\"id\":\"2\",\"name\":\"b\"},"
				   "{\"id\":\"3\",\"name\":\"b\"},{\"id\":\"b\",\"name\":\"c\"}]",
				   0, NULL);
	struct km_errtext err = {""};
	const json_t *item;

	(void)state;
	assert_int_equal(control_pick(items, "name", "a", "agent", &item, &err), 0);
	assert_string_equal(control_text(item, "id"), "1");
	assert_int_equal(control_pick(items, "name", "3", "agent", &item, &err), 0);
	assert_string_equal(control_text(item, "id"), "3");
	assert_int_equal(control_pick(items, "name", "b", "agent", &item, &err), 0);
	assert_string_equal(control_text(item, "name"), "c"); /* an id goes before names */
	assert_int_equal(control_pick(items, "name", "d", "agent", &item, &err), KM_ENOTFOUND);
	assert_non_null(strstr(err.text, "no agent is called d"));
	json_array_remove(items, 3);
	assert_int_equal(control_pick(items, "name", "b", "agent", &item, &err), KM_EINVAL);
	json_decref(items);
}

/* ---- what a bundle changes ---- */

static struct km_cert *ca(const char *name)
{
	struct km_cert_spec spec = {.version = KM_CERT_V2, .name = name, .not_after = 1000};
	struct km_cert_key key;
	struct km_cert *c;

	assert_int_equal(km_cert_key_new(&key, KM_CERT_25519, true), 0);
	assert_int_equal(km_cert_self_sign(&c, &spec, &key, NULL), 0);
	return c;
}

static void a_bundle_is_compared(void **state)
{
	struct km_cert *a = ca("a"), *b = ca("b"), *c = ca("c");
	const struct km_cert *one[] = {a, b}, *two[] = {b, c};
	const uint8_t before[][KM_CERT_FP_LEN] = {{1}, {2}},
		      after[][KM_CERT_FP_LEN] = {{2}, {3}, {4}};
	struct km_bundle *old, *new;
	struct km_bundle_change d;
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	(void)state;
	assert_int_equal(km_bundle_new(&old, 4, one, 2, before, 2, NULL), 0);
	assert_int_equal(km_bundle_new(&new, 5, two, 2, after, 3, NULL), 0);
	bundle_diff(&d, old, new);
	assert_int_equal(d.cas_added, 1);
	assert_int_equal(d.cas_removed, 1);
	assert_int_equal(d.blocked, 2);
	assert_int_equal(d.unblocked, 1);
	bundle_diff(&d, NULL, new);
	assert_int_equal(d.cas_added, 2);
	assert_int_equal(d.blocked, 3);
	bundle_diff_show(old, new, f);
	fclose(f);
	assert_non_null(strstr(text, "Trust bundle 5, after 4"));
	assert_non_null(strstr(text, "- refused: certificate 01000000"));
	assert_non_null(strstr(text, "+ refused: certificate 04000000"));
	assert_non_null(strstr(text, "= 1 certificates"));
	free(text);
	km_bundle_free(old);
	km_bundle_free(new);
	km_cert_free(a);
	km_cert_free(b);
	km_cert_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(columns_are_as_wide_as_their_widest_cell),
	    cmocka_unit_test(an_empty_table_is_a_sentence),
	    cmocka_unit_test(a_table_grows),
	    cmocka_unit_test(times_are_told_from_now),
	    cmocka_unit_test(names_and_ids_are_found),
	    cmocka_unit_test(a_bundle_is_compared),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
