/* SPDX-License-Identifier: MIT */
/* The private network of a daemon's main loop, opened as its settings say, and made anew when its
 * warden has gone. It logs by itself. */
#ifndef KM_HOST_NET_H
#define KM_HOST_NET_H

#include "libkm/host/settings.h"
#include <event2/event.h>

struct km_host_net;

struct km_host_net_cbs {
	/* There is a network, at the start and whenever it was made anew: it has nothing yet, so
	 * all addresses, peers, routes and sockets are to be made. net is borrowed until `gone` or
	 * km_host_net_free. After an error (with a sentence) `gone` is called and the start fails;
	 * later it is tried again each second. */
	int (*opened)(void *arg, struct km_privnet *net, struct km_errtext *err);
	/* It goes: let go of it and of every socket that was made inside. */
	void (*gone)(void *arg);
};

/* Opens it and calls opened, before it returns. *out is set only on success. Settings are borrowed.
 * Errors of km_privnet_open and of opened, with a sentence. */
int km_host_net_start(struct km_host_net **out, struct event_base *base,
		      const struct km_host_settings *settings, const struct km_host_net_cbs *cbs,
		      void *arg, struct km_errtext *err) __attribute__((warn_unused_result));
/* Closes it; stop: its warden ends too. Nothing is called back: the caller has let go of it.
 * Accepts NULL. */
void km_host_net_free(struct km_host_net *n, bool stop);

#endif
