/* SPDX-License-Identifier: MIT */
/* HTTP/2 as a client of targets that speak it, in TLS or, by prior knowledge (RFC 9113 section 3.3),
 * without: one connection that many requests share. Sans-I/O: bytes come in, bytes go out. Heads of answers come out as HTTP/1 heads, so that they pass the same strict parser as those of
 * other targets. */
#ifndef GATEWAYD_UPSTREAM_H2_H
#define GATEWAYD_UPSTREAM_H2_H

#include "gatewayd/edge/body.h"
#include "gatewayd/edge/http.h"
#include "libkm/base/buf.h"

#define UP_H2_STREAMS_MAX 100    /* at once on one connection, and fewer if the target wants so */
#define UP_H2_WINDOW 131072      /* bytes of an answer that the target may send ahead of its reader */
#define UP_H2_WINDOW_ALL 8388608 /* the same of a connection */

struct up_h2;

/* A request and its answer. The fields are for the owner to read. */
struct up_h2_stream {
	struct up_h2 *h;
	int32_t id; /* 0: not begun, or closed */
	void *owner;
	struct km_buf *in, *out; /* the owner's: bodies of the answer and of the request */
	struct km_buf head;      /* heads of answers, as HTTP/1 would write them */
	struct km_buf trailers;
	bool interim;     /* the head at hand is a 1xx */
	bool head_done;   /* the final answer's head is in `head`, or was */
	bool in_trailers; /* what comes now is behind the body */
	bool sent;        /* the target may have seen the request */
	bool ended;       /* nothing more comes from the target */
	bool broken;      /* that was no proper end */
	bool reset;       /* the target has ended it with an error */
	bool refused;     /* the target has not processed anything of it */
	bool out_ended;   /* nothing more will be put into `out` */
	bool no_write;    /* the target takes no more of `out` */
	size_t held;      /* bytes in `in` for which no window was given back yet */
	const struct km_buf *out_trailers;
	struct up_h2_stream *prev, *next;
};

struct up_h2_opts {
	struct http_limits limits;
	bool https; /* it is spoken in TLS */
	/* Something has come, gone or ended on a stream with an owner. Not to begin or drop
	 * streams. */
	void (*changed)(void *owner);
};
/* NULL: no memory. */
struct up_h2 *up_h2_new(const struct up_h2_opts *o);
/* No stream may be left. Accepts NULL. */
void up_h2_free(struct up_h2 *h);

/* Bytes from the target. KM_EPROTO: this connection is of no more use (up_h2_why says why; what
 * up_h2_send still gives tells the target). Every stream hears of it by `changed`. */
int up_h2_receive(struct up_h2 *h, const void *p, size_t n) __attribute__((warn_unused_result));
/* Appends to out what is to be sent, until it holds `high` bytes or more. KM_ENOMEM, KM_ETOOBIG. */
int up_h2_send(struct up_h2 *h, struct km_buf *out, size_t high) __attribute__((warn_unused_result));
/* The connection has ended, or never came to be (then no request was sent): every stream ends. */
void up_h2_lost(struct up_h2 *h, bool sent);
/* Whether another request may begin. */
bool up_h2_room(const struct up_h2 *h);
/* Whether it is of no more use: no request may begin, and none is left. */
bool up_h2_over(const struct up_h2 *h);
/* No further request is to begin on it. */
void up_h2_drain(struct up_h2 *h);
size_t up_h2_streams(const struct up_h2 *h);
struct up_h2_stream *up_h2_first(const struct up_h2 *h); /* by `next`; NULL: none */
/* What was wrong with the target; never NULL. */
const char *up_h2_why(const struct up_h2 *h);
/* Asks for a sign of life; up_h2_pinging until it has come. */
void up_h2_ping(struct up_h2 *h);
bool up_h2_pinging(const struct up_h2 *h);

/* A stream, whose request may follow: s must be zeroed, and stay where it is until up_h2_drop. */
void up_h2_begin(struct up_h2 *h, struct up_h2_stream *s, void *owner, struct km_buf *in,
	       struct km_buf *out);
/* Sends a request; its body is read from s->out until up_h2_flush says that it has ended. KM_ENOMEM.
 */
int up_h2_request(struct up_h2_stream *s, const struct http_request *r)
    __attribute__((warn_unused_result));
/* s->out has more; ended: that is all, and these trailers ("Name: value\r\n" lines, may be NULL;
 * they stay until the stream is dropped) follow. */
void up_h2_flush(struct up_h2_stream *s, bool ended, const struct km_buf *trailers);
/* What the owner has taken out of s->in since the last call, the target may send anew. True: it was
 * something. */
bool up_h2_taken(struct up_h2_stream *s);
/* Puts the answer's trailers into b, whose source has ended. Errors of body_trailer. */
int up_h2_trailers(struct up_h2_stream *s, struct body *b) __attribute__((warn_unused_result));
/* Ends the stream in any state (with RST_STREAM, if the target is still at it). */
void up_h2_drop(struct up_h2_stream *s);

#endif
