/* SPDX-License-Identifier: MIT */
/* One worker thread of the forwarder, its loop and its connections; and what the workers share.
 * Only for the files of forward/. */
#ifndef AGENTD_FORWARD_WORKER_H
#define AGENTD_FORWARD_WORKER_H

#include "agentd/forward/dial.h"
#include "agentd/forward/forward.h"
#include "agentd/forward/pump.h"
#include <event2/event_struct.h>

/* A listening socket; closed when the last worker has let it go. */
struct listener {
	int fd;
	_Atomic unsigned refs;
};
void listener_unref(struct listener *l); /* accepts NULL */

struct forward {
	struct forward_opts opts;
	struct tunnel_table tunnels;
	pthread_rwlock_t gateways_lock;
	struct km_addr *gateways;
	size_t n_gateways;
	_Atomic unsigned active;
	_Atomic bool stopping;
	_Atomic unsigned resets; /* how often forward_reset was called */
	_Atomic unsigned fewer;  /* how often a gateway has gone from the list */
	struct km_mailbox *reports;
	struct event *reports_event;
	void (*report)(void *arg, const struct forward_report *r);
	void *report_arg;
	struct km_metric *active_gauge, *refused_peer, *refused_header, *refused_tunnel,
	    *refused_target, *fallbacks;
	size_t n_workers;
	struct worker *workers;
};

struct conn;
struct worker {
	struct forward *f;
	pthread_t thread;
	bool started;
	struct event_base *base;
	struct km_resolver_port *port;
	struct dial_env env;
	int wake_fd;
	struct event *wake_event;
	pthread_mutex_t lock; /* guards `next` */
	struct listener *next;
	bool has_next;
	struct listener *listener;
	struct event *accept_event;
	bool paused; /* too many connections, or no descriptors: the tick tries again */
	struct event *tick_event, *again_event;
	struct conn *conns, *again;
	unsigned resets, fewer;
	struct pump_pool pool;
};

/* Prepares the loop and starts the thread. KM_ENOMEM, KM_EIO: call worker_free then too. */
int worker_start(struct worker *w, struct forward *f) __attribute__((warn_unused_result));
/* Makes the worker look at the shared flags and its next listener. */
void worker_wake(struct worker *w);
/* Hands a listener (one reference; NULL: none) to the worker. */
void worker_listen(struct worker *w, struct listener *l);
/* Waits for a thread that was told to stop, frees all. */
void worker_free(struct worker *w);
/* A connection has gone: there may be room to accept again. */
void worker_room(struct worker *w);

/* Posts what was seen of a target to the main loop, unless it is known already. */
void forward_seen(struct forward *f, struct tunnel *t, bool healthy, const char *why);

/* ---- conn.c ---- */

/* Takes over an accepted socket from this gateway, and its place among max_connections. */
void conn_new(struct worker *w, int fd, const struct km_addr *gateway);
/* Ends a connection at once, by RST to both sides. */
void conn_reset(struct conn *c);
/* Connections that asked for another turn get it. */
void conn_again(struct worker *w);
/* After changes of the tunnels; see forward_sweep. */
void conn_sweep(struct worker *w);
/* After a gateway has gone from the list. */
void conn_sweep_gateways(struct worker *w);
/* Whether a gateway has this address. */
bool forward_knows(struct forward *f, const struct km_addr *a);

#endif
