/* SPDX-License-Identifier: MIT */
/* The envelope {"type", "data"} of the link and its parts. No I/O.
 * A message whose envelope is longer than the receiver takes is cut: the JSON text of data is split
 * into n pieces (between characters), and piece k goes as {"type", "part": k, "parts": n, "data":
 * "piece"}. Pieces come in order and nothing comes between them. */
#ifndef KM_LINK_ENVELOPE_H
#define KM_LINK_ENVELOPE_H

#include "libkm/base/buf.h"
#include "libkm/base/err.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KM_LINK_TO_CONTROL_MAX (64u << 10) /* longest envelope from a client */
#define KM_LINK_TO_CLIENT_MAX (1u << 20)   /* and to one */
#define KM_LINK_JOINED_MAX (256u << 20)    /* longest data text joined from parts */
#define KM_LINK_PARTS_MAX 4096
#define KM_LINK_TYPE_MAX 64
#define KM_FRAME_PRE 32 /* room before the text, for the WebSocket header */

/* One WebSocket message to be sent: text of len bytes at buf + KM_FRAME_PRE. */
struct km_frame {
	struct km_frame *next;
	size_t len, sent;
	size_t credit; /* the sender's: what to give back when it has gone out */
	uint8_t buf[];
};
/* Frees a list. Accepts NULL. */
void km_frames_free(struct km_frame *f);

/* Makes the frames of a message: one when its envelope has at most limit bytes, else parts of at
 * most limit bytes each. limit 0: KM_LINK_TO_CONTROL_MAX and never parts. *total gets the sum of
 * their lengths. data stays the caller's. KM_EINVAL (type is not 1 to 64 letters, digits, '_', '-'
 * or '.'), KM_ETOOBIG, KM_ENOMEM. */
int km_envelope_format(struct km_frame **out, size_t *total, const char *type, const json_t *data,
		       size_t limit) __attribute__((warn_unused_result));

/* What one text holds. data is owned (JSON null when absent); part is 0 for a whole message. */
struct km_envelope {
	char type[KM_LINK_TYPE_MAX + 1];
	json_t *data;
	uint32_t part, parts;
};
/* KM_EPROTO with a sentence; then nothing is owned. */
int km_envelope_parse(struct km_envelope *e, const void *text, size_t len, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* Joins parts; zero-initialise. */
struct km_joiner {
	char type[KM_LINK_TYPE_MAX + 1];
	uint32_t next, parts; /* parts 0: idle */
	struct km_buf text;
};
/* Takes a parsed envelope (its data passes over). 1: *e is a whole message now; 0: more parts
 * follow; KM_EPROTO (out of order, something in between, or not JSON when joined), KM_ETOOBIG,
 * KM_ENOMEM: nothing is owned and the joiner is idle. */
int km_joiner_feed(struct km_joiner *j, struct km_envelope *e, struct km_errtext *err)
    __attribute__((warn_unused_result));
void km_joiner_clear(struct km_joiner *j);

#endif
