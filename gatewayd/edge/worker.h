/* SPDX-License-Identifier: MIT */
/* One worker thread: a loop of its own that accepts from the shared listeners and drives its
 * connections. Used from the main loop; talks back through edge_shared.to_main. */
#ifndef GATEWAYD_EDGE_WORKER_H
#define GATEWAYD_EDGE_WORKER_H

#include "libkm/base/addr.h"
#include "libkm/privnet/privnet.h"
#include <stdbool.h>
#include <stddef.h>

struct edge_shared;
struct worker;
struct worker_thread;

struct listener {
	int fd;
	bool secure;
	bool proxied; /* each connection begins with a PROXY header */
};

/* What comes out of to_main; belongs to the worker, but for struct worker_ask. */
enum worker_event { WORKER_UNLISTENED, WORKER_DRAINED, WORKER_ASKS };
struct worker_note {
	enum worker_event event;
};
/* WORKER_ASKS: handshakes wait for the certificate of this domain. The receiver frees it. */
struct worker_ask {
	struct worker_note note; /* first */
	char domain[];
};

/* Starts the thread. sh and the listeners must outlive it; net becomes its own. KM_ENOMEM: net
 * stays the caller's. */
int worker_start(struct worker_thread **out, struct edge_shared *sh, const struct listener *l,
		 size_t n, struct km_privnet *net) __attribute__((warn_unused_result));
/* Hands over a handle on the private network. KM_ENOMEM, KM_EFULL: it stays the caller's. */
int worker_net(struct worker_thread *t, struct km_privnet *net) __attribute__((warn_unused_result));
/* From now on every answer closes its connection, and idle ones end soon. */
void worker_drain(struct worker_thread *t);
/* Accepts what is queued and no more after that: WORKER_UNLISTENED comes when the listeners are no
 * longer used, and WORKER_DRAINED when no connection is left. */
void worker_unlisten(struct worker_thread *t);
/* Resets what runs to this agent, and what is kept open to it. */
void worker_agent_gone(struct worker_thread *t, const struct km_addr *agent);
/* Handshakes that wait for a certificate look again, soon. */
void worker_wake(struct worker_thread *t);
/* Cuts every connection. */
void worker_cut(struct worker_thread *t);
/* One of this worker's connections is no more. On its thread. */
void worker_conn_gone(struct worker *w);
/* Ends the thread, cutting what it has, and frees it. Accepts NULL. */
void worker_free(struct worker_thread *t);

#endif
