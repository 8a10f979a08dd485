/* SPDX-License-Identifier: MIT */
/* Which counters of a session have been seen: a sliding bitmap (RFC 6479). */
#ifndef KM_WG_ENGINE_REPLAY_H
#define KM_WG_ENGINE_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

#define WG_REPLAY_BITS 8192
#define WG_REPLAY_WINDOW (WG_REPLAY_BITS - 64)
/* Counters from here on are never accepted. */
#define WG_REJECT_AFTER_MESSAGES (UINT64_MAX - WG_REPLAY_WINDOW - 1)

struct wg_replay {
	uint64_t greatest; /* one more than the greatest counter accepted */
	uint64_t bits[WG_REPLAY_BITS / 64];
};

/* Whether counter is new and inside the window; marks it. To be called after authentication. */
bool wg_replay_accept(struct wg_replay *r, uint64_t counter);

#endif
