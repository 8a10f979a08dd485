/* SPDX-License-Identifier: MIT */
/* When what is due: a heap of times over any number of names, and the times at which certificates are
 * renewed (RFC 9773, or by their lifetime). Times are the wall clock in milliseconds, passed in. */
#ifndef GATEWAYD_ACME_SCHEDULE_H
#define GATEWAYD_ACME_SCHEDULE_H

#include "libkm/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- what is due next ---- */

/* A part of what has a time; all zero: it is in no schedule. */
struct due {
	int64_t at_ms;
	size_t pos; /* in the heap, from 1 */
};
struct schedule;

/* NULL: no memory. */
struct schedule *schedule_new(void);
/* What was in it is left alone. Accepts NULL. */
void schedule_free(struct schedule *s);
/* Puts d in, or moves it to another time. KM_ENOMEM (only where it was not in). */
int schedule_set(struct schedule *s, struct due *d, int64_t at_ms)
    __attribute__((warn_unused_result));
/* One that is not in is no error. */
void schedule_drop(struct schedule *s, struct due *d);
/* The one with the earliest time; NULL: there is none. */
struct due *schedule_first(const struct schedule *s);

/* ---- renewal ---- */

/* A part of span_ms, from nothing up to all of it, as rnd says. */
int64_t share_of(int64_t span_ms, uint32_t rnd);

#define RENEWAL_SHORT_MS (10 * 86400000LL) /* certificates that live shorter are renewed at half */

struct renewal {
	int64_t not_before_ms, not_after_ms;
	int64_t ari_ms; /* chosen in the window that the CA has suggested; 0: none */
	uint32_t salt;  /* of this certificate: its jitter */
};
/* When to renew: at the time chosen by ARI, else when a third of the lifetime is left (half of one below
 * RENEWAL_SHORT_MS), or up to a tenth of that (at most a day) sooner; but at the latest when a
 * twentieth is left. */
int64_t renewal_due(const struct renewal *r);
/* Less than a twentieth of the lifetime is left: nothing is waited for any more. */
bool renewal_urgent(const struct renewal *r, int64_t now_ms);
/* A time in the CA's window: chosen if the window is as it was (was_start, was_end), else by rnd. */
int64_t renewal_pick(int64_t start_ms, int64_t end_ms, int64_t was_start_ms, int64_t was_end_ms,
		     int64_t chosen_ms, uint32_t rnd);

/* ---- clocks that jump ---- */

#define CLOCK_JUMP_MS 30000

struct clock_watch {
	int64_t offset_ms;
	bool known;
};
/* By how much the wall clock has jumped since the last call; 0: by less than CLOCK_JUMP_MS. */
int64_t clock_jumped(struct clock_watch *w, int64_t mono_ms, int64_t wall_ms);

#endif
