/* SPDX-License-Identifier: MIT */
/* One direction of a connection: bytes from one socket to another without a look at them. What
 * comes in pieces is copied, which costs less than a pipe; a stream goes by splice(2) through a
 * pipe that is borrowed only while bytes are in flight (the kernel shrinks a user's pipes after
 * about a thousand), and which also takes the rest of a piece that does not fit. Where no useful
 * pipe is to be had, bytes are peeked at, written, and then taken, so that nothing is ever held in
 * memory. */
#ifndef AGENTD_FORWARD_PUMP_H
#define AGENTD_FORWARD_PUMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PUMP_PIPE_SIZE (128 << 10) /* wanted */
#define PUMP_PIPE_LEAST (16 << 10) /* smaller ones cost more than copying */
#define PUMP_POOL_KEEP 32          /* idle pipes that a pool keeps */
#define PUMP_COPY (64 << 10)
#define PUMP_PIECE PUMP_PIPE_LEAST /* what comes in less than this is copied */

struct pump_pipe {
	int rd, wr;
	size_t size;
};

/* The pipes of one worker. */
struct pump_pool {
	struct pump_pipe idle[PUMP_POOL_KEEP];
	size_t n_idle;
	size_t n_out, max_out; /* borrowed now, at most */
	size_t want;           /* bytes per pipe */
	int64_t retry_ms;      /* no new pipes before: the last one was refused or small */
	uint64_t fallbacks;    /* how often bytes were copied for want of a pipe */
	uint8_t *scratch;      /* PUMP_COPY bytes */
};

/* max_out bounds the pipes that are out at once. KM_ENOMEM. */
int pump_pool_init(struct pump_pool *pool, size_t max_out) __attribute__((warn_unused_result));
/* All pipes must be back. Accepts a zeroed one. */
void pump_pool_free(struct pump_pool *pool);

struct pump {
	int from, to;
	struct pump_pipe pipe; /* borrowed while pipe.size > 0 */
	size_t held;           /* bytes in it */
	bool eof, shut;        /* `from` has ended; and `to` was told */
	bool no_splice;        /* these sockets cannot */
	bool stream;           /* the last read was large */
	bool closing;          /* the caller: the end of `from` may be there (EPOLLRDHUP) */
};

enum pump_verdict {
	PUMP_WAIT_READ,  /* until `from` is readable */
	PUMP_WAIT_WRITE, /* until `to` is writable */
	PUMP_MORE,       /* the budget is used up: call again soon */
	PUMP_DONE,       /* the end was passed on; nothing more will come */
	PUMP_BROKEN,     /* one side was reset, or failed otherwise */
};

void pump_init(struct pump *p, int from, int to);
/* Moves what can be moved now, at most about `budget` bytes; *moved counts what `to` has taken. At
 * the end of `from`, `to` is shut for writing. */
enum pump_verdict pump_run(struct pump *p, struct pump_pool *pool, int64_t now_ms, size_t budget,
			   uint64_t *moved);
/* Gives a borrowed pipe back; bytes in it are lost. The sockets stay the caller's. */
void pump_drop(struct pump *p, struct pump_pool *pool);

#endif
