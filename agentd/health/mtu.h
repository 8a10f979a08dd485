/* SPDX-License-Identifier: MIT */
/* How large a packet arrives, where no router says so: packetization layer path MTU discovery (RFC
 * 8899) by echo requests inside the private network. Sans-I/O.
 *
 * The largest packet that should pass is sent now and then; when it is lost twice although the path
 * works, packets of all sizes worth a try are sent at once, and the largest that is answered is the
 * limit. The search is made again from time to time, in case the path has grown. */
#ifndef AGENTD_HEALTH_MTU_H
#define AGENTD_HEALTH_MTU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MTU_SIZES 14
#define MTU_REPLY_MS 1000
#define MTU_MISSES 2
#define MTU_ROUNDS 2 /* of a search: a loss by chance does not decide */
#define MTU_ROUND_MS 500
#define MTU_IDLE_MS 60000   /* between checks of a path that nothing uses */
#define MTU_RAISE_MS 600000 /* PMTU_RAISE_TIMER */

struct mtu {
	int64_t interval_ms;
	int64_t due_ms; /* when mtu_tick wants to be called */
	int64_t idle_ms, raise_ms;
	unsigned limit; /* what mtu_tick has found; 0: nothing is too large */
	unsigned misses, rounds, checked, best;
	bool waiting, searching;
};

void mtu_init(struct mtu *m, int64_t interval_ms, int64_t now_ms);
/* What is to be sent now: lengths of whole packets, their number. most: the largest that is known
 * to fit the way out of here (its change begins a new count). busy: the path is in use. up: small
 * packets are answered. *changed: there is another limit. */
size_t mtu_tick(struct mtu *m, unsigned most, bool busy, bool up, int64_t now_ms,
		uint16_t sizes[static MTU_SIZES], bool *changed);
/* A packet of this length was answered. */
void mtu_reply(struct mtu *m, unsigned size, int64_t now_ms);
/* The path may be another one: a limit is looked at again soon. */
void mtu_again(struct mtu *m, int64_t now_ms);

#endif
