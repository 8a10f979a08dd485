/* SPDX-License-Identifier: MIT */
/* Targets that speak HTTP/1.1: a connection for each exchange. */
#include "gatewayd/edge/h1.h"
#include "gatewayd/upstream/back.h"
#include "gatewayd/upstream/pool.h"
#include <strings.h>

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
	enum io_got got = io_write(&u->io, &u->out, &n);
	u->wrote |= n > 0;
	if (got == IO_BROKEN) {
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

/* "timeout=5, max=100" (RFC 2068 section 19.7.1.1): for so long, less what it takes to tell,
 * another request may follow; max=0: none. */
static int64_t idle_of(struct http_str v)
{
	int64_t s = -1;
	size_t i = 0;
	while (i < v.n) {
		size_t from = i;
		while (i < v.n && v.p[i] != ',')
			i++;
		struct http_str part = {v.p + from, i++ - from};
		while (part.n && (part.p[0] == ' ' || part.p[0] == '\t'))
			part = (struct http_str){part.p + 1, part.n - 1};
		bool timeout = part.n > 8 && !strncasecmp(part.p, "timeout=", 8);
		if (part.n == 5 && !strncasecmp(part.p, "max=0", 5))
			return 0;
		if (!timeout)
			continue;
		s = 0;
		for (size_t k = 8; k < part.n && part.p[k] >= '0' && part.p[k] <= '9' && s < 100000;
		     k++)
			s = s * 10 + (part.p[k] - '0');
	}
	if (s < 0)
		return INT64_MAX;
	return s < 2 ? s * 500 : (s - 1) * 1000;
}

static void idle_know(struct up *u, const struct http_response *r)
{
	u->idle_ms = INT64_MAX;
	for (size_t i = 0; i < r->n_fields; i++)
		if (r->fields[i].id == HTTP_HOP && http_str_is(r->fields[i].name, "keep-alive"))
			u->idle_ms = idle_of(r->fields[i].value);
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
	if (h1_response_parse(r, p, (size_t)n, head_request, lim, why))
		return -1;
	idle_know(u, r);
	return 1;
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
