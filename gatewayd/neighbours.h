/* SPDX-License-Identifier: MIT */
/* How other gateways are reached, for gatewayd/peers.c: their public addresses (names resolved by
 * libkm/host/reach, kept in STATE_DIR/neighbours.json), and whether anything comes from there. Main
 * loop only. */
#ifndef GATEWAYD_NEIGHBOURS_H
#define GATEWAYD_NEIGHBOURS_H

#include "libkm/msg/msg.h"
#include "libkm/wg/wg.h"
#include <event2/event.h>

#define NEIGHBOURS_MAX 256
/* Either side says something as often, so that firewalls keep the path open and silence has a
 * meaning. */
#define NEIGHBOUR_KEEPALIVE_S 5
#define NEIGHBOUR_SILENT_MS                                                                        \
	15000 /* then the handshake begins anew, at another address if there is one */

struct neighbours;
struct neighbour;

/* Starts the threads that resolve names. NULL: no memory. */
struct neighbours *neighbours_new(struct event_base *base, const char *state_dir);
/* Every neighbour must have been freed. Accepts NULL. */
void neighbours_free(struct neighbours *ns);
/* Writes now what is yet to be written; before they are freed at the end. */
void neighbours_flush(struct neighbours *ns);

/* moved(arg): a name has resolved to something better; never from within a call. NULL:
 * NEIGHBOURS_MAX are there. */
struct neighbour *neighbour_new(struct neighbours *ns, const char *id, void (*moved)(void *arg),
				void *arg);
/* Accepts NULL. */
void neighbour_free(struct neighbour *n);
void neighbour_set(struct neighbour *n, const struct km_msg_gateway *g);
/* What to use now; false: no address is known that this host has a route to. */
bool neighbour_endpoint(const struct neighbour *n, struct sockaddr_storage *out);
/* What the device knows of it (NULL: nothing). True: nothing has come for so long that the
 * handshake should begin anew, with what neighbour_endpoint then says. */
bool neighbour_look(struct neighbour *n, const struct km_wg_peer_status *s, int64_t now_ms);

#endif
