/* SPDX-License-Identifier: MIT */
/* A request whose body is awaited before its target is asked for a connection: who sends slowly takes
 * nobody's place there. For exchange.c. */
#ifndef GATEWAYD_EDGE_GATHER_H
#define GATEWAYD_EDGE_GATHER_H

#include "gatewayd/edge/exchange.h"

/* Whether this request's body is awaited: one whose length is known, up to request_buffer bytes of it. At once
 * go those whose client may want to hear something before it sends more: with Expect: 100-continue, which
 * is the target's to answer (RFC 9110 section 10.1.1), with a body of no known length (streams of gRPC)
 * or none. */
bool gather_wanted(const struct exchange *x, const struct http_request *r);
/* Puts the request's head, in w->head, aside until then. What fails is answered. */
void gather_begin(struct exchange *x);
/* One round, as exchange_step. Asks for the connection when enough of the body is there. */
bool gather_step(struct exchange *x);
/* It is awaited no longer, if it was. */
void gather_end(struct exchange *x);

#endif
