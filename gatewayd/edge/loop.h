/* SPDX-License-Identifier: MIT */
/* A worker's event loop: epoll, nothing between it and the connections. Single-threaded. What
 * libevent would not say is needed here: whether a reset or an end stands behind the bytes that can
 * be read (io.c reads no more than there is because of it). */
#ifndef GATEWAYD_EDGE_LOOP_H
#define GATEWAYD_EDGE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct loop;

/* A descriptor's place in the loop; part of what waits for it. */
struct loop_fd {
	int fd;
	/* events: EPOLLIN and the like (epoll_ctl(2)). It may remove and free itself and others. */
	void (*ready)(struct loop_fd *f, uint32_t events);
};

/* NULL: no memory, or no descriptor. */
struct loop *loop_new(void);
/* Accepts NULL. */
void loop_free(struct loop *l);
/* Waits for events (EPOLLIN | EPOLLET and the like) on f->fd. 0, KM_ENOMEM. */
int loop_add(struct loop *l, struct loop_fd *f, uint32_t events)
    __attribute__((warn_unused_result));
/* No `ready` is called any more, not even for what has happened already. Before the descriptor is
 * closed. */
void loop_remove(struct loop *l, struct loop_fd *f);
/* Whether something may have happened to f that its `ready` has not been told, as far as the loop
 * has looked: the event stands behind the one that is being handled, or there were more than it
 * looked at in one turn. */
bool loop_pending(const struct loop *l, const struct loop_fd *f);
/* Waits until something happens, at most so long (-1: for ever), and calls `ready` for it. */
void loop_turn(struct loop *l, int timeout_ms);

#endif
