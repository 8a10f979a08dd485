/* SPDX-License-Identifier: MIT */
/* How fast a client is while it is waited for. Whoever trickles, a byte before each timeout, is found out
 * over a longer time; the time that others take (the target, the network behind it) is not counted. Sans-I/O. */
#ifndef GATEWAYD_EDGE_PACE_H
#define GATEWAYD_EDGE_PACE_H

#include <stdbool.h>
#include <stdint.h>

struct pace_rule {
	int64_t window_ms; /* so long it is waited for, in all, before it is judged */
	int64_t min_rate;  /* bytes a second; 0: any will do */
};
/* Zeroed to begin with. */
struct pace {
	int64_t since; /* waited for since then, 0: not now */
	int64_t waited;
	uint64_t bytes; /* that moved since it was judged last */
};

/* n bytes have moved since the last call, and from now on the client is waited for (or is not). True: over
 * a whole window it was slower than min_rate, and it is still waited for. */
bool pace_slow(struct pace *p, const struct pace_rule *r, uint64_t n, bool waits, int64_t now_ms);
/* Whether a client that is waited for has been too slow so far, before its window is over, but after ms of it. */
bool pace_lags(const struct pace *p, const struct pace_rule *r, int64_t ms, int64_t now_ms);
/* Whether so many bytes in so much time are too few. */
bool pace_too_few(const struct pace_rule *r, uint64_t bytes, int64_t ms);

#endif
