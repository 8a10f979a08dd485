/* SPDX-License-Identifier: MIT */
/* HTTP/1.1 messages (RFC 9110, RFC 9112), strictly: heads of requests and responses, and chunked
 * bodies. Sans-I/O: bytes come in, verdicts go out; no time, no allocation. What could be read in
 * two ways is refused, so that gateway and target always see the same message. */
#ifndef GATEWAYD_EDGE_H1_H
#define GATEWAYD_EDGE_H1_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define H1_FIELDS_MAX 128      /* header fields in one head */
#define H1_CONNECTION_MAX 16   /* names in Connection */
#define H1_METHOD_MAX 32       /* bytes */
#define H1_HOST_MAX 253        /* bytes of a host name, without port */
#define H1_CHUNK_LINE_MAX 1024 /* bytes of chunk extensions in one chunk */
#define H1_TRAILER_MAX 16384   /* bytes of trailers */

/* Bytes inside the head that was parsed. */
struct h1_str {
	const char *p;
	size_t n;
};
/* Case-insensitive (ASCII) equality with a C string. */
bool h1_str_is(struct h1_str s, const char *what);

/* The fields that the gateway itself understands. */
enum h1_name {
	H1_OTHER,
	H1_ACCEPT,
	H1_CONNECTION,
	H1_CONTENT_LENGTH,
	H1_EXPECT,
	H1_FORWARDED, /* also X-Forwarded-* and X-Real-IP: what a proxy says about the client */
	H1_HOST,
	H1_HOP, /* Keep-Alive, Proxy-Connection, TE, Trailer, HTTP2-Settings …: for one hop only */
	H1_TRANSFER_ENCODING,
	H1_UPGRADE,
};
struct h1_field {
	struct h1_str name, value; /* value without white space around it */
	enum h1_name id;
	bool hop; /* must not be passed on: a hop-by-hop field, named in Connection, or written with
		     '_' in the place of '-' of a field above (some servers take one for the other)
		   */
};

enum h1_body {
	H1_BODY_NONE,
	H1_BODY_LENGTH,
	H1_BODY_CHUNKED,
	H1_BODY_CLOSE, /* until the connection ends; responses only */
};

struct h1_limits {
	size_t head;   /* bytes of a head, with its last empty line */
	size_t fields; /* at most H1_FIELDS_MAX */
};

/* Looks for the end of a head in the n bytes at p. *at says how much an earlier call has already
 * looked at (0 at first) and is moved on. Returns the head's length when the empty line is there,
 * 0 when more bytes are needed, or the status to refuse with: -400 (a bare CR or LF, a control
 * byte, something that can begin no message), -431 (over `max`), -414 (the first line alone is). */
int h1_scan(const char *p, size_t n, size_t *at, size_t max);

struct h1_request {
	struct h1_str method;
	struct h1_str target; /* origin-form, or "*"; absolute-form is cut down to its origin-form
				 ("" when it has neither path nor query: use "/") */
	bool target_query;    /* target begins with '?': an absolute-form without a path */
	struct h1_str authority;    /* the value of Host */
	char host[H1_HOST_MAX + 1]; /* lower case, no port, no last dot; "[v6]" in brackets */
	uint8_t minor;              /* HTTP/1.minor */
	bool head;                  /* method HEAD */
	bool safe, idempotent;      /* RFC 9110 section 9.2 */
	bool keep_alive;            /* what the client asks for */
	bool expect_continue;
	bool upgrade; /* Connection: upgrade, and one protocol in Upgrade that is passed on */
	struct h1_str upgrade_to;
	struct h1_str accept; /* the first Accept, or empty */
	enum h1_body body;    /* NONE, LENGTH or CHUNKED */
	uint64_t length;      /* at most INT64_MAX */
	size_t n_fields;
	struct h1_field fields[H1_FIELDS_MAX];
};
/* Reads a whole head of n bytes, as h1_scan found it. 0, or the status to refuse with (400, 405,
 * 417, 431, 501, 505); *why then gets a few words for the log. The strings point into the head. */
int h1_request_parse(struct h1_request *r, const char *p, size_t n, const struct h1_limits *lim,
		     const char **why);

struct h1_response {
	int status; /* 100 to 599 */
	struct h1_str reason;
	uint8_t minor;
	bool keep_alive; /* another request may follow; never where a body may come that must not */
	bool upgrade;    /* status 101 with Connection: upgrade and Upgrade */
	struct h1_str upgrade_to;
	enum h1_body body;
	uint64_t length; /* with BODY_LENGTH; and what a bodiless answer declares, see has_length */
	bool has_length;
	size_t n_fields;
	struct h1_field fields[H1_FIELDS_MAX];
};
/* The same for a response; `head`: the request's method was HEAD, so there is no body. 0 or -1. */
int h1_response_parse(struct h1_response *r, const char *p, size_t n, bool head,
		      const struct h1_limits *lim, const char **why);

/* Decodes a chunked body. Zero-initialise. */
struct h1_chunked {
	uint8_t state;
	uint8_t digits;
	uint32_t line; /* bytes of extensions or trailers so far */
	uint64_t left; /* bytes of the chunk to come */
};
enum h1_chunk {
	H1_CHUNK_BAD = -1, /* not a chunked body */
	H1_CHUNK_MORE = 0, /* all n bytes are used up, more are needed */
	H1_CHUNK_DATA = 1, /* *data .. *data + *data_len are bytes of the body (data_len > 0) */
	H1_CHUNK_END = 2,  /* the body ended; what follows *used belongs to the next message */
};
/* Takes bytes from the n at p, at most up to the end of one run of data; *used says how many (the
 * data included). Trailers are checked and dropped. Call again with the rest until MORE, END or
 * BAD. */
enum h1_chunk h1_chunked_next(struct h1_chunked *c, const char *p, size_t n, size_t *used,
			      const char **data, size_t *data_len);

/* Whether an Accept value likes text/html better than text/plain (RFC 9110 section 12.5.1). */
bool h1_prefers_html(struct h1_str accept);
/* Lower-cases, cuts port and last dot of an authority ("Example.org.:443"); false when it is none.
 */
bool h1_host_normal(struct h1_str authority, char out[static H1_HOST_MAX + 1], uint32_t *port);

#endif
