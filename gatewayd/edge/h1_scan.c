/* SPDX-License-Identifier: MIT */
/* The end of a head: CRs and LFs are marked in masks of one bit a byte, and all checks are made on
 * those. */
#include "gatewayd/edge/h1.h"
#include "gatewayd/edge/http_bytes.h"
#include <string.h>

#define BLOCK 64

struct marks {
	uint64_t cr, lf; /* bit i: byte i of the block */
};

#ifdef __SSE2__
static struct marks marks_of(const char *p)
{
	const __m128i cr = _mm_set1_epi8('\r'), lf = _mm_set1_epi8('\n');
	struct marks m = {0, 0};
	for (unsigned i = 0; i < BLOCK; i += 16) {
		__m128i b = _mm_loadu_si128((const __m128i *)(const void *)(p + i));
		m.cr |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(b, cr)) << i;
		m.lf |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(b, lf)) << i;
	}
	return m;
}
#else
static struct marks marks_of(const char *p)
{
	struct marks m = {0, 0};
	for (unsigned i = 0; i < BLOCK; i++) {
		m.cr |= (uint64_t)(p[i] == '\r') << i;
		m.lf |= (uint64_t)(p[i] == '\n') << i;
	}
	return m;
}
#endif

static int too_large(const char *p, size_t max)
{
	return memchr(p, '\n', max) ? -431 : -414;
}

/* What a block needs to know of the bytes before it. */
struct before {
	bool cr;     /* the last was a CR */
	unsigned lf; /* the last two, the last one in bit 1: was it a LF? */
};

/* Looks at len bytes of a block. 0; -400: a CR without its LF, or the other way round; else the
 * number of bytes up to the end of the head, in which case what stands behind is not judged. */
static int block_read(struct marks m, unsigned len, struct before *b)
{
	uint64_t valid = len < BLOCK ? (UINT64_C(1) << len) - 1 : ~UINT64_C(0);
	uint64_t wrong = (m.lf ^ (m.cr << 1 | b->cr)) & valid;
	/* A LF two behind another one, with a CR between them unless that is wrong, ends the head.
	 */
	uint64_t end = m.lf & (m.lf << 2 | b->lf) & valid;
	if (wrong && (!end || __builtin_ctzll(wrong) <= __builtin_ctzll(end)))
		return -400;
	if (end)
		return __builtin_ctzll(end) + 1;
	b->cr = m.cr >> (len - 1) & 1;
	b->lf = (unsigned)(m.lf >> (len - 1) & 1) << 1 |
		(unsigned)(len > 1 ? m.lf >> (len - 2) & 1 : b->lf >> 1);
	return 0;
}

int h1_scan(const char *p, size_t n, size_t *at, size_t max)
{
	size_t i = *at;
	if (n && !http_byte_is(p[0], HTTP_B_TOKEN))
		return -400;
	struct before b = {.cr = i > 0 && p[i - 1] == '\r',
			   .lf = (i > 0 && p[i - 1] == '\n') << 1 | (i > 1 && p[i - 2] == '\n')};
	while (i < n) {
		char tail[BLOCK] = {0};
		unsigned len = n - i < BLOCK ? (unsigned)(n - i) : BLOCK;
		if (len < BLOCK)
			memcpy(tail, p + i, len);
		int rc = block_read(marks_of(len < BLOCK ? tail : p + i), len, &b);
		if (rc < 0)
			return rc;
		i += rc ? (size_t)rc : len;
		*at = i;
		if (rc)
			return i > max ? too_large(p, max) : (int)i;
	}
	return n >= max ? too_large(p, max) : 0;
}
