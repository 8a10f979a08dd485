/* SPDX-License-Identifier: MIT */
/* How gateways are reached: the names of their public addresses resolved off the loop, the address
 * to use chosen (libkm/host/endpoints.h), and both kept in a file, so that a host that starts while
 * no name resolves knows its way. Main loop only. */
#ifndef KM_HOST_REACH_H
#define KM_HOST_REACH_H

#include "libkm/host/resolver.h"
#include <sys/socket.h>

struct km_reaches;
struct km_reach;

/* All of an agent's or a gateway's ("agent" or "gateway", for the metrics:
 * kakuremichi_TYPE_gateway_addresses, _gateway_moves_total, _resolve_failures_total); file is where
 * they are kept. The port is borrowed. NULL: no memory. */
struct km_reaches *km_reaches_new(struct event_base *base, struct km_resolver_port *port,
				  const char *type, const char *file);
/* Writes now what is yet to be written. */
void km_reaches_flush(struct km_reaches *all);
/* Every reach must have been freed. Accepts NULL. */
void km_reaches_free(struct km_reaches *all);

/* One gateway's. moved is called when another address is to be used because of what a name resolved
 * to, never from within a call. */
struct km_reach *km_reach_new(struct km_reaches *all, const char *id, void (*moved)(void *arg),
			      void *arg);
/* It is soon forgotten on disk as well, unless km_reaches_free comes first. Accepts NULL. */
void km_reach_free(struct km_reach *r);

/* The gateway's name (for the log), the entries of its public_ip, and its WireGuard port. False:
 * entries and port are what they were. */
bool km_reach_set(struct km_reach *r, const char *name, const char *const *entries, size_t n,
		  uint16_t port);
/* A handshake was fruitless: names are resolved afresh, and perhaps it is another address's turn.
 */
void km_reach_failed(struct km_reach *r);
void km_reach_works(struct km_reach *r);
/* What to use now; false: no address is known that this host has a route to. */
bool km_reach_endpoint(const struct km_reach *r, struct sockaddr_storage *out);

#endif
