/* SPDX-License-Identifier: MIT */
#include "agentd/agent.h"
#include "libkm/base/log.h"
#include <string.h>

#define LISTEN_PORT 80
#define BACKLOG 4096

static int listen_inside(struct agent *a, struct km_errtext *err)
{
	char addr[KM_ADDR_STRLEN];
	int fd, rc;

	if (a->listening && km_addr_eq(&a->address, &a->listens))
		return 0;
	rc = km_privnet_listen(a->net, &a->address, LISTEN_PORT, BACKLOG, &fd, err);
	if (rc)
		return rc;
	rc = forward_listen(a->forward, fd);
	if (rc)
		return km_errtext_set(err, rc, "no memory for the listener");
	a->listens = a->address;
	a->listening = true;
	km_info("listening", km_ks("address", km_addr_str(&a->address, addr)),
		km_ki("port", LISTEN_PORT));
	return 0;
}

static int settle_address(struct agent *a, struct km_errtext *err)
{
	struct km_prefix p = km_prefix_of(&a->address);
	int rc;

	if (!a->has_address)
		return 0;
	rc = km_privnet_addresses(a->net, &p, 1, err);
	return rc ? rc : listen_inside(a, err);
}

int net_gateways(struct agent *a)
{
	static struct km_addr addrs[PEERS_MAX * 4];
	size_t n = peers_addrs(a->peers, a->draining, addrs, KM_ARRAY_LEN(addrs));

	return forward_gateways(a->forward, addrs, n);
}

int net_settle(struct agent *a, struct km_errtext *err)
{
	int rc = net_gateways(a);

	if (rc)
		return km_errtext_set(err, rc, "no memory for the list of gateways");
	if (!a->net || a->draining)
		return 0; /* done when there is one again */
	rc = settle_address(a, err);
	return rc ? rc : peers_settle(a->peers, err);
}

static int on_opened(void *arg, struct km_privnet *net, struct km_errtext *err)
{
	struct agent *a = arg;
	int rc;

	a->net = net;
	memcpy(a->public_key, km_privnet_public_key(net), KM_WG_KEY_LEN);
	if (a->uplink)
		km_uplink_key(a->uplink, a->public_key);
	rc = peers_attach(a->peers, net, a->settings.host.wireguard != KM_WG_NONE, err);
	return rc ? rc : net_settle(a, err);
}

static void let_go(struct agent *a)
{
	struct km_errtext err;

	/* Without a network this only forgets the old one, which cannot fail. */
	if (peers_attach(a->peers, NULL, false, &err))
		km_error("private network not let go", km_ks("error", err.text));
	a->net = NULL;
	a->listening = false;
}

/* What ran through the old network cannot come back: it is cut, so that both ends know. */
static void on_gone(void *arg)
{
	struct agent *a = arg;

	let_go(a);
	forward_reset(a->forward);
}

int net_start(struct agent *a, struct km_errtext *err)
{
	static const struct km_host_net_cbs cbs = {on_opened, on_gone};

	return km_host_net_start(&a->host_net, a->base, &a->settings.host, &cbs, a, err);
}

void net_stop(struct agent *a, bool stop)
{
	if (a->net)
		let_go(a);
	km_host_net_free(a->host_net, stop);
	a->host_net = NULL;
}
