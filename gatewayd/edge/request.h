/* SPDX-License-Identifier: MIT */
/* What becomes of a request before it goes anywhere: a proof for a CA, an answer of the gateway's
 * own, or an exchange with the target of its tunnel. The same for every version of HTTP. */
#ifndef GATEWAYD_EDGE_REQUEST_H
#define GATEWAYD_EDGE_REQUEST_H

#include "gatewayd/edge/exchange.h"

/* x is without a request (EXCHANGE_NONE); after it, the front's `answer` has been called, or x
 * runs. r is changed into what the target gets. */
void request_serve(struct exchange *x, struct http_request *r);
/* A request that cannot be understood is refused with this status, counted and logged. */
void request_refuse(struct exchange *x, int status, const char *why);

#endif
