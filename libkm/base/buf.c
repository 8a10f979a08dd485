/* SPDX-License-Identifier: MIT */
#include "libkm/base/buf.h"
#include "libkm/base/err.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAP 1024 /* a usual head; the C library has quick lists up to here */

/* Blocks of the sizes that readers ask for, on their way from one buffer to the next: malloc has no
 * quick list of such. */
#define KEPT_MAX 32
static const size_t kept_sizes[] = {16384, 65536, 68 << 10};
#define KEPT_SIZES (sizeof(kept_sizes) / sizeof(kept_sizes[0]))
static _Thread_local struct {
	size_t most, n[KEPT_SIZES];
	uint8_t *blocks[KEPT_SIZES][KEPT_MAX];
} spare;

void km_buf_keep(size_t blocks)
{
#ifdef __SANITIZE_ADDRESS__
	blocks = 0; /* it wants to see each of them freed */
#endif
	spare.most = blocks < KEPT_MAX ? blocks : KEPT_MAX;
	for (size_t i = 0; i < KEPT_SIZES; i++)
		while (spare.n[i] > spare.most)
			free(spare.blocks[i][--spare.n[i]]);
}

static void block_give(uint8_t *data, size_t cap)
{
	for (size_t i = 0; i < KEPT_SIZES; i++) {
		if (cap == kept_sizes[i] && spare.n[i] < spare.most) {
			spare.blocks[i][spare.n[i]++] = data;
			return;
		}
	}
	free(data);
}

static uint8_t *block_take(size_t cap)
{
	for (size_t i = 0; i < KEPT_SIZES; i++)
		if (cap == kept_sizes[i] && spare.n[i])
			return spare.blocks[i][--spare.n[i]];
	return malloc(cap);
}

void km_buf_init(struct km_buf *b, size_t max)
{
	*b = (struct km_buf){.max = max};
}

void km_buf_free(struct km_buf *b)
{
	if (b->data)
		block_give(b->data, b->cap);
	km_buf_init(b, b->max);
}

void km_buf_wipe(struct km_buf *b)
{
	if (b->data)
		explicit_bzero(b->data, b->cap);
	km_buf_free(b);
}

static void compact(struct km_buf *b)
{
	if (b->data)
		memmove(b->data, b->data + b->off, b->len);
	b->off = 0;
}

/* Room for `need` bytes of content from the start of the memory; need <= max. */
static int grow(struct km_buf *b, size_t need)
{
	size_t cap = b->cap ? b->cap : FIRST_CAP;
	uint8_t *data;

	while (cap < need)
		cap = cap > b->max / 2 ? b->max : cap * 2;
	if (cap > b->max)
		cap = b->max;
	if (cap <= b->cap)
		return 0;
	data = b->data ? realloc(b->data, cap) : block_take(cap);
	if (!data)
		return KM_ENOMEM;
	b->data = data;
	b->cap = cap;
	return 0;
}

int km_buf_reserve(struct km_buf *b, size_t n, uint8_t **p)
{
	size_t end = b->off + b->len;
	int err;

	if (b->len > b->max || n > b->max - b->len)
		return KM_ETOOBIG;
	if (!b->data || n > b->cap - end) {
		/* Moving no more than was consumed keeps the cost linear; else prefer growing. */
		if (b->off >= b->len) {
			compact(b);
			end = b->len;
		}
		err = grow(b, n <= b->max - end ? end + n : b->len + n);
		if (err)
			return err;
		if (n > b->cap - end)
			compact(b);
	}
	*p = b->data ? b->data + b->off + b->len : NULL;
	return 0;
}

void km_buf_commit(struct km_buf *b, size_t n)
{
	assert(n <= b->cap - b->off - b->len);
	b->len += n;
}

int km_buf_add(struct km_buf *b, const void *p, size_t n)
{
	uint8_t *to;
	int err;

	if (!n)
		return 0;
	err = km_buf_reserve(b, n, &to);
	if (err)
		return err;
	assert(to); /* n > 0, so there is memory */
	memcpy(to, p, n);
	km_buf_commit(b, n);
	return 0;
}

int km_buf_adds(struct km_buf *b, const char *s)
{
	return km_buf_add(b, s, strlen(s));
}

int km_buf_addf(struct km_buf *b, const char *fmt, ...)
{
	char small[256], *big = NULL;
	va_list ap;
	int n, err;

	va_start(ap, fmt);
	n = vsnprintf(small, sizeof(small), fmt, ap);
	va_end(ap);
	if (n < 0)
		return KM_EINVAL;
	if ((size_t)n >= sizeof(small)) {
		if ((size_t)n > b->max - b->len)
			return KM_ETOOBIG;
		va_start(ap, fmt);
		n = vasprintf(&big, fmt, ap);
		va_end(ap);
		if (n < 0)
			return KM_ENOMEM;
	}
	err = km_buf_add(b, big ? big : small, (size_t)n);
	free(big);
	return err;
}

void km_buf_consume(struct km_buf *b, size_t n)
{
	if (n >= b->len) {
		km_buf_clear(b);
		return;
	}
	b->off += n;
	b->len -= n;
}

void km_buf_clear(struct km_buf *b)
{
	b->off = b->len = 0;
}

const uint8_t *km_cur_take(struct km_cur *c, size_t n)
{
	const uint8_t *p = c->p;

	if (c->bad || n > c->left) {
		c->bad = true;
		return NULL;
	}
	c->p += n;
	c->left -= n;
	return p;
}

struct km_cur km_cur_sub(struct km_cur *c, size_t n)
{
	const uint8_t *p = km_cur_take(c, n);

	if (c->bad)
		return (struct km_cur){.bad = true};
	return km_cur_of(p, n);
}

uint8_t km_cur_u8(struct km_cur *c)
{
	const uint8_t *p = km_cur_take(c, 1);

	return p ? p[0] : 0;
}

uint16_t km_cur_be16(struct km_cur *c)
{
	const uint8_t *p = km_cur_take(c, 2);

	return p ? (uint16_t)(p[0] << 8 | p[1]) : 0;
}

uint16_t km_cur_le16(struct km_cur *c)
{
	const uint8_t *p = km_cur_take(c, 2);

	return p ? (uint16_t)(p[1] << 8 | p[0]) : 0;
}

static uint32_t le32(const uint8_t *p)
{
	return (uint32_t)p[3] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[1] << 8 | p[0];
}

uint32_t km_cur_be32(struct km_cur *c)
{
	const uint8_t *p = km_cur_take(c, 4);

	return p ? __builtin_bswap32(le32(p)) : 0;
}

uint32_t km_cur_le32(struct km_cur *c)
{
	const uint8_t *p = km_cur_take(c, 4);

	return p ? le32(p) : 0;
}

uint64_t km_cur_le64(struct km_cur *c)
{
	const uint8_t *p = km_cur_take(c, 8);

	return p ? (uint64_t)le32(p + 4) << 32 | le32(p) : 0;
}
