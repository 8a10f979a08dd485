/* SPDX-License-Identifier: MIT */
/* Heads of HTTP/2 requests (RFC 9113 section 8.3), field by field as HPACK gives them out. They are
 * written down as the HTTP/1.1 head that says the same, and that is read by the one strict parser
 * (h1_request_parse): what is refused there is refused here too, and no third reading exists. What
 * HTTP/1 cannot see (order of the pseudo-header fields, capital letters, line ends in values,
 * fields of one connection) is checked before. Sans-I/O. */
#ifndef GATEWAYD_EDGE_H2_HEAD_H
#define GATEWAYD_EDGE_H2_HEAD_H

#include "gatewayd/edge/http.h"
#include "libkm/base/buf.h"

#define H2_WS_KEY 24 /* characters of a Sec-WebSocket-Key: 16 bytes in base64 */

enum h2_pseudo { H2_METHOD, H2_SCHEME, H2_AUTHORITY, H2_PATH, H2_PROTOCOL, H2_PSEUDOS };

struct h2_head {
	struct http_limits limits;
	struct km_buf first;   /* the values of the pseudo-header fields */
	struct km_buf text;    /* the head */
	struct km_buf cookies; /* the crumbs, joined (RFC 9113 section 8.2.3) */
	struct {
		size_t at, n;
		bool given;
	} pseudo[H2_PSEUDOS];
	size_t size;    /* as SETTINGS_MAX_HEADER_LIST_SIZE counts */
	size_t crumbs;  /* fields named cookie */
	size_t fields;  /* others that were written */
	bool fields_on; /* the request line has been written */
	bool host_given, length_given;
	int status; /* what the first mistake asks for; 0: none so far */
	const char *why;
};

/* Zeroed, it is ready for this; keeps the memory that it has. */
void h2_head_begin(struct h2_head *h, const struct http_limits *limits);
/* The next field. After the first mistake the rest is only counted. */
void h2_head_field(struct h2_head *h, struct http_str name, struct http_str value);
/* Whether the block has grown far beyond what may be sent (four times the limit): nobody does that by
 * mistake, and HPACK lets a few bytes grow to very many. */
bool h2_head_bomb(const struct h2_head *h);
/* The block has ended; `body`: DATA will follow. Fills in r, whose strings point into h. For a
 * body without a length r->body is HTTP_BODY_CLOSE; for an
 * extended CONNECT (RFC 8441) r is the GET with Upgrade that asks for the same, with ws_key as its
 * Sec-WebSocket-Key. 0, or the status to refuse with (400, 405, 417, 431, 500, 501); *why then gets
 * a few words for the log. r->method and r->head are right, or empty, in any case. */
int h2_head_end(struct h2_head *h, bool body, const char ws_key[static H2_WS_KEY],
		struct http_request *r, const char **why);
/* Whether HTTP/2 may have such a field (RFC 9113 section 8.2.1), as far as HTTP/1 cannot see it. */
bool h2_field_ok(struct http_str name, struct http_str value);
void h2_head_free(struct h2_head *h);

#endif
