/* SPDX-License-Identifier: MIT */
/* Request rates: a token bucket for each tunnel, and one for each stranger's address at each
 * tunnel, over all workers. Buckets are kept as the time at which they would be full again (GCRA),
 * so one costs 8 bytes and no timer. What has been refused takes no token. */
#ifndef GATEWAYD_EDGE_LIMIT_H
#define GATEWAYD_EDGE_LIMIT_H

#include "gatewayd/edge/byaddr.h"
#include "gatewayd/route/route.h"

#define LIMIT_ADDRESSES                                                                            \
	65536 /* buckets of addresses; when all are taken, who was longest away is forgotten */

/* Takes a token of the bucket *full_at (0: a full one) at now_ns: 0, or after how many ns there is
 * one. Any thread. */
int64_t limit_take(_Atomic int64_t *full_at, const struct route_rate *rate, int64_t now_ns);

/* A rate as gateway.conf has it ("100/1s"); NULL or "": none. KM_EINVAL. */
int limit_parse(struct route_rate *out, const char *s) __attribute__((warn_unused_result));

struct limits {
	struct route_rate rate, address_rate; /* where a tunnel has none of its own */
	struct byaddr *addresses;
};
/* Whether a request from this address for this tunnel may pass now: 0, or the seconds (at least 1)
 * after which another one may be tried. The address counts first, so that one stranger cannot use
 * up what a tunnel has for all. Where there is no memory for an address it is not bounded. Any
 * thread. */
int64_t limits_wait(struct limits *l, const struct route *route, const struct km_addr *from,
		    int64_t now_ms);

#endif
