/* SPDX-License-Identifier: MIT */
/* The body of one message on its way from one buffer to another, reframed. Sans-I/O. */
#ifndef GATEWAYD_EDGE_BODY_H
#define GATEWAYD_EDGE_BODY_H

#include "gatewayd/edge/h1.h"
#include "gatewayd/route/rules.h"
#include "libkm/base/buf.h"

struct body {
	enum http_body kind; /* how it comes */
	uint64_t left;       /* LENGTH: bytes to come */
	struct h1_chunked chunked;
	bool encode;            /* it goes out chunked; else as it is */
	bool done;              /* its last byte has been put into the destination */
	bool keep;              /* see body_keep_trailers */
	const struct rules_field *without;
	size_t n_without;
	struct km_buf trailers; /* lines "Name: value\r\n", whole once `done`: h1_field_next reads
				   them */
};

/* The body must be zeroed or ended. */
void body_begin(struct body *b, enum http_body kind, uint64_t length, bool encode);
/* Moves what has come in src to dst, until dst holds `high` bytes or more (a run of chunked data,
 * or a whole buffer, is not cut for that); *moved grows by the bytes of the body. 0, KM_EPROTO
 * (malformed chunks), KM_ENOMEM, KM_ETOOBIG (dst cannot hold one run). */
int body_move(struct body *b, struct km_buf *src, struct km_buf *dst, size_t high, uint64_t *moved)
    __attribute__((warn_unused_result));
/* Trailers, which are otherwise dropped, are kept from now on: written behind the last chunk where
 * the body goes out chunked, and left in `trailers` for whoever sends a header block. Those that
 * RFC 9110 section 6.5.1 wants in a head only (struct http_field.head_only, hop) are left out, and so
 * are those that the tunnel's n rules in `without` are about, which must not come by this way. Call
 * it only where the head's trailers_ok says so. */
void body_keep_trailers(struct body *b, const struct rules_field *without, size_t n);
/* A trailer of a CLOSE body whose source is not HTTP/1, before body_source_ended; left out as
 * above. KM_EPROTO (malformed name or value), KM_ETOOBIG (over H1_TRAILER_MAX), KM_ENOMEM. */
int body_trailer(struct body *b, struct http_str name, struct http_str value)
    __attribute__((warn_unused_result));
/* Frees what it holds. Any time. */
void body_end(struct body *b);
/* The source has ended: a CLOSE body is done; KM_ETRUNC for any other that is not done yet. */
int body_source_ended(struct body *b, struct km_buf *dst) __attribute__((warn_unused_result));

#endif
