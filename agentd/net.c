/* SPDX-License-Identifier: MIT */
#include "agentd/agent.h"
#include "libkm/base/log.h"
#include <string.h>
#include <unistd.h>

#define LISTEN_PORT 80
#define BACKLOG 4096
#define REOPEN_MS 1000

static void drop(struct agent *a, bool stop)
{
	struct km_errtext err;

	if (a->net_event)
		event_free(a->net_event);
	a->net_event = NULL;
	/* Without a network this only forgets the old one, which cannot fail. */
	if (a->peers && peers_attach(a->peers, NULL, false, &err))
		km_error("private network not let go", km_ks("error", err.text));
	km_privnet_close(a->net, stop);
	a->net = NULL;
	a->listening = false;
}

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
	struct km_prefix p = {a->address, a->address.family == AF_INET ? 32 : 128};
	int rc;

	if (!a->has_address)
		return 0;
	rc = km_privnet_addresses(a->net, &p, 1, err);
	return rc ? rc : listen_inside(a, err);
}

int net_settle(struct agent *a, struct km_errtext *err)
{
	static struct km_addr addrs[PEERS_MAX * 4];
	size_t n = peers_addrs(a->peers, addrs, KM_ARRAY_LEN(addrs));
	int rc = forward_gateways(a->forward, addrs, n);

	if (rc)
		return km_errtext_set(err, rc, "no memory for the list of gateways");
	if (!a->net || a->draining)
		return 0; /* done when there is one again */
	rc = settle_address(a, err);
	return rc ? rc : peers_settle(a->peers, err);
}

static void on_gone(evutil_socket_t fd, short what, void *arg);

static int watch(struct agent *a, struct km_errtext *err)
{
	int fd = km_privnet_fd(a->net);

	if (fd < 0)
		return 0;
	a->net_event = event_new(a->base, fd, EV_READ, on_gone, a);
	if (!a->net_event || event_add(a->net_event, NULL) != 0)
		return km_errtext_set(err, KM_ENOMEM, "no memory to watch the warden");
	return 0;
}

static int net_open(struct agent *a, struct km_errtext *err)
{
	struct km_privnet_opts opts = km_host_privnet_opts(&a->settings.host);
	bool reused = false;
	int rc = km_privnet_open(&a->net, &opts, &reused, err);

	if (rc)
		return rc;
	memcpy(a->public_key, km_privnet_public_key(a->net), KM_WG_KEY_LEN);
	if (a->uplink)
		km_uplink_key(a->uplink, a->public_key);
	km_info("private network ready", km_ks("wireguard", km_privnet_backend(a->net)),
		km_ks("why", km_privnet_backend_why(a->net)), km_ki("reused", reused));
	rc = watch(a, err);
	if (rc == 0)
		rc = peers_attach(a->peers, a->net, opts.wireguard != KM_WG_NONE, err);
	if (rc == 0)
		rc = net_settle(a, err);
	return rc;
}

static void on_reopen(evutil_socket_t none, short what, void *arg)
{
	static const struct timeval wait = {REOPEN_MS / 1000, (REOPEN_MS % 1000) * 1000};
	static struct km_log_limit limit;
	struct agent *a = arg;
	struct km_errtext err = {0};
	uint32_t held;

	(void)none;
	(void)what;
	if (net_open(a, &err) == 0)
		return;
	if (km_log_allow(&limit, km_now_ms(), 3, 60000, &held))
		km_error("private network not made anew", km_ks("error", err.text),
			 km_ki("held_back", held));
	drop(a, false);
	event_add(a->net_timer, &wait);
}

/* What ran through the old network cannot come back: it is cut, so that both ends know. */
static void on_gone(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval now;
	struct agent *a = arg;

	(void)fd;
	(void)what;
	km_error("warden is gone, private network is made anew");
	drop(a, false);
	forward_reset(a->forward);
	event_add(a->net_timer, &now);
}

int net_start(struct agent *a, struct km_errtext *err)
{
	a->net_timer = event_new(a->base, -1, 0, on_reopen, a);
	if (!a->net_timer)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	return net_open(a, err);
}

void net_stop(struct agent *a, bool stop)
{
	if (a->net_timer)
		event_free(a->net_timer);
	a->net_timer = NULL;
	drop(a, stop);
}
