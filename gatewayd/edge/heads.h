/* SPDX-License-Identifier: MIT */
/* The heads that the gateway writes: requests towards targets, answers towards clients, and the
 * answers of its own. Sans-I/O. */
#ifndef GATEWAYD_EDGE_HEADS_H
#define GATEWAYD_EDGE_HEADS_H

#include "gatewayd/edge/client.h"
#include "gatewayd/edge/h1.h"
#include "libkm/base/addr.h"
#include "libkm/base/buf.h"

/* Appends the request as the target gets it: HTTP/1.1, origin-form, hop-by-hop fields and what the
 * client says about proxies left out, X-Forwarded-For, -Proto, -Host, X-Real-IP and Forwarded
 * (RFC 7239) set from what the gateway knows; TE: trailers where te_trailers says so. KM_ENOMEM,
 * KM_ETOOBIG. */
int heads_request(struct km_buf *out, const struct http_request *r, const struct client *client)
    __attribute__((warn_unused_result));

/* Appends the response (also an interim one) as the client gets it. `framing`: CHUNKED writes
 * Transfer-Encoding, LENGTH the response's Content-Length (0 without one), NONE what the response declares of a
 * body that is not sent, CLOSE nothing. */
struct heads_response {
	enum http_body framing;
	bool close;      /* Connection: close */
	bool keep_alive; /* Connection: keep-alive, for HTTP/1.0 clients */
	bool upgrade;    /* Connection: upgrade and Upgrade */
};
int heads_response(struct km_buf *out, const struct http_response *r,
		   const struct heads_response *how) __attribute__((warn_unused_result));

/* Writes a Date's value (RFC 9110 section 5.6.7) of a second since 1970, with a NUL behind it. */
#define HEADS_DATE 29
void heads_date(char out[static HEADS_DATE + 1], int64_t second);

/* Appends one line, "Name: value" CRLF, as it is. KM_ENOMEM, KM_ETOOBIG; then nothing is appended. */
int heads_field(struct km_buf *out, struct http_str name, struct http_str value)
    __attribute__((warn_unused_result));

/* Appends an answer of the gateway's own: a short text (or HTML), or with `location` a redirect.
 * what: a few words (at most 300 bytes), NULL: the status's usual ones. A line's end follows them,
 * but not with status 200. page: the whole body in their place. */
struct heads_answer {
	int status;
	const char *what;
	const char *location;
	struct http_str page, hsts; /* n 0: none; the latter is Strict-Transport-Security's value */
	struct http_str date;       /* Date's value; n 0: none */
	int64_t retry_after;        /* seconds; 0: none */
	bool html, head, close, keep_alive;
};
int heads_answer(struct km_buf *out, const struct heads_answer *a)
    __attribute__((warn_unused_result));

#endif
