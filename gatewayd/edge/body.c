/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/body.h"
#include "gatewayd/edge/heads.h"
#include "libkm/base/err.h"
#include <string.h>

void body_begin(struct body *b, enum http_body kind, uint64_t length, bool encode)
{
	memset(b, 0, sizeof(*b));
	b->kind = kind;
	b->left = kind == HTTP_BODY_LENGTH ? length : 0;
	b->encode = encode;
	b->done = kind == HTTP_BODY_NONE || (kind == HTTP_BODY_LENGTH && !length);
}

void body_keep_trailers(struct body *b, const struct rules_field *without, size_t n)
{
	b->keep = true;
	b->without = without;
	b->n_without = n;
	km_buf_init(&b->trailers, H1_TRAILER_MAX);
}

void body_end(struct body *b)
{
	km_buf_free(&b->trailers);
	b->keep = false;
}

/* ---- trailers ---- */

static bool trailer_ok(const struct body *b, const struct http_field *f)
{
	for (size_t i = 0; i < b->n_without; i++)
		if (http_name_same(f->name, b->without[i].field.name))
			return false;
	return !f->hop && !f->head_only;
}

int body_trailer(struct body *b, struct http_str name, struct http_str value)
{
	size_t before = b->trailers.len;
	struct http_field f;
	if (!b->keep)
		return 0;
	int rc = heads_field(&b->trailers, name, value);
	if (rc)
		return rc;
	struct http_str line = {(const char *)km_buf_head(&b->trailers) + before,
				b->trailers.len - before};
	if (!h1_field_next(&line, &f) || line.n || f.name.n != name.n)
		rc = KM_EPROTO;
	if (rc || !trailer_ok(b, &f))
		b->trailers.len = before;
	return rc;
}

/* The section as it came becomes the lines that go on. */
static int trailers_sift(struct body *b)
{
	struct http_str rest = {(const char *)km_buf_head(&b->trailers), b->trailers.len};
	struct http_field f;
	struct km_buf out;
	int rc = 0;
	km_buf_init(&out, 2 * H1_TRAILER_MAX);
	while (!rc && h1_field_next(&rest, &f))
		if (trailer_ok(b, &f))
			rc = heads_field(&out, f.name, f.value);
	km_buf_free(&b->trailers);
	b->trailers = out;
	return rc;
}

static int finish(struct body *b, struct km_buf *dst)
{
	b->done = true;
	if (!b->encode)
		return 0;
	int rc = km_buf_adds(dst, "0\r\n");
	if (!rc && b->trailers.len)
		rc = km_buf_add(dst, km_buf_head(&b->trailers), b->trailers.len);
	return rc ? rc : km_buf_adds(dst, "\r\n");
}

static int run_put(const struct body *b, struct km_buf *dst, const void *p, size_t n)
{
	int rc = 0;
	if (b->encode)
		rc = km_buf_addf(dst, "%zx\r\n", n);
	if (!rc)
		rc = km_buf_add(dst, p, n);
	if (!rc && b->encode)
		rc = km_buf_adds(dst, "\r\n");
	return rc;
}

/* The content of src becomes that of dst without a copy. */
static void swap(struct km_buf *src, struct km_buf *dst)
{
	struct km_buf tmp = *dst;
	size_t src_max = src->max;
	*dst = *src;
	dst->max = tmp.max;
	*src = tmp;
	src->max = src_max;
}

static int move_plain(struct body *b, struct km_buf *src, struct km_buf *dst, size_t high,
		      uint64_t *moved)
{
	size_t n = src->len;
	int rc = 0;
	if (b->kind == HTTP_BODY_LENGTH && n > b->left)
		n = (size_t)b->left;
	if (!n)
		return 0;
	if (!b->encode && !dst->len && n == src->len && src->cap <= dst->max) {
		swap(src, dst);
	} else {
		if (n > high - dst->len)
			n = high - dst->len;
		if ((rc = run_put(b, dst, km_buf_head(src), n)))
			return rc;
		km_buf_consume(src, n);
	}
	*moved += n;
	if (b->kind == HTTP_BODY_LENGTH && !(b->left -= n))
		rc = finish(b, dst);
	return rc;
}

static int move_chunked(struct body *b, struct km_buf *src, struct km_buf *dst, size_t high,
			uint64_t *moved)
{
	while (!b->done && src->len && dst->len < high) {
		const char *data;
		size_t used, n;
		int rc = 0;
		switch (h1_chunked_next(&b->chunked, (const char *)km_buf_head(src), src->len,
					&used, &data, &n)) {
		case H1_CHUNK_BAD:
			return KM_EPROTO;
		case H1_CHUNK_DATA:
			rc = run_put(b, dst, data, n);
			*moved += n;
			break;
		case H1_CHUNK_TRAILER:
			rc = b->keep ? km_buf_add(&b->trailers, data, n) : 0;
			break;
		case H1_CHUNK_END:
			rc = b->trailers.len ? trailers_sift(b) : 0;
			if (!rc)
				rc = finish(b, dst);
			break;
		case H1_CHUNK_MORE:
			break;
		}
		if (rc)
			return rc;
		km_buf_consume(src, used);
	}
	return 0;
}

int body_move(struct body *b, struct km_buf *src, struct km_buf *dst, size_t high, uint64_t *moved)
{
	if (b->done || !src->len || dst->len >= high)
		return 0;
	if (b->kind == HTTP_BODY_CHUNKED)
		return move_chunked(b, src, dst, high, moved);
	return move_plain(b, src, dst, high, moved);
}

int body_source_ended(struct body *b, struct km_buf *dst)
{
	if (b->done)
		return 0;
	return b->kind == HTTP_BODY_CLOSE ? finish(b, dst) : KM_ETRUNC;
}
