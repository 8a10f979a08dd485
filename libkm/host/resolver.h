/* SPDX-License-Identifier: MIT */
/* Host names to addresses off the loops: a few threads call getaddrinfo(3) (so /etc/hosts, mDNS and
 * whatever else nsswitch knows work), answers are shared by all who ask meanwhile and kept for some
 * seconds. Each loop that asks owns a port, on which its callbacks are called. */
#ifndef KM_HOST_RESOLVER_H
#define KM_HOST_RESOLVER_H

#include "libkm/base/addr.h"
#include <event2/event.h>

#define KM_RESOLVER_ADDRS_MAX 8     /* per name; further ones are dropped */
#define KM_RESOLVER_NAMES_MAX 1024  /* known or asked for at once */
#define KM_RESOLVER_KEEP_MS 10000   /* an answer */
#define KM_RESOLVER_KEEP_NO_MS 2000 /* a failure */

struct km_resolver;
struct km_resolver_port;
struct km_resolver_query;

struct km_resolver_answer {
	size_t n;        /* 0: there is none, or it could not be found out */
	const char *why; /* then: getaddrinfo's words; static storage */
	struct km_addr addrs[KM_RESOLVER_ADDRS_MAX];
};

/* Starts the threads. KM_ENOMEM, KM_EIO. */
int km_resolver_start(struct km_resolver **out) __attribute__((warn_unused_result));
/* Joins the threads (waits for a getaddrinfo under way, some seconds at worst). Every port must
 * have been freed. Accepts NULL. */
void km_resolver_free(struct km_resolver *r);

/* A port for the loop of this thread; NULL: no memory or descriptor. Freeing cancels its queries.
 */
struct km_resolver_port *km_resolver_port_new(struct km_resolver *r, struct event_base *base);
void km_resolver_port_free(struct km_resolver_port *p);

/* Asks for a name; done is called later on the port's loop, never from within, unless cancelled;
 * the query is then gone. fresh: an answer that is kept does not count. NULL with KM_EFULL (too
 * many names) or KM_ENOMEM in *err. */
struct km_resolver_query *
km_resolver_ask(struct km_resolver_port *p, const char *host, bool fresh,
		void (*done)(void *arg, const struct km_resolver_answer *a), void *arg, int *err);
void km_resolver_cancel(struct km_resolver_query *q);

#endif
