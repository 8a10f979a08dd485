/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "libkm/base/err.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* The series live as long as the process, so the tests build on one another. */

static void groups_by_name(void **state)
{
	struct km_metric *a = km_metric(KM_METRIC_COUNTER, "kakuremichi_a_total", "code=\"200\"", "A.");
	struct km_metric *b = km_metric(KM_METRIC_GAUGE, "kakuremichi_b", "", "B \\ and\nmore.");
	struct km_metric *c = km_metric(KM_METRIC_COUNTER, "kakuremichi_a_total", "code=\"502\"", "A.");
	struct km_buf out;

	(void)state;
	assert_ptr_not_equal(a, c);
	assert_ptr_equal(a, km_metric(KM_METRIC_COUNTER, "kakuremichi_a_total", "code=\"200\"", "A."));
	km_metric_add(a, 3);
	km_metric_set(b, -7);
	km_metric_add(c, 1);
	km_buf_init(&out, 1000);
	assert_int_equal(km_metrics_print(&out), 0);
	assert_int_equal(km_buf_add(&out, "", 1), 0);
	assert_string_equal((char *)km_buf_head(&out),
			    "# HELP kakuremichi_a_total A.\n"
			    "# TYPE kakuremichi_a_total counter\n"
			    "kakuremichi_a_total{code=\"200\"} 3\n"
			    "kakuremichi_a_total{code=\"502\"} 1\n"
			    "# HELP kakuremichi_b B \\\\ and\\nmore.\n"
			    "# TYPE kakuremichi_b gauge\n"
			    "kakuremichi_b -7\n");
	km_buf_free(&out);
	km_buf_init(&out, 100);
	assert_int_equal(km_metrics_print(&out), KM_ETOOBIG);
	km_buf_free(&out);
}

static void *count(void *arg)
{
	char labels[32];

	(void)arg;
	for (int i = 0; i < 2000; i++) {
		snprintf(labels, sizeof(labels), "n=\"%d\"", i % 50);
		km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_t_total", labels, "T."), 1);
	}
	return NULL;
}

static void threads_share_series(void **state)
{
	pthread_t t[4];
	struct km_buf out;

	(void)state;
	km_buf_init(&out, 1 << 20);
	for (size_t i = 0; i < KM_ARRAY_LEN(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, count, NULL), 0);
	assert_int_equal(km_metrics_print(&out), 0);
	for (size_t i = 0; i < KM_ARRAY_LEN(t); i++)
		pthread_join(t[i], NULL);
	for (int i = 0; i < 50; i++) {
		char labels[32];

		snprintf(labels, sizeof(labels), "n=\"%d\"", i);
		assert_int_equal(
		    km_metric(KM_METRIC_COUNTER, "kakuremichi_t_total", labels, "T.")->value, 160);
	}
	km_buf_free(&out);
}

static void series_are_bounded(void **state)
{
	struct km_metric *last = NULL, *m = NULL;
	struct km_buf out;
	char name[64];

	(void)state;
	for (int i = 0; i < 2000; i++) {
		last = m;
		snprintf(name, sizeof(name), "kakuremichi_many_%d_total", i);
		m = km_metric(KM_METRIC_COUNTER, name, "", "Many.");
		assert_non_null(m);
		km_metric_add(m, 1);
	}
	assert_ptr_equal(m, last);
	assert_ptr_not_equal(m, km_metric(KM_METRIC_COUNTER, "kakuremichi_many_0_total", "", ""));
	km_buf_init(&out, 1 << 20);
	assert_int_equal(km_metrics_print(&out), 0);
	assert_int_equal(km_buf_add(&out, "", 1), 0);
	/* 1,024 less the 53 made above. */
	assert_non_null(strstr((char *)km_buf_head(&out), "\nkakuremichi_many_970_total 1\n"));
	assert_null(strstr((char *)km_buf_head(&out), "\nkakuremichi_many_971_total"));
	assert_non_null(
	    strstr((char *)km_buf_head(&out), "\nkakuremichi_metrics_overflow_total 1029\n"));
	km_buf_free(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(groups_by_name),
	    cmocka_unit_test(threads_share_series),
	    cmocka_unit_test(series_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
