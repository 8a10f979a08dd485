/* SPDX-License-Identifier: MIT */
/* How gateways are reached: the names of their public addresses resolved off the loop, the address
 * to use chosen (libkm/host/endpoints.h), and both kept in STATE_DIR/endpoints.json, so that an
 * agent that starts while no name resolves knows its way. Main loop only. */
#ifndef AGENTD_REACH_H
#define AGENTD_REACH_H

#include "agentd/forward/resolver.h"
#include <sys/socket.h>

struct reaches;
struct reach;

/* All of an agent. The port is borrowed. NULL: no memory. */
struct reaches *reaches_new(struct event_base *base, struct resolver_port *port,
			    const char *state_dir);
/* Writes now what is yet to be written. */
void reaches_flush(struct reaches *all);
/* Every reach must have been freed. Accepts NULL. */
void reaches_free(struct reaches *all);

/* One gateway's. moved is called when another address is to be used because of what a name resolved
 * to, never from within a call. */
struct reach *reach_new(struct reaches *all, const char *id, void (*moved)(void *arg), void *arg);
/* It is soon forgotten on disk as well, unless reaches_free comes first. Accepts NULL. */
void reach_free(struct reach *r);

/* The gateway's name (for the log), the entries of its public_ip, and its WireGuard port. */
void reach_set(struct reach *r, const char *name, const char *const *entries, size_t n,
	       uint16_t port);
/* A handshake was fruitless: names are resolved afresh, and perhaps it is another address's turn.
 */
void reach_failed(struct reach *r);
void reach_works(struct reach *r);
/* What to use now; false: no address is known that this host has a route to. */
bool reach_endpoint(const struct reach *r, struct sockaddr_storage *out);

#endif
