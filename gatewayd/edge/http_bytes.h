/* SPDX-License-Identifier: MIT */
/* Which bytes may stand where in an HTTP message, and finding the first that may not. */
#ifndef GATEWAYD_EDGE_HTTP_BYTES_H
#define GATEWAYD_EDGE_HTTP_BYTES_H

#include "gatewayd/edge/http.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
	HTTP_B_TOKEN = 1,   /* tchar, RFC 9110 section 5.6.2 */
	HTTP_B_VALUE = 2,   /* field-vchar, SP, HTAB, obs-text: section 5.5 */
	HTTP_B_TARGET = 4,  /* what is visible, but '#' */
	HTTP_B_PATH = 8,    /* the same without '\\' and '%', which need a look, and '?' */
	HTTP_B_METHOD = 16, /* capitals, digits, '-', '_' */
	HTTP_B_DIGIT = 32,
	HTTP_B_HEX = 64,
	HTTP_B_HOST = 128, /* letters, digits, '-', '.', '_' */
};
extern const unsigned char http_bytes[256];

static inline bool http_byte_is(char c, unsigned char k)
{
	return http_bytes[(unsigned char)c] & k;
}

/* How many bytes from the first on are of class k. */
static inline size_t http_span(const char *p, size_t n, unsigned char k)
{
	size_t i = 0;
	while (i < n && http_byte_is(p[i], k))
		i++;
	return i;
}

static inline bool http_all(struct http_str s, unsigned char k)
{
	return http_span(s.p, s.n, k) == s.n;
}

/* As http_span of HTTP_B_VALUE, sixteen bytes at a time. */
static inline size_t http_value_span(const char *p, size_t n)
{
	size_t i = 0;
#ifdef __SSE2__
	const __m128i low = _mm_set1_epi8(0x1f), tab = _mm_set1_epi8('\t'),
		      del = _mm_set1_epi8(0x7f);
	for (; n - i >= 16; i += 16) {
		__m128i b = _mm_loadu_si128((const __m128i *)(const void *)(p + i));
		__m128i ctl = _mm_cmpeq_epi8(_mm_min_epu8(b, low), b); /* at most 0x1f */
		__m128i bad = _mm_or_si128(_mm_andnot_si128(_mm_cmpeq_epi8(b, tab), ctl),
					   _mm_cmpeq_epi8(b, del));
		unsigned mask = (unsigned)_mm_movemask_epi8(bad);
		if (mask)
			return i + (size_t)__builtin_ctz(mask);
	}
#endif
	return i + http_span(p + i, n - i, HTTP_B_VALUE);
}

#endif
