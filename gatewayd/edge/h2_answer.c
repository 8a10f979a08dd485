/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/h2_answer.h"
#include "gatewayd/edge/h1.h"
#include <string.h>

static void add(struct h2_answer *a, struct http_str name, struct http_str value)
{
	if (a->n == H2_ANSWER_FIELDS)
		return;
	a->nv[a->n++] = (nghttp2_nv){.name = (uint8_t *)name.p,
				     .namelen = name.n,
				     .value = (uint8_t *)value.p,
				     .valuelen = value.n,
				     .flags = NGHTTP2_NV_FLAG_NONE};
}

void h2_answer_head(struct h2_answer *a, const struct http_response *r, bool websocket)
{
	static const struct http_str status = {":status", 7};
	bool length = r->has_length && r->status >= 200 && r->status != 204;
	int code = websocket ? 200 : r->status;
	a->n = 0;
	a->status[0] = (char)('0' + code / 100);
	a->status[1] = (char)('0' + code / 10 % 10);
	a->status[2] = (char)('0' + code % 10);
	add(a, status, (struct http_str){a->status, sizeof(a->status)});
	for (size_t i = 0; i < r->n_fields; i++) {
		const struct http_field *f = &r->fields[i];
		if (f->hop || (f->id == HTTP_CONTENT_LENGTH && !length))
			continue;
		if (websocket && http_str_is(f->name, "sec-websocket-accept"))
			continue;
		add(a, f->name, f->value);
	}
}

void h2_answer_trailers(struct h2_answer *a, struct http_str lines)
{
	struct http_field f;
	a->n = 0;
	while (h1_field_next(&lines, &f))
		add(a, f.name, f.value);
}
