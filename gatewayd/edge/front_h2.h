/* SPDX-License-Identifier: MIT */
/* HTTP/2 towards a client (RFC 9113, RFC 8441): one session of nghttp2's per connection, each of its
 * streams an exchange. What streams have to say in one turn of the loop goes out in one write. */
#ifndef GATEWAYD_EDGE_FRONT_H2_H
#define GATEWAYD_EDGE_FRONT_H2_H

#include "gatewayd/settings.h"
#include <stdbool.h>

struct conn;
struct h2;
struct h2_shared;

/* What the sessions of all workers share: options, callbacks, bounds, metrics. NULL: no memory. */
struct h2_shared *h2_shared_new(const struct gw_settings *s);
void h2_shared_free(struct h2_shared *sh);

/* The handshake has chosen h2: c->state becomes CONN_H2, or CONN_OVER without memory. */
void h2_begin(struct conn *c);
/* One round of CONN_H2; true when something moved. */
bool h2_step(struct conn *c);
/* The connection's timer has ended. */
void h2_late(struct conn *c);
/* No more requests after those that are on their way: says so to the client (RFC 9113 section 6.8),
 * and ends when the last has its answer. */
void h2_drain(struct conn *c);
/* Ends all its streams at once and frees c->h2. Accepts a connection that has none. */
void h2_free(struct conn *c, bool politely);

#endif
