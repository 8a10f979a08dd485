/* SPDX-License-Identifier: MIT */
/* HTTP/1.1 messages (RFC 9110, RFC 9112), strictly: heads of requests and responses, and chunked
 * bodies. Sans-I/O: bytes come in, verdicts go out; no time, no allocation. What could be read in
 * two ways is refused, so that gateway and target always see the same message. */
#ifndef GATEWAYD_EDGE_H1_H
#define GATEWAYD_EDGE_H1_H

#include "gatewayd/edge/http.h"

#define H1_CONNECTION_MAX 16   /* names in Connection */
#define H1_CHUNK_LINE_MAX 1024 /* bytes of chunk extensions in one chunk */
#define H1_CHUNK_EXCESS_MAX                                                                        \
	16384                /* bytes of extensions in one body, beyond 16 a chunk and 2 a byte */
#define H1_TRAILER_MAX 16384 /* bytes of trailers */

/* Looks for the end of a head in the n bytes at p. *at says how much an earlier call has already
 * looked at (0 at first) and is moved on. Returns the head's length when the empty line is there,
 * 0 when more bytes are needed, or the status to refuse with: -400 (a bare CR or LF, a control
 * byte, something that can begin no message), -431 (over `max`), -414 (the first line alone is). */
int h1_scan(const char *p, size_t n, size_t *at, size_t max);

/* Reads a whole head of n bytes, as h1_scan found it. 0, or the status to refuse with (400, 405,
 * 417, 431, 501, 505); *why then gets a few words for the log. The strings point into the head. */
int h1_request_parse(struct http_request *r, const char *p, size_t n, const struct http_limits *lim,
		     const char **why);

/* The same for a response; `head`: the request's method was HEAD, so there is no body. 0 or -1. */
int h1_response_parse(struct http_response *r, const char *p, size_t n, bool head,
		      const struct http_limits *lim, const char **why);

/* Decodes a chunked body. Zero-initialise. */
struct h1_chunked {
	uint8_t state;
	uint8_t digits;
	uint32_t line;   /* bytes of extensions or trailers so far */
	uint32_t excess; /* bytes of extensions that no body made good */
	uint64_t left;   /* bytes of the chunk to come */
};
enum h1_chunk {
	H1_CHUNK_BAD = -1,    /* not a chunked body */
	H1_CHUNK_MORE = 0,    /* all n bytes are used up, more are needed */
	H1_CHUNK_DATA = 1,    /* *data .. *data + *data_len are bytes of the body (data_len > 0) */
	H1_CHUNK_END = 2,     /* the body ended; what follows *used belongs to the next message */
	H1_CHUNK_TRAILER = 3, /* *data .. *data + *data_len are bytes of the trailer section: well
				 formed lines, together whole ones when END comes */
};
/* Takes bytes from the n at p, at most up to the end of one run of data; *used says how many (the
 * data included). Call again with the rest until MORE, END or BAD. */
enum h1_chunk h1_chunked_next(struct h1_chunked *c, const char *p, size_t n, size_t *used,
			      const char **data, size_t *data_len);

/* Takes the first line off *rest, lines of well formed fields ("Name: value\r\n", without the empty
 * line: h1_chunked_next's trailers, struct body's). False when there is none. */
bool h1_field_next(struct http_str *rest, struct http_field *f);

#endif
