/* SPDX-License-Identifier: MIT */
#include "libkm/host/net.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <stdlib.h>

#define RETRY_S 1

struct km_host_net {
	struct event_base *base;
	const struct km_host_settings *settings;
	const struct km_host_net_cbs *cbs;
	void *arg;
	struct km_privnet *net; /* NULL while it is being made anew */
	struct event *watch, *timer;
};

static void drop(struct km_host_net *n, bool stop)
{
	if (n->watch)
		event_free(n->watch);
	n->watch = NULL;
	km_privnet_close(n->net, stop);
	n->net = NULL;
}

static void on_gone(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval now;
	struct km_host_net *n = arg;

	(void)fd;
	(void)what;
	km_error("warden is gone, private network is made anew");
	n->cbs->gone(n->arg);
	drop(n, false);
	event_add(n->timer, &now);
}

static int watch(struct km_host_net *n, struct km_errtext *err)
{
	int fd = km_privnet_fd(n->net);

	if (fd < 0)
		return 0;
	n->watch = event_new(n->base, fd, EV_READ, on_gone, n);
	if (!n->watch || event_add(n->watch, NULL) != 0)
		return km_errtext_set(err, KM_ENOMEM, "no memory to watch the warden");
	return 0;
}

/* After an error what there is of it is to be dropped. */
static int open_net(struct km_host_net *n, struct km_errtext *err)
{
	struct km_privnet_opts opts = km_host_privnet_opts(n->settings);
	bool reused = false;
	int rc = km_privnet_open(&n->net, &opts, &reused, err);

	if (rc)
		return rc;
	km_info("private network ready", km_ks("wireguard", km_privnet_backend(n->net)),
		km_ks("why", km_privnet_backend_why(n->net)), km_ki("reused", reused));
	rc = watch(n, err);
	if (rc == 0)
		rc = n->cbs->opened(n->arg, n->net, err);
	if (rc)
		n->cbs->gone(n->arg);
	return rc;
}

static void on_retry(evutil_socket_t none, short what, void *arg)
{
	static const struct timeval wait = {RETRY_S, 0};
	static struct km_log_limit limit;
	struct km_host_net *n = arg;
	struct km_errtext err = {0};
	uint32_t held;

	(void)none;
	(void)what;
	if (open_net(n, &err) == 0)
		return;
	if (km_log_allow(&limit, km_now_ms(), 3, 60000, &held))
		km_error("private network not made anew", km_ks("error", err.text),
			 km_ki("held_back", held));
	drop(n, false);
	event_add(n->timer, &wait);
}

int km_host_net_start(struct km_host_net **out, struct event_base *base,
		      const struct km_host_settings *settings, const struct km_host_net_cbs *cbs,
		      void *arg, struct km_errtext *err)
{
	struct km_host_net *n = km_xcalloc(1, sizeof(*n));
	int rc;

	n->base = base;
	n->settings = settings;
	n->cbs = cbs;
	n->arg = arg;
	n->timer = event_new(base, -1, 0, on_retry, n);
	rc = n->timer ? open_net(n, err) : km_errtext_set(err, KM_ENOMEM, "no memory");
	if (rc) {
		km_host_net_free(n, true);
		return rc;
	}
	*out = n;
	return 0;
}

void km_host_net_free(struct km_host_net *n, bool stop)
{
	if (!n)
		return;
	drop(n, stop);
	if (n->timer)
		event_free(n->timer);
	free(n);
}
