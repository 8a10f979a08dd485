/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include <cmocka.h>
#include "libkm/base/err.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What is written to standard error between begin() and end(). */
static FILE *file;
static int saved_stderr;

static void begin(void)
{
	file = tmpfile();
	assert_non_null(file);
	saved_stderr = dup(STDERR_FILENO);
	dup2(fileno(file), STDERR_FILENO);
}

static char *end(void)
{
	long n = lseek(fileno(file), 0, SEEK_END);
	char *text = km_xcalloc(1, (size_t)n + 1);

	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	assert_int_equal(pread(fileno(file), text, (size_t)n, 0), n);
	fclose(file);
	return text;
}

/* The text after the time, which differs. */
static void assert_text(char *text, const char *rest)
{
	int64_t ms;

	assert_int_equal(text[24], ' ');
	text[24] = '\0';
	assert_int_equal(km_iso8601_parse(&ms, text), 0);
	assert_string_equal(text + 25, rest);
	free(text);
}

static void text_lines(void **state)
{
	(void)state;
	begin();
	km_info("agent connected", km_ks("id", "a1"), km_ki("port", 8080), km_ke(KM_EAUTH),
		km_ks("none", NULL), km_ki("minus", INT64_MIN));
	assert_text(end(), "kakuremichi info: agent connected id=a1 port=8080 "
			   "error=\"not authenticated\" none=- minus=-9223372036854775808\n");
	km_log_init("testd", KM_LOG_DEBUG, KM_LOG_TEXT);
	begin();
	km_debug("plain");
	assert_text(end(), "testd debug: plain\n");
}

/* Whatever a stranger sends stays on one line and in its value. */
static void escapes(void **state)
{
	static const struct {
		const char *value, *out;
	} table[] = {
	    {"plain", "plain"},
	    {"", "\"\""},
	    {"two words", "\"two words\""},
	    {"a=b", "\"a=b\""},
	    {"a\nb", "\"a\\nb\""},
	    {"\r\x1b[31m\x7f", "\\x0d\\x1b[31m\\x7f"},
	    {"say \"\\\"", "\"say \\\"\\\\\\\"\""},
	    {"隠れ道", "隠れ道"},
	    {"\xff\xc0\x80", "\\xff\\xc0\\x80"},
	    {"\xe2\x82", "\\xe2\\x82"},
	    {"\xc2\x85", "\\x85"},
	    {"\xed\xa0\x80", "\\xed\\xa0\\x80"},
	    {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"},
	};

	(void)state;
	km_log_init("testd", KM_LOG_INFO, KM_LOG_TEXT);
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		char want[200];

		snprintf(want, sizeof(want), "testd warn: event k=%s\n", table[i].out);
		begin();
		km_warn("event", km_ks("k", table[i].value));
		assert_text(end(), want);
	}
}

static void levels(void **state)
{
	static const enum km_log_level all[] = {KM_LOG_ERROR, KM_LOG_WARN, KM_LOG_INFO,
						KM_LOG_DEBUG};
	char *text;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(all); i++) {
		size_t lines = 0;

		km_log_init("testd", all[i], KM_LOG_TEXT);
		begin();
		km_error("e");
		km_warn("w");
		km_info("i");
		km_debug("d");
		text = end();
		for (char *p = text; *p; p++)
			lines += *p == '\n';
		assert_int_equal(lines, i + 1);
		free(text);
	}
}

static void journal_priorities(void **state)
{
	char stream[100], *text;
	struct stat st;

	(void)state;
	begin();
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(stream, sizeof(stream), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
	setenv("JOURNAL_STREAM", stream, 1);
	km_log_init("testd", KM_LOG_DEBUG, KM_LOG_TEXT);
	km_error("a", km_ki("n", 1));
	km_warn("b");
	km_info("c");
	km_debug("d");
	text = end();
	assert_string_equal(text, "<3>a n=1\n<4>b\n<6>c\n<7>d\n");
	free(text);
	setenv("JOURNAL_STREAM", "1:1", 1);
	km_log_init("testd", KM_LOG_INFO, KM_LOG_TEXT);
	begin();
	km_info("c");
	assert_text(end(), "testd info: c\n");
	unsetenv("JOURNAL_STREAM");
}

static json_t *json_line(char *text)
{
	json_error_t err;
	json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, &err);

	if (!j)
		fail_msg("%s: %s", text, err.text);
	assert_int_equal(text[strlen(text) - 1], '\n');
	free(text);
	return j;
}

static void json_lines(void **state)
{
	json_t *j;

	(void)state;
	km_log_init("testd", KM_LOG_INFO, KM_LOG_JSON);
	begin();
	km_error("it \"broke\"", km_ks("k", "a\tb\n\"\\\x01\xff\xc2\x85é"), km_ki("n", -5));
	j = json_line(end());
	assert_string_equal(json_string_value(json_object_get(j, "level")), "error");
	assert_string_equal(json_string_value(json_object_get(j, "program")), "testd");
	assert_string_equal(json_string_value(json_object_get(j, "event")), "it \"broke\"");
	assert_string_equal(json_string_value(json_object_get(j, "k")),
			    "a\tb\n\"\\\x01\xef\xbf\xbd\xc2\x85é");
	assert_int_equal(json_integer_value(json_object_get(j, "n")), -5);
	assert_int_equal(json_object_size(j), 6);
	json_decref(j);
}

/* However long, one line of at most 4 KiB; as JSON it stays whole. */
static void long_lines_are_cut(void **state)
{
	char value[6000], *text;
	json_t *j;

	(void)state;
	for (size_t n = 3800; n < 4200; n++) {
		memset(value, n % 2 ? '"' : 'x', n);
		memcpy(value + n - 2, "\xc3\xa9", 3);
		if (n % 2) /* escaped: twice as long */
			memmove(value, value + n / 2, n - n / 2 + 1);
		km_log_init("testd", KM_LOG_INFO, KM_LOG_JSON);
		begin();
		km_info("event", km_ks("k", value), km_ks("l", "m"));
		text = end();
		assert_true(strlen(text) <= 4096);
		j = json_line(text);
		assert_int_equal(json_is_true(json_object_get(j, "cut")),
				 !json_object_get(j, "l") ||
				     strcmp(json_string_value(json_object_get(j, "l")), "m") != 0);
		json_decref(j);
		km_log_init("testd", KM_LOG_INFO, KM_LOG_TEXT);
		begin();
		km_info("event", km_ks("k", value), km_ks("l", "m"));
		text = end();
		assert_true(strlen(text) <= 4096);
		assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
		free(text);
	}
	memset(value, 'k', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	km_log_init("testd", KM_LOG_INFO, KM_LOG_JSON);
	begin();
	km_log_emit(KM_LOG_INFO, (const struct km_kv[]){{value, "", 0}, {value, "v", 0}, {0}});
	json_decref(json_line(end()));
}

#define THREADS 4
#define LINES 500

static void *write_lines(void *arg)
{
	for (int i = 0; i < LINES; i++) {
		km_info("line", km_ki("thread", (intptr_t)arg), km_ki("n", i));
		if (i % 100 == 0)
			km_log_init("testd", KM_LOG_INFO, KM_LOG_TEXT);
	}
	return NULL;
}

static void threads_do_not_mix_lines(void **state)
{
	unsigned next[THREADS] = {0}, total = 0;
	pthread_t t[THREADS];
	char *text;

	(void)state;
	km_log_init("testd", KM_LOG_INFO, KM_LOG_TEXT);
	begin();
	for (intptr_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, write_lines, (void *)i), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	text = end();
	for (char *line = text, *stop; *line; line = stop + 1, total++) {
		unsigned thread, n;

		stop = strchr(line, '\n');
		assert_int_equal(sscanf(line + 25, "testd info: line thread=%u n=%u\n", &thread, &n),
				 2);
		assert_in_range(thread, 0, THREADS - 1);
		assert_int_equal(next[thread]++, n);
	}
	assert_int_equal(total, THREADS * LINES);
	free(text);
}

static void limiter(void **state)
{
	static const struct {
		int64_t now;
		bool allowed;
		uint32_t held;
	} table[] = {
	    {1000, true, 0}, {1000, true, 0},  {1001, true, 0},	 {1002, false, 0},
	    {1003, false, 0}, {1099, false, 0}, {1100, true, 3}, {1101, false, 0},
	    {1250, true, 1}, {1299, false, 0}, {1300, true, 1}, {5000, true, 0},
	    {5000, true, 0}, {5000, true, 0},  {5000, false, 0},
	};
	struct km_log_limit l = {0};
	uint32_t held;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		bool allowed = km_log_allow(&l, table[i].now, 3, 100, &held);

		if (allowed != table[i].allowed || (allowed && held != table[i].held))
			fail_msg("row %zu: %d, held %u", i, allowed, held);
	}
	memset(&l, 0, sizeof(l));
	assert_true(km_log_allow(&l, 0, 0, 100, NULL));
	assert_false(km_log_allow(&l, 0, 0, 100, NULL));
	memset(&l, 0, sizeof(l));
	for (int i = 0; i < 10; i++)
		assert_true(km_log_allow(&l, 0, 1, 0, NULL));
}

static struct km_log_limit shared;

static void *count_allowed(void *arg)
{
	uint32_t held, *sums = arg;

	for (int i = 0; i < 1000; i++) {
		if (km_log_allow(&shared, i, 10, 100, &held)) {
			sums[0]++;
			sums[1] += held;
		}
	}
	return NULL;
}

static void limiter_loses_nothing(void **state)
{
	uint32_t sums[THREADS][2] = {0}, allowed = 0, held = 0;
	pthread_t t[THREADS];

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, count_allowed, sums[i]), 0);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(t[i], NULL);
		allowed += sums[i][0];
		held += sums[i][1];
	}
	assert_int_equal(allowed + held + shared.held, THREADS * 1000);
	assert_in_range(allowed, 10, 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(text_lines),
	    cmocka_unit_test(escapes),
	    cmocka_unit_test(levels),
	    cmocka_unit_test(journal_priorities),
	    cmocka_unit_test(json_lines),
	    cmocka_unit_test(long_lines_are_cut),
	    cmocka_unit_test(threads_do_not_mix_lines),
	    cmocka_unit_test(limiter),
	    cmocka_unit_test(limiter_loses_nothing),
	};

	unsetenv("JOURNAL_STREAM");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
