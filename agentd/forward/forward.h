/* SPDX-License-Identifier: MIT */
/* The data path of an agent: connections from gateways, accepted inside the private network by a
 * few worker threads, each introduced by a PROXY v2 header that names tunnel and target, joined
 * with a connection to the target. All functions here are for the main loop's thread. */
#ifndef AGENTD_FORWARD_FORWARD_H
#define AGENTD_FORWARD_FORWARD_H

#include "agentd/forward/tunnel.h"
#include "libkm/host/resolver.h"

struct forward;

struct forward_opts {
	const struct allow *allow;    /* borrowed */
	struct km_resolver *resolver; /* borrowed */
	unsigned workers;             /* 0: one per processor */
	unsigned max_connections;     /* at once; further ones wait in the listener's backlog */
	int64_t header_timeout_ms, connect_timeout_ms, idle_timeout_ms;
};

/* What a real connection saw of a target, when that differs from what was known. */
struct forward_report {
	struct tunnel *tunnel; /* a reference */
	bool healthy;
	char why[256];
};

/* Starts the workers; reports (for the event loop `base`) may be NULL. KM_ENOMEM, KM_EIO. */
int forward_start(struct forward **out, struct event_base *base, const struct forward_opts *opts,
		  void (*report)(void *arg, const struct forward_report *r), void *arg)
    __attribute__((warn_unused_result));
/* Resets every connection, ends the workers, frees all. Accepts NULL. */
void forward_free(struct forward *f);

/* Accepts from this listening socket from now on, instead of the one before; -1: from none. The
 * descriptor is taken over, also with an error. KM_ENOMEM. */
int forward_listen(struct forward *f, int fd) __attribute__((warn_unused_result));
/* Only these addresses may connect; running connections of others are reset. KM_ENOMEM (the old
 * list stands). */
int forward_gateways(struct forward *f, const struct km_addr *addrs, size_t n)
    __attribute__((warn_unused_result));
struct tunnel_table *forward_tunnels(struct forward *f);
/* To be called after changes of the table: ends the running connections of tunnels that are no
 * longer served, and lets those go on that came a little before their tunnel was known. */
void forward_sweep(struct forward *f);
/* Resets every running connection: the private network below them is gone. */
void forward_reset(struct forward *f);
/* Accepts nothing more. What runs goes on: watch forward_active. Bytes are moved without a look at
 * them, so that only the gateway knows which connection waits for its next request: it closes those
 * after its pool_idle_timeout, and at once when another connection is refused. */
void forward_drain(struct forward *f);
/* Connections now. */
unsigned forward_active(const struct forward *f);

#endif
