/* SPDX-License-Identifier: MIT */
/* What is written to HTTP/2 clients: an answer's head, or trailers, as nghttp2 takes them. Sans-I/O.
 */
#ifndef GATEWAYD_EDGE_H2_ANSWER_H
#define GATEWAYD_EDGE_H2_ANSWER_H

#include "gatewayd/edge/http.h"
#include <nghttp2/nghttp2.h>

#define H2_ANSWER_FIELDS (HTTP_FIELDS_ROOM + 1)

struct h2_answer {
	char status[3];
	size_t n;
	nghttp2_nv nv[H2_ANSWER_FIELDS];
};

/* The head (also an interim one): fields for one hop and a length that the status forbids left out.
 * `websocket`: a 101 becomes the 200 of RFC 8441. The strings point into r's head (names in
 * whatever case: nghttp2 lowers what it copies) and into a. */
void h2_answer_head(struct h2_answer *a, const struct http_response *r, bool websocket);
/* The lines of struct body's trailers. */
void h2_answer_trailers(struct h2_answer *a, struct http_str lines);

#endif
