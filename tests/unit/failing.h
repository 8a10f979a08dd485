/* SPDX-License-Identifier: MIT */
/* An allocator that fails at a chosen call. What is to be tested without memory is included as source behind
 * this and behind `#define malloc test_malloc` and the like, which are taken back before anything else. */
#ifndef TESTS_UNIT_FAILING_H
#define TESTS_UNIT_FAILING_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long allocations_left = -1; /* -1: no end */

static inline int allocation_fails(void)
{
	if (allocations_left < 0)
		return 0;
	return !allocations_left || !allocations_left--;
}

static inline void *test_malloc(size_t n)
{
	return allocation_fails() ? NULL : malloc(n);
}

static inline void *test_calloc(size_t n, size_t size)
{
	return allocation_fails() ? NULL : calloc(n, size);
}

static inline void *test_realloc(void *p, size_t n)
{
	return allocation_fails() ? NULL : realloc(p, n);
}

static inline void *test_reallocarray(void *p, size_t n, size_t size)
{
	return allocation_fails() ? NULL : reallocarray(p, n, size);
}

static inline char *test_strdup(const char *s)
{
	return allocation_fails() ? NULL : strdup(s);
}

static inline char *test_strndup(const char *s, size_t n)
{
	return allocation_fails() ? NULL : strndup(s, n);
}

static inline int __attribute__((format(printf, 2, 3))) test_asprintf(char **out, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = allocation_fails() ? -1 : vasprintf(out, fmt, ap);
	va_end(ap);
	return n;
}

#endif
