/* SPDX-License-Identifier: MIT */
#include "controld/hub/hub.h"
#include "controld/hub/client.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <stdio.h>
#include <stdlib.h>

/* Messages of one client: cheap ones cost 1, those that are written or refused more. */
#define BUDGET_BURST 10000
#define BUDGET_PER_S 2000
#define COST_STATUS 20

/* ---- links, in the order in which things happen ---- */

static void link_open(void *arg, uint64_t id, const char *type, const struct km_addr *peer)
{
	struct hub *hub = arg;
	struct client *c = calloc(1, sizeof(*c));
	if (!c) {
		km_link_server_close(hub->links, id, "no memory", 1);
		return;
	}
	c->hub = hub;
	c->link = id;
	c->gateway = strcmp(type, "gateway") == 0;
	c->peer = *peer;
	c->budget = BUDGET_BURST;
	c->budget_ms = c->heartbeat_ms = km_now_ms();
	HASH_ADD(hh, hub->by_link, link, sizeof(c->link), c);
}

static bool affordable(struct client *c, const char *type)
{
	int64_t now = km_now_ms();
	bool cheap = strcmp(type, "heartbeat") == 0 || strcmp(type, "config_ack") == 0 ||
		     strcmp(type, "lease") == 0; /* which has a limit of its own */
	c->budget += (now - c->budget_ms) * BUDGET_PER_S / 1000;
	if (c->budget > BUDGET_BURST)
		c->budget = BUDGET_BURST;
	if (now > c->budget_ms)
		c->budget_ms = now;
	c->budget -= cheap ? 1 : COST_STATUS;
	return c->budget >= 0;
}

union message {
	struct km_msg_heartbeat heartbeat;
	struct km_msg_config_ack ack;
	struct km_msg_status status;
	struct km_msg_certificate_obtained certificate;
	struct km_msg_key_update key;
	struct km_msg_lease lease;
};

static void dispatch(struct client *c, const struct km_msg_desc *d, const union message *m)
{
	if (d == &km_msg_desc_heartbeat)
		report_heartbeat(c);
	else if (d == &km_msg_desc_config_ack)
		report_ack(c, &m->ack);
	else if (d == &km_msg_desc_status)
		report_status(c, &m->status);
	else if (d == &km_msg_desc_certificate_obtained)
		report_certificate(c, &m->certificate);
	else if (d == &km_msg_desc_key_update)
		rotate_update(c, &m->key);
	else if (d == &km_msg_desc_lease)
		lease_asked(c, &m->lease);
}

static void refuse_message(struct client *c, const char *type, const char *what)
{
	static struct km_log_limit limit;
	uint32_t held;
	struct km_errtext text;
	if (km_log_allow(&limit, km_now_ms(), 5, 10000, &held))
		km_warn("invalid message", km_ks("from", c->name), km_ks("type", type),
			km_ks("what", what), km_ki("held", held));
	(void)km_errtext_set(&text, 0, "%.64s: %s", type, what);
	client_send_error(c, "INVALID_MESSAGE", text.text);
}

static void link_message(void *arg, uint64_t id, const char *type, json_t *data)
{
	struct client *c = client_find(arg, id);
	struct km_errtext err;
	union message m;
	if (!c)
		return;
	if (!affordable(c, type)) {
		km_warn("too many messages", km_ks("from", c->name), km_ks("type", type));
		client_send_error(c, "TOO_MANY", "too many messages");
		client_close(c, "too many messages");
		return;
	}
	const struct km_msg_desc *d = km_msg_find(KM_MSG_FROM_CLIENT, type);
	if (c->step == STEP_OPEN && d == &km_msg_desc_auth) {
		auth_message(c, data);
	} else if (c->step == STEP_OPEN && d == &km_msg_desc_join) {
		join_message(c, data);
	} else if (!c->named) {
		client_refuse(c, "the first message must be auth or join, and be answered before the next");
	} else if (!d) {
		refuse_message(c, type, "unknown message type");
	} else if (d == &km_msg_desc_auth || d == &km_msg_desc_join) {
		refuse_message(c, type, "this link is authenticated already");
	} else if (km_msg_parse(d, &m, data, &err) < 0) {
		refuse_message(c, type, err.text);
	} else {
		dispatch(c, d, &m);
		km_msg_clear(d, &m);
	}
}

static void link_closed(void *arg, uint64_t id, const char *why)
{
	struct client *c = client_find(arg, id);
	if (!c)
		return;
	if (c->named)
		km_info("link closed", km_ks("type", client_kind(c)), km_ks("id", c->id),
			km_ks("name", c->name), km_ks("why", why));
	client_drop(c);
}

/* ---- every second ---- */

static void count_links(const struct hub *hub)
{
	int64_t agents = 0, gateways = 0;
	for (const struct client *c = hub->by_id; c; c = c->hh_id.next)
		(void)(c->gateway ? gateways++ : agents++);
	km_metric_set(km_metric(KM_METRIC_GAUGE, "kakuremichi_links", "type=\"agent\"",
				"Authenticated links"),
		      agents);
	km_metric_set(km_metric(KM_METRIC_GAUGE, "kakuremichi_links", "type=\"gateway\"",
				"Authenticated links"),
		      gateways);
}

static void tick(evutil_socket_t fd, short what, void *arg)
{
	struct hub *hub = arg;
	struct client *c, *next;
	int64_t now = km_now_ms();
	(void)fd, (void)what;
	HASH_ITER (hh, hub->by_link, c, next) {
		if (c->named && now - c->heartbeat_ms > HUB_OFFLINE_MS) {
			km_info("link silent", km_ks("type", client_kind(c)), km_ks("id", c->id),
				km_ks("name", c->name));
			client_close(c, "no heartbeat for 60 s");
		} else if (c->come_again) {
			client_close(c, "its WireGuard key has been approved");
		} else if (c->waiting) {
			client_go(c, c->step);
		} else {
			feed_tick(c, now);
			rotate_tick(c, now);
		}
	}
	report_flush(hub);
	rival_announce_due(hub);
	count_links(hub);
}

/* ---- start and end ---- */

/* There is a newer trust bundle. */
static void on_trust(void *arg)
{
	struct hub *hub = arg;
	for (struct client *c = hub->by_id; c; c = c->hh_id.next)
		if (c->step == STEP_LIVE || c->step == STEP_SYNC)
			auth_tell_trust(c);
}

int hub_start(struct hub **out, struct event_base *base, const struct hub_opts *opts,
	      struct km_errtext *err)
{
	static const struct km_link_server_cbs cbs = {link_open, link_message, link_closed};
	struct km_link_server_opts link = {
	    .listen = opts->listen, .cert_pem = opts->cert_pem, .key_pem = opts->key_pem};
	struct hub *hub = calloc(1, sizeof(*hub));
	struct timeval second = {1, 0};
	int rc = KM_ENOMEM;
	if (!hub)
		goto out;
	hub->base = base;
	hub->store = opts->store;
	hub->vault = opts->vault;
	hub->authority = opts->authority;
	hub->gone_agents = json_object();
	hub->gone_gateways = json_object();
	hub->certificates = json_object();
	hub->going_agents = json_object();
	hub->going_gateways = json_object();
	hub->writing = json_object();
	hub->failures = limit_new(10, 6000, 4096);
	hub->takeovers = limit_new(5, 12000, 4096);
	hub->lost = limit_new(5, 12000, 4096);
	hub->wishes = limit_new(20, 600000, 65536);
	hub->asks = limit_new(1000, 20, 4096);
	km_uuid_new(hub->instance);
	hub->tick = event_new(base, -1, EV_PERSIST, tick, hub);
	if (!hub->failures || !hub->takeovers || !hub->lost || !hub->wishes || !hub->asks || !hub->tick ||
	    event_add(hub->tick, &second) < 0)
		goto out;
	hub->watch = store_listen(hub->store, feed_wake, hub);
	if (!hub->watch)
		goto out;
	store_notes(hub->store, rival_note, hub);
	hub->trust = (struct authority_watch){.changed = on_trust, .arg = hub};
	authority_watch(hub->authority, &hub->trust);
	rc = km_link_server_start(&hub->links, base, &link, &cbs, hub, err);
out:
	if (rc == KM_ENOMEM)
		(void)km_errtext_set(err, rc, "no memory");
	if (rc < 0) {
		hub_free(hub);
		hub = NULL;
	}
	*out = hub;
	return rc;
}

uint16_t hub_port(const struct hub *hub)
{
	return km_link_server_port(hub->links);
}

int hub_set_certificate(struct hub *hub, const char *cert_pem, const char *key_pem,
			struct km_errtext *err)
{
	if (!hub->links)
		return 0; /* it is stopping */
	return km_link_server_set_certificate(hub->links, cert_pem, key_pem, err);
}

static void end_links(struct hub *hub)
{
	struct client *c, *next;
	store_unlisten(hub->watch);
	store_cancel(hub->feed);
	store_cancel(hub->announcing);
	store_notes(hub->store, NULL, NULL);
	if (hub->trust.changed)
		authority_unwatch(hub->authority, &hub->trust);
	hub->trust.changed = NULL;
	hub->watch = NULL;
	hub->feed = hub->announcing = NULL;
	km_link_server_free(hub->links);
	hub->links = NULL;
	HASH_ITER (hh, hub->by_link, c, next)
		client_drop(c);
	if (hub->tick)
		event_free(hub->tick);
	hub->tick = NULL;
}

static void tell_stopped(struct hub *hub)
{
	hub_stopped_cb *stopped = hub->stopped;
	hub->stopped = NULL;
	stopped(hub->stopped_arg);
}

static void stop_late(evutil_socket_t fd, short what, void *arg)
{
	struct hub *hub = arg;
	(void)fd, (void)what;
	if (!hub->stopped)
		return;
	km_warn("the database was not told that all hosts are offline");
	tell_stopped(hub);
}

void hub_flushed(struct hub *hub)
{
	if (hub->stopped && !report_flush(hub))
		tell_stopped(hub);
}

void hub_stop(struct hub *hub, hub_stopped_cb *stopped, void *arg)
{
	struct timeval most = {1, 0};
	end_links(hub);
	hub->stopped = stopped;
	hub->stopped_arg = arg;
	hub->tick = evtimer_new(hub->base, stop_late, hub);
	if (!hub->tick || evtimer_add(hub->tick, &most) < 0)
		tell_stopped(hub);
	else if (!hub->flush)
		hub_flushed(hub);
}

void hub_free(struct hub *hub)
{
	if (!hub)
		return;
	end_links(hub);
	store_cancel(hub->flush);
	json_decref(hub->gone_agents);
	json_decref(hub->gone_gateways);
	json_decref(hub->certificates);
	json_decref(hub->going_agents);
	json_decref(hub->going_gateways);
	json_decref(hub->writing);
	limit_free(hub->failures);
	limit_free(hub->takeovers);
	limit_free(hub->lost);
	limit_free(hub->wishes);
	limit_free(hub->asks);
	free(hub);
}
