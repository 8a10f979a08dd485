/* SPDX-License-Identifier: MIT */
/* The gateways as WireGuard peers: endpoints (reach.h), allowed IPs, routes,
 * and a probe of the path to each, which starts the handshake anew when it is dead. They are kept
 * here, so that a private network that had to be made anew gets them again. Main loop only. */
#ifndef AGENTD_PEERS_H
#define AGENTD_PEERS_H

#include "libkm/host/resolver.h"
#include "libkm/msg/msg.h"
#include "libkm/privnet/privnet.h"

#define PEERS_MAX 1024

struct peers;

/* NULL: no memory. The port is borrowed. */
struct peers *peers_new(struct event_base *base, struct km_resolver_port *port,
			const char *state_dir, int64_t probe_interval_ms);
void peers_free(struct peers *ps);

/* The private network to bring into this state, now and with each later call; NULL: there is none
 * at the moment. Borrowed. probe: false where there is no device whose handshake could be started
 * anew. KM_* of libkm/privnet with a sentence. */
int peers_attach(struct peers *ps, struct km_privnet *net, bool probe, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* A gateway is new or has changed, or goes (an unknown id is no error). KM_EINVAL: malformed. */
int peers_set(struct peers *ps, const struct km_msg_gateway *g, struct km_errtext *err)
    __attribute__((warn_unused_result));
int peers_remove(struct peers *ps, const char *id, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* This agent has another WireGuard key: handshakes with all gateways begin at once. */
void peers_rekeyed(struct peers *ps);
/* After a batch of changes: the routes, and no peer but these. */
int peers_settle(struct peers *ps, struct km_errtext *err) __attribute__((warn_unused_result));
/* The virtual IPs of the gateways (up: of those whose path is not known to be down), at most max;
 * returns how many. */
size_t peers_addrs(const struct peers *ps, bool up, struct km_addr *out, size_t max);
/* What has changed since the last call (all: everything) for `status`: *out is malloc'd (free with
 * peers_status_free), *n may be 0. */
int peers_status(struct peers *ps, bool all, struct km_msg_peer_status **out, size_t *n,
		 struct km_errtext *err) __attribute__((warn_unused_result));
void peers_status_free(struct km_msg_peer_status *s, size_t n);

#endif
