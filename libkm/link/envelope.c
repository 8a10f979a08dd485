/* SPDX-License-Identifier: MIT */
#include "libkm/link/envelope.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARSE_FLAGS (JSON_REJECT_DUPLICATES)

void km_frames_free(struct km_frame *f)
{
	while (f) {
		struct km_frame *next = f->next;
		free(f);
		f = next;
	}
}

static bool type_ok(const char *s, size_t n)
{
	if (n == 0 || n > KM_LINK_TYPE_MAX)
		return false;
	for (size_t i = 0; i < n; i++) {
		char c = s[i];
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '_' || c == '-' || c == '.'))
			return false;
	}
	return true;
}

static struct km_frame *frame_new(size_t len)
{
	struct km_frame *f = malloc(sizeof(*f) + KM_FRAME_PRE + len + 1);

	if (f) {
		f->next = NULL;
		f->len = f->sent = f->credit = 0;
	}
	return f;
}

static void frame_add(struct km_frame *f, const char *p, size_t n)
{
	memcpy(f->buf + KM_FRAME_PRE + f->len, p, n);
	f->len += n;
}

/* How many bytes of text fit into room once they are escaped inside a JSON string; never ends
 * within a UTF-8 sequence. The text is JSON: of what needs escaping it holds only '"' and '\'. */
static size_t piece_len(const char *text, size_t len, size_t room, size_t *escaped)
{
	size_t i = 0, out = 0;

	while (i < len) {
		size_t n = 1, cost = text[i] == '"' || text[i] == '\\' ? 2 : 1;

		while (i + n < len && ((unsigned char)text[i + n] & 0xc0) == 0x80)
			n++;
		cost += n - 1;
		if (out + cost > room)
			break;
		i += n;
		out += cost;
	}
	*escaped = out;
	return i;
}

static void frame_add_escaped(struct km_frame *f, const char *p, size_t n)
{
	uint8_t *o = f->buf + KM_FRAME_PRE + f->len;

	for (size_t i = 0; i < n; i++) {
		if (p[i] == '"' || p[i] == '\\')
			*o++ = '\\';
		*o++ = (uint8_t)p[i];
	}
	f->len = (size_t)(o - (f->buf + KM_FRAME_PRE));
}

static int format_whole(struct km_frame **out, const char *type, const char *text, size_t len)
{
	char head[KM_LINK_TYPE_MAX + 32];
	int n = snprintf(head, sizeof(head), "{\"type\":\"%s\",\"data\":", type);
	struct km_frame *f = frame_new((size_t)n + len + 1);

	if (!f)
		return KM_ENOMEM;
	frame_add(f, head, (size_t)n);
	frame_add(f, text, len);
	frame_add(f, "}", 1);
	*out = f;
	return 0;
}

static int format_parts(struct km_frame **out, const char *type, const char *text, size_t len,
			size_t limit)
{
	char head[KM_LINK_TYPE_MAX + 96];
	size_t room = limit - sizeof(head) - 2, parts = 0, escaped;
	struct km_frame **tail = out;

	for (size_t at = 0; at < len; parts++)
		at += piece_len(text + at, len - at, room, &escaped);
	if (parts > KM_LINK_PARTS_MAX)
		return KM_ETOOBIG;
	for (size_t k = 1, at = 0; k <= parts; k++) {
		size_t take = piece_len(text + at, len - at, room, &escaped);
		int n = snprintf(head, sizeof(head),
				 "{\"type\":\"%s\",\"part\":%zu,\"parts\":%zu,\"data\":\"", type, k,
				 parts);
		struct km_frame *f = frame_new((size_t)n + escaped + 2);

		if (!f)
			return KM_ENOMEM;
		frame_add(f, head, (size_t)n);
		frame_add_escaped(f, text + at, take);
		frame_add(f, "\"}", 2);
		*tail = f;
		tail = &f->next;
		at += take;
	}
	return 0;
}

int km_envelope_format(struct km_frame **out, size_t *total, const char *type, const json_t *data,
		       size_t limit)
{
	bool may_cut = limit != 0;
	size_t len, over = strlen(type) + sizeof("{\"type\":\"\",\"data\":}") - 1;
	char *text = NULL;
	int r = KM_EINVAL;

	*out = NULL;
	*total = 0;
	if (!limit)
		limit = KM_LINK_TO_CONTROL_MAX;
	if (!type_ok(type, strlen(type)))
		goto out;
	r = KM_ENOMEM;
	text = json_dumps(data, JSON_COMPACT | JSON_ENCODE_ANY);
	if (!text)
		goto out;
	len = strlen(text);
	if (len + over <= limit)
		r = format_whole(out, type, text, len);
	else if (!may_cut || len > KM_LINK_JOINED_MAX)
		r = KM_ETOOBIG;
	else
		r = format_parts(out, type, text, len, limit);
	for (struct km_frame *f = *out; f; f = f->next)
		*total += f->len;
out:
	if (r) {
		km_frames_free(*out);
		*out = NULL;
	}
	free(text);
	return r;
}

static int parse_parts(struct km_envelope *e, const json_t *root, struct km_errtext *err)
{
	const json_t *part = json_object_get(root, "part"), *parts = json_object_get(root, "parts");

	if (!part && !parts)
		return 0;
	json_int_t k = json_integer_value(part), n = json_integer_value(parts);
	if (!json_is_integer(part) || !json_is_integer(parts) || n < 1 || n > KM_LINK_PARTS_MAX ||
	    k < 1 || k > n)
		return km_errtext_set(err, KM_EPROTO,
				      "part and parts: not 1 <= part <= parts <= %d",
				      KM_LINK_PARTS_MAX);
	if (!json_is_string(json_object_get(root, "data")))
		return km_errtext_set(err, KM_EPROTO, "data: of a part, must be a string");
	e->part = (uint32_t)k;
	e->parts = (uint32_t)n;
	return 0;
}

int km_envelope_parse(struct km_envelope *e, const void *text, size_t len, struct km_errtext *err)
{
	json_error_t je;
	int r = KM_EPROTO;

	*e = (struct km_envelope){0};
	json_t *root = json_loadb(text, len, PARSE_FLAGS, &je);
	if (!root)
		return km_errtext_set(err, r, "not JSON: %s at byte %d", je.text, je.position);
	const json_t *type = json_object_get(root, "type");
	if (!json_is_object(root)) {
		km_errtext_set(err, r, "not a JSON object");
	} else if (!json_is_string(type)) {
		km_errtext_set(err, r, "type: missing, or not a string");
	} else if (!type_ok(json_string_value(type), json_string_length(type))) {
		km_errtext_set(err, r, "type: not 1 to %d letters, digits, '_', '-' or '.'",
			       KM_LINK_TYPE_MAX);
	} else {
		memcpy(e->type, json_string_value(type), json_string_length(type) + 1);
		r = parse_parts(e, root, err);
	}
	if (r == 0) {
		e->data = json_object_get(root, "data");
		e->data = e->data ? json_incref(e->data) : json_null();
	}
	json_decref(root);
	return r;
}

void km_joiner_clear(struct km_joiner *j)
{
	km_buf_free(&j->text);
	j->parts = j->next = 0;
}

static int join(struct km_joiner *j, struct km_envelope *e, struct km_errtext *err)
{
	int r;

	if (!j->parts) {
		if (e->part != 1)
			return km_errtext_set(err, KM_EPROTO, "%s: part %u of %u without the first",
					      e->type, e->part, e->parts);
		memcpy(j->type, e->type, sizeof(j->type));
		j->parts = e->parts;
		j->next = 1;
		km_buf_init(&j->text, KM_LINK_JOINED_MAX);
	}
	if (e->part != j->next || e->parts != j->parts || strcmp(e->type, j->type) != 0)
		return km_errtext_set(err, KM_EPROTO,
				      "%s: part %u of %u came where part %u of %u of %s "
				      "was due",
				      e->type, e->part, e->parts, j->next, j->parts, j->type);
	r = km_buf_add(&j->text, json_string_value(e->data), json_string_length(e->data));
	if (r)
		return km_errtext_set(err, r, "%s: longer than %u bytes when joined, or no memory",
				      e->type, KM_LINK_JOINED_MAX);
	if (j->next++ < j->parts)
		return 0;
	json_error_t je;
	json_t *data = json_loadb((const char *)km_buf_head(&j->text), j->text.len,
				  PARSE_FLAGS | JSON_DECODE_ANY, &je);
	if (!data)
		return km_errtext_set(err, KM_EPROTO, "%s: %u parts do not make JSON: %s", e->type,
				      j->parts, je.text);
	json_decref(e->data);
	e->data = data;
	e->part = e->parts = 0;
	km_joiner_clear(j);
	return 1;
}

int km_joiner_feed(struct km_joiner *j, struct km_envelope *e, struct km_errtext *err)
{
	int r;

	if (e->part)
		r = join(j, e, err);
	else if (j->parts)
		r = km_errtext_set(err, KM_EPROTO, "%s came where part %u of %u of %s was due",
				   e->type, j->next, j->parts, j->type);
	else
		r = 1;
	if (r != 1) {
		json_decref(e->data);
		e->data = NULL;
	}
	if (r < 0)
		km_joiner_clear(j);
	return r;
}
