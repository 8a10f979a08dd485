/* SPDX-License-Identifier: MIT */
/* A tunnel's rules, applied to messages before they are written, so that every version of HTTP gets the
 * same. Sans-I/O, no allocation but in the caller's buffer. */
#ifndef GATEWAYD_EDGE_APPLY_H
#define GATEWAYD_EDGE_APPLY_H

#include "gatewayd/route/route.h"
#include "libkm/base/buf.h"

/* The request as the target is to see it: the tunnel's path cut off (then with X-Forwarded-Prefix), Host
 * rewritten, fields removed and set. False: what is left of the path would begin with "//", which could be
 * taken for a host; 400. The strings point into the head and into route->rules, which may be NULL. */
bool apply_request(struct http_request *r, const struct route *route);

/* A final answer of the target as the client is to see it: fields removed and set, and over TLS
 * Strict-Transport-Security, of which there is one only. rules may be NULL. */
void apply_response(struct http_response *r, const struct route_rules *rules, bool secure);

/* The first redirect that fits the request: its status, and where to in *to (cleared first, NUL-terminated).
 * 0: none; KM_ENOMEM, KM_ETOOBIG. */
int apply_redirect(struct km_buf *to, const struct route_rules *rules, const struct http_request *r)
    __attribute__((warn_unused_result));

#endif
