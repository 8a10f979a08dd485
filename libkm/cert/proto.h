/* SPDX-License-Identifier: MIT */
/* The part of protobuf's wire format that Nebula's files use: varints and length-delimited fields.
 * Reading is strict: shortest varints only, ascending field numbers. */
#ifndef KM_CERT_PROTO_H
#define KM_CERT_PROTO_H

#include "libkm/base/buf.h"

enum { KM_PROTO_VARINT = 0, KM_PROTO_BYTES = 2 };

struct km_proto_field {
	uint32_t number;
	unsigned type;
	uint64_t value;      /* of a varint */
	struct km_cur bytes; /* of the other type */
};

/* A varint in its shortest form; 0 and bad otherwise. */
uint64_t km_proto_varint(struct km_cur *c);
/* The next field. False at the end, and (bad) for another wire type, a bad number or length. */
bool km_proto_next(struct km_cur *c, struct km_proto_field *f);

int km_proto_put_varint(struct km_buf *b, uint64_t v) __attribute__((warn_unused_result));
/* A varint field, left out when 0. */
int km_proto_put_uint(struct km_buf *b, uint32_t number, uint64_t v)
    __attribute__((warn_unused_result));
/* A length-delimited field; the caller leaves out what is empty. */
int km_proto_put_bytes(struct km_buf *b, uint32_t number, const void *p, size_t n)
    __attribute__((warn_unused_result));

#endif
