/* SPDX-License-Identifier: MIT */
/* The target's side of an exchange, by protocol. A struct up belongs to one exchange at a time: a
 * whole connection with HTTP/1, a stream of one with HTTP/2. */
#ifndef GATEWAYD_UPSTREAM_BACK_H
#define GATEWAYD_UPSTREAM_BACK_H

#include "gatewayd/edge/http.h"
#include <stdint.h>

struct up;
struct km_buf;
struct body;

struct back {
	bool encodes; /* a request's body without a length goes into u->out in chunks */
	/* Sends this head, as heads_request wrote it (HTTP/1.1); u->out holds what follows it.
	 * Before the connection is open, too. KM_ENOMEM, KM_ETOOBIG. */
	int (*request)(struct up *u, const void *head, size_t n);
	/* Sends of u->out what goes; true when something changed. `ended`: the request's last byte
	 * is in u->out or has gone. Sets u->no_write when the target takes no more, and u->wrote
	 * when it may have seen something. */
	bool (*flush)(struct up *u, bool ended);
	/* Brings more into u->in, up to `most` bytes in all; true when something changed. Sets
	 * u->ended when nothing more will come, u->broken when that was no proper end. */
	bool (*read)(struct up *u, size_t most);
	/* The head of the next answer: 1 (it is in r, whose strings live until take), 0 (not whole
	 * yet), -1
	 * (*why says what is wrong with it). */
	int (*head)(struct up *u, struct http_response *r, bool head_request,
		    const struct http_limits *lim, const char **why);
	/* The head that was found is done with. */
	void (*take)(struct up *u);
	/* Puts the trailers of an answer whose source has ended into b (body_trailer). NULL: they
	 * are in the body's own bytes. */
	int (*trailers)(struct up *u, struct body *b);
};

extern const struct back back_h1;

#endif
