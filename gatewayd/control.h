/* SPDX-License-Identifier: MIT */
/* The control side of the gateway: the link to control, the configuration that came through it (and
 * its copy on disk), the reports that go back. Main loop only. */
#ifndef GATEWAYD_CONTROL_H
#define GATEWAYD_CONTROL_H

#include "gatewayd/acme/acme.h"
#include "gatewayd/edge/certs.h"
#include "gatewayd/lease.h"
#include "gatewayd/mesh/mesh.h"
#include "gatewayd/peers.h"
#include "gatewayd/route/route.h"
#include "gatewayd/settings.h"
#include <event2/event.h>

struct control;

struct control_opts {
	const struct gw_settings *settings;
	struct event_base *base;
	struct route_table *routes;
	struct peers *peers;
	struct mesh *mesh;     /* NULL: this gateway is alone */
	struct leases *leases; /* gets its way to control from here */
	struct certs *certs;
	struct acme *acme; /* NULL: certificates are not obtained */
	const uint8_t *public_key; /* WireGuard, 32 bytes */
	/* An agent has been removed, revoked, or has another address now. */
	void (*agent_gone)(void *arg, const struct km_addr *virtual_ip);
	/* Another gateway has been revoked: its certificate is blocked. May be NULL. */
	void (*gateway_revoked)(void *arg, const uint8_t gateway[static 16]);
	void *arg;
};

/* Gives the configuration on disk to routes and peers, then connects to control when the settings
 * name one. What opts point to must outlive it. Errors carry a sentence. */
int control_start(struct control **out, const struct control_opts *opts, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* The private network has been made anew: peers get everything again. */
void control_replay(struct control *c, const uint8_t *public_key);
/* Tells control of a certificate that has come, if there is a way (c may be NULL). */
void control_obtained(struct control *c, const char *domain, const char *chain, int64_t not_after_ms);
/* NULL when there is a configuration to serve, else what is missing. */
const char *control_ready(const struct control *c);
/* Accepts NULL. */
void control_free(struct control *c);

#endif
