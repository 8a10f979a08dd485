/* SPDX-License-Identifier: MIT */
#include "gatewayd/mesh/codec.h"
#include "libkm/base/buf.h"
#include "libkm/base/util.h"
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum tag {
	TAG_ID = 1,
	TAG_VERSION,
	TAG_GATEWAY,
	TAG_OPEN,
	TAG_KIND,
	TAG_NAME,
	TAG_TOKEN,
	TAG_KEY_AUTH,
	TAG_GRANTED,
	TAG_DOMAIN,
	TAG_RSA,
	TAG_FINGERPRINT,
	TAG_NOT_AFTER,
	TAG_WHY,
	TAG_NEXT_TRY,
	TAG_PEM,
	TAGS,
};

enum form {
	FORM_BOOL,
	FORM_U8,
	FORM_KIND,
	FORM_U32,
	FORM_I64,
	FORM_ID16,
	FORM_HEX,
	FORM_TEXT,
	FORM_PEM
};

#define HOST "abcdefghijklmnopqrstuvwxyz0123456789.-_*:"
#define B64URL "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

static const struct field {
	enum form form;
	size_t off, max;   /* max: bytes of a text */
	const char *chars; /* of which it may be; NULL: UTF-8 without control characters */
} fields[TAGS] = {
#define F(name, form_, member, max_, chars_)                                                       \
	[TAG_##name] = {form_, offsetof(struct mesh_msg, member), max_, chars_}
    F(ID, FORM_U32, id, 0, NULL),
    F(VERSION, FORM_U8, version, 0, NULL),
    F(GATEWAY, FORM_ID16, gateway, 0, NULL),
    F(OPEN, FORM_BOOL, open, 0, NULL),
    F(KIND, FORM_KIND, ch.type, 0, NULL),
    F(NAME, FORM_TEXT, ch.name, sizeof(((struct challenge *)0)->name) - 1, HOST),
    F(TOKEN, FORM_TEXT, ch.token, CHALLENGE_TOKEN_MAX, B64URL),
    F(KEY_AUTH, FORM_TEXT, ch.key_auth, CHALLENGE_KEY_AUTH_MAX, B64URL "."),
    F(GRANTED, FORM_BOOL, granted, 0, NULL),
    F(DOMAIN, FORM_TEXT, fact.domain, sizeof(((struct mesh_fact *)0)->domain) - 1, HOST),
    F(RSA, FORM_BOOL, fact.rsa, 0, NULL),
    F(FINGERPRINT, FORM_HEX, fact.fingerprint, 0, NULL),
    F(NOT_AFTER, FORM_I64, fact.not_after_ms, 0, NULL),
    F(WHY, FORM_TEXT, why, MESH_WHY_MAX, NULL),
    F(NEXT_TRY, FORM_I64, next_try_ms, 0, NULL),
    F(PEM, FORM_PEM, pem, 0, NULL),
#undef F
};

#define BIT(tag) (1u << TAG_##tag)
static const struct {
	uint32_t must, may;
} types[] = {
    [MESH_HELLO] = {BIT(VERSION) | BIT(GATEWAY), 0},
    [MESH_PING] = {0, 0},
    [MESH_ACK] = {BIT(ID), 0},
    [MESH_CHALLENGE] = {BIT(ID) | BIT(OPEN) | BIT(TOKEN), BIT(KIND) | BIT(NAME) | BIT(KEY_AUTH)},
    [MESH_CLAIM] = {BIT(ID) | BIT(DOMAIN), 0},
    [MESH_VERDICT] = {BIT(ID) | BIT(GRANTED), 0},
    [MESH_ANNOUNCE] = {BIT(DOMAIN) | BIT(RSA) | BIT(FINGERPRINT) | BIT(NOT_AFTER), 0},
    [MESH_FAILED] = {BIT(DOMAIN) | BIT(WHY) | BIT(NEXT_TRY), 0},
    [MESH_FETCH] = {BIT(ID) | BIT(DOMAIN) | BIT(RSA), 0},
    [MESH_GIVEN] = {BIT(ID), BIT(PEM)},
};

/* What the table cannot say. */
static bool whole(const struct mesh_msg *m, uint32_t seen)
{
	uint32_t challenge = BIT(KIND) | BIT(NAME) | BIT(KEY_AUTH);
	if ((seen & types[m->type].must) != types[m->type].must)
		return false;
	if (m->type == MESH_HELLO)
		return m->version >= 1;
	if (m->type == MESH_CHALLENGE)
		return (seen & challenge) == (m->open ? challenge : 0);
	return true;
}

/* ---- one field ---- */

static bool utf8_plain(const char *s, size_t n)
{
	size_t len;
	for (size_t at = 0; at < n; at += len) {
		if ((uint8_t)s[at] < ' ' || s[at] == 0x7f || !(len = km_utf8_len(s + at)))
			return false;
	}
	return true;
}

/* s is NUL-terminated behind n bytes, with no NUL before. */
static bool text_ok(const struct field *f, const char *s, size_t n)
{
	if (n > f->max)
		return false;
	return f->chars ? n && strspn(s, f->chars) == n : utf8_plain(s, n);
}

static bool pem_ok(const char *s, size_t n)
{
	static const char begin[] = "-----BEGIN ";
	return n >= sizeof(begin) && !memcmp(s, begin, sizeof(begin) - 1) && !memchr(s, 0, n);
}

static int64_t be64(struct km_cur *c)
{
	uint64_t high = km_cur_be32(c);
	return (int64_t)(high << 32 | km_cur_be32(c));
}

static bool bool_read(struct km_cur *c, bool *to)
{
	uint8_t v = km_cur_u8(c);
	*to = v == 1;
	return v <= 1;
}

static bool text_read(const struct field *f, char *to, struct km_cur *c)
{
	size_t n = c->left;
	const uint8_t *p = km_cur_take(c, n);
	if (n > f->max || (n && memchr(p, 0, n)))
		return false;
	if (n)
		memcpy(to, p, n);
	to[n] = 0;
	return text_ok(f, to, n);
}

static bool kind_read(struct km_cur *c, enum challenge_type *to)
{
	uint8_t v = km_cur_u8(c);
	*to = v ? CHALLENGE_ALPN_TLS : CHALLENGE_HTTP;
	return v <= 1;
}

/* c is the value, which must be used up. */
static bool field_read(struct mesh_msg *m, const struct field *f, struct km_cur *c)
{
	char *to = (char *)m + f->off;
	const uint8_t *p;
	bool ok = true;
	switch (f->form) {
	case FORM_BOOL:
		ok = bool_read(c, (bool *)to);
		break;
	case FORM_U8:
		*(uint8_t *)to = km_cur_u8(c);
		break;
	case FORM_KIND:
		ok = kind_read(c, (enum challenge_type *)to);
		break;
	case FORM_U32:
		*(uint32_t *)to = km_cur_be32(c);
		break;
	case FORM_I64:
		*(int64_t *)to = be64(c);
		break;
	case FORM_ID16:
		if ((p = km_cur_take(c, 16)))
			memcpy(to, p, 16);
		break;
	case FORM_HEX:
		if ((p = km_cur_take(c, 32)))
			km_hex(p, 32, to);
		break;
	case FORM_TEXT:
		ok = text_read(f, to, c);
		break;
	case FORM_PEM:
		m->pem_len = c->left;
		m->pem = (const char *)km_cur_take(c, m->pem_len);
		ok = m->pem && pem_ok(m->pem, m->pem_len);
		break;
	}
	return ok && !c->bad && !c->left;
}

/* ---- reading ---- */

int mesh_decode_head(const uint8_t head[static MESH_HEAD], size_t *n)
{
	struct km_cur c = km_cur_of(head, MESH_HEAD);
	*n = km_cur_be32(&c);
	if (!*n)
		return KM_EPROTO;
	return *n > MESH_BODY_MAX ? KM_ETOOBIG : 0;
}

int mesh_decode(struct mesh_msg *m, uint8_t *body, size_t n)
{
	struct km_cur c = km_cur_of(body, n);
	uint32_t seen = 0;
	uint8_t type = km_cur_u8(&c);
	memset(m, 0, sizeof(*m));
	if (c.bad)
		return KM_EPROTO;
	if (!type || type >= KM_ARRAY_LEN(types))
		return KM_ENOTFOUND;
	m->type = (enum mesh_type)type;
	while (c.left) {
		uint8_t tag = km_cur_u8(&c);
		uint32_t len = km_cur_be32(&c);
		struct km_cur value = km_cur_sub(&c, len);
		if (c.bad)
			return KM_EPROTO;
		if (!tag || tag >= TAGS || !((types[type].must | types[type].may) & 1u << tag))
			continue;
		if (seen & 1u << tag || !field_read(m, &fields[tag], &value))
			return KM_EPROTO;
		seen |= 1u << tag;
	}
	if (!whole(m, seen))
		return KM_EPROTO;
	if (m->pem) /* over the next field's tag, if any: it has been read */
		body[(size_t)((const uint8_t *)m->pem - body) + m->pem_len] = 0;
	return 0;
}

/* ---- writing ---- */

static uint8_t *put32(uint8_t *p, uint32_t v)
{
	for (int shift = 24; shift >= 0; shift -= 8)
		*p++ = (uint8_t)(v >> shift);
	return p;
}

/* The value as it goes out, in place or in tmp. NULL: not what it should be. */
static const void *value_of(const struct mesh_msg *m, const struct field *f, uint8_t tmp[static 32],
			    size_t *n)
{
	const char *from = (const char *)m + f->off;
	int64_t v;
	*n = 1;
	switch (f->form) {
	case FORM_BOOL:
	case FORM_U8:
		return from;
	case FORM_KIND:
		tmp[0] = *(const enum challenge_type *)from == CHALLENGE_ALPN_TLS;
		return tmp;
	case FORM_U32:
		*n = 4;
		put32(tmp, *(const uint32_t *)from);
		return tmp;
	case FORM_I64:
		*n = 8;
		v = *(const int64_t *)from;
		put32(put32(tmp, (uint32_t)((uint64_t)v >> 32)), (uint32_t)v);
		return tmp;
	case FORM_ID16:
		*n = 16;
		return from;
	case FORM_HEX:
		*n = 32;
		return km_unhex(tmp, 32, from) ? NULL : tmp;
	case FORM_TEXT:
		*n = strnlen(from, f->max + 1);
		return text_ok(f, from, *n) ? from : NULL;
	case FORM_PEM:
		*n = m->pem_len;
		return pem_ok(m->pem, m->pem_len) ? m->pem : NULL;
	}
	return NULL;
}

static uint32_t wanted(const struct mesh_msg *m)
{
	uint32_t tags = types[m->type].must;
	if (m->type == MESH_CHALLENGE && m->open)
		tags |= types[m->type].may;
	return m->type == MESH_GIVEN && m->pem ? tags | BIT(PEM) : tags;
}

/* to NULL: only the size of the body is told. */
static int body_write(const struct mesh_msg *m, uint8_t *to, size_t *size)
{
	uint32_t tags = wanted(m);
	uint8_t tmp[32];
	size_t n;
	*size = 1;
	if (to)
		*to++ = (uint8_t)m->type;
	for (unsigned tag = 1; tag < TAGS; tag++) {
		if (!(tags & 1u << tag))
			continue;
		const void *value = value_of(m, &fields[tag], tmp, &n);
		if (!value)
			return KM_EINVAL;
		if (n > MESH_BODY_MAX || (*size += 5 + n) > MESH_BODY_MAX)
			return KM_ETOOBIG;
		if (!to)
			continue;
		*to++ = (uint8_t)tag;
		to = put32(to, (uint32_t)n);
		memcpy(to, value, n);
		to += n;
	}
	return 0;
}

int mesh_encode(const struct mesh_msg *m, uint8_t **frame, size_t *n)
{
	size_t size;
	*frame = NULL;
	*n = 0;
	if (m->type < MESH_HELLO || m->type >= KM_ARRAY_LEN(types) || !whole(m, wanted(m)))
		return KM_EINVAL;
	int rc = body_write(m, NULL, &size);
	if (rc)
		return rc;
	uint8_t *p = malloc(MESH_HEAD + size);
	if (!p)
		return KM_ENOMEM;
	rc = body_write(m, put32(p, (uint32_t)size), &size);
	*frame = p;
	*n = MESH_HEAD + size;
	return rc;
}
