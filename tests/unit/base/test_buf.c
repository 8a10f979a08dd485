/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "libkm/base/buf.h"
#include "libkm/base/err.h"
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void bound_is_kept(void **state)
{
	struct km_buf b;
	uint8_t *p;

	(void)state;
	km_buf_init(&b, 10);
	assert_null(km_buf_head(&b));
	assert_int_equal(km_buf_add(&b, "0123456789", 10), 0);
	assert_int_equal(km_buf_add(&b, "x", 1), KM_ETOOBIG);
	assert_int_equal(km_buf_adds(&b, ""), 0);
	assert_int_equal(km_buf_reserve(&b, SIZE_MAX, &p), KM_ETOOBIG);
	assert_int_equal(b.len, 10);
	assert_memory_equal(km_buf_head(&b), "0123456789", 10);
	km_buf_consume(&b, 4);
	assert_int_equal(km_buf_addf(&b, "%s", "abcde"), KM_ETOOBIG);
	assert_int_equal(km_buf_addf(&b, "%s", "abcd"), 0);
	assert_memory_equal(km_buf_head(&b), "456789abcd", 10);
	assert_true(b.cap <= 10);
	km_buf_consume(&b, 1000);
	assert_int_equal(b.len, 0);
	km_buf_free(&b);
	assert_int_equal(b.max, 10);
	assert_int_equal(km_buf_adds(&b, "again"), 0);
	km_buf_wipe(&b);
	km_buf_wipe(&b);
}

static void nothing_fits_into_nothing(void **state)
{
	struct km_buf b;
	uint8_t *p;

	(void)state;
	km_buf_init(&b, 0);
	assert_int_equal(km_buf_add(&b, "", 0), 0);
	assert_int_equal(km_buf_reserve(&b, 0, &p), 0);
	assert_int_equal(km_buf_add(&b, "x", 1), KM_ETOOBIG);
	km_buf_free(&b);
}

static void long_text_is_formatted(void **state)
{
	char text[1000];
	struct km_buf b;

	(void)state;
	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	km_buf_init(&b, 1001);
	assert_int_equal(km_buf_addf(&b, "<%s>", text), 0);
	assert_int_equal(b.len, 1001);
	assert_int_equal(km_buf_head(&b)[1000], '>');
	assert_int_equal(km_buf_addf(&b, "%s", text), KM_ETOOBIG);
	km_buf_clear(&b);
	assert_int_equal(km_buf_addf(&b, "<%s!>", text), KM_ETOOBIG);
	assert_int_equal(b.len, 0);
	km_buf_free(&b);
}

/* A stream through a small buffer in random pieces comes out as it went in. */
static void stream_keeps_order(void **state)
{
	uint8_t in = 0, out = 0;
	struct km_buf b;

	(void)state;
	srand(7);
	km_buf_init(&b, 777);
	for (int round = 0; round < 20000; round++) {
		size_t n = (size_t)rand() % 300, m = (size_t)rand() % 300;
		uint8_t *p;

		if (n > b.max - b.len)
			n = b.max - b.len;
		assert_int_equal(km_buf_reserve(&b, n, &p), 0);
		for (size_t i = 0; i < n; i++)
			p[i] = in++;
		km_buf_commit(&b, n);
		m = m > b.len ? b.len : m;
		for (size_t i = 0; i < m; i++)
			assert_int_equal(km_buf_head(&b)[i], out++);
		km_buf_consume(&b, m);
		assert_true(b.cap <= b.max);
	}
	km_buf_free(&b);
}

static void cursor_reads_integers(void **state)
{
	static const uint8_t in[] = {1, 2, 3, 4, 5, 6, 7, 2, 1, 4,   3,
				     2, 1, 8, 7, 6, 5, 4, 3, 2, 0x81};
	struct km_cur c = km_cur_of(in, sizeof(in));

	(void)state;
	assert_int_equal(km_cur_u8(&c), 1);
	assert_int_equal(km_cur_be16(&c), 0x0203);
	assert_int_equal(km_cur_be32(&c), 0x04050607);
	assert_int_equal(km_cur_le16(&c), 0x0102);
	assert_int_equal(km_cur_le32(&c), 0x01020304);
	assert_true(km_cur_le64(&c) == 0x8102030405060708);
	assert_int_equal(c.left, 0);
	assert_false(c.bad);
	assert_int_equal(km_cur_u8(&c), 0);
	assert_true(c.bad);
}

/* Every length of input against a guard page: never a byte too far, and bad stays bad. */
static void cursor_stops_at_the_end(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uint8_t *map =
	    mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)state;
	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(mprotect(map + page, page, PROT_NONE), 0);
	memset(map, 0xff, page);
	for (size_t n = 0; n < 16; n++) {
		struct km_cur c = km_cur_of(map + page - n, n), sub;

		assert_int_equal(km_cur_le64(&c), n < 8 ? 0 : UINT64_MAX);
		assert_int_equal(c.bad, n < 8);
		assert_int_equal(km_cur_be32(&c), n < 12 ? 0 : UINT32_MAX);
		assert_int_equal(km_cur_le16(&c), n < 14 ? 0 : UINT16_MAX);
		sub = km_cur_sub(&c, 1);
		assert_int_equal(sub.bad, n < 15);
		assert_int_equal(km_cur_u8(&sub), n < 15 ? 0 : 255);
		assert_null(km_cur_take(&c, SIZE_MAX));
		assert_true(c.bad);
		assert_null(km_cur_take(&c, 0));
		sub = km_cur_sub(&c, 0);
		assert_true(sub.bad);
	}
	munmap(map, 2 * page);
}

/* What is kept for the next buffer is memory like any other (a leak is the sanitizers' to see). */
static void blocks_are_kept(void **state)
{
	static const size_t sizes[] = {16384, 65536, 1000, 16384, 40000, 65536};
	(void)state;
	km_buf_keep(2);
	for (int round = 0; round < 3; round++) {
		struct km_buf b[6];
		for (size_t i = 0; i < 6; i++) {
			uint8_t *p;
			km_buf_init(&b[i], 65536);
			assert_int_equal(km_buf_reserve(&b[i], sizes[i], &p), 0);
			memset(p, (int)i, sizes[i]);
			km_buf_commit(&b[i], sizes[i]);
		}
		for (size_t i = 0; i < 6; i++) {
			for (size_t k = 0; k < sizes[i]; k++)
				assert_int_equal(km_buf_head(&b[i])[k], i);
			km_buf_free(&b[i]);
			assert_null(km_buf_head(&b[i]));
		}
	}
	km_buf_keep(0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(bound_is_kept),           cmocka_unit_test(nothing_fits_into_nothing),
	    cmocka_unit_test(long_text_is_formatted),  cmocka_unit_test(stream_keeps_order),
	    cmocka_unit_test(blocks_are_kept),         cmocka_unit_test(cursor_reads_integers),
	    cmocka_unit_test(cursor_stops_at_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
