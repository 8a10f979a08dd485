/* SPDX-License-Identifier: MIT */
#include "gatewayd/control.h"
#include "gatewayd/report.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/link/client.h"
#include "libkm/replica/saver.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEARTBEAT_S 30
#define REPORT_S 10
#define SOON_S 2 /* a new agent's endpoint is looked for sooner, so that it is on disk */
#define SOON_TIMES 3
#define KEY_FILE_MAX 4096

/* A tunnel that could not be routed because another one has its domain; that one may be about to
 * give it up. It waits until it is routed, changed or gone. */
struct waiting {
	struct route_entry e;
	struct waiting *next;
};

struct control {
	struct control_opts o;
	struct km_link_client *link;
	struct km_replica *replica;
	struct km_saver *saver;
	char *refusals; /* what the last ack named; NULL: nothing */
	struct report *report;
	struct event *heartbeat, *tick, *soon;
	int soon_left;
	char *api_key, *pin;
	uint8_t public_key[KM_WG_KEY_LEN];
	bool authenticated;
	bool from_zero; /* ask for the whole configuration */
	struct waiting *waiting;
};

static void authenticated_set(struct control *c, bool is)
{
	c->authenticated = is;
	km_metric_set(km_metric(KM_METRIC_GAUGE, "kakuremichi_gateway_link_up", "",
				"Whether control has let this gateway in."),
		      is);
}

static void revision_show(const struct control *c)
{
	km_metric_set(km_metric(KM_METRIC_GAUGE, "kakuremichi_gateway_revision", "",
				"The revision of the applied configuration."),
		      km_replica_revision(c->replica));
}

/* ---- the configuration's hooks ---- */

static int on_self(void *arg, const struct km_msg_gateway_self *was,
		   const struct km_msg_gateway_self *is, struct km_errtext *err)
{
	struct control *c = arg;
	(void)was;
	return peers_self(c->o.peers, is, err);
}

static int on_agent(void *arg, const struct km_msg_agent *was, const struct km_msg_agent *is,
		    struct km_errtext *err)
{
	struct control *c = arg;
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
	if (t->path && t->path[0] && strcmp(t->path, "/"))
		return km_errtext_set(err, KM_EUNSUPPORTED,
				      "%s: paths are not supported by this gateway", t->domain);
	if (!t->agent_virtual_ip)
		return km_errtext_set(err, KM_EINVAL, "%s: no agentVirtualIp", t->domain);
	return 0;
}

static int tunnel_entry(struct route_entry *e, const struct km_msg_tunnel *t,
			struct km_errtext *err)
{
	memset(e, 0, sizeof(*e));
	snprintf(e->domain, sizeof(e->domain), "%s", t->domain);
	e->enabled = t->enabled;
	if (km_uuid_parse(e->target, t->target_id) || km_addr_parse(&e->agent, t->agent_virtual_ip))
		return km_errtext_set(err, KM_EINVAL, "%s: malformed target or address", t->domain);
	return 0;
}

static int tunnel_wait(struct control *c, const struct route_entry *e)
{
	struct waiting *w = calloc(1, sizeof(*w));
	if (!w)
		return KM_ENOMEM;
	w->e = *e;
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
	free(w);
}

static int on_tunnel(void *arg, const struct km_msg_tunnel *was, const struct km_msg_tunnel *is,
		     struct km_errtext *err)
{
	struct control *c = arg;
	struct route_entry e;
	uint8_t id[16];
	int rc;
	if (km_uuid_parse(id, is ? is->id : was->id))
		return km_errtext_set(err, KM_EINVAL, "malformed tunnel id");
	tunnel_unwait(c, id);
	if (!is) {
		route_remove(c->o.routes, id);
		return 0;
	}
	if ((rc = tunnel_check(c, is, err)) || (rc = tunnel_entry(&e, is, err))) {
		route_remove(c->o.routes, id); /* rather nothing than what it was before */
		return rc;
	}
	memcpy(e.tunnel, id, sizeof(id));
	rc = route_set(c->o.routes, &e);
	if (rc == KM_EEXIST) {
		route_remove(c->o.routes, id);
		return tunnel_wait(c, &e);
	}
	return rc ? km_errtext_set(err, rc, "%s: %s", is->domain, km_strerror(rc)) : 0;
}

static int waiting_settle(struct control *c, struct km_errtext *err)
{
	struct waiting **at = &c->waiting, *w;
	int rc = 0;
	while ((w = *at)) {
		int one = route_set(c->o.routes, &w->e);
		if (one) {
			rc = km_errtext_set(err, one, "%s: another tunnel has this domain",
					    w->e.domain);
			at = &w->next;
			continue;
		}
		*at = w->next;
		free(w);
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
	int settled = peers_settled(c->o.peers, err);
	c->soon_left = SOON_TIMES;
	(void)event_add(c->soon, &(struct timeval){SOON_S, 0});
	return rc ? rc : settled;
}

/* ---- the link ---- */

static int report_out(void *arg, json_t *data)
{
	struct control *c = arg;
	return km_link_client_send(c->link, "status", data);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct control *c = arg;
	int64_t now = km_now_ms();
	(void)fd, (void)what;
	peers_look(c->o.peers, now);
	if (c->authenticated)
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

static void on_heartbeat(evutil_socket_t fd, short what, void *arg)
{
	struct control *c = arg;
	struct km_msg_heartbeat h = {.timestamp = km_wall_ms(), .has_timestamp = true};
	(void)fd, (void)what;
	if (c->authenticated)
		(void)km_link_client_send(c->link, "heartbeat",
					  km_msg_format(&km_msg_desc_heartbeat, &h));
}

static json_t *auth_make(struct control *c)
{
	const struct gw_settings *s = c->o.settings;
	static const uint8_t none[KM_WG_KEY_LEN];
	char host[256] = "", key[KM_WG_KEY_STRLEN];
	struct km_msg_auth a = {
	    .api_key = c->api_key,
	    .version = KM_VERSION,
	    .revision = c->from_zero ? 0 : km_replica_revision(c->replica),
	    .has_revision = true,
	    .epoch = (char *)km_replica_epoch(c->replica),
	    .public_ip = s->public_ip.items,
	    .n_public_ip = s->public_ip.n,
	    .wireguard_port = s->wireguard_port,
	    .has_wireguard_port = true,
	};
	if (memcmp(c->public_key, none, sizeof(none)))
		a.wireguard_public_key = km_wg_key_str(c->public_key, key);
	if (!gethostname(host, sizeof(host) - 1))
		a.hostname = host;
	return km_msg_format(&km_msg_desc_auth, &a);
}

static void on_open(void *arg, const char *url)
{
	struct control *c = arg;
	km_info("connected to control", km_ks("url", url));
	int rc = km_link_client_send(c->link, "auth", auth_make(c));
	if (rc)
		km_warn("cannot authenticate", km_ke(rc));
}

static void on_closed(void *arg, const char *why, int64_t wait_ms)
{
	struct control *c = arg;
	authenticated_set(c, false);
	km_warn("no connection to control", km_ks("why", why), km_ki("retry_ms", wait_ms));
}

static void on_gap(struct control *c, const json_t *data)
{
	const char *epoch = json_string_value(json_object_get(data, "epoch"));
	if (!epoch || strcmp(epoch, km_replica_epoch(c->replica)))
		c->from_zero = true;
	km_link_client_reconnect(c->link, "a revision is missing");
}

/* An ack names what stands refused each time, the log only when that changes. */
static void log_applied(struct control *c, const char *type, const json_t *ack)
{
	const char *refusals = json_string_value(json_object_get(ack, "error"));
	if (refusals && (!c->refusals || strcmp(refusals, c->refusals)))
		km_error("configuration applied in part", km_ks("type", type),
			 km_ki("revision", km_replica_revision(c->replica)),
			 km_ks("why", refusals));
	else
		km_info("configuration applied", km_ks("type", type),
			km_ki("revision", km_replica_revision(c->replica)),
			km_ki("tunnels", (int64_t)route_count(c->o.routes)));
	free(c->refusals);
	c->refusals = refusals ? km_xstrdup(refusals) : NULL;
}

static void acknowledge(struct control *c, json_t *ack)
{
	int rc = km_link_client_send(c->link, "config_ack", ack);
	if (rc)
		km_warn("configuration not acknowledged", km_ke(rc));
}

/* What could not be written when it came is on disk now. */
static void on_saved(void *arg, json_t *ack)
{
	struct control *c = arg;
	log_applied(c, "retry", ack);
	if (c->authenticated)
		acknowledge(c, ack);
	else
		json_decref(ack); /* auth will name the revision */
}

static void on_configuration(struct control *c, const char *type, const json_t *data)
{
	struct km_errtext err = {0};
	json_t *ack = NULL;
	int rc = km_replica_take(c->replica, type, data, &ack, &err);
	if (km_saver_taken(c->saver, rc, &err))
		return;
	switch (rc) {
	case 0:
		break;
	case KM_EGAP:
		km_warn("a revision is missing, asking again", km_ks("type", type),
			km_ki("have", km_replica_revision(c->replica)));
		on_gap(c, data);
		return;
	case KM_ENOTFOUND:
		km_debug("message ignored", km_ks("type", type));
		return;
	default:
		km_error("configuration not taken", km_ks("type", type), km_ks("why", err.text));
		return;
	}
	c->from_zero = false;
	revision_show(c);
	log_applied(c, type, ack);
	acknowledge(c, ack);
}

static void on_message(void *arg, const char *type, json_t *data)
{
	struct control *c = arg;
	const char *message = json_string_value(json_object_get(data, "message"));
	if (!strcmp(type, "auth_success")) {
		authenticated_set(c, true);
		km_link_client_settled(c->link);
		report_reset(c->report);
		km_info("authenticated", km_ks("message", message));
	} else if (!strcmp(type, "auth_error")) {
		km_error("control refuses this gateway", km_ks("message", message));
	} else if (!strcmp(type, "error")) {
		km_warn("control reports an error",
			km_ks("code", json_string_value(json_object_get(data, "code"))),
			km_ks("message", message));
	} else {
		on_configuration(c, type, data);
	}
}

/* ---- life ---- */

static int link_start(struct control *c, struct km_errtext *err)
{
	static const struct km_link_client_cbs cbs = {on_open, on_message, on_closed};
	const struct gw_settings *s = c->o.settings;
	struct km_link_client_opts o = {
	    .urls = (const char *const *)s->control.items,
	    .n_urls = s->control.n,
	    .type = "gateway",
	    .pin = s->control_pin,
	};
	if (!s->control.n) {
		km_warn("no control configured, serving what is on disk");
		return 0;
	}
	if (!s->api_key_file)
		return km_errtext_set(err, KM_EINVAL, "control is set, but api_key_file is not");
	int rc = km_secret_read(s->api_key_file, KEY_FILE_MAX, &c->api_key, err);
	return rc ? rc : km_link_client_start(&c->link, c->o.base, &o, &cbs, c, err);
}

static int replica_open(struct control *c, struct km_errtext *err)
{
	static const struct km_replica_hooks hooks = {
	    .gateway_self = on_self,
	    .agent = on_agent,
	    .tunnel = on_tunnel,
	    .settled = on_settled,
	};
	int rc = km_replica_open(&c->replica, c->o.settings->state_dir, &hooks, c, err);
	if (rc)
		return rc;
	c->saver = km_saver_new(c->o.base, c->replica, KM_SAVER_MS, on_saved, c);
	if (!c->saver)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	if (km_replica_revision(c->replica))
		km_info("configuration read from disk",
			km_ki("revision", km_replica_revision(c->replica)),
			km_ki("tunnels", (int64_t)route_count(c->o.routes)));
	return 0;
}

int control_start(struct control **out, const struct control_opts *opts, struct km_errtext *err)
{
	struct control *c = km_xcalloc(1, sizeof(*c));
	struct timeval beat = {HEARTBEAT_S, 0}, tick = {REPORT_S, 0};
	int rc;
	c->o = *opts;
	memcpy(c->public_key, opts->public_key, sizeof(c->public_key));
	c->report = report_new(opts->routes, opts->peers, opts->certs);
	c->heartbeat = event_new(opts->base, -1, EV_PERSIST, on_heartbeat, c);
	c->tick = event_new(opts->base, -1, EV_PERSIST, on_tick, c);
	c->soon = event_new(opts->base, -1, 0, on_soon, c);
	if (!c->heartbeat || !c->tick || !c->soon || event_add(c->heartbeat, &beat) ||
	    event_add(c->tick, &tick)) {
		rc = km_errtext_set(err, KM_ENOMEM, "no memory");
		goto fail;
	}
	if ((rc = replica_open(c, err)) || (rc = link_start(c, err)))
		goto fail;
	authenticated_set(c, false);
	revision_show(c);
	*out = c;
	return 0;
fail:
	control_free(c);
	return rc;
}

void control_replay(struct control *c, const uint8_t *public_key)
{
	struct km_errtext err = {0};
	memcpy(c->public_key, public_key, sizeof(c->public_key));
	int rc = km_replica_replay(c->replica, &err);
	if (rc)
		km_error("configuration applied in part", km_ks("why", err.text));
}

const char *control_ready(const struct control *c)
{
	if (c->o.settings->control.n && !km_replica_revision(c->replica))
		return "no configuration from control yet";
	return NULL;
}

void control_free(struct control *c)
{
	if (!c)
		return;
	km_link_client_free(c->link);
	if (c->replica)
		peers_look(c->o.peers, km_now_ms());
	km_saver_free(c->saver);
	free(c->refusals);
	km_replica_free(c->replica);
	while (c->waiting) {
		struct waiting *w = c->waiting;
		c->waiting = w->next;
		free(w);
	}
	report_free(c->report);
	if (c->heartbeat)
		event_free(c->heartbeat);
	if (c->tick)
		event_free(c->tick);
	if (c->soon)
		event_free(c->soon);
	if (c->api_key)
		km_wipe(c->api_key, strlen(c->api_key));
	free(c->api_key);
	free(c);
}
