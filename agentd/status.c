/* SPDX-License-Identifier: MIT */
#include "agentd/agent.h"
#include "libkm/base/log.h"

#define GATHER_MS 200    /* changes of so long travel together */
#define PEERS_MS 10000   /* between looks at the peers */
#define TUNNELS_ONCE 100 /* per message, which then stays below 64 KiB */

static bool send_status(struct agent *a, const struct km_msg_status *m)
{
	json_t *data = km_msg_format(&km_msg_desc_status, m);

	return data && km_uplink_send(a->uplink, "status", data) == 0;
}

static bool heard(const struct agent *a)
{
	return a->uplink && km_uplink_authenticated(a->uplink);
}

static void arm(struct agent *a, int64_t ms)
{
	struct timeval tv = {ms / 1000, (ms % 1000) * 1000};

	if (a->status_timer && !a->status_due)
		a->status_due = event_add(a->status_timer, &tv) == 0;
}

static void on_status_due(evutil_socket_t none, short what, void *arg)
{
	struct km_msg_tunnel_status t[TUNNELS_ONCE];
	struct agent *a = arg;
	struct km_msg_status m = {.tunnels = t};

	(void)none;
	(void)what;
	a->status_due = false;
	if (!heard(a))
		return; /* status_all follows when it is */
	m.n_tunnels = probes_status(a->probes, t, TUNNELS_ONCE);
	if (m.n_tunnels && !send_status(a, &m))
		probes_untold(a->probes);
	if (m.n_tunnels == TUNNELS_ONCE)
		arm(a, GATHER_MS);
}

void status_changed(void *agent)
{
	arm(agent, GATHER_MS);
}

static void send_peers(struct agent *a, bool all)
{
	struct km_msg_status m = {0};
	struct km_errtext err = {0};

	if (peers_status(a->peers, all, &m.peers, &m.n_peers, &err))
		km_warn("state of the peers not read", km_ks("error", err.text));
	/* Looked at in any case: the warden mends them by that. A lost one is made good by the
	 * next, or by status_all. */
	if (m.n_peers && heard(a))
		send_status(a, &m);
	peers_status_free(m.peers, m.n_peers);
}

static void on_peers_due(evutil_socket_t none, short what, void *arg)
{
	(void)none;
	(void)what;
	send_peers(arg, false);
}

void status_all(void *agent)
{
	struct agent *a = agent;

	probes_untold(a->probes);
	arm(a, 0);
	send_peers(a, true);
}

int status_start(struct agent *a)
{
	static const struct timeval every = {PEERS_MS / 1000, (PEERS_MS % 1000) * 1000};

	a->status_timer = event_new(a->base, -1, 0, on_status_due, a);
	a->peers_timer = event_new(a->base, -1, EV_PERSIST, on_peers_due, a);
	if (!a->status_timer || !a->peers_timer || event_add(a->peers_timer, &every) != 0)
		return KM_ENOMEM;
	return 0;
}

void status_stop(struct agent *a)
{
	if (a->status_timer)
		event_free(a->status_timer);
	if (a->peers_timer)
		event_free(a->peers_timer);
	a->status_timer = a->peers_timer = NULL;
}
