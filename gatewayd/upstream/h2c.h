/* SPDX-License-Identifier: MIT */
/* HTTP/2 as a client of targets that speak it without TLS, by prior knowledge (RFC 9113
 * section 3.3): one connection that many requests share. Sans-I/O: bytes come in, bytes go out.
 * Heads of answers come out as HTTP/1 heads, so that they pass the same strict parser as those of
 * other targets. */
#ifndef GATEWAYD_UPSTREAM_H2C_H
#define GATEWAYD_UPSTREAM_H2C_H

#include "gatewayd/edge/body.h"
#include "gatewayd/edge/http.h"
#include "libkm/base/buf.h"

#define H2C_STREAMS_MAX 100    /* at once on one connection, and fewer if the target wants so */
#define H2C_WINDOW 131072      /* bytes of an answer that the target may send ahead of its reader */
#define H2C_WINDOW_ALL 8388608 /* the same of a connection */

struct h2c;

/* A request and its answer. The fields are for the owner to read. */
struct h2c_stream {
	struct h2c *h;
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
	struct h2c_stream *prev, *next;
};

struct h2c_opts {
	struct http_limits limits;
	/* Something has come, gone or ended on a stream with an owner. Not to begin or drop
	 * streams. */
	void (*changed)(void *owner);
};
/* NULL: no memory. */
struct h2c *h2c_new(const struct h2c_opts *o);
/* No stream may be left. Accepts NULL. */
void h2c_free(struct h2c *h);

/* Bytes from the target. KM_EPROTO: this connection is of no more use (h2c_why says why; what
 * h2c_send still gives tells the target). Every stream hears of it by `changed`. */
int h2c_receive(struct h2c *h, const void *p, size_t n) __attribute__((warn_unused_result));
/* Appends to out what is to be sent, until it holds `high` bytes or more. KM_ENOMEM, KM_ETOOBIG. */
int h2c_send(struct h2c *h, struct km_buf *out, size_t high) __attribute__((warn_unused_result));
/* The connection has ended, or never came to be (then no request was sent): every stream ends. */
void h2c_lost(struct h2c *h, bool sent);
/* Whether another request may begin. */
bool h2c_room(const struct h2c *h);
/* Whether it is of no more use: no request may begin, and none is left. */
bool h2c_over(const struct h2c *h);
/* No further request is to begin on it. */
void h2c_drain(struct h2c *h);
size_t h2c_streams(const struct h2c *h);
struct h2c_stream *h2c_first(const struct h2c *h); /* by `next`; NULL: none */
/* What was wrong with the target; never NULL. */
const char *h2c_why(const struct h2c *h);
/* Asks for a sign of life; h2c_pinging until it has come. */
void h2c_ping(struct h2c *h);
bool h2c_pinging(const struct h2c *h);

/* A stream, whose request may follow: s must be zeroed, and stay where it is until h2c_drop. */
void h2c_begin(struct h2c *h, struct h2c_stream *s, void *owner, struct km_buf *in,
	       struct km_buf *out);
/* Sends a request; its body is read from s->out until h2c_flush says that it has ended. KM_ENOMEM.
 */
int h2c_request(struct h2c_stream *s, const struct http_request *r)
    __attribute__((warn_unused_result));
/* s->out has more; ended: that is all, and these trailers ("Name: value\r\n" lines, may be NULL;
 * they stay until the stream is dropped) follow. */
void h2c_flush(struct h2c_stream *s, bool ended, const struct km_buf *trailers);
/* What the owner has taken out of s->in since the last call, the target may send anew. True: it was
 * something. */
bool h2c_taken(struct h2c_stream *s);
/* Puts the answer's trailers into b, whose source has ended. Errors of body_trailer. */
int h2c_trailers(struct h2c_stream *s, struct body *b) __attribute__((warn_unused_result));
/* Ends the stream in any state (with RST_STREAM, if the target is still at it). */
void h2c_drop(struct h2c_stream *s);

#endif
