/* SPDX-License-Identifier: MIT */
/* The proof of RFC 6455 section 4.2.2 that a WebSocket's target has understood what was asked: over
 * HTTP/2 there is none (RFC 8441), so towards an HTTP/1 target the gateway asks and checks itself. */
#ifndef GATEWAYD_EDGE_H2_WS_H
#define GATEWAYD_EDGE_H2_WS_H

#include "gatewayd/edge/h2_head.h"

/* The key of these random bytes, with a NUL behind. */
void h2_ws_key(const uint8_t random[static 16], char key[static H2_WS_KEY + 1]);
/* Whether the 101's Sec-WebSocket-Accept (one, in r) is the answer to this key. */
bool h2_ws_accepted(const struct http_response *r, const char key[static H2_WS_KEY]);

#endif
