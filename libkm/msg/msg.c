/* SPDX-License-Identifier: MIT */
#include "libkm/msg/msg.h"

#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include "libkm/msg/desc.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX 64 /* bytes of an address, a key, a time … */

#define REQ true
#define OPT false
#define FIELD(s, f, j, r, k) .json = j, .kind = k, .required = r, .off = offsetof(struct km_msg_##s, f)
#define HAS(s, f) .extra = offsetof(struct km_msg_##s, has_##f)
#define N(s, f) .extra = offsetof(struct km_msg_##s, n_##f)

#define S(name) static const struct field fields_##name[] = {
#define E(name)                                                                                    \
	}                                                                                          \
	;                                                                                          \
	const struct km_msg_desc km_msg_desc_##name = {                                            \
	    #name, sizeof(struct km_msg_##name), fields_##name, KM_ARRAY_LEN(fields_##name)};
#define STR(s, f, j, r, bytes) {FIELD(s, f, j, r, KIND_STR), .max = bytes},
#define UUID(s, f, j, r) {FIELD(s, f, j, r, KIND_UUID), .max = TEXT_MAX},
#define KEY(s, f, j, r) {FIELD(s, f, j, r, KIND_KEY), .max = TEXT_MAX},
#define TIME(s, f, j, r) {FIELD(s, f, j, r, KIND_TIME), .max = TEXT_MAX},
#define PREFIX(s, f, j, r) {FIELD(s, f, j, r, KIND_PREFIX), .max = TEXT_MAX},
#define ADDR(s, f, j, r) {FIELD(s, f, j, r, KIND_ADDR), .max = TEXT_MAX},
#define ENUM(s, f, j, r, c) {FIELD(s, f, j, r, KIND_ENUM), .max = TEXT_MAX, .choices = c},
#define INT(s, f, j, r, lo, hi) {FIELD(s, f, j, r, KIND_INT), HAS(s, f), .min = lo, .max = hi},
#define BOOL(s, f, j, r) {FIELD(s, f, j, r, KIND_BOOL), HAS(s, f)},
#define STRS(s, f, j, r, bytes, n) {FIELD(s, f, j, r, KIND_STRS), N(s, f), .max = bytes, .max_n = n},
#define OBJ(s, f, j, r, sb) {FIELD(s, f, j, r, KIND_OBJ), .sub = &km_msg_desc_##sb},
#define OBJS(s, f, j, r, sb, n)                                                                    \
	{FIELD(s, f, j, r, KIND_OBJS), N(s, f), .max_n = n, .sub = &km_msg_desc_##sb},
#define M(from, type, name)
#include "libkm/msg/messages.def"
#include "libkm/msg/undef.h"

static const struct message {
	enum km_msg_from from;
	const char *type;
	const struct km_msg_desc *desc;
} messages[] = {
#define S(name)
#include "libkm/msg/only_s.h"
#undef M
#define M(from, type, name) {KM_MSG_FROM_##from, type, &km_msg_desc_##name},
#include "libkm/msg/messages.def"
#include "libkm/msg/undef.h"
};

/* ---- where the members are ---- */

static char **str_at(const void *m, const struct field *f)
{
	return (char **)((char *)m + f->off);
}

static int64_t *int_at(const void *m, const struct field *f)
{
	return (int64_t *)((char *)m + f->off);
}

static bool *bool_at(const void *m, const struct field *f)
{
	return (bool *)((char *)m + f->off);
}

static char ***strs_at(const void *m, const struct field *f)
{
	return (char ***)((char *)m + f->off);
}

/* struct km_msg_SUB *, whatever SUB is: all pointers to structs have one form. */
static void **objs_at(const void *m, const struct field *f)
{
	return (void **)((char *)m + f->off);
}

static bool *has_at(const void *m, const struct field *f)
{
	return (bool *)((char *)m + f->extra);
}

static size_t *n_at(const void *m, const struct field *f)
{
	return (size_t *)((char *)m + f->extra);
}

static void *nth(void *array, const struct km_msg_desc *d, size_t i)
{
	return (char *)array + i * d->size;
}

/* ---- parse ---- */

/* The way to the value in hand: a field of what is above, or the i-th element of it. */
struct at {
	const struct at *up;
	const char *name; /* NULL: an element */
	size_t i;
};

static size_t at_print(const struct at *at, char *out, size_t size)
{
	size_t n;
	int r;

	if (!at->up)
		return 0;
	n = at_print(at->up, out, size);
	if (at->name)
		r = snprintf(out + n, size - n, "%s%s", n ? "." : "", at->name);
	else
		r = snprintf(out + n, size - n, "[%zu]", at->i);
	return (size_t)r < size - n ? n + (size_t)r : size - 1;
}

__attribute__((format(printf, 3, 4))) static int fail(struct km_errtext *err, const struct at *at,
						       const char *fmt, ...)
{
	char path[128] = "", what[256];
	va_list ap;

	at_print(at, path, sizeof path);
	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	return km_errtext_set(err, KM_EINVAL, "%s: %s", path[0] ? path : "data", what);
}

static int no_memory(struct km_errtext *err)
{
	return km_errtext_set(err, KM_ENOMEM, "no memory for a message");
}

static bool choice_ok(const char *choices, const char *s)
{
	size_t n = strlen(s), len;

	for (const char *c = choices;; c += len + 1) {
		len = strcspn(c, "|");
		if (len == n && !memcmp(c, s, n))
			return true;
		if (!c[len])
			return false;
	}
}

/* What is wrong with a string of this kind, or NULL. */
static const char *text_wrong(const struct field *f, const char *s)
{
	struct km_addr addr;
	struct km_prefix prefix;
	uint8_t key[32];
	int64_t ms;

	switch (f->kind) {
	case KIND_UUID:
		return km_uuid_ok(s) ? NULL : "not a UUID in lower case";
	case KIND_KEY:
		return km_unb64(key, sizeof key, s) ? "not a WireGuard key (base64 of 32 bytes)"
						    : NULL;
	case KIND_TIME:
		return km_iso8601_parse(&ms, s) ? "not a time in ISO 8601" : NULL;
	case KIND_ADDR:
		return km_addr_parse(&addr, s) ? "not an IP address" : NULL;
	case KIND_PREFIX:
		return !strchr(s, '/') || km_prefix_parse(&prefix, s) ? "not an address with a prefix length"
								      : NULL;
	default:
		return NULL;
	}
}

static int parse_text(const struct field *f, char **out, const json_t *v, const struct at *at,
		      struct km_errtext *err)
{
	const char *s = json_string_value(v), *wrong;
	size_t n;

	if (!s)
		return fail(err, at, "not a string");
	n = json_string_length(v);
	if (n > (size_t)f->max)
		return fail(err, at, "longer than %lld bytes", (long long)f->max);
	if (memchr(s, 0, n))
		return fail(err, at, "contains a NUL");
	if (f->kind == KIND_ENUM && !choice_ok(f->choices, s))
		return fail(err, at, "not one of %s", f->choices);
	wrong = text_wrong(f, s);
	if (wrong)
		return fail(err, at, "%s", wrong);
	*out = strdup(s);
	return *out ? 0 : no_memory(err);
}

static int parse_int(const struct field *f, void *out, const json_t *v, const struct at *at,
		     struct km_errtext *err)
{
	json_int_t n = json_integer_value(v);

	if (!json_is_integer(v))
		return fail(err, at, "not a whole number");
	if (n < f->min || n > f->max)
		return fail(err, at, "%lld is not in %lld to %lld", (long long)n,
			    (long long)f->min, (long long)f->max);
	*int_at(out, f) = n;
	*has_at(out, f) = true;
	return 0;
}

static int parse_struct(const struct km_msg_desc *d, void *out, const json_t *v,
			const struct at *at, struct km_errtext *err);

/* STRS and OBJS. What was made so far is in *out also after an error, for km_msg_clear. */
static int parse_array(const struct field *f, void *out, const json_t *v, const struct at *at,
		       struct km_errtext *err)
{
	size_t n = json_array_size(v);
	size_t size = f->kind == KIND_OBJS ? f->sub->size : sizeof(char *);
	struct at elem = {at, NULL, 0};
	void *array;
	int r = 0;

	if (!json_is_array(v))
		return fail(err, at, "not an array");
	if (n > f->max_n)
		return fail(err, at, "more than %zu elements", f->max_n);
	if (!n)
		return 0;
	array = calloc(n, size);
	if (!array)
		return no_memory(err);
	*objs_at(out, f) = array;
	*n_at(out, f) = n;
	for (; elem.i < n && !r; elem.i++) {
		const json_t *e = json_array_get(v, elem.i);

		if (f->kind == KIND_OBJS)
			r = parse_struct(f->sub, nth(array, f->sub, elem.i), e, &elem, err);
		else
			r = parse_text(f, &(*strs_at(out, f))[elem.i], e, &elem, err);
	}
	return r;
}

static int parse_field(const struct field *f, void *out, const json_t *v, const struct at *at,
		       struct km_errtext *err)
{
	switch (f->kind) {
	case KIND_INT:
		return parse_int(f, out, v, at, err);
	case KIND_BOOL:
		if (!json_is_boolean(v))
			return fail(err, at, "not true or false");
		*bool_at(out, f) = json_is_true(v);
		*has_at(out, f) = true;
		return 0;
	case KIND_STRS:
	case KIND_OBJS:
		return parse_array(f, out, v, at, err);
	case KIND_OBJ:
		*objs_at(out, f) = calloc(1, f->sub->size);
		if (!*objs_at(out, f))
			return no_memory(err);
		return parse_struct(f->sub, *objs_at(out, f), v, at, err);
	default:
		return parse_text(f, str_at(out, f), v, at, err);
	}
}

static int parse_struct(const struct km_msg_desc *d, void *out, const json_t *v,
			const struct at *at, struct km_errtext *err)
{
	int r = 0;

	if (!json_is_object(v))
		return fail(err, at, "not an object");
	for (size_t i = 0; i < d->n_fields && !r; i++) {
		const struct field *f = &d->fields[i];
		struct at here = {at, f->json, 0};
		const json_t *value = json_object_get(v, f->json);

		if (value && !json_is_null(value))
			r = parse_field(f, out, value, &here, err);
		else if (f->required)
			r = fail(err, &here, "missing");
	}
	return r;
}

int km_msg_parse(const struct km_msg_desc *d, void *out, const json_t *v, struct km_errtext *err)
{
	struct at top = {NULL, NULL, 0};
	int r;

	memset(out, 0, d->size);
	r = parse_struct(d, out, v, &top, err);
	if (r)
		km_msg_clear(d, out);
	return r;
}

/* ---- format ---- */

static json_t *format_strs(const struct field *f, const void *in)
{
	json_t *array = json_array();

	for (size_t i = 0; i < *n_at(in, f) && array; i++) {
		const char *s = (*strs_at(in, f))[i];

		if (json_array_append_new(array, json_string(s ? s : ""))) {
			json_decref(array);
			array = NULL;
		}
	}
	return array;
}

static json_t *format_objs(const struct field *f, const void *in)
{
	json_t *array = json_array();

	for (size_t i = 0; i < *n_at(in, f) && array; i++) {
		if (json_array_append_new(array,
					  km_msg_format(f->sub, nth(*objs_at(in, f), f->sub, i)))) {
			json_decref(array);
			array = NULL;
		}
	}
	return array;
}

static bool is_there(const struct field *f, const void *m)
{
	switch (f->kind) {
	case KIND_INT:
	case KIND_BOOL:
		return f->required || *has_at(m, f);
	case KIND_STRS:
	case KIND_OBJS:
		return f->required || *n_at(m, f);
	case KIND_OBJ:
		return *objs_at(m, f);
	default:
		return f->required || *str_at(m, f);
	}
}

static json_t *format_field(const struct field *f, const void *in)
{
	switch (f->kind) {
	case KIND_INT:
		return json_integer(*int_at(in, f));
	case KIND_BOOL:
		return json_boolean(*bool_at(in, f));
	case KIND_STRS:
		return format_strs(f, in);
	case KIND_OBJS:
		return format_objs(f, in);
	case KIND_OBJ:
		return km_msg_format(f->sub, *objs_at(in, f));
	default:
		return json_string(*str_at(in, f) ? *str_at(in, f) : "");
	}
}

json_t *km_msg_format(const struct km_msg_desc *d, const void *in)
{
	json_t *out = json_object();

	for (size_t i = 0; i < d->n_fields && out; i++) {
		const struct field *f = &d->fields[i];

		if (is_there(f, in) && json_object_set_new(out, f->json, format_field(f, in))) {
			json_decref(out);
			out = NULL;
		}
	}
	return out;
}

/* ---- clear, copy, equal ---- */

void km_msg_clear(const struct km_msg_desc *d, void *m)
{
	for (size_t i = 0; i < d->n_fields; i++) {
		const struct field *f = &d->fields[i];

		switch (f->kind) {
		case KIND_INT:
		case KIND_BOOL:
			break;
		case KIND_STRS:
			for (size_t k = 0; k < *n_at(m, f); k++)
				free((*strs_at(m, f))[k]);
			free(*strs_at(m, f));
			break;
		case KIND_OBJS:
			for (size_t k = 0; k < *n_at(m, f); k++)
				km_msg_clear(f->sub, nth(*objs_at(m, f), f->sub, k));
			free(*objs_at(m, f));
			break;
		case KIND_OBJ:
			if (*objs_at(m, f))
				km_msg_clear(f->sub, *objs_at(m, f));
			free(*objs_at(m, f));
			break;
		default:
			free(*str_at(m, f));
		}
	}
	memset(m, 0, d->size);
}

static int copy_text(char **out, const char *in)
{
	*out = in ? strdup(in) : NULL;
	return in && !*out ? KM_ENOMEM : 0;
}

static int copy_array(const struct field *f, void *out, const void *in)
{
	size_t n = *n_at(in, f);
	void *array;
	int r = 0;

	if (!n)
		return 0;
	array = calloc(n, f->kind == KIND_OBJS ? f->sub->size : sizeof(char *));
	if (!array)
		return KM_ENOMEM;
	*objs_at(out, f) = array;
	*n_at(out, f) = n;
	for (size_t i = 0; i < n && !r; i++) {
		if (f->kind == KIND_OBJS)
			r = km_msg_copy(f->sub, nth(array, f->sub, i),
					nth(*objs_at(in, f), f->sub, i));
		else
			r = copy_text(&(*strs_at(out, f))[i], (*strs_at(in, f))[i]);
	}
	return r;
}

static int copy_field(const struct field *f, void *out, const void *in)
{
	switch (f->kind) {
	case KIND_INT:
		*int_at(out, f) = *int_at(in, f);
		*has_at(out, f) = *has_at(in, f);
		return 0;
	case KIND_BOOL:
		*bool_at(out, f) = *bool_at(in, f);
		*has_at(out, f) = *has_at(in, f);
		return 0;
	case KIND_STRS:
	case KIND_OBJS:
		return copy_array(f, out, in);
	case KIND_OBJ:
		if (!*objs_at(in, f))
			return 0;
		*objs_at(out, f) = calloc(1, f->sub->size);
		return *objs_at(out, f) ? km_msg_copy(f->sub, *objs_at(out, f), *objs_at(in, f))
					: KM_ENOMEM;
	default:
		return copy_text(str_at(out, f), *str_at(in, f));
	}
}

int km_msg_copy(const struct km_msg_desc *d, void *out, const void *in)
{
	int r = 0;

	memset(out, 0, d->size);
	for (size_t i = 0; i < d->n_fields && !r; i++)
		r = copy_field(&d->fields[i], out, in);
	if (r)
		km_msg_clear(d, out);
	return r;
}

static bool text_equal(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

static bool field_equal(const struct field *f, const void *a, const void *b)
{
	bool equal = true;

	if (is_there(f, a) != is_there(f, b))
		return false;
	if (!is_there(f, a))
		return true;
	switch (f->kind) {
	case KIND_INT:
		return *int_at(a, f) == *int_at(b, f);
	case KIND_BOOL:
		return *bool_at(a, f) == *bool_at(b, f);
	case KIND_STRS:
		equal = *n_at(a, f) == *n_at(b, f);
		for (size_t i = 0; equal && i < *n_at(a, f); i++)
			equal = text_equal((*strs_at(a, f))[i], (*strs_at(b, f))[i]);
		return equal;
	case KIND_OBJS:
		equal = *n_at(a, f) == *n_at(b, f);
		for (size_t i = 0; equal && i < *n_at(a, f); i++)
			equal = km_msg_equal(f->sub, nth(*objs_at(a, f), f->sub, i),
					     nth(*objs_at(b, f), f->sub, i));
		return equal;
	case KIND_OBJ:
		return km_msg_equal(f->sub, *objs_at(a, f), *objs_at(b, f));
	default:
		return text_equal(*str_at(a, f), *str_at(b, f));
	}
}

bool km_msg_equal(const struct km_msg_desc *d, const void *a, const void *b)
{
	for (size_t i = 0; i < d->n_fields; i++) {
		if (!field_equal(&d->fields[i], a, b))
			return false;
	}
	return true;
}

const struct km_msg_desc *km_msg_find(enum km_msg_from from, const char *type)
{
	for (size_t i = 0; i < KM_ARRAY_LEN(messages); i++) {
		if (messages[i].from == from && !strcmp(messages[i].type, type))
			return messages[i].desc;
	}
	return NULL;
}
