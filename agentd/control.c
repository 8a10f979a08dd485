/* SPDX-License-Identifier: MIT */
#include "agentd/agent.h"
#include "libkm/base/log.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEARTBEAT_S 30
#define API_KEY_MAX 128

static void gauge(const char *name, const char *help, int64_t v)
{
	km_metric_set(km_metric(KM_METRIC_GAUGE, name, "", help), v);
}

static void set_authenticated(struct agent *a, bool is)
{
	a->authenticated = is;
	gauge("kakuremichi_agent_link_up", "Whether control has let this agent in.", is);
}

static void show_revision(const struct agent *a)
{
	gauge("kakuremichi_agent_revision", "The revision of the applied configuration.",
	      km_replica_revision(a->replica));
}

/* ---- what control wants, applied ---- */

static int on_self(void *arg, const struct km_msg_agent_self *was,
		   const struct km_msg_agent_self *is, struct km_errtext *err)
{
	struct agent *a = arg;
	struct km_addr addr;

	(void)was;
	if (!is)
		return 0; /* the address stays until there is another */
	if (km_addr_parse(&addr, is->virtual_ip))
		return km_errtext_set(err, KM_EINVAL, "virtual IP %s is malformed", is->virtual_ip);
	a->address = addr;
	a->has_address = true;
	return 0;
}

static int on_gateway(void *arg, const struct km_msg_gateway *was, const struct km_msg_gateway *is,
		      struct km_errtext *err)
{
	struct agent *a = arg;

	return is ? peers_set(a->peers, is, err) : peers_remove(a->peers, was->id, err);
}

static int remove_tunnel(struct agent *a, const struct km_msg_tunnel *was)
{
	uint8_t id[16];

	if (km_uuid_parse(id, was->id))
		return 0; /* it never was in the table */
	probes_remove(a->probes, id);
	tunnel_table_remove(forward_tunnels(a->forward), id);
	a->tunnels_changed = true;
	return 0;
}

static int on_tunnel(void *arg, const struct km_msg_tunnel *was, const struct km_msg_tunnel *is,
		     struct km_errtext *err)
{
	struct agent *a = arg;
	struct tunnel *t;
	bool refused;
	int rc;

	if (!is)
		return remove_tunnel(a, was);
	rc = tunnel_new(&t, is, a->allow, err);
	if (rc) {
		if (was)
			remove_tunnel(a, was);
		return rc;
	}
	refused = t->refused && t->enabled;
	a->tunnels_changed = true;
	rc = probes_set(a->probes, t);
	tunnel_table_set(forward_tunnels(a->forward), t);
	if (rc)
		return km_errtext_set(err, rc, "no memory to probe tunnel %s", is->domain);
	if (refused)
		return km_errtext_set(err, KM_EPERM,
				      "tunnel %s: target %s is not in the agent's allow_targets",
				      is->domain, is->target);
	return 0;
}

static int on_settled(void *arg, struct km_errtext *err)
{
	struct agent *a = arg;

	if (a->tunnels_changed)
		forward_sweep(a->forward);
	a->tunnels_changed = false;
	return net_settle(a, err);
}

static const struct km_replica_hooks hooks = {
    .agent_self = on_self,
    .gateway = on_gateway,
    .tunnel = on_tunnel,
    .settled = on_settled,
};

/* ---- the link, in the order in which things happen ---- */

static void send_auth(struct agent *a)
{
	char host[254] = "", key[KM_WG_KEY_STRLEN];
	static const uint8_t none[KM_WG_KEY_LEN];
	const char *epoch = km_replica_epoch(a->replica);
	bool fresh = a->want_all || !*epoch;
	struct km_errtext err = {0};
	char *api_key = NULL;
	struct km_msg_auth m = {
	    .version = (char *)KM_VERSION,
	    .hostname = host,
	    .epoch = fresh ? NULL : (char *)epoch,
	    .has_revision = true,
	    .revision = fresh ? 0 : km_replica_revision(a->replica),
	};

	if (km_secret_read(a->settings.api_key_file, API_KEY_MAX, &api_key, &err)) {
		km_error("API key not read", km_ks("file", a->settings.api_key_file),
			 km_ks("error", err.text));
		km_link_client_reconnect(a->link, "no API key");
		return;
	}
	m.api_key = api_key;
	gethostname(host, sizeof(host) - 1);
	if (memcmp(a->public_key, none, sizeof(none)) != 0)
		m.wireguard_public_key = km_wg_key_str(a->public_key, key);
	km_link_client_send(a->link, "auth", km_msg_format(&km_msg_desc_auth, &m));
	km_wipe(api_key, strlen(api_key));
	free(api_key);
}

static void on_open(void *arg, const char *url)
{
	struct agent *a = arg;

	km_info("link open", km_ks("url", url));
	set_authenticated(a, false);
	send_auth(a);
}

static void on_auth_success(struct agent *a)
{
	km_info("authenticated", km_ks("epoch", km_replica_epoch(a->replica)),
		km_ki("revision", km_replica_revision(a->replica)));
	set_authenticated(a, true);
	km_link_client_settled(a->link);
	status_all(a);
}

static const char *text_of(const json_t *data, const char *key)
{
	const char *s = json_string_value(json_object_get(data, key));

	return s ? s : "";
}

static void on_auth_error(struct agent *a, const json_t *data)
{
	km_error("control refused this agent", km_ks("reason", text_of(data, "message")));
	set_authenticated(a, false);
}

/* After a gap control sends what is missing, or all when the database has begun another life. */
static void on_gap(struct agent *a, const json_t *data, const struct km_errtext *err)
{
	const char *epoch = text_of(data, "epoch");

	a->want_all = a->want_all || strcmp(epoch, km_replica_epoch(a->replica)) != 0;
	km_warn("configuration has a gap, asking again", km_ks("reason", err->text),
		km_ki("everything", a->want_all));
	km_link_client_reconnect(a->link, "gap");
}

/* An ack names what stands refused each time, the log only when that changes. */
static void log_applied(struct agent *a, const char *type, const json_t *ack)
{
	const char *refusals = json_string_value(json_object_get(ack, "error"));

	if (refusals && (!a->refusals || strcmp(refusals, a->refusals) != 0))
		km_warn("configuration applied in part", km_ks("type", type),
			km_ki("revision", km_replica_revision(a->replica)),
			km_ks("error", refusals));
	free(a->refusals);
	a->refusals = refusals ? km_xstrdup(refusals) : NULL;
	km_info("configuration applied", km_ks("type", type),
		km_ki("revision", km_replica_revision(a->replica)));
}

/* What could not be written when it came is on disk now. */
static void on_saved(void *arg, json_t *ack)
{
	struct agent *a = arg;

	show_revision(a);
	log_applied(a, "retry", ack);
	if (a->authenticated)
		km_link_client_send(a->link, "config_ack", ack);
	else
		json_decref(ack); /* auth will name the revision */
}

static void take(struct agent *a, const char *type, const json_t *data)
{
	struct km_errtext err = {0};
	json_t *ack = NULL;
	int rc = km_replica_take(a->replica, type, data, &ack, &err);

	if (km_saver_taken(a->saver, rc, &err))
		return;
	switch (rc) {
	case 0:
		a->want_all = false;
		show_revision(a);
		log_applied(a, type, ack);
		break;
	case KM_EGAP:
		on_gap(a, data, &err);
		break;
	case KM_ENOTFOUND:
		km_warn("message ignored", km_ks("type", type));
		break;
	default:
		km_error("configuration not applied", km_ks("type", type), km_ke(rc),
			 km_ks("reason", err.text));
	}
	if (ack)
		km_link_client_send(a->link, "config_ack", ack);
}

static void on_message(void *arg, const char *type, json_t *data)
{
	struct agent *a = arg;

	if (strcmp(type, "auth_success") == 0)
		on_auth_success(a);
	else if (strcmp(type, "auth_error") == 0)
		on_auth_error(a, data);
	else if (strcmp(type, "error") == 0)
		km_warn("control reports an error", km_ks("code", text_of(data, "code")),
			km_ks("message", text_of(data, "message")));
	else
		take(a, type, data);
}

static void on_closed(void *arg, const char *why, int64_t wait_ms)
{
	struct agent *a = arg;

	set_authenticated(a, false);
	km_warn("link closed", km_ks("reason", why), km_ki("again_in_ms", wait_ms));
}

static const struct km_link_client_cbs link_cbs = {on_open, on_message, on_closed};

static void on_heartbeat(evutil_socket_t none, short what, void *arg)
{
	struct agent *a = arg;
	struct km_msg_heartbeat m = {.timestamp = km_wall_ms(), .has_timestamp = true};

	(void)none;
	(void)what;
	if (a->authenticated)
		km_link_client_send(a->link, "heartbeat",
				    km_msg_format(&km_msg_desc_heartbeat, &m));
}

/* ---- life ---- */

static int link_start(struct agent *a, struct km_errtext *err)
{
	static const struct timeval every = {HEARTBEAT_S, 0};
	const struct settings *s = &a->settings;
	struct km_link_client_opts opts = {
	    .urls = (const char *const *)s->control.items,
	    .n_urls = s->control.n,
	    .type = "agent",
	    .pin = s->control_pin,
	};

	a->heartbeat_timer = event_new(a->base, -1, EV_PERSIST, on_heartbeat, a);
	if (!a->heartbeat_timer || event_add(a->heartbeat_timer, &every) != 0)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	return km_link_client_start(&a->link, a->base, &opts, &link_cbs, a, err);
}

int control_start(struct agent *a, struct km_errtext *err)
{
	int rc = km_replica_open(&a->replica, a->settings.state_dir, &hooks, a, err);

	if (rc)
		return rc;
	a->saver = km_saver_new(a->base, a->replica, KM_SAVER_MS, on_saved, a);
	if (!a->saver)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	show_revision(a);
	set_authenticated(a, false);
	km_info("configuration loaded", km_ks("epoch", km_replica_epoch(a->replica)),
		km_ki("revision", km_replica_revision(a->replica)));
	if (!a->settings.control.n) {
		km_warn("no control is named, the configuration on disk is served");
		return 0;
	}
	return link_start(a, err);
}

void control_stop(struct agent *a)
{
	km_link_client_free(a->link);
	a->link = NULL;
	set_authenticated(a, false);
	if (a->heartbeat_timer)
		event_free(a->heartbeat_timer);
	a->heartbeat_timer = NULL;
	km_saver_free(a->saver);
	a->saver = NULL;
	free(a->refusals);
	a->refusals = NULL;
	km_replica_free(a->replica);
	a->replica = NULL;
}
