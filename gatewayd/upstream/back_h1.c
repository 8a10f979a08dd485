/* SPDX-License-Identifier: MIT */
/* Targets that speak HTTP/1.1: a connection for each exchange. */
#include "gatewayd/edge/h1.h"
#include "gatewayd/upstream/back.h"
#include "gatewayd/upstream/pool.h"

static int h1_request(struct up *u, const void *head, size_t n)
{
	u->scan_at = 0;
	return km_buf_add(&u->out, head, n);
}

static bool h1_flush(struct up *u, bool ended)
{
	size_t n;
	(void)ended;
	if (u->no_write || !u->out.len)
		return false;
	if (io_write(&u->io, &u->out, &n) == IO_BROKEN) {
		/* It may have answered before it closed. */
		u->no_write = u->io.can_read = true;
		km_buf_free(&u->out);
		return true;
	}
	return n > 0;
}

static bool h1_read(struct up *u, size_t most)
{
	if (u->ended || u->in.len >= most)
		return false;
	switch (io_read(&u->io, &u->in, most - u->in.len)) {
	case IO_WAIT:
		return false;
	case IO_BYTES:
		return true;
	default:
		u->ended = true;
		u->broken = u->io.broken;
		return true;
	}
}

static int h1_head(struct up *u, struct http_response *r, bool head_request,
		   const struct http_limits *lim, const char **why)
{
	const char *p = (const char *)km_buf_head(&u->in);
	*why = "malformed or too large head of the answer";
	int n = h1_scan(p, u->in.len, &u->scan_at, lim->head);
	if (n <= 0)
		return n ? -1 : 0;
	u->head_len = (size_t)n;
	return h1_response_parse(r, p, (size_t)n, head_request, lim, why) ? -1 : 1;
}

static void h1_take(struct up *u)
{
	km_buf_consume(&u->in, u->head_len);
	u->scan_at = 0;
}

const struct back back_h1 = {
    .encodes = true,
    .request = h1_request,
    .flush = h1_flush,
    .read = h1_read,
    .head = h1_head,
    .take = h1_take,
};
