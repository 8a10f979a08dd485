/* SPDX-License-Identifier: MIT */
/* What gateways say to each other as bytes: a frame is its length (u32) and so many bytes: the type
 * (u8), then fields, each a tag (u8), a length (u32) and its value. Integers are big endian.
 * Unknown types and fields are passed over, so that a later version may say more. Sans-I/O. See
 * "Between gateways" in docs/protocol.md.
 *
 * Not JSON as towards control, because a key that has been read by a JSON library leaves copies
 * that nobody can wipe. */
#ifndef GATEWAYD_MESH_CODEC_H
#define GATEWAYD_MESH_CODEC_H

#include "gatewayd/mesh/mesh.h"
#include "libkm/base/err.h"

#define MESH_VERSION 1
#define MESH_HEAD 4                /* bytes before the length that it tells */
#define MESH_BODY_MAX (256 * 1024) /* of one frame */
#define MESH_WHY_MAX 511

enum mesh_type {
	MESH_HELLO = 1, /* version, gateway; the first of each side */
	MESH_PING,      /* nothing */
	MESH_ACK,       /* id */
	MESH_CHALLENGE, /* id, open, token; if open: kind, name, key authorization */
	MESH_CLAIM,     /* id, domain */
	MESH_VERDICT,   /* id, granted */
	MESH_ANNOUNCE,  /* domain, rsa, fingerprint, not after */
	MESH_FAILED,    /* domain, why, next try */
	MESH_FETCH,     /* id, domain, rsa */
	MESH_GIVEN,     /* id, pem unless there is none */
};

struct mesh_msg {
	enum mesh_type type;
	uint32_t id; /* of a request, and again of its answer */
	uint8_t version, gateway[16];
	bool open, granted;
	struct challenge ch;
	struct mesh_fact fact; /* its domain is that of the other types too */
	char why[MESH_WHY_MAX + 1];
	int64_t next_try_ms;
	const char *pem; /* borrowed; NULL: none */
	size_t pem_len;
};

/* The frame, malloc'd with its size in *n; whoever wrote a pem into it wipes it. KM_EINVAL (a field
 * that mesh_decode would not take), KM_ETOOBIG, KM_ENOMEM. */
int mesh_encode(const struct mesh_msg *m, uint8_t **frame, size_t *n)
    __attribute__((warn_unused_result));
/* How long the body is that follows. KM_ETOOBIG; KM_EPROTO (empty). */
int mesh_decode_head(const uint8_t head[static MESH_HEAD], size_t *n)
    __attribute__((warn_unused_result));
/* A body of n bytes, behind which there is room for one more. m->pem points into it,
 * NUL-terminated: the body is changed. KM_ENOTFOUND: an unknown type. KM_EPROTO: truncated, a field
 * twice, a missing one, or a value that is not what it should be. */
int mesh_decode(struct mesh_msg *m, uint8_t *body, size_t n) __attribute__((warn_unused_result));

#endif
