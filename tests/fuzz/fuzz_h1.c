/* SPDX-License-Identifier: MIT */
/* What strangers and targets send: a head of a request ('q' first), of a response ('r'), or a
 * chunked body ('c'). How the bytes are cut must not matter, and what the gateway makes of a
 * message must be read again as the same message. */
#include "gatewayd/edge/body.h"
#include "gatewayd/edge/heads.h"
#include "libkm/base/err.h"
#include "libkm/base/util.h"
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
	must(whole <= (int)n);
	return whole;
}

static void request(const char *p, size_t n)
{
	static struct http_request r, again;
	static const struct km_addr client = {.family = 2, .ip = {192, 0, 2, 1}};
	const char *why;
	struct km_buf out;
	int len = scan(p, n);
	if (len <= 0 || h1_request_parse(&r, p, (size_t)len, &limits, &why))
		return;
	km_buf_init(&out, 1 << 20);
	must(!heads_request(&out, &r, &client, true));
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
	}
	km_buf_free(&out);
}

static void response(const char *p, size_t n)
{
	static struct http_response r, again;
	const char *why;
	struct km_buf out;
	int len = scan(p, n);
	if (len <= 0 || h1_response_parse(&r, p, (size_t)len, false, &limits, &why))
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
		   bool *done, size_t *used)
{
	struct body b;
	struct km_buf src;
	uint64_t moved = 0;
	int rc = 0;
	size_t at = 0;
	km_buf_init(&src, 1 << 20);
	body_begin(&b, HTTP_BODY_CHUNKED, 0, encode);
	while (at < n && !rc && !b.done) {
		size_t k = n - at < step ? n - at : step;
		must(!km_buf_add(&src, p + at, k));
		at += k;
		rc = body_move(&b, &src, out, SIZE_MAX, &moved);
	}
	*done = b.done;
	*used = at - src.len;
	km_buf_free(&src);
	return rc;
}

static void chunked(const char *p, size_t n)
{
	struct km_buf whole, bytes, encoded, again;
	bool done, done2;
	size_t used, used2;
	if (n > 4096)
		return;
	km_buf_init(&whole, 1 << 20);
	km_buf_init(&bytes, 1 << 20);
	km_buf_init(&encoded, 1 << 20);
	km_buf_init(&again, 1 << 20);
	int rc = reframe(p, n, n, false, &whole, &done, &used);
	must(reframe(p, n, 1, false, &bytes, &done2, &used2) == rc && done == done2);
	must(whole.len == bytes.len &&
	     (!whole.len || !memcmp(km_buf_head(&whole), km_buf_head(&bytes), whole.len)));
	if (!rc && done) {
		must(used == used2);
		must(!reframe(p, n, 3, true, &encoded, &done, &used) && done);
		must(!reframe((const char *)km_buf_head(&encoded), encoded.len, encoded.len, false,
			      &again, &done, &used2));
		must(done && used2 == encoded.len && again.len == whole.len);
		must(!whole.len || !memcmp(km_buf_head(&again), km_buf_head(&whole), whole.len));
	}
	km_buf_free(&whole);
	km_buf_free(&bytes);
	km_buf_free(&encoded);
	km_buf_free(&again);
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
