/* SPDX-License-Identifier: MIT */
/* What the main loop of agentd holds together. Only for the files directly under agentd/. */
#ifndef AGENTD_AGENT_H
#define AGENTD_AGENT_H

#include "agentd/forward/forward.h"
#include "agentd/health/probe.h"
#include "agentd/peers.h"
#include "agentd/settings.h"
#include "libkm/event/httpd.h"
#include "libkm/host/net.h"
#include "libkm/uplink/uplink.h"

struct agent {
	struct settings settings;
	struct event_base *base;
	struct allow *allow;
	struct km_resolver *resolver;
	struct km_resolver_port *port;
	struct dial_env env;
	struct forward *forward;
	struct probes *probes;
	struct peers *peers;
	struct km_httpd *httpd;
	struct event *sigterm, *sigint;

	/* net.c */
	struct km_host_net *host_net;
	struct km_privnet *net; /* NULL while it is being made anew */
	uint8_t public_key[KM_WG_KEY_LEN];
	bool has_address, listening;
	struct km_addr address; /* the virtual IP that control gave */
	struct km_addr listens; /* the one that is listened on */

	/* control.c */
	struct km_uplink *uplink;
	bool tunnels_changed; /* in this batch */

	/* status.c */
	struct event *status_timer, *peers_timer;
	bool status_due;

	/* main.c */
	bool draining;
	int64_t drain_until_ms;
	struct event *drain_timer;
};

/* ---- net.c: the private network ---- */

/* Opens it; from then on it is opened anew by itself when its warden has gone. */
int net_start(struct agent *a, struct km_errtext *err);
/* Brings address, listener, peers, routes and the list of gateways into the wanted state. */
int net_settle(struct agent *a, struct km_errtext *err);
/* Tells the data path which gateways may connect; at the end only those that can be reached, as the
 * connections of others would be waited for in vain. KM_ENOMEM. */
int net_gateways(struct agent *a) __attribute__((warn_unused_result));
/* Closes it; stop: its warden ends too. */
void net_stop(struct agent *a, bool stop);

/* ---- control.c: what control wants ---- */

/* Applies the configuration that is on disk, then starts the link where control is named. */
int control_start(struct agent *a, struct km_errtext *err);
void control_stop(struct agent *a);

/* ---- status.c ---- */

int status_start(struct agent *a);
void status_stop(struct agent *a);
/* Something has changed: it is sent soon, together with what else changes meanwhile. For probes. */
void status_changed(void *agent);
/* A new link: control is told everything. */
void status_all(void *agent);

#endif
