/* SPDX-License-Identifier: MIT */
/* The grace time of certificates that look expired: counted while the host runs, over restarts, and
 * not by the clock on the wall. */
#include "libkm/trust/times.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* after the standard headers */
#include <cmocka.h>

#define GRACE 1000
static const uint8_t one[KM_CERT_FP_LEN] = {1}, two[KM_CERT_FP_LEN] = {2};

static struct km_times *fresh(int64_t mono_ms)
{
	struct km_times *t = km_times_new(GRACE, mono_ms);

	assert_non_null(t);
	return t;
}

static char *saved(const struct km_times *t, int64_t wall_s, int64_t mono_ms)
{
	struct km_buf b;
	char *text;

	km_buf_init(&b, KM_TIMES_MAX);
	assert_int_equal(km_times_format(t, &b, wall_s, mono_ms), 0);
	text = strndup((char *)km_buf_head(&b), b.len);
	assert_non_null(text);
	km_buf_free(&b);
	return text;
}

static void borne(struct km_times *t, const uint8_t *fp, int64_t mono_ms, int64_t left_s)
{
	int64_t left = -1;

	assert_int_equal(km_times_bear(t, fp, mono_ms, &left), left_s > 0);
	assert_int_equal(left, left_s);
}

static void test_runs_out(void **state)
{
	struct km_times *t = fresh(5000);

	(void)state;
	borne(t, one, 5000, GRACE);
	borne(t, one, 5000 + 999000, 1);
	borne(t, two, 5000 + 999000, GRACE); /* has its own */
	borne(t, one, 5000 + 1000000, 0);
	borne(t, one, 5000 + 9000000, 0);
	km_times_free(t);
}

/* The clock was put right within the time: as if nothing had been. */
static void test_fine_again(void **state)
{
	struct km_times *t = fresh(0);

	(void)state;
	borne(t, one, 0, GRACE);
	km_times_fine(t, one);
	km_times_fine(t, two);
	borne(t, one, 900000, GRACE);
	km_times_free(t);
}

static void test_over_restarts(void **state)
{
	struct km_times *t = fresh(1000);
	char *text;

	(void)state;
	borne(t, one, 101000, GRACE);
	text = saved(t, 1795244533, 401000);
	assert_string_equal(text, "saved 1795244533\nrunning 400\nborne "
				  "0100000000000000000000000000000000000000000000000000000000000000"
				  " 100\n");
	km_times_free(t);

	/* A year later by the wall, and the monotonic clock begins anew. */
	t = fresh(7000);
	assert_int_equal(km_times_parse(t, text), 0);
	assert_int_equal(km_times_saved(t), 1795244533);
	borne(t, one, 7000, GRACE - 300);
	borne(t, one, 7000 + 699000, 1);
	borne(t, one, 7000 + 700000, 0);
	free(text);
	km_times_free(t);
}

static void test_damaged(void **state)
{
	static const char fp[] = "0100000000000000000000000000000000000000000000000000000000000000";
	static const char *const bad[] = {
	    "",
	    "saved",
	    "saved 1",
	    "saved 1\n",
	    "saved 1\nrunning 5",
	    "saved -1\nrunning 5\n",
	    "saved 1\nrunning 99999999999999999999\n",
	    "saved 1\nrunning 5\nborne \n",
	    "saved 1\nrunning 5\nborne 01 3\n",
	    "saved 1\nrunning 5\nelse\n",
	};
	char text[400];
	struct km_times *t;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		t = fresh(0);
		assert_int_equal(km_times_parse(t, bad[i]), KM_EINVAL);
		assert_int_equal(km_times_saved(t), 0);
		borne(t, one, 0, GRACE);
		km_times_free(t);
	}
	/* Later than now; twice the same; and a good line does not outlive a bad one. */
	t = fresh(0);
	snprintf(text, sizeof(text), "saved 1\nrunning 5\nborne %s 6\n", fp);
	assert_int_equal(km_times_parse(t, text), KM_EINVAL);
	snprintf(text, sizeof(text), "saved 1\nrunning 5\nborne %s 2\nborne %s 2\n", fp, fp);
	assert_int_equal(km_times_parse(t, text), KM_EINVAL);
	borne(t, one, 0, GRACE);
	km_times_free(t);
}

static void test_truncated(void **state)
{
	struct km_times *t = fresh(0);
	char *text, cut[400];
	size_t n, whole = 0;

	(void)state;
	borne(t, one, 0, GRACE);
	borne(t, two, 2000, GRACE);
	text = saved(t, 77, 4000);
	km_times_free(t);
	for (n = 0; n <= strlen(text); n++) {
		snprintf(cut, sizeof(cut), "%.*s", (int)n, text);
		t = fresh(0);
		whole += km_times_parse(t, cut) == 0;
		km_times_free(t);
	}
	assert_int_equal(whole, 3); /* after "running", after each "borne" */
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_runs_out),      cmocka_unit_test(test_fine_again),
	    cmocka_unit_test(test_over_restarts), cmocka_unit_test(test_damaged),
	    cmocka_unit_test(test_truncated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
