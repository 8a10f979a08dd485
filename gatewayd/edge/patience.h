/* SPDX-License-Identifier: MIT */
/* How long clients are borne with that send or read slowly on purpose. */
#ifndef GATEWAYD_EDGE_PATIENCE_H
#define GATEWAYD_EDGE_PATIENCE_H

#include "gatewayd/edge/exchange.h"

/* n bytes of the request's body have come; waits: nothing goes on until the client sends more. False: it is
 * too slow, which has been counted and logged. */
bool patience_in(struct exchange *x, uint64_t n, bool waits);
/* Whether the client whose body is waited for is to give way to others that wait for its target: it sends more
 * slowly than body_min_rate, and has for half of the time that they wait at most. */
bool patience_lags(const struct exchange *x);
/* n bytes of x->out have gone. */
void patience_sent(struct exchange *x, uint64_t n);
/* What is left of x->out waits for the client, after the exchange, too. False: it is too slow, as above. */
bool patience_out(struct exchange *x);
/* The client is cut off because its body has not moved for all of body_timeout, or lags: counts and logs it. */
void patience_ended(struct exchange *x);
/* Nothing of x->out has gone for all of body_timeout. False: the client has read (nearly) nothing meanwhile,
 * as above. True: the kernel still had much to send, and has sent it; the timer may begin anew. */
bool patience_stalled(struct exchange *x);

#endif
