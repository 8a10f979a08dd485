/* SPDX-License-Identifier: MIT */
/* Connections to targets, through their agents: opened with a PROXY v2 header that names tunnel and
 * target, kept a short while for the next request of the same version of the same tunnel, no more
 * of them at once than the target is to have (slots.h). One pool per worker. */
#ifndef GATEWAYD_UPSTREAM_POOL_H
#define GATEWAYD_UPSTREAM_POOL_H

#include "gatewayd/edge/io.h"
#include "gatewayd/edge/timers.h"
#include "gatewayd/route/route.h"
#include "gatewayd/upstream/h2.h"
#include "gatewayd/upstream/slots.h"
#include "libkm/base/proxy2.h"
#include "libkm/privnet/privnet.h"

#define POOL_IDLE_MAX 1024 /* unused connections of one worker */
#define UP_AGENT_PORT 80

struct pool;
struct pool_set;
struct exchange;
struct up_tls;

/* What an exchange has of a target: a connection of HTTP/1, in TLS or without, or a stream of one
 * of HTTP/2, which is a struct up too, but belongs to no exchange (link). */
struct up {
	const struct back *back;
	struct io io;
	struct km_buf in,
	    out; /* from and to the target; of a stream: bodies; of a link: `out` only */
	struct exchange *owner; /* NULL: unused, in the pool; or a link */
	bool reused;            /* has carried a request before */
	bool connected;         /* and, with TLS, the handshake is done */
	bool no_write;          /* the target takes no more; it may still answer */
	bool wrote;             /* something of this request has gone out */
	bool decided;           /* the target has refused this very request: once is enough */
	bool unprocessed;       /* the target has provably done nothing of what it was asked for */
	bool ended, broken;     /* nothing more will come; that was no proper end */
	bool news;              /* of a stream: something has happened since the last read */
	bool untold;            /* the same: and its exchange has not been woken yet */
	bool promised;          /* handed over to who waits, who does not know yet */
	const char *why;        /* what was wrong, if it is known better */
	size_t scan_at, head_len; /* of the answer's head */
	uint64_t serial;
	struct km_addr agent;
	int64_t idle_since, idle_ms; /* how long it may be unused, as the target says */
	struct pool *pool;
	struct pool_set *set;
	struct timer timer;
	struct up *prev, *next;
	struct slots *slots; /* its slot is of these; NULL: it counts for nothing */

	/* While it is being opened. */
	bool tcp; /* the agent has accepted it */
	uint8_t header[KM_PROXY2_WRITE_MAX];
	size_t header_len;
	const struct route_rules *rules; /* NULL: nothing special */
	bool offers_h2;                  /* what it will be is the target's choice (ALPN) … */
	struct pool_wait *wanted;        /* … and who waits for that */
	uint32_t n_wanted;

	/* HTTP/2. */
	struct up *link;          /* of a stream */
	struct up_h2_stream stream; /* the same */
	struct up_h2 *h2;          /* of a link */
	bool stirred;             /* a link on the pool's list of those to look at */
	bool busy;                /* a link that is being read: not to be freed */
	bool unread;              /* a link whose turn ended before all was read */
	char text[160];           /* of a link: why it failed */
	struct up *next_stirred;
};

struct pool_opts {
	struct loop *loop;
	struct timers *timers;
	size_t per_target;         /* unused connections of one tunnel */
	size_t buf_max;            /* bound of each buffer */
	struct http_limits limits; /* of heads */
	uint32_t max_connections;  /* to one target, of all workers, where its rules say nothing */
	uint32_t queue;            /* so many may wait for one */
	struct up_tls *tls;        /* all workers' */
	struct slots_hub *hub;     /* the same */
	size_t worker;             /* which desk of it is this worker's */
	void (*woken)(struct up *u); /* something may be possible on a connection in use */
	void (*granted)(struct exchange *owner); /* what waited has its turn: pool_granted */
};

/* Who waits for a connection; zeroed until then. */
struct pool_wait {
	struct slots_wait slot;
	struct exchange *owner; /* NULL: does not wait */
	struct up *up;          /* what has been handed over to it */
	uint64_t serial;
	bool safe;   /* may have any connection that is open already */
	bool shares; /* may have a stream of HTTP/2 */

	/* It waits for what a connection that is being opened turns out to be, not for its turn. */
	struct up *opening; /* NULL: no more; pool_granted has the outcome */
	bool opened;
	int rc;
	struct pool_wait *prev, *next;
};

/* net (may be NULL for the time being) becomes the pool's. NULL: no memory. */
struct pool *pool_new(const struct pool_opts *opts);
/* Every connection in use must have been dropped, and nobody wait. Accepts NULL. */
void pool_free(struct pool *p);
/* Another private network (the pool owns the handle): unused connections and sockets of the older
 * one go. */
void pool_net(struct pool *p, struct km_privnet *net);
/* Gives the handle back to the caller. */
struct km_privnet *pool_net_release(struct pool *p);

/* A connection for this route: an unused one that is not older than max_idle_ms (none when that is
 * negative; a stream of one of HTTP/2 in any case), else a new one that is being opened. With any
 * bound but INT64_MAX an unused one is taken only where the target is known to keep connections
 * open after an answer. KM_EAGAIN: the target has as many as it may; `granted` will be called when
 * there is one, unless pool_leave comes before; so too where a TLS handshake is yet to show what the
 * target speaks. KM_EFULL: too many wait. KM_EIO: the system refused (errno); KM_ENOMEM;
 * KM_ECLOSED: there is no private network. */
int pool_take(struct pool *p, const struct route *r, int64_t max_idle_ms, int64_t now,
	      struct exchange *owner, struct pool_wait *w, struct up **out)
    __attribute__((warn_unused_result));
/* What has been granted. Errors as those of pool_take (KM_EAGAIN: it waits on), and KM_EPROTO: what
 * was being opened has failed, as pool_why says. */
int pool_granted(struct pool *p, const struct route *r, int64_t now, struct pool_wait *w,
		 struct up **out) __attribute__((warn_unused_result));
const char *pool_why(const struct pool *p);
/* What a wait that has become too long has been for; NULL: for its turn. */
const char *pool_waits_for(const struct pool_wait *w);
/* It stands in the target's queue: nothing is being opened for it. */
bool pool_queued(const struct pool_wait *w);
/* Waits no longer, if it does. Any time. */
void pool_leave(struct pool *p, struct pool_wait *w, int64_t now);
/* A new connection for one client's own bytes, whatever they are: its header has the command PROXY
 * and these addresses. Not to be given back, only dropped. Errors as those of pool_granted, and KM_EFULL:
 * the tunnel's own maximum is reached (the gateway's does not count it). */
struct pool_client {
	struct km_addr src, dst;
	uint16_t src_port, dst_port;
};
int pool_dial(struct pool *p, const struct route *r, const struct pool_client *client,
	      struct exchange *owner, struct up **out) __attribute__((warn_unused_result));
/* Goes on with opening one, and sets `connected` when that is done. 0 (also when it is not yet
 * done), or an error with a sentence; a refusal has been noted then (see pool_refused). */
int pool_connect_check(struct up *u, int64_t now, struct km_errtext *why);
/* Gives back one on which a whole request and its whole answer have passed; it is kept or closed,
 * or goes to who waits. */
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
/* The same of those to this agent, which is no longer one of ours; those given back later, too. */
void pool_agent_gone(struct pool *p, const struct km_addr *agent, int64_t now);

#endif
