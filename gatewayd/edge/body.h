/* SPDX-License-Identifier: MIT */
/* The body of one message on its way from one buffer to another, reframed. Sans-I/O. */
#ifndef GATEWAYD_EDGE_BODY_H
#define GATEWAYD_EDGE_BODY_H

#include "gatewayd/edge/h1.h"
#include "libkm/base/buf.h"

struct body {
	enum http_body kind; /* how it comes */
	uint64_t left;       /* LENGTH: bytes to come */
	struct h1_chunked chunked;
	bool encode; /* it goes out chunked; else as it is */
	bool done;   /* its last byte has been put into the destination */
};

void body_begin(struct body *b, enum http_body kind, uint64_t length, bool encode);
/* Moves what has come in src to dst, until dst holds `high` bytes or more; *moved grows by the
 * bytes of the body. 0, KM_EPROTO (malformed chunks), KM_ENOMEM, KM_ETOOBIG (dst cannot hold one
 * run). */
int body_move(struct body *b, struct km_buf *src, struct km_buf *dst, size_t high, uint64_t *moved)
    __attribute__((warn_unused_result));
/* The source has ended: a CLOSE body is done; KM_ETRUNC for any other that is not done yet. */
int body_source_ended(struct body *b, struct km_buf *dst) __attribute__((warn_unused_result));

#endif
