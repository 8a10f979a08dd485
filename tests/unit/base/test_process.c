/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "libkm/base/err.h"
#include "libkm/base/process.h"
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static double value(const char *name)
{
	char line[128];
	struct km_buf out;
	km_buf_init(&out, 65536);
	assert_int_equal(km_process_print(&out), 0);
	assert_int_equal(km_buf_add(&out, "", 1), 0);
	snprintf(line, sizeof(line), "\n%s ", name);
	const char *at = strstr((const char *)km_buf_head(&out), line);
	assert_non_null(at);
	double v = atof(at + strlen(line));
	km_buf_free(&out);
	return v;
}

static void test_values(void **state)
{
	struct rlimit limit;
	(void)state;
	assert_true(value("process_cpu_seconds_total") >= 0);
	assert_true(value("process_resident_memory_bytes") > 65536);
	assert_true(value("process_virtual_memory_bytes") >=
		    value("process_resident_memory_bytes"));
	double started = value("process_start_time_seconds"), now = (double)time(NULL);
	assert_true(started <= now + 2 && started > now - 3600);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_float_equal(value("process_max_fds"), (double)limit.rlim_cur, 0);
	double fds = value("process_open_fds");
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_float_equal(value("process_open_fds"), fds + 1, 0);
	close(fd);
}

static void test_full(void **state)
{
	(void)state;
	for (size_t max = 0; max < 600; max += 37) {
		struct km_buf out;
		km_buf_init(&out, max);
		assert_int_equal(km_process_print(&out), KM_ETOOBIG);
		km_buf_free(&out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_values),
	    cmocka_unit_test(test_full),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
