/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/loops.h"
#include <string.h>

#define MARK_ID (LOOPS_MARK - 16) /* where the tunnel's own part begins */

void loops_mark(char mark[static LOOPS_MARK], const uint8_t tunnel[static 16])
{
	static const char hex[] = "0123456789abcdef";
	memcpy(mark, LOOPS_NAME "; t=", MARK_ID);
	for (size_t i = 0; i < 8; i++) {
		mark[MARK_ID + 2 * i] = hex[tunnel[i] >> 4];
		mark[MARK_ID + 2 * i + 1] = hex[tunnel[i] & 15];
	}
}

/* Whatever white space others have put into the list meanwhile. */
static unsigned times(const struct http_request *r, const char *id)
{
	unsigned n = 0;
	for (size_t i = 0; i < r->n_fields; i++) {
		if (r->fields[i].id != HTTP_CDN_LOOP)
			continue;
		struct http_str rest = r->fields[i].value;
		const char *at;
		while (rest.n && (at = memmem(rest.p, rest.n, id, 16))) {
			n++;
			rest.n -= (size_t)(at + 16 - rest.p);
			rest.p = at + 16;
		}
	}
	return n;
}

static void add(struct http_request *r, struct http_str name, enum http_name id,
		struct http_str value)
{
	if (r->n_fields < HTTP_FIELDS_ROOM)
		r->fields[r->n_fields++] =
		    (struct http_field){.name = name, .value = value, .id = id, .head_only = true};
}

bool loops_pass(struct http_request *r, const char mark[static LOOPS_MARK], bool via)
{
	static const struct http_str cdn_loop = {"CDN-Loop", 8}, name = {"Via", 3};
	static const char *const by[] = {"1.0 " LOOPS_NAME, "1.1 " LOOPS_NAME, "2 " LOOPS_NAME};
	if (r->cdn_loop && times(r, mark + MARK_ID) >= LOOPS_MAX)
		return false;
	add(r, cdn_loop, HTTP_CDN_LOOP, (struct http_str){mark, LOOPS_MARK});
	if (via) {
		const char *s = by[r->major == 2 ? 2 : r->minor ? 1 : 0];
		add(r, name, HTTP_OTHER, (struct http_str){s, strlen(s)});
	}
	return true;
}
