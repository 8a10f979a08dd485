/* SPDX-License-Identifier: MIT */
#include "gatewayd/neighbours.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/host/reach.h"
#include <stdlib.h>
#include <string.h>

#define WIREGUARD_PORT 51820

struct neighbour {
	struct neighbours *all;
	char name[65];
	struct km_reach *reach;
	void (*moved)(void *arg);
	void *arg;
	uint64_t rx;      /* at the last look */
	int64_t heard_ms; /* or looked at anew */
	bool up;
};

struct neighbours {
	struct km_resolver *resolver;
	struct km_resolver_port *port;
	struct km_reaches *reaches;
	size_t n;
};

struct neighbours *neighbours_new(struct event_base *base, const char *state_dir)
{
	struct neighbours *ns = km_xcalloc(1, sizeof(*ns));
	char *file = km_xasprintf("%s/neighbours.json", state_dir);
	if (!km_resolver_start(&ns->resolver))
		ns->port = km_resolver_port_new(ns->resolver, base);
	if (ns->port)
		ns->reaches = km_reaches_new(base, ns->port, "gateway", file);
	free(file);
	if (ns->reaches)
		return ns;
	neighbours_free(ns);
	return NULL;
}

void neighbours_flush(struct neighbours *ns)
{
	km_reaches_flush(ns->reaches);
}

void neighbours_free(struct neighbours *ns)
{
	if (!ns)
		return;
	km_reaches_free(ns->reaches);
	km_resolver_port_free(ns->port);
	km_resolver_free(ns->resolver);
	free(ns);
}

static void on_moved(void *arg)
{
	struct neighbour *n = arg;
	n->moved(n->arg);
}

struct neighbour *neighbour_new(struct neighbours *ns, const char *id, void (*moved)(void *arg),
				void *arg)
{
	if (ns->n == NEIGHBOURS_MAX)
		return NULL;
	struct neighbour *n = km_xcalloc(1, sizeof(*n));
	n->all = ns;
	n->moved = moved;
	n->arg = arg;
	n->reach = km_reach_new(ns->reaches, id, on_moved, n);
	n->heard_ms = km_now_ms();
	ns->n++;
	return n;
}

void neighbour_free(struct neighbour *n)
{
	if (!n)
		return;
	n->all->n--;
	km_reach_free(n->reach);
	free(n);
}

void neighbour_set(struct neighbour *n, const struct km_msg_gateway *g)
{
	uint16_t port = g->has_wireguard_port ? (uint16_t)g->wireguard_port : WIREGUARD_PORT;
	snprintf(n->name, sizeof(n->name), "%s", g->name);
	if (km_reach_set(n->reach, n->name, (const char *const *)g->public_ip, g->n_public_ip,
			 port))
		n->heard_ms = km_now_ms();
}

bool neighbour_endpoint(const struct neighbour *n, struct sockaddr_storage *out)
{
	return km_reach_endpoint(n->reach, out);
}

bool neighbour_look(struct neighbour *n, const struct km_wg_peer_status *s, int64_t now_ms)
{
	uint64_t rx = s ? s->rx_bytes : 0;
	bool heard = s && s->last_handshake_ms && rx != n->rx;
	n->rx = rx;
	if (heard) {
		n->heard_ms = now_ms;
		km_reach_works(n->reach);
		if (!n->up)
			km_info("path to gateway is up", km_ks("gateway", n->name));
		n->up = true;
		return false;
	}
	if (now_ms - n->heard_ms < NEIGHBOUR_SILENT_MS)
		return false;
	if (n->up)
		km_warn("path to gateway is down", km_ks("gateway", n->name));
	n->up = false;
	n->heard_ms = now_ms;
	km_reach_failed(n->reach);
	return true;
}
