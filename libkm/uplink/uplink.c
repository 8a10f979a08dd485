/* SPDX-License-Identifier: MIT */
#include "libkm/uplink/uplink.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/link/client.h"
#include "libkm/replica/saver.h"
#include "libkm/uplink/guard.h"
#include "libkm/uplink/rotation.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEARTBEAT_S 30
#define API_KEY_MAX 4096 /* of the file */

struct km_uplink {
	struct km_uplink_opts o;
	uint8_t public_key[KM_WG_KEY_LEN];
	struct km_guard *guard;
	struct km_rotation *rotation; /* NULL: the key is not changed */
	struct km_replica *replica;
	struct km_saver *saver;
	struct km_link_client *link; /* NULL: no control is named, or closed */
	struct event *heartbeat;
	struct km_metric *link_up, *revision;
	bool authenticated;
	bool want_all;  /* ask for the whole configuration */
	char *refusals; /* what the last ack named; NULL: nothing */
};

static void set_authenticated(struct km_uplink *u, bool is)
{
	u->authenticated = is;
	km_metric_set(u->link_up, is);
}

static const char *text_of(const json_t *data, const char *key)
{
	return json_string_value(json_object_get(data, key));
}

/* ---- the link, in the order in which things happen ---- */

static json_t *make_auth(struct km_uplink *u, char *api_key)
{
	static const uint8_t none[KM_WG_KEY_LEN];
	const char *epoch = km_replica_epoch(u->replica);
	bool fresh = u->want_all || !*epoch || km_replica_partial(u->replica);
	char host[254] = "", key[KM_WG_KEY_STRLEN];
	struct km_msg_auth m = {
	    .api_key = api_key,
	    .version = (char *)KM_VERSION,
	    .hostname = host,
	    .epoch = fresh ? NULL : (char *)epoch,
	    .has_revision = true,
	    .revision = fresh ? 0 : km_replica_revision(u->replica),
	    .has_trust_number = true,
	    .trust_number = km_guard_trust_number(u->guard),
	};

	gethostname(host, sizeof(host) - 1);
	if (memcmp(u->public_key, none, sizeof(none)) != 0)
		m.wireguard_public_key = km_wg_key_str(u->public_key, key);
	if (u->o.fill_auth)
		u->o.fill_auth(u->o.arg, &m);
	return km_msg_format(&km_msg_desc_auth, &m);
}

static void on_open(void *arg, const char *url)
{
	struct km_uplink *u = arg;
	struct km_errtext err = {0};
	char *api_key = NULL;

	km_info("link open", km_ks("url", url));
	set_authenticated(u, false);
	if (km_secret_read(u->o.api_key_file, API_KEY_MAX, &api_key, &err)) {
		km_error("API key not read", km_ks("file", u->o.api_key_file),
			 km_ks("reason", err.text));
		km_link_client_reconnect(u->link, "no API key");
		return;
	}
	km_link_client_send(u->link, "auth", make_auth(u, api_key));
	km_wipe(api_key, strlen(api_key));
	free(api_key);
}

static void on_auth_success(struct km_uplink *u)
{
	km_info("authenticated", km_ks("epoch", km_replica_epoch(u->replica)),
		km_ki("revision", km_replica_revision(u->replica)));
	set_authenticated(u, true);
	km_link_client_settled(u->link);
	if (u->o.authenticated)
		u->o.authenticated(u->o.arg);
	if (u->rotation)
		km_rotation_authenticated(u->rotation);
}

static void on_key_ready(struct km_uplink *u, const json_t *data)
{
	uint8_t pub[KM_WG_KEY_LEN];

	if (u->rotation && km_rotation_ready(u->rotation, data, pub))
		km_uplink_key(u, pub);
}

static void on_auth_error(struct km_uplink *u, const json_t *data)
{
	km_error("control refuses this host", km_ks("type", u->o.type),
		 km_ks("reason", text_of(data, "message")));
	set_authenticated(u, false);
}

/* After a gap control sends what is missing, or all when the database has begun another life. */
static void on_gap(struct km_uplink *u, const json_t *data, const struct km_errtext *err)
{
	const char *epoch = text_of(data, "epoch");

	if (!epoch || strcmp(epoch, km_replica_epoch(u->replica)) != 0)
		u->want_all = true;
	km_warn("configuration has a gap, asking again", km_ks("reason", err->text),
		km_ki("everything", u->want_all));
	km_link_client_reconnect(u->link, "a revision is missing");
}

/* An ack names what stands refused each time, the log only when that changes. */
static void log_applied(struct km_uplink *u, const char *type, const json_t *ack)
{
	const char *refusals = text_of(ack, "error");

	if (refusals && (!u->refusals || strcmp(refusals, u->refusals) != 0))
		km_warn("configuration applied in part", km_ks("type", type),
			km_ki("revision", km_replica_revision(u->replica)),
			km_ks("reason", refusals));
	free(u->refusals);
	u->refusals = refusals ? km_xstrdup(refusals) : NULL;
	km_info("configuration applied", km_ks("type", type),
		km_ki("revision", km_replica_revision(u->replica)));
	km_metric_set(u->revision, km_replica_revision(u->replica));
}

/* An ack that cannot be sent is not missed: the next auth names the revision. */
static void acknowledge(struct km_uplink *u, json_t *ack)
{
	int rc = km_uplink_send(u, "config_ack", ack);

	if (rc && rc != KM_ECLOSED)
		km_warn("configuration not acknowledged", km_ke(rc));
}

/* What could not be written when it came is on disk now. */
static void on_saved(void *arg, json_t *ack)
{
	struct km_uplink *u = arg;

	log_applied(u, "retry", ack);
	acknowledge(u, ack);
}

static void take(struct km_uplink *u, const char *type, const json_t *data)
{
	struct km_errtext err = {0};
	json_t *ack = NULL;
	int rc = km_replica_take(u->replica, type, data, &ack, &err);

	if (km_saver_taken(u->saver, rc, &err))
		return;
	switch (rc) {
	case 0:
		u->want_all = false;
		log_applied(u, type, ack);
		acknowledge(u, ack);
		break;
	case KM_EGAP:
		on_gap(u, data, &err);
		break;
	case KM_ENOTFOUND:
		km_warn("message ignored", km_ks("type", type));
		break;
	default:
		km_error("configuration not applied", km_ks("type", type), km_ke(rc),
			 km_ks("reason", err.text));
	}
}

static void on_message(void *arg, const char *type, json_t *data)
{
	struct km_uplink *u = arg;

	if (strcmp(type, "auth_success") == 0)
		on_auth_success(u);
	else if (strcmp(type, "auth_error") == 0)
		on_auth_error(u, data);
	else if (strcmp(type, "trust") == 0)
		km_guard_trust(u->guard, data);
	else if (strcmp(type, "key_ready") == 0)
		on_key_ready(u, data);
	else if (strcmp(type, "identity") == 0)
		km_guard_identity(u->guard, data);
	else if (strcmp(type, "error") == 0)
		km_warn("control reports an error", km_ks("code", text_of(data, "code")),
			km_ks("message", text_of(data, "message")));
	else if (!u->o.message || !u->o.message(u->o.arg, type, data))
		take(u, type, data);
}

static void on_closed(void *arg, const char *why, int64_t wait_ms)
{
	struct km_uplink *u = arg;

	set_authenticated(u, false);
	km_warn("link closed", km_ks("reason", why), km_ki("again_in_ms", wait_ms));
}

static void on_heartbeat(evutil_socket_t none, short what, void *arg)
{
	struct km_msg_heartbeat m = {.timestamp = km_wall_ms(), .has_timestamp = true};

	(void)none;
	(void)what;
	(void)km_uplink_send(arg, "heartbeat", km_msg_format(&km_msg_desc_heartbeat, &m));
}

/* ---- life ---- */

static struct km_metric *gauge(const struct km_uplink *u, const char *what, const char *help)
{
	char name[64];

	snprintf(name, sizeof(name), "kakuremichi_%s_%s", u->o.type, what);
	return km_metric(KM_METRIC_GAUGE, name, "", help);
}

static int start_link(struct km_uplink *u, struct km_errtext *err)
{
	static const struct km_link_client_cbs cbs = {on_open, on_message, on_closed};
	static const struct timeval every = {HEARTBEAT_S, 0};
	struct km_link_client_opts o = {
	    .urls = (const char *const *)u->o.control->items,
	    .n_urls = u->o.control->n,
	    .type = u->o.type,
	    .pin = u->o.pin,
	};
	char *api_key = NULL;
	int rc = km_secret_read(u->o.api_key_file, API_KEY_MAX, &api_key, err);

	if (rc)
		return rc; /* better now than at the first connection */
	km_wipe(api_key, strlen(api_key));
	free(api_key);
	u->heartbeat = event_new(u->o.base, -1, EV_PERSIST, on_heartbeat, u);
	if (!u->heartbeat || event_add(u->heartbeat, &every) != 0)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	return km_link_client_start(&u->link, u->o.base, &o, &cbs, u, err);
}

static int open_replica(struct km_uplink *u, struct km_errtext *err)
{
	const struct km_guard_opts guard = {.base = u->o.base,
					    .type = u->o.type,
					    .state_dir = u->o.state_dir,
					    .ca_pin = u->o.ca_pin,
					    .grace_s = u->o.certificate_grace / 1000,
					    .off = u->o.no_wireguard,
					    .hooks = u->o.hooks,
					    .gateway_revoked = u->o.gateway_revoked,
					    .arg = u->o.arg};
	int rc = km_guard_open(&u->guard, &guard, err);

	if (!rc)
		rc = km_replica_open(&u->replica, u->o.state_dir, km_guard_hooks(), u->guard, err);
	if (rc)
		return rc;
	km_guard_replica(u->guard, u->replica);
	u->saver = km_saver_new(u->o.base, u->replica, KM_SAVER_MS, on_saved, u);
	if (!u->saver)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	km_metric_set(u->revision, km_replica_revision(u->replica));
	km_info("configuration loaded", km_ks("epoch", km_replica_epoch(u->replica)),
		km_ki("revision", km_replica_revision(u->replica)));
	if (km_replica_partial(u->replica))
		km_info("another version wrote this configuration; control is asked for all of it");
	return 0;
}

static int send_key(void *arg, const char *type, json_t *data)
{
	return km_uplink_send(arg, type, data);
}

static int start_rotation(struct km_uplink *u, struct km_errtext *err)
{
	const struct km_rotation_opts o = {.base = u->o.base,
					   .type = u->o.type,
					   .state_dir = u->o.state_dir,
					   .every_ms = u->o.key_rotation,
					   .next = u->o.key_next,
					   .switch_to = u->o.key_switch,
					   .arg = u->o.arg,
					   .send = send_key,
					   .send_arg = u};

	if (!u->o.key_next || u->o.no_wireguard)
		return 0;
	u->rotation = km_rotation_new(&o);
	return u->rotation ? 0 : km_errtext_set(err, KM_ENOMEM, "no memory");
}

int km_uplink_open(struct km_uplink **out, const struct km_uplink_opts *opts,
		   struct km_errtext *err)
{
	struct km_uplink *u = km_xcalloc(1, sizeof(*u));
	int rc;

	u->o = *opts;
	km_uplink_key(u, opts->public_key);
	u->link_up = gauge(u, "link_up", "Whether control has let this host in.");
	u->revision = gauge(u, "revision", "The revision of the applied configuration.");
	set_authenticated(u, false);
	rc = open_replica(u, err);
	if (!rc)
		rc = start_rotation(u, err);
	if (!rc && opts->control->n)
		rc = start_link(u, err);
	else if (!rc)
		km_warn("no control is named, the configuration on disk is served");
	if (rc) {
		km_uplink_free(u);
		return rc;
	}
	*out = u;
	return 0;
}

struct km_replica *km_uplink_replica(struct km_uplink *u)
{
	return u->replica;
}

bool km_uplink_authenticated(const struct km_uplink *u)
{
	return u->authenticated;
}

int km_uplink_send(struct km_uplink *u, const char *type, json_t *data)
{
	if (u->authenticated)
		return km_link_client_send(u->link, type, data);
	json_decref(data);
	return KM_ECLOSED;
}

void km_uplink_key(struct km_uplink *u, const uint8_t key[static KM_WG_KEY_LEN])
{
	memcpy(u->public_key, key, sizeof(u->public_key));
}

void km_uplink_close_link(struct km_uplink *u)
{
	km_link_client_free(u->link);
	u->link = NULL;
	set_authenticated(u, false);
	if (u->heartbeat)
		event_free(u->heartbeat);
	u->heartbeat = NULL;
}

void km_uplink_free(struct km_uplink *u)
{
	if (!u)
		return;
	km_uplink_close_link(u);
	km_rotation_free(u->rotation);
	km_guard_free(u->guard);
	km_saver_free(u->saver);
	km_replica_free(u->replica);
	free(u->refusals);
	free(u);
}
