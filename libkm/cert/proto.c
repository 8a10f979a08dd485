/* SPDX-License-Identifier: MIT */
#include "libkm/cert/proto.h"

#define VARINT_MAX 10
#define NUMBER_MAX ((1U << 29) - 1)

uint64_t km_proto_varint(struct km_cur *c)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < VARINT_MAX; i++) {
		uint8_t b = km_cur_u8(c);

		/* The tenth byte has room for one bit; a last byte of 0 adds nothing. */
		if (c->bad || (i == VARINT_MAX - 1 && b > 1) || (i && !b))
			break;
		v |= (uint64_t)(b & 0x7f) << (7 * i);
		if (!(b & 0x80))
			return v;
	}
	c->bad = true;
	return 0;
}

bool km_proto_next(struct km_cur *c, struct km_proto_field *f)
{
	uint64_t tag, len;

	*f = (struct km_proto_field){0};
	if (c->bad || !c->left)
		return false;
	tag = km_proto_varint(c);
	f->type = tag & 7;
	if (c->bad || tag >> 3 == 0 || tag >> 3 > NUMBER_MAX)
		goto bad;
	f->number = (uint32_t)(tag >> 3);
	if (f->type == KM_PROTO_VARINT) {
		f->value = km_proto_varint(c);
	} else if (f->type == KM_PROTO_BYTES) {
		len = km_proto_varint(c);
		if (len > c->left)
			goto bad;
		f->bytes = km_cur_sub(c, (size_t)len);
	} else {
		goto bad;
	}
	return !c->bad;
bad:
	c->bad = true;
	return false;
}

int km_proto_put_varint(struct km_buf *b, uint64_t v)
{
	uint8_t bytes[VARINT_MAX];
	size_t n = 0;

	do {
		bytes[n] = (uint8_t)(v & 0x7f);
		v >>= 7;
		if (v)
			bytes[n] |= 0x80;
		n++;
	} while (v);
	return km_buf_add(b, bytes, n);
}

int km_proto_put_uint(struct km_buf *b, uint32_t number, uint64_t v)
{
	int rc;

	if (!v)
		return 0;
	rc = km_proto_put_varint(b, (uint64_t)number << 3 | KM_PROTO_VARINT);
	return rc ? rc : km_proto_put_varint(b, v);
}

int km_proto_put_bytes(struct km_buf *b, uint32_t number, const void *p, size_t n)
{
	int rc = km_proto_put_varint(b, (uint64_t)number << 3 | KM_PROTO_BYTES);

	if (!rc)
		rc = km_proto_put_varint(b, n);
	return rc ? rc : km_buf_add(b, p, n);
}
