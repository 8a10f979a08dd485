/* SPDX-License-Identifier: MIT */
/* A growing byte buffer with a bound, and a bounded read cursor for foreign bytes. */
#ifndef KM_BASE_BUF_H
#define KM_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* data[off .. off+len) is the content; consuming moves off, writing compacts when needed. */
struct km_buf {
	uint8_t *data;
	size_t off, len, cap;
	size_t max; /* content never exceeds this many bytes */
};

/* An empty buffer that may hold at most max bytes; allocates nothing yet. */
void km_buf_init(struct km_buf *b, size_t max);
/* Frees the memory; the bound stays and the buffer can be used again. */
void km_buf_free(struct km_buf *b);
/* How many blocks of each usual large size this thread keeps for its next buffers instead of
 * freeing them; none unless it asks. A thread that has asked must ask for 0 before it ends. */
void km_buf_keep(size_t blocks);
/* Like km_buf_free, but overwrites the content first. For secrets. */
void km_buf_wipe(struct km_buf *b);
/* The first byte of the content (may be NULL when empty). */
static inline uint8_t *km_buf_head(const struct km_buf *b)
{
	return b->data ? b->data + b->off : NULL;
}
/* Makes room for n more bytes after the content and gives its start in *p.
 * KM_ETOOBIG over the bound, KM_ENOMEM. */
int km_buf_reserve(struct km_buf *b, size_t n, uint8_t **p) __attribute__((warn_unused_result));
/* Counts n bytes, written at what km_buf_reserve gave, as content. */
void km_buf_commit(struct km_buf *b, size_t n);
/* Appends n bytes, a string, or formatted text. KM_ETOOBIG, KM_ENOMEM; then nothing is appended. */
int km_buf_add(struct km_buf *b, const void *p, size_t n) __attribute__((warn_unused_result));
int km_buf_adds(struct km_buf *b, const char *s) __attribute__((warn_unused_result));
int km_buf_addf(struct km_buf *b, const char *fmt, ...)
    __attribute__((warn_unused_result, format(printf, 2, 3)));
/* Drops the first n bytes (at most the content). */
void km_buf_consume(struct km_buf *b, size_t n);
/* Drops all content, keeps the memory. */
void km_buf_clear(struct km_buf *b);

/* Reads foreign bytes: each call checks what is left, and after the first failure every later one
 * fails too, so that one test of `bad` at the end suffices. */
struct km_cur {
	const uint8_t *p;
	size_t left;
	bool bad;
};
static inline struct km_cur km_cur_of(const void *p, size_t n)
{
	return (struct km_cur){(const uint8_t *)p, n, false};
}
/* Fixed-width integers, big endian (be) or little endian (le); 0 when too little is left. */
uint8_t km_cur_u8(struct km_cur *c);
uint16_t km_cur_be16(struct km_cur *c);
uint32_t km_cur_be32(struct km_cur *c);
uint16_t km_cur_le16(struct km_cur *c);
uint32_t km_cur_le32(struct km_cur *c);
uint64_t km_cur_le64(struct km_cur *c);
/* n bytes in place, or NULL (and bad) when fewer are left. */
const uint8_t *km_cur_take(struct km_cur *c, size_t n);
/* A cursor over the next n bytes, which c skips. */
struct km_cur km_cur_sub(struct km_cur *c, size_t n);

#endif
