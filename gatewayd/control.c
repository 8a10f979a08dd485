/* SPDX-License-Identifier: MIT */
#include "gatewayd/control.h"
#include "gatewayd/report.h"
#include "gatewayd/wants.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/uplink/uplink.h"
#include <stdlib.h>
#include <string.h>

#define REPORT_S 10
#define SOON_S 2 /* a new agent's endpoint is looked for sooner, so that it is on disk */
#define SOON_TIMES 3

/* A tunnel that could not be routed because another one is in its way (has its domain and path, or
 * the domain with another TLS mode); that one may be about to go. It waits until it is routed,
 * changed or gone. */
struct waiting {
	struct route_entry e;
	struct waiting *next;
	char path[];
};

struct control {
	struct control_opts o;
	struct km_uplink *uplink;
	struct report *report;
	struct wants *wants;
	struct event *tick, *soon;
	int soon_left;
	struct waiting *waiting;
};

/* ---- the configuration's hooks ---- */

static int on_self(void *arg, const struct km_msg_gateway_self *was,
		   const struct km_msg_gateway_self *is, struct km_errtext *err)
{
	struct control *c = arg;
	uint8_t id[16];
	struct km_addr own;
	int rc = peers_self(c->o.peers, is, err);
	(void)was;
	if (!rc && is)
		wants_self(c->wants, is);
	if (rc || !c->o.mesh || !is || !is->n_virtual_ips)
		return rc;
	if (km_uuid_parse(id, is->id) || km_addr_parse(&own, is->virtual_ips[0]))
		return km_errtext_set(err, KM_EINVAL, "malformed id or address");
	return mesh_self(c->o.mesh, id, &own, err);
}

static int on_gateway(void *arg, const struct km_msg_gateway *was, const struct km_msg_gateway *is,
		      struct km_errtext *err)
{
	struct control *c = arg;
	bool there = is && is->wireguard_public_key;
	struct km_addr a;
	uint8_t id[16];
	if (km_uuid_parse(id, is ? is->id : was->id) ||
	    (there && (!is->n_virtual_ips || km_addr_parse(&a, is->virtual_ips[0]))))
		return km_errtext_set(err, KM_EINVAL, "malformed gateway");
	if (!there && c->o.mesh)
		mesh_peer_gone(c->o.mesh, id);
	wants_gateway(c->wants, id, is);
	int rc = peers_gateway(c->o.peers, was, is, err);
	return rc || !there || !c->o.mesh ? rc : mesh_peer(c->o.mesh, id, &a, err);
}

static int on_agent(void *arg, const struct km_msg_agent *was, const struct km_msg_agent *is,
		    struct km_errtext *err)
{
	struct control *c = arg;
	struct km_addr old;
	if (was && (!is || strcmp(was->virtual_ip, is->virtual_ip) != 0) &&
	    km_addr_parse(&old, was->virtual_ip) == 0)
		c->o.agent_gone(c->o.arg, &old);
	return peers_agent(c->o.peers, was, is, err);
}

/* Whether this gateway can and may serve the tunnel. */
static int tunnel_check(const struct control *c, const struct km_msg_tunnel *t,
			struct km_errtext *err)
{
	const struct km_strlist *allow = &c->o.settings->allow_domains;
	if (!route_domain_ok(t->domain))
		return km_errtext_set(err, KM_EINVAL, "%s: not a domain", t->domain);
	if (allow->n && !route_domain_allowed(t->domain, allow->items, allow->n))
		return km_errtext_set(err, KM_EPERM, "%s: not among this gateway's allow_domains",
				      t->domain);
	if (t->protocol && strcmp(t->protocol, "http"))
		return km_errtext_set(err, KM_EUNSUPPORTED,
				      "%s: protocol %s is not supported by this gateway", t->domain,
				      t->protocol);
	if (!t->agent_virtual_ip)
		return km_errtext_set(err, KM_EINVAL, "%s: no agentVirtualIp", t->domain);
	return 0;
}

static enum route_tls tunnel_tls(const struct km_msg_tunnel *t)
{
	static const char *const names[] = {"auto", "own", "passthrough", "off"};
	for (size_t i = 0; t->tls && i < KM_ARRAY_LEN(names); i++)
		if (!strcmp(t->tls, names[i]))
			return (enum route_tls)i;
	return ROUTE_TLS_AUTO;
}

/* What the entry points to is t's, but the rules, to which *e has a reference. */
static int tunnel_entry(struct route_entry *e, const struct km_msg_tunnel *t,
			struct km_errtext *err)
{
	struct km_errtext why = {0};
	memset(e, 0, sizeof(*e));
	snprintf(e->domain, sizeof(e->domain), "%s", t->domain);
	e->path = t->path;
	e->enabled = t->enabled;
	e->tls = tunnel_tls(t);
	if (km_uuid_parse(e->tunnel, t->id) || km_uuid_parse(e->target, t->target_id) ||
	    km_addr_parse(&e->agent, t->agent_virtual_ip))
		return km_errtext_set(err, KM_EINVAL, "%s: malformed id, target or address",
				      t->domain);
	int rc = route_rules_compile(&e->rules, t, &why);
	return rc ? km_errtext_set(err, rc, "%s%.128s: %.300s", t->domain, t->path ? t->path : "",
				   why.text)
		  : 0;
}

static void waiting_free(struct waiting *w)
{
	route_rules_put(w->e.rules);
	free(w);
}

/* Takes the reference to the rules. */
static int tunnel_wait(struct control *c, struct route_entry *e)
{
	size_t n = e->path ? strlen(e->path) + 1 : 0;
	struct waiting *w = calloc(1, sizeof(*w) + n);
	if (!w)
		return KM_ENOMEM;
	w->e = *e;
	e->rules = NULL;
	if (n)
		w->e.path = memcpy(w->path, e->path, n);
	w->next = c->waiting;
	c->waiting = w;
	return 0;
}

static void tunnel_unwait(struct control *c, const uint8_t id[static 16])
{
	struct waiting **at = &c->waiting, *w;
	while ((w = *at) && memcmp(w->e.tunnel, id, sizeof(w->e.tunnel)))
		at = &w->next;
	if (!w)
		return;
	*at = w->next;
	waiting_free(w);
}

static bool same_text(const char *a, const char *b)
{
	return !strcmp(a ? a : "", b ? b : "");
}

/* The tunnel is routed as it is now, or not at all: rather nothing than what it was before. Only
 * where it keeps its place, and the other tunnels of its domain do not follow it to another TLS
 * mode (yet), does it stay as it was: gone for a moment, its requests would go to another tunnel's
 * target. */
static int tunnel_route(struct control *c, const uint8_t id[static 16],
			const struct km_msg_tunnel *was, const struct km_msg_tunnel *t,
			struct km_errtext *err)
{
	struct route_entry e = {0};
	int rc;
	if (!(rc = tunnel_check(c, t, err)) && !(rc = tunnel_entry(&e, t, err)))
		rc = route_set(c->o.routes, &e, err);
	bool stays = rc == KM_EEXIST && was && same_text(was->domain, t->domain) &&
		     same_text(was->path, t->path);
	if (!stays)
		wants_set(c->wants, id, rc || e.tls != ROUTE_TLS_AUTO ? NULL : e.domain);
	if (stays)
		route_leave(c->o.routes, id);
	else if (rc)
		route_remove(c->o.routes, id);
	if (rc == KM_EEXIST)
		rc = tunnel_wait(c, &e); /* said when all is settled */
	route_rules_put(e.rules);
	return rc;
}

static int on_tunnel(void *arg, const struct km_msg_tunnel *was, const struct km_msg_tunnel *is,
		     struct km_errtext *err)
{
	struct control *c = arg;
	uint8_t id[16];
	if (km_uuid_parse(id, is ? is->id : was->id))
		return km_errtext_set(err, KM_EINVAL, "malformed tunnel id");
	tunnel_unwait(c, id);
	if (was && (!is || strcmp(was->domain, is->domain) != 0))
		report_forget(c->report, was->id, was->domain);
	if (is)
		return tunnel_route(c, id, was, is, err);
	wants_set(c->wants, id, NULL);
	route_remove(c->o.routes, id);
	return 0;
}

static int waiting_settle(struct control *c, struct km_errtext *err)
{
	struct waiting **at = &c->waiting, *w;
	int rc = 0;
	while ((w = *at)) {
		int one = route_set(c->o.routes, &w->e, err);
		if (one) {
			rc = one;
			route_stay(c->o.routes, w->e.tunnel);
			at = &w->next;
			continue;
		}
		wants_set(c->wants, w->e.tunnel, w->e.tls == ROUTE_TLS_AUTO ? w->e.domain : NULL);
		*at = w->next;
		waiting_free(w);
	}
	return rc;
}

static int on_settled(void *arg, struct km_errtext *err)
{
	struct control *c = arg;
	int rc = waiting_settle(c, err);
	int published = route_publish(c->o.routes);
	if (published)
		return km_errtext_set(err, published, "routes: %s", km_strerror(published));
	wants_settled(c->wants);
	int settled = peers_settled(c->o.peers, err);
	c->soon_left = SOON_TIMES;
	(void)event_add(c->soon, &(struct timeval){SOON_S, 0});
	return rc ? rc : settled;
}

/* ---- what control is told ---- */

static int report_out(void *arg, json_t *data)
{
	struct control *c = arg;
	return km_uplink_send(c->uplink, "status", data);
}

void control_obtained(struct control *c, const char *domain, const char *chain,
		      int64_t not_after_ms)
{
	char at[KM_ISO8601_LEN];
	struct km_msg_certificate_obtained m = {.domain = (char *)domain,
						.certificate = (char *)chain,
						.expires_at = km_iso8601(not_after_ms, at)};
	if (c && c->uplink && km_uplink_authenticated(c->uplink))
		(void)km_uplink_send(c->uplink, "certificate_obtained",
				     km_msg_format(&km_msg_desc_certificate_obtained, &m));
}

static int lease_out(void *arg, json_t *data)
{
	struct control *c = arg;
	return km_uplink_send(c->uplink, "lease", data);
}

static bool on_message(void *arg, const char *type, const json_t *data)
{
	struct control *c = arg;
	if (strcmp(type, "lease_result") != 0)
		return false;
	leases_result(c->o.leases, data);
	return true;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct control *c = arg;
	int64_t now = km_now_ms();
	(void)fd, (void)what;
	peers_look(c->o.peers, now);
	if (c->uplink && km_uplink_authenticated(c->uplink))
		report_send(c->report, now, km_wall_ms(), report_out, c);
}

static void on_soon(evutil_socket_t fd, short what, void *arg)
{
	struct control *c = arg;
	(void)fd, (void)what;
	peers_look(c->o.peers, km_now_ms());
	if (--c->soon_left > 0)
		(void)event_add(c->soon, &(struct timeval){SOON_S, 0});
}

static void fill_auth(void *arg, struct km_msg_auth *a)
{
	const struct gw_settings *s = ((struct control *)arg)->o.settings;
	a->public_ip = s->public_ip.items;
	a->n_public_ip = s->public_ip.n;
	a->wireguard_port = s->host.wireguard_port;
	a->has_wireguard_port = true;
}

static void on_authenticated(void *arg)
{
	struct control *c = arg;
	report_reset(c->report);
}

/* ---- life ---- */

static int on_key_next(void *arg, uint8_t pub[static KM_WG_KEY_LEN], struct km_errtext *err)
{
	return peers_key_next(((struct control *)arg)->o.peers, pub, err);
}

static int on_key_switch(void *arg, const uint8_t pub[static KM_WG_KEY_LEN], struct km_errtext *err)
{
	return peers_key_switch(((struct control *)arg)->o.peers, pub, err);
}

static void on_gateway_revoked(void *arg, const char *id)
{
	struct control *c = arg;
	uint8_t gateway[16];
	if (c->o.gateway_revoked && !km_uuid_parse(gateway, id))
		c->o.gateway_revoked(c->o.arg, gateway);
}

static int uplink_open(struct control *c, struct km_errtext *err)
{
	static const struct km_replica_hooks hooks = {
	    .gateway_self = on_self,
	    .gateway = on_gateway,
	    .agent = on_agent,
	    .tunnel = on_tunnel,
	    .settled = on_settled,
	};
	struct km_uplink_opts o = km_host_uplink_opts(&c->o.settings->host);
	o.base = c->o.base;
	o.type = "gateway";
	o.public_key = c->o.public_key;
	o.hooks = &hooks;
	o.fill_auth = fill_auth;
	o.authenticated = on_authenticated;
	o.key_next = on_key_next;
	o.key_switch = on_key_switch;
	o.gateway_revoked = on_gateway_revoked;
	o.message = on_message;
	o.arg = c;
	return km_uplink_open(&c->uplink, &o, err);
}

int control_start(struct control **out, const struct control_opts *opts, struct km_errtext *err)
{
	struct control *c = km_xcalloc(1, sizeof(*c));
	struct timeval tick = {REPORT_S, 0};
	int rc;
	c->o = *opts;
	c->report = report_new(opts->routes, opts->peers, opts->certs, opts->acme);
	c->wants = wants_new(opts->acme, opts->settings);
	c->tick = event_new(opts->base, -1, EV_PERSIST, on_tick, c);
	c->soon = event_new(opts->base, -1, 0, on_soon, c);
	if (!c->wants || !c->tick || !c->soon || event_add(c->tick, &tick))
		rc = km_errtext_set(err, KM_ENOMEM, "no memory");
	else
		rc = uplink_open(c, err);
	if (rc) {
		control_free(c);
		return rc;
	}
	leases_sender(c->o.leases, lease_out, c);
	*out = c;
	return 0;
}

void control_replay(struct control *c, const uint8_t *public_key)
{
	struct km_errtext err = {0};
	km_uplink_key(c->uplink, public_key);
	int rc = km_replica_replay(km_uplink_replica(c->uplink), &err);
	if (rc)
		km_error("configuration applied in part", km_ks("why", err.text));
}

const char *control_ready(const struct control *c)
{
	if (c->o.settings->host.control.n && !km_replica_revision(km_uplink_replica(c->uplink)))
		return "no configuration from control yet";
	return NULL;
}

void control_free(struct control *c)
{
	if (!c)
		return;
	leases_sender(c->o.leases, NULL, NULL);
	if (c->uplink) {
		km_uplink_close_link(c->uplink);
		peers_look(c->o.peers, km_now_ms());
	}
	km_uplink_free(c->uplink);
	while (c->waiting) {
		struct waiting *w = c->waiting;
		c->waiting = w->next;
		waiting_free(w);
	}
	report_free(c->report);
	wants_free(c->wants);
	if (c->tick)
		event_free(c->tick);
	if (c->soon)
		event_free(c->soon);
	free(c);
}
