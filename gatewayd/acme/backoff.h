/* SPDX-License-Identifier: MIT */
/* When to try again after a failure: for one name, for a name whose DNS does not lead here yet, and
 * for a CA that does not answer. */
#ifndef GATEWAYD_ACME_BACKOFF_H
#define GATEWAYD_ACME_BACKOFF_H

#include "gatewayd/acme/client.h"

/* How long to wait after the count-th failure in a row (from 1), by its cause: 1, 10, 100 minutes, then
 * a day, give or take a tenth; a day at once when the CA will not issue; sooner when nobody answered or
 * the fault is here. wait_ms: what the CA asked for (0: nothing), of which at most a week is obeyed.
 * life_ms: the whole lifetime of the certificate that is to be renewed (0: there is none); one that
 * lives for less than ten days is not given up for longer than a tenth of that. */
int64_t backoff_delay(enum acme_cause cause, unsigned count, int64_t wait_ms, int64_t life_ms,
		      uint32_t rnd);
/* The same for a preflight that was not fine: 5 s, doubling to 10 minutes. */
int64_t backoff_preflight(unsigned count, uint32_t rnd);

/* A CA that cannot be reached: one attempt at a time is the probe for all. Times are monotonic. All
 * zero: the CA is well. */
struct outage {
	unsigned count;
	int64_t until_ms;
	bool probing;
};
/* Whether an attempt may begin now; it is the probe then if the CA is away. */
bool outage_may(const struct outage *o, int64_t now_ms);
/* An attempt begins. */
void outage_begin(struct outage *o);
/* It ended without an answer; wait_ms as above. */
void outage_failed(struct outage *o, int64_t now_ms, int64_t wait_ms, uint32_t rnd);
/* It ended before the CA was asked anything. */
void outage_unused(struct outage *o);
/* The CA has answered. Whether it was away until now. */
bool outage_over(struct outage *o);

#endif
