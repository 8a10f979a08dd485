/* SPDX-License-Identifier: MIT */
/* The edge: listeners and worker threads that carry strangers' traffic. Used from the main loop. */
#ifndef GATEWAYD_EDGE_EDGE_H
#define GATEWAYD_EDGE_EDGE_H

#include "gatewayd/acme/challenges.h"
#include "gatewayd/route/route.h"
#include "gatewayd/settings.h"
#include "libkm/privnet/privnet.h"
#include <event2/event.h>

struct edge;

struct certs;

struct edge_opts {
	const struct gw_settings *settings;
	struct event_base *base;
	const struct route_table *routes;
	struct certs *certs;
	struct challenges *challenges; /* NULL: none are answered */
	const struct km_privnet *net; /* read only while edge_start runs */
	/* Strangers' handshakes wait for the certificate of a tunnel with ROUTE_TLS_AUTO, whose domain ("*.x"
	 * too) this is. True: edge_certificate_settled will be called for it; false: nothing is to be
	 * expected, and they are refused. Once for all that wait at a time, on the main loop. NULL: nobody
	 * waits. */
	bool (*asked)(void *arg, const char *domain);
	void *arg;
};
/* Listens as the settings say and starts the workers, which serve at once. What opts point to must
 * outlive it. An error carries a sentence (which address, why). */
int edge_start(struct edge **out, const struct edge_opts *opts, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Gives every worker a handle of its own on this private network, in place of the one it had. */
int edge_net(struct edge *e, const struct km_privnet *net, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* An agent is no longer one of ours: connections to it are reset in every worker, soon. */
void edge_agent_gone(struct edge *e, const struct km_addr *agent);
/* The certificate of this domain can be had now (ok), or will not come soon: who waits for it goes on, in
 * every worker. Without anybody waiting it costs a look into a table. */
void edge_certificate_settled(struct edge *e, const char *domain, bool ok);
/* The access log's file is opened anew: it may have been moved away. */
void edge_reopen_logs(struct edge *e);
/* Stops listening without losing a connection that the kernel has taken, lets requests in flight
 * end (at most drain_timeout), and then calls done(arg) once, on the main loop. */
void edge_drain(struct edge *e, void (*done)(void *arg), void *arg);
/* Cuts what is still there; done of edge_drain is called soon. */
void edge_cut(struct edge *e);
/* Cuts, joins the threads and frees everything. Accepts NULL. */
void edge_free(struct edge *e);

#endif
