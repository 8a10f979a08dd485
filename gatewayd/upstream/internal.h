/* SPDX-License-Identifier: MIT */
/* What pool.c, dial.c and link.c share. */
#ifndef GATEWAYD_UPSTREAM_INTERNAL_H
#define GATEWAYD_UPSTREAM_INTERNAL_H

#include "gatewayd/upstream/pool.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <uthash.h>
#include <utlist.h>

/* What one version of one tunnel has: unused connections, the latest first, HTTP/2's, used or not,
 * and those of which the target has yet to say what they are. */
struct pool_set {
	uint64_t serial;
	struct up *idle, *links, *openings;
	size_t n;
	bool keeps; /* the target is known to keep connections open after an answer */
	UT_hash_handle hh;
};

/* An agent that refused a connection of late. */
struct refusal {
	struct km_addr agent;
	int64_t until;
};
#define REFUSALS 32 /* more at once, and some are forgotten */

/* Sockets made in advance, of one address family. */
struct spares {
	int fds[KM_PRIVNET_SOCKETS_MAX];
	size_t n;
};

struct pool {
	struct pool_opts o;
	struct km_privnet *net;
	struct spares v4, v6;
	struct pool_set *sets;
	size_t n_idle;
	struct refusal refusals[REFUSALS];
	size_t next_refusal;
	struct slots_desk *desk;
	struct loop_fd bell; /* rung by other workers, and by this one for later in the turn */
	struct up *stirred;  /* links to look at */
	struct pool_wait *called; /* who is about to hear what an opening has come to */
	struct km_errtext why;    /* the last of them that failed */
	struct km_metric *opened, *reused, *idle, *waited, *waiting, *turned_away;
	struct km_log_limit log;
};

/* unused.c */
struct pool_set *pool_set_find(struct pool *p, uint64_t serial); /* NULL: none */
struct pool_set *pool_set_get(struct pool *p, uint64_t serial);  /* NULL: no memory */
void pool_set_rest(struct pool *p, struct pool_set *s);          /* goes if it is empty */
/* One that is not older than max_idle_ms, as pool_take has it, or NULL. */
struct up *unused_take(struct pool *p, const struct route *r, int64_t max_idle_ms, int64_t now);
/* Keeps it, if there is room: true. */
bool unused_put(struct pool *p, struct up *u, int64_t now);
/* Takes an unused connection out of its set, which may go. */
void unused_unlink(struct pool *p, struct up *u);
/* Nothing has come, as far as reading tells: with TLS a ticket may have, which is no answer. */
bool unused_reads_nothing(struct up *u);
/* Neither ended nor with bytes that nobody asked for, which would be taken for an answer; with
 * `sure` the socket is asked. */
bool unused_silent(struct up *u, bool sure);
/* Something may have become possible on a connection of HTTP/1.1, in use or not. */
void pool_woken(struct io *io);

/* take.c */
void pool_bell(struct loop_fd *f, uint32_t events);

/* pool.c */
/* Ends it in whatever state; a slot goes back. */
void pool_up_free(struct pool *p, struct up *u, bool politely);
bool pool_refuses(struct pool *p, const struct up *u, int64_t now);
/* Something is to be done later in this turn of the loop (link_run). */
void pool_ring(struct pool *p);

/* A link has room: who waits here gets it, or it closes for who waits elsewhere. */
void pool_offer(struct pool *p, struct up *link, int64_t now);

/* dial.c */
int dial(struct pool *p, const struct route *r, const struct pool_client *client,
	 void (*woken)(struct io *io), struct up **out) __attribute__((warn_unused_result));
void dial_spares_close(struct pool *p);
/* As pool_connect_check. */
int dial_check(struct up *u, int64_t now, struct km_errtext *why);

/* opening.c */
/* Waits for a connection that is being opened anyway and may be shared: true. */
bool opening_join(struct pool *p, const struct route *r, struct pool_wait *w);
/* Opens one, for w; w->opening then has a slot to be given. */
int opening_begin(struct pool *p, const struct route *r, struct pool_wait *w)
    __attribute__((warn_unused_result));
/* w waits no longer. What nobody waits for ends. */
void opening_leave(struct pool *p, struct pool_wait *w);
/* None can come to anything in a network that is no more: who waits asks again. */
void openings_end(struct pool *p);

/* link.c */
extern const struct back back_h2;
/* A stream on a link of this set, or NULL. */
struct up *link_stream(struct pool *p, struct pool_set *s, struct exchange *owner);
/* A new link, and its first stream. */
int link_open(struct pool *p, const struct route *r, struct exchange *owner, struct up **out)
    __attribute__((warn_unused_result));
/* What has been opened becomes a link of this set, whose list is the caller's. KM_ENOMEM. */
int link_of(struct up *u, struct pool_set *s) __attribute__((warn_unused_result));
/* And has its first streams; the caller has no more to do with it. */
void link_opened(struct pool *p, struct up *link, int64_t now);
/* The stream ends; the link stays while it is of use. */
void link_stream_drop(struct pool *p, struct up *u, int64_t now);
/* Looks at every link for which pool_ring was called. */
void link_run(struct pool *p);
/* No new stream on it; it goes when the last has gone. */
void link_close(struct pool *p, struct up *link);
/* As pool_connect_check, for a stream. */
int link_check(struct up *u, struct km_errtext *why);

#endif
