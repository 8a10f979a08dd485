/* SPDX-License-Identifier: MIT */
/* HTTP messages (RFC 9110) as all versions have them: what a head says, without how it was written.
 */
#ifndef GATEWAYD_EDGE_HTTP_H
#define GATEWAYD_EDGE_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_FIELDS_MAX 128 /* header fields in one head */
/* And room for those that a tunnel's rules add (64), and the gateway itself. */
#define HTTP_FIELDS_ROOM (HTTP_FIELDS_MAX + 80)
#define HTTP_METHOD_MAX 32  /* bytes */
#define HTTP_HOST_MAX 253   /* bytes of a host name, without port */

/* Bytes inside the head that was parsed. */
struct http_str {
	const char *p;
	size_t n;
};
/* Case-insensitive (ASCII) equality with a C string. */
bool http_str_is(struct http_str s, const char *what);

/* Whether two field names are the same to all who may read them: case does not count, nor which mark
 * (RFC 9110 section 5.6.2 allows fifteen) stands in the place of another, since CGI and its like turn
 * them into '_'. */
bool http_name_same(struct http_str a, struct http_str b);

/* The fields that the gateway itself understands. */
enum http_name {
	HTTP_OTHER,
	HTTP_ACCEPT,
	HTTP_CDN_LOOP,
	HTTP_CONNECTION,
	HTTP_CONTENT_LENGTH,
	HTTP_DATE,
	HTTP_EXPECT,
	HTTP_FORWARDED, /* also X-Forwarded-* and X-Real-IP: what a proxy says about the client */
	HTTP_HOST,
	HTTP_HOP, /* Keep-Alive, Proxy-Connection, HTTP2-Settings …: for one hop only; Proxy */
	HTTP_TE,
	HTTP_TRAILER,
	HTTP_TRANSFER_ENCODING,
	HTTP_UPGRADE,
};
struct http_field {
	struct http_str name, value; /* value without white space around it */
	enum http_name id;
	bool hop; /* must not be passed on: a hop-by-hop field, named in Connection, or a field above
		     written with another mark in the place of '-' (some servers take one for the
		     other) */
	bool head_only; /* means something only in a head, so it is taken out of trailers (RFC 9110
			   section 6.5.1): framing, routing, conditions, authentication, hop */
};
/* Fills in what follows from f->name alone: id, hop, head_only. */
void http_field_know(struct http_field *f);

enum http_body {
	HTTP_BODY_NONE,
	HTTP_BODY_LENGTH,
	HTTP_BODY_CHUNKED,
	HTTP_BODY_CLOSE, /* until its source says that it has ended: the connection's end (responses
			    of HTTP/1), END_STREAM (both, HTTP/2) */
};

struct http_limits {
	size_t head;   /* bytes of a head, with its last empty line */
	size_t fields; /* at most HTTP_FIELDS_MAX; HTTP_FIELDS_ROOM for what the gateway has written */
};

struct http_request {
	struct http_str method;
	struct http_str target; /* origin-form, or "*"; absolute-form is cut down to its origin-form
				 ("" when it has neither path nor query: use "/") */
	bool target_query;      /* target begins with '?': an absolute-form without a path */
	struct http_str authority;    /* the value of Host */
	char host[HTTP_HOST_MAX + 1]; /* lower case, no port, no last dot; "[v6]" in brackets */
	uint8_t major, minor;         /* of the client's version; 2, 0 for HTTP/2 */
	bool head;                    /* method HEAD */
	bool safe, idempotent;        /* RFC 9110 section 9.2 */
	bool keep_alive;              /* what the client asks for */
	bool expect_continue;
	bool te_trailers; /* TE: trailers: the client can take trailers */
	bool trailers_ok; /* trailers may be passed on: Connection names no field that could be one
			     of them */
	bool upgrade; /* Connection: upgrade, and one protocol in Upgrade that is passed on; or an
			 extended CONNECT (RFC 8441) */
	struct http_str upgrade_to;
	bool cdn_loop;          /* it has a CDN-Loop */
	struct http_str accept; /* the first Accept, or empty */
	enum http_body body;    /* NONE, LENGTH, CHUNKED (HTTP/1) or CLOSE (HTTP/2) */
	uint64_t length;        /* at most INT64_MAX */
	size_t n_fields;
	struct http_field fields[HTTP_FIELDS_ROOM];
};

struct http_response {
	int status; /* 100 to 599 */
	struct http_str reason;
	uint8_t minor;
	bool keep_alive; /* another request may follow; never where a body may come that must not */
	bool upgrade;    /* status 101 with Connection: upgrade and Upgrade */
	struct http_str upgrade_to;
	bool trailers_ok;   /* as in a request */
	bool dated;         /* it has a Date */
	bool trailers_told; /* Trailer announces some: they go to a client that did not ask for them
			     */
	enum http_body body;
	uint64_t length; /* with BODY_LENGTH; and what a bodiless answer declares, see has_length */
	bool has_length;
	size_t n_fields;
	struct http_field fields[HTTP_FIELDS_ROOM];
};

/* Whether an Accept value likes text/html better than text/plain (RFC 9110 section 12.5.1). */
bool http_prefers_html(struct http_str accept);
/* Lower-cases, cuts port and last dot of an authority ("Example.org.:443"); false when it is none.
 */
bool http_host_normal(struct http_str authority, char out[static HTTP_HOST_MAX + 1],
		      uint32_t *port);

#endif
