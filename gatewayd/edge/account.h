/* SPDX-License-Identifier: MIT */
/* What a request, and a connection that is passed through, leaves behind: counters of its tunnel and
 * of its worker, and a line of the access log. */
#ifndef GATEWAYD_EDGE_ACCOUNT_H
#define GATEWAYD_EDGE_ACCOUNT_H

#include "gatewayd/edge/http.h"
#include "gatewayd/route/counts.h"

struct exchange;

/* Of all requests of one worker, those without a tunnel too. */
struct account_stats {
	struct counts requests;
	struct counts first;  /* only the time to the target's first byte */
	struct counts waited; /* only the time for which a connection to it was waited for */
};

/* x has a request from now on. r: what the log will say of it, copied when there is a log; NULL: it
 * could not be understood. */
void account_begin(struct exchange *x, const struct http_request *r);
/* x is a connection that is passed through untouched from now on, asked for by this server name. */
void account_pass(struct exchange *x, const char *sni);
/* It is over, with what x says of it; x->route is still held. Nothing where no request has begun.
 */
void account_end(struct exchange *x);
/* A word or two on why the gateway itself answers with this status. */
const char *account_reason(int status);

#endif
