/* SPDX-License-Identifier: MIT */
/* The hub: WebSocket links of agents and gateways, what each of them has been sent, and what they
 * report. Everything that it sends is read from the database, so that several controlds on one
 * database serve the same. The newest connection of an id wins, whichever of them it comes to. */
#ifndef CONTROLD_HUB_HUB_H
#define CONTROLD_HUB_HUB_H

#include "libkm/base/err.h"
#include <event2/event.h>
#include <stdint.h>

struct hub;
struct store;
struct vault;
struct authority;

struct hub_opts {
	const char *listen;   /* "[::]:3001"; port 0 takes a free one */
	const char *cert_pem; /* server certificate followed by the root; NULL: plain ws (tests) */
	const char *key_pem;
	struct store *store; /* outlives the hub, as vault does */
	const struct vault *vault;
	struct authority *authority; /* likewise */
};

/* Listens and serves. Links come up while the database is away too: they are kept and authenticated
 * when it is back, or end at their auth timeout. Errors as km_link_server_start. */
int hub_start(struct hub **out, struct event_base *base, const struct hub_opts *opts,
	      struct km_errtext *err) __attribute__((warn_unused_result));
/* The port it listens on. */
uint16_t hub_port(const struct hub *hub);
/* Swaps the server certificate for links to come. */
int hub_set_certificate(struct hub *hub, const char *cert_pem, const char *key_pem,
			struct km_errtext *err) __attribute__((warn_unused_result));
typedef void hub_stopped_cb(void *arg);
/* Closes all links (status 1001), tells the database that their hosts are offline, and calls
 * stopped once that is written or cannot be, after a second at most; also from within this call.
 * hub_free is all that may follow. */
void hub_stop(struct hub *hub, hub_stopped_cb *stopped, void *arg);
/* Closes all links and writes no more; stopped is not called any more. Call it before the store
 * ends. Accepts NULL.
 */
void hub_free(struct hub *hub);

#endif
