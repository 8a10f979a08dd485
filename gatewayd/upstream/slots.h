/* SPDX-License-Identifier: MIT */
/* How many connections one target has, over all workers, and who waits until it has fewer. Each
 * worker keeps its own connections; what they share is a number and a queue per target, under a
 * mutex that is taken when a connection is opened or closed and while somebody waits, never when
 * one is used again.
 *
 * A slot is the right to one connection. It passes from who gives it back to who has waited
 * longest, in whichever worker that is, and is somebody's at any time; so no wake-up can be lost.
 */
#ifndef GATEWAYD_UPSTREAM_SLOTS_H
#define GATEWAYD_UPSTREAM_SLOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SLOTS_UNFAIR_MS                                                                            \
	50 /* so long may a worker's own go before who has waited longer elsewhere */

struct slots;      /* of one target */
struct slots_desk; /* a worker's, where it finds what has been granted to it */
struct slots_hub;  /* all desks */

/* Counted; the first reference is the caller's. NULL: no memory. */
struct slots *slots_new(void);
struct slots *slots_ref(struct slots *s);
/* Nobody may wait when the last goes. Accepts NULL. Any thread. */
void slots_put(struct slots *s);

/* Desks for n workers. NULL: no memory. */
struct slots_hub *slots_hub_new(size_t n);
/* Nobody may wait, and no slot be given back later. Accepts NULL. */
void slots_hub_free(struct slots_hub *h);
/* The desk i, set to call wake(arg) from any thread, and to no end but to be woken, when there is
 * something for slots_desk_run. NULL: no more; nobody of this worker may wait then. */
struct slots_desk *slots_desk(struct slots_hub *h, size_t i, void (*wake)(void *arg), void *arg);

/* Somebody who waits; zero-initialise. */
struct slots_wait {
	struct slots *s;
	struct slots_desk *desk;
	uint8_t state;
	uint32_t max;
	uint64_t ticket;
	int64_t since;
	struct slots_wait *prev, *next;
};

/* What the target's connections speak, as the last one of this version of its tunnel has shown: for
 * all workers. With HTTP/2, whose connections are shared but for other workers, each worker may have
 * one whatever the maximum (which then is at least their number), and has its place kept for it. */
enum slots_speaks { SLOTS_UNKNOWN, SLOTS_HTTP1, SLOTS_HTTP2 };
void slots_spoke(struct slots *s, uint64_t version, bool h2);
enum slots_speaks slots_speaks(struct slots *s, uint64_t version);

/* A slot for a connection of this desk's worker, if the target has fewer than max and nobody waits.
 * 0; KM_EFULL; KM_ENOMEM. */
int slots_take(struct slots *s, struct slots_desk *d, uint32_t max)
    __attribute__((warn_unused_result));
/* The same, or a place in the queue: 0; KM_EAGAIN: it waits, until slots_desk_run says that it has
 * a slot or slots_leave; KM_EFULL: `queue` wait already; KM_ENOMEM. What waits asks the other
 * workers to close unused connections; those of this one should be closed before. */
int slots_wait(struct slots *s, struct slots_desk *d, uint32_t max, uint32_t queue, int64_t now,
	       struct slots_wait *w) __attribute__((warn_unused_result));
/* Waits no longer. True: a slot had just been granted to it, and is the caller's to give back. One
 * that never waited: false. */
bool slots_leave(struct slots_wait *w);
/* A slot of this desk's worker comes back: its connection has ended, or was never made. */
void slots_release(struct slots *s, struct slots_desk *d);
/* Whether the last slot that this worker has is of use to nobody elsewhere, if it gave it back. */
bool slots_own(struct slots *s, const struct slots_desk *d);

/* Whether somebody waits, in any worker; cheap. What was true before this worker put a connection
 * away as unused and began to wait later asks for it (see `asked`). */
bool slots_wanted(struct slots *s);
/* A connection of this worker has become free while somebody waits. SLOTS_HERE: *w of this worker,
 * for whom it fits (fits(w, arg)), is granted that connection (with its slot, if it is to be its
 * alone); SLOTS_YIELD: it is another's turn, the connection should be closed and its slot released;
 * SLOTS_NOBODY. */
enum slots_turn { SLOTS_NOBODY, SLOTS_HERE, SLOTS_YIELD };
enum slots_turn slots_turn(struct slots *s, struct slots_desk *d, int64_t now,
			   bool (*fits)(const struct slots_wait *w, const void *arg),
			   const void *arg, struct slots_wait **w);
/* What slots_turn has granted to w cannot be had after all: it waits again, before all others. */
void slots_refuse(struct slots_wait *w);
/* How many wait now. */
uint32_t slots_waiting(struct slots *s);

/* In the desk's worker, after `wake`: calls granted for each that has a slot now, and asked for
 * each target for whose connections somebody waits elsewhere. Either may call anything of this
 * header. */
struct slots_calls {
	void (*granted)(void *arg, struct slots_wait *w);
	void (*asked)(void *arg, struct slots *s);
	void *arg;
};
void slots_desk_run(struct slots_desk *d, const struct slots_calls *calls);

#endif
