/* SPDX-License-Identifier: MIT */
/* What strangers and targets send: a head of a request ('q' first), of a response ('r'), or a
 * chunked body ('c'). How the bytes are cut must not matter, the verdict is that of the slow reader
 * in h1_slow.h, and what the gateway makes of a message must be read again as the same message. */
#include "gatewayd/edge/body.h"
#include "gatewayd/edge/heads.h"
#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include "tests/fuzz/h1_slow.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static const struct http_limits limits = {65536, HTTP_FIELDS_MAX};

static void must(bool ok)
{
	if (!ok)
		abort();
}

/* The verdict on the whole, which must be that on any two pieces. */
static int scan(const char *p, size_t n)
{
	size_t at = 0, at_half = 0;
	int whole = h1_scan(p, n, &at, limits.head);
	int half = h1_scan(p, n / 2, &at_half, limits.head);
	if (half == 0)
		half = h1_scan(p, n, &at_half, limits.head);
	must(whole == half || (whole < 0 && half < 0));
	must(whole == slow_scan(p, n, limits.head));
	return whole;
}

/* The fields that the parser has found are those of the slow reader, and no head that this one
 * refuses has passed. */
static void fields_compare(const char *p, size_t n, const struct http_field *fields,
			   size_t n_fields, bool refused, const char *why)
{
	struct http_field slow[HTTP_FIELDS_MAX + 1];
	int k = slow_fields(p, n, slow, HTTP_FIELDS_MAX + 1);
	must(refused || k == (int)n_fields);
	must(!refused || k < 0 ||
	     (strcmp(why, "malformed header name") && strcmp(why, "control byte in a header")));
	for (size_t i = 0; !refused && i < n_fields; i++)
		must(fields[i].name.p == slow[i].name.p && fields[i].name.n == slow[i].name.n &&
		     fields[i].value.n == slow[i].value.n &&
		     (!slow[i].value.n || fields[i].value.p == slow[i].value.p));
}

static void request(const char *p, size_t n)
{
	static struct http_request r, again;
	static const struct km_addr client = {.family = 2, .ip = {192, 0, 2, 1}};
	static struct client from;
	const char *why;
	struct km_buf out;
	int len = scan(p, n);
	if (len <= 0)
		return;
	int bad = h1_request_parse(&r, p, (size_t)len, &limits, &why);
	fields_compare(p, (size_t)len, r.fields, r.n_fields, bad, why);
	if (bad)
		return;
	km_buf_init(&out, 1 << 20);
	client_find(&from, &(struct client_trust){0}, &client, true, &r);
	must(!heads_request(&out, &r, &from));
	must(scan((const char *)km_buf_head(&out), out.len) == (int)out.len);
	/* Fields of our own come on top of what the client may send. */
	int status =
	    h1_request_parse(&again, (const char *)km_buf_head(&out), out.len, &limits, &why);
	must(status == 0 || (status == 431 && r.n_fields + 8 > HTTP_FIELDS_MAX));
	if (!status) {
		must(!strcmp(again.host, r.host) && again.body == r.body &&
		     again.length == r.length);
		must(again.method.n == r.method.n &&
		     !memcmp(again.method.p, r.method.p, r.method.n));
		must(again.minor == 1 && again.upgrade == r.upgrade);
		must(again.expect_continue == r.expect_continue);
		must(again.te_trailers == (r.te_trailers && !r.upgrade));
		must(again.trailers_ok);
	}
	km_buf_free(&out);
}

static void response(const char *p, size_t n)
{
	static struct http_response r, again;
	const char *why;
	struct km_buf out;
	int len = scan(p, n);
	if (len <= 0)
		return;
	int bad = h1_response_parse(&r, p, (size_t)len, false, &limits, &why);
	fields_compare(p, (size_t)len, r.fields, r.n_fields, bad, why);
	if (bad)
		return;
	struct heads_response how = {.framing =
					 r.body == HTTP_BODY_CLOSE ? HTTP_BODY_CHUNKED : r.body,
				     .upgrade = r.upgrade};
	km_buf_init(&out, 1 << 20);
	must(!heads_response(&out, &r, &how));
	must(scan((const char *)km_buf_head(&out), out.len) == (int)out.len);
	int rc = h1_response_parse(&again, (const char *)km_buf_head(&out), out.len, false, &limits,
				   &why);
	must(rc == 0 || r.n_fields + 2 > HTTP_FIELDS_MAX);
	bool no_length = r.status < 200 || r.status == 204; /* RFC 9110 section 8.6 */
	if (!rc)
		must(again.status == r.status && again.body == how.framing &&
		     again.length == (no_length ? 0 : r.length) && again.upgrade == r.upgrade);
	km_buf_free(&out);
}

/* Decodes in steps and encodes; returns the verdict of the last step. */
static int reframe(const char *p, size_t n, size_t step, bool encode, struct km_buf *out,
		   struct km_buf *trailers, bool *done, size_t *used)
{
	struct body b = {0};
	struct km_buf src;
	uint64_t moved = 0;
	int rc = 0;
	size_t at = 0;
	km_buf_init(&src, 1 << 20);
	body_begin(&b, HTTP_BODY_CHUNKED, 0, encode);
	body_keep_trailers(&b, NULL, 0);
	while (at < n && !rc && !b.done) {
		size_t k = n - at < step ? n - at : step;
		must(!km_buf_add(&src, p + at, k));
		at += k;
		rc = body_move(&b, &src, out, SIZE_MAX, &moved);
	}
	*done = b.done;
	*used = at - src.len;
	km_buf_free(&src);
	if (b.done && b.trailers.len)
		must(!km_buf_add(trailers, km_buf_head(&b.trailers), b.trailers.len));
	body_end(&b);
	return rc;
}

static bool same(const struct km_buf *a, const struct km_buf *b)
{
	return a->len == b->len && (!a->len || !memcmp(km_buf_head(a), km_buf_head(b), a->len));
}

static void chunked(const char *p, size_t n)
{
	struct km_buf data[4], trailers[4];
	static char slow[4096];
	bool done, done2;
	size_t used, used2, slow_used, slow_n;
	if (n > sizeof(slow))
		return;
	for (int i = 0; i < 4; i++) {
		km_buf_init(&data[i], 1 << 20);
		km_buf_init(&trailers[i], 1 << 20);
	}
	int rc = reframe(p, n, n, false, &data[0], &trailers[0], &done, &used);
	must(reframe(p, n, 1, false, &data[1], &trailers[1], &done2, &used2) == rc &&
	     done == done2);
	must(same(&data[0], &data[1]) && same(&trailers[0], &trailers[1]));
	must(slow_chunked(p, n, slow, &slow_n, &slow_used) == (rc ? -1 : done));
	if (!rc)
		must(slow_n == data[0].len &&
		     !memcmp(slow, km_buf_head(&data[0]) ? (const void *)km_buf_head(&data[0]) : "",
			     slow_n));
	if (!rc && done) {
		must(used == used2 && used == slow_used);
		must(!reframe(p, n, 3, true, &data[2], &trailers[2], &done, &used) && done);
		must(same(&trailers[0], &trailers[2]));
		must(!reframe((const char *)km_buf_head(&data[2]), data[2].len, data[2].len, false,
			      &data[3], &trailers[3], &done, &used2));
		must(done && used2 == data[2].len && same(&data[0], &data[3]));
		must(same(&trailers[0], &trailers[3]));
	}
	for (int i = 0; i < 4; i++) {
		km_buf_free(&data[i]);
		km_buf_free(&trailers[i]);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	const char *text = (const char *)p + 1;
	if (!n)
		return 0;
	if (p[0] == 'q')
		request(text, n - 1);
	else if (p[0] == 'r')
		response(text, n - 1);
	else if (p[0] == 'c')
		chunked(text, n - 1);
	return 0;
}
