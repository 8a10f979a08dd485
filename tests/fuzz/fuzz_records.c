/* SPDX-License-Identifier: MIT */
/* What a client of TLS 1.3 may send once it has the keys: records of any type, content and padding, sealed or
 * not, key changes told or not. How the bytes are cut and how much room there is must not matter, and what we seal
 * then opens. The first three bytes are the suite, the room and the pieces of the second reading. */
#include "gatewayd/edge/record_keys.h"
#include "gatewayd/edge/records.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static const uint8_t secrets[2][RECORD_SECRET_MAX] = {{1}, {2}};

static void must(bool ok)
{
	if (!ok)
		abort();
}

static struct records *opened(uint16_t suite)
{
	struct records *r = records_new(&(struct records_opts){
	    suite, secrets[0], secrets[1], record_suite_secret(record_suite(suite)), 0, 0});
	must(r);
	return r;
}

static void sealed_add(struct km_buf *out, struct record_keys *k, uint8_t type, size_t padding, const void *p, size_t n)
{
	uint8_t *at = NULL, *inner = calloc(1, n + 1 + padding);
	size_t len = n + 1 + padding + RECORD_TAG;
	const uint8_t header[RECORD_HEADER] = {23, 3, 3, (uint8_t)(len >> 8), (uint8_t)len};
	must(inner && !km_buf_reserve(out, RECORD_HEADER + len, &at));
	if (n)
		memcpy(inner, p, n);
	inner[n] = type;
	memcpy(at, header, sizeof(header));
	must(record_seal(k, header, inner, n + padding, padding ? 0 : type, at + RECORD_HEADER));
	km_buf_commit(out, RECORD_HEADER + len);
	free(inner);
}

/* The client's bytes, as the input has them told: a kind, a number, and so many bytes. */
static void client(struct km_buf *out, uint16_t suite, struct km_cur c)
{
	struct record_keys k = {.suite = record_suite(suite)};
	must(record_keys_set(&k, RECORD_WRITE, secrets[0]));
	while (c.left && out->len < 200000) {
		uint8_t kind = km_cur_u8(&c), number = km_cur_u8(&c);
		size_t n = kind & 16 ? (size_t)number << 7 : number;
		if (n > c.left)
			n = c.left;
		const uint8_t *p = km_cur_take(&c, n);
		if ((kind & 3) == 3)
			must(!n || !km_buf_add(out, p, n));
		else
			sealed_add(out, &k, kind & 32 ? kind >> 6 : 21 + (kind & 3), kind & 4 ? (size_t)number << 6 : 0,
				   p, n);
		if (kind & 8)
			must(record_keys_next(&k, RECORD_WRITE));
	}
	record_keys_wipe(&k);
}

static enum records_got take(struct records *r, struct km_buf *in, size_t room, struct km_buf *out)
{
	enum records_got got;
	uint8_t *at;
	size_t now;
	do {
		must(!km_buf_reserve(out, room, &at));
		got = records_open(r, in, at, room, &now);
		must((now > 0) == (got == RECORDS_DATA) && now <= room);
		km_buf_commit(out, now);
	} while (got == RECORDS_DATA);
	return got;
}

static void compare(struct km_buf *said, uint16_t suite, size_t room, size_t piece)
{
	struct records *a = opened(suite), *b = opened(suite);
	struct km_buf in[2], out[2], last[2];
	enum records_got got_a, got_b = RECORDS_WAIT;
	for (int i = 0; i < 2; i++) {
		km_buf_init(&in[i], 1 << 20);
		km_buf_init(&out[i], 1 << 20);
		km_buf_init(&last[i], 1 << 20);
	}
	must(!km_buf_add(&in[0], km_buf_head(said), said->len));
	got_a = take(a, &in[0], 70000, &out[0]);
	while (said->len && got_b == RECORDS_WAIT) {
		size_t now = said->len < piece ? said->len : piece;
		must(!km_buf_add(&in[1], km_buf_head(said), now));
		km_buf_consume(said, now);
		got_b = take(b, &in[1], room, &out[1]);
	}
	must(got_a == got_b && out[0].len == out[1].len && in[0].len == in[1].len);
	must(!out[0].len || !memcmp(km_buf_head(&out[0]), km_buf_head(&out[1]), out[0].len));
	must(!records_seal(a, &last[0], secrets[0], 1) && !records_seal(b, &last[1], secrets[0], 1));
	must(!records_close(a, &last[0]) && !records_close(b, &last[1]));
	must(last[0].len == last[1].len && !memcmp(km_buf_head(&last[0]), km_buf_head(&last[1]), last[0].len));
	for (int i = 0; i < 2; i++) {
		km_buf_free(&in[i]);
		km_buf_free(&out[i]);
		km_buf_free(&last[i]);
	}
	records_free(a);
	records_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct km_buf said;
	if (n < 3)
		return 0;
	uint16_t suite = (uint16_t)(0x1301 + p[0] % 3);
	km_buf_init(&said, 1 << 20);
	client(&said, suite, km_cur_of(p + 3, n - 3));
	if (said.len)
		compare(&said, suite, 1 + (size_t)p[1] * 67, 1 + (size_t)p[2] * 83);
	km_buf_free(&said);
	return 0;
}
