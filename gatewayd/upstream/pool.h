/* SPDX-License-Identifier: MIT */
/* Connections to agents: opened with a PROXY v2 header that names tunnel and target, kept a short
 * while for the next request of the same version of the same tunnel. One pool per worker. */
#ifndef GATEWAYD_UPSTREAM_POOL_H
#define GATEWAYD_UPSTREAM_POOL_H

#include "gatewayd/edge/io.h"
#include "gatewayd/edge/timers.h"
#include "gatewayd/route/route.h"
#include "libkm/privnet/privnet.h"

#define POOL_IDLE_MAX 1024 /* unused connections of one worker */
#define UP_AGENT_PORT 80

struct pool;
struct pool_set;
struct exchange;

/* One connection to an agent. */
struct up {
	const struct back *back;
	struct io io;
	struct km_buf in, out;  /* from and to the target */
	struct exchange *owner; /* NULL: unused, in the pool */
	bool reused;            /* has carried a request before */
	bool connected;
	bool no_write;            /* the target takes no more; it may still answer */
	bool ended, broken;       /* nothing more will come; that was no proper end */
	size_t scan_at, head_len; /* of the answer's head */
	uint64_t serial;
	struct km_addr agent;
	int64_t idle_since;
	struct pool *pool;
	struct pool_set *set;
	struct timer timer;
	struct up *prev, *next;
};

struct pool_opts {
	struct loop *loop;
	struct timers *timers;
	size_t per_target;
	size_t buf_max;              /* bound of each buffer */
	void (*woken)(struct up *u); /* something may be possible on a connection in use */
};

/* net (may be NULL for the time being) becomes the pool's. NULL: no memory. */
struct pool *pool_new(const struct pool_opts *opts);
/* Every connection in use must have been dropped. Accepts NULL. */
void pool_free(struct pool *p);
/* Another private network (the pool owns the handle): unused connections and sockets of the older
 * one go. */
void pool_net(struct pool *p, struct km_privnet *net);
/* Gives the handle back to the caller. */
struct km_privnet *pool_net_release(struct pool *p);

/* A connection for this route: an unused one that is not older than max_idle_ms (none when that is
 * negative), else a new one that is being opened. With any bound but INT64_MAX an unused one is
 * taken only where the target is known to keep connections open after an answer. Its header is
 * already in `out`. KM_EIO: the system refused (errno); KM_ENOMEM; KM_ECLOSED: there is no private
 * network. */
int pool_take(struct pool *p, const struct route *r, int64_t max_idle_ms, int64_t now,
	      struct exchange *owner, struct up **out) __attribute__((warn_unused_result));
/* A new connection for one client's own bytes, whatever they are: its header has the command PROXY
 * and these addresses. Not to be given back, only dropped. Errors as those of pool_take. */
struct pool_client {
	struct km_addr src, dst;
	uint16_t src_port, dst_port;
};
int pool_dial(struct pool *p, const struct route *r, const struct pool_client *client,
	      struct exchange *owner, struct up **out) __attribute__((warn_unused_result));
/* Looks whether one that is being opened is open now, and sets `connected` then. 0, or the errno
 * with which it failed (a refusal has been noted, see pool_refused). */
int pool_connect_check(struct up *u, int64_t now);
/* Gives back one on which a whole request and its whole answer have passed; it is kept or closed.
 */
void pool_give(struct pool *p, struct up *u, int64_t now);
/* The agent refused the connection u: it is ending, or is not there. Unused connections to it go,
 * and for POOL_REFUSED_MS those that are given back are closed: it ends when the last has gone. */
#define POOL_REFUSED_MS 5000
void pool_refused(struct pool *p, const struct up *u, int64_t now);
/* Closes one that is in use. politely: with a FIN; else with a reset, so that the agent and the
 * target see that something is missing. Accepts NULL. */
void pool_drop(struct pool *p, struct up *u, bool politely);
/* Closes every unused one. */
void pool_clear(struct pool *p);
/* The same of those to this agent. */
void pool_agent_gone(struct pool *p, const struct km_addr *agent);

#endif
