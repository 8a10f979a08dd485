/* SPDX-License-Identifier: MIT */
#include "libkm/uplink/guard.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/uplink/revoked.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_S 60
#define LOOKS 8 /* in a grace time that is shorter */
#define SAVE_S 3600
#define WARN_S 86400 /* how often an end that comes near is told */
#define SKEW_S 60
#define VIPS_MAX 4
/* After a change of trust: a configuration that belongs to it may be on its way behind it, and
 * hosts whose new certificates it brings need not be cut off in between. */
#define SOON_US 300000

struct km_guard {
	struct km_guard_opts o;
	struct km_trust *trust;
	struct km_revoked *revoked; /* NULL: nobody cares */
	struct km_replica *replica;
	struct event *timer, *soon;
	size_t n_refused; /* since the last time that all were given */
	bool offer_again; /* CAs have come: who was refused may be let in now */
	int64_t saved_ms, warned_ms;
	int64_t skew_s; /* wall clock less running time: changes when the clock is put */
	struct km_metric *refused, *borne, *not_after, *number;
};

/* ---- one peer ---- */

static void tell_refused(struct km_guard *g, const struct km_errtext *why)
{
	static struct km_log_limit limit;
	uint32_t held;

	g->n_refused++;
	km_metric_add(g->refused, 1);
	if (km_log_allow(&limit, km_now_ms(), 20, 60000, &held))
		km_error("peer refused", km_ks("why", why->text), km_ki("held_back", held));
}

/* true: it may be a peer. Else *stands tells whether what was accepted before still does. */
static bool admit(struct km_guard *g, const struct km_trust_peer *p, bool *stands, int *rc,
		  struct km_errtext *err)
{
	*rc = km_trust_admit(g->trust, p, km_trust_clock(), err);
	if (*rc == 0) {
		if (err->text[0])
			km_warn("peer's certificate", km_ks("what", err->text));
		err->text[0] = 0;
		return true;
	}
	*stands = km_trust_admitted(g->trust, p->gateway, p->next, p->id);
	tell_refused(g, err);
	return false;
}

/* The key to come of a peer that has been admitted. true: it may come. */
static bool admit_next(struct km_guard *g, const struct km_trust_peer *now, const char *next_key,
		       const char *next_certificate)
{
	struct km_trust_peer p = *now;
	uint8_t key[KM_WG_KEY_LEN];
	struct km_errtext err = {""};
	bool stands;
	int rc;

	if (next_key && km_wg_key_parse(key, next_key) == 0) {
		p.next = true;
		p.key = key;
		p.certificate = next_certificate;
		if (admit(g, &p, &stands, &rc, &err))
			return true;
	}
	km_trust_forget(g->trust, p.gateway, true, p.id);
	return false;
}

static int malformed(struct km_errtext *err, const char *name)
{
	return km_errtext_set(err, KM_EINVAL, "%s: malformed key or address", name);
}

static int on_gateway(void *arg, const struct km_msg_gateway *was, const struct km_msg_gateway *is,
		      struct km_errtext *err)
{
	struct km_guard *g = arg;
	struct km_prefix allowed[VIPS_MAX];
	uint8_t key[KM_WG_KEY_LEN];
	struct km_trust_peer p = {.gateway = true, .key = key, .allowed = allowed};
	struct km_errtext gone = {""};
	bool stands;
	int rc;

	if (!g->o.hooks->gateway)
		return 0;
	if (!is) {
		km_trust_forget(g->trust, true, false, was->id);
		km_trust_forget(g->trust, true, true, was->id);
	}
	if (!is || g->o.off || !is->wireguard_public_key)
		return g->o.hooks->gateway(g->o.arg, was, is, err);
	if (km_wg_key_parse(key, is->wireguard_public_key))
		return malformed(err, is->name);
	for (; p.n_allowed < is->n_virtual_ips && p.n_allowed < VIPS_MAX; p.n_allowed++)
		if (km_prefix_parse(&allowed[p.n_allowed], is->virtual_ips[p.n_allowed]))
			return malformed(err, is->name);
	p.id = is->id;
	p.name = is->name;
	p.certificate = is->certificate;
	if (admit(g, &p, &stands, &rc, err)) {
		struct km_msg_gateway as = *is; /* members borrowed */

		if (!admit_next(g, &p, is->next_public_key, is->next_certificate))
			as.next_public_key = as.next_certificate = NULL;
		if (g->revoked)
			km_revoked_saw(g->revoked, g->trust, is->id);
		return g->o.hooks->gateway(g->o.arg, was, &as, err);
	}
	if (!stands && g->o.hooks->gateway(g->o.arg, is, NULL, &gone))
		km_error("refused gateway not removed", km_ks("why", gone.text));
	return rc;
}

static int on_agent(void *arg, const struct km_msg_agent *was, const struct km_msg_agent *is,
		    struct km_errtext *err)
{
	struct km_guard *g = arg;
	struct km_prefix allowed[2];
	uint8_t key[KM_WG_KEY_LEN];
	struct km_trust_peer p = {.key = key, .allowed = allowed, .n_allowed = 2};
	struct km_errtext gone = {""};
	bool stands;
	int rc;

	if (!g->o.hooks->agent)
		return 0;
	if (!is) {
		km_trust_forget(g->trust, false, false, was->id);
		km_trust_forget(g->trust, false, true, was->id);
	}
	if (!is || g->o.off || !is->wireguard_public_key)
		return g->o.hooks->agent(g->o.arg, was, is, err);
	if (km_wg_key_parse(key, is->wireguard_public_key) ||
	    km_prefix_parse(&allowed[0], is->virtual_ip) ||
	    km_prefix_parse(&allowed[1], is->subnet))
		return malformed(err, is->name);
	p.id = is->id;
	p.name = is->name;
	p.certificate = is->certificate;
	if (admit(g, &p, &stands, &rc, err)) {
		struct km_msg_agent as = *is;

		if (!admit_next(g, &p, is->next_public_key, is->next_certificate))
			as.next_public_key = as.next_certificate = NULL;
		return g->o.hooks->agent(g->o.arg, was, &as, err);
	}
	if (!stands && g->o.hooks->agent(g->o.arg, is, NULL, &gone))
		km_error("refused agent not removed", km_ks("why", gone.text));
	return rc;
}

/* What needs no guard. */

static int on_agent_self(void *arg, const struct km_msg_agent_self *was,
			 const struct km_msg_agent_self *is, struct km_errtext *err)
{
	struct km_guard *g = arg;

	return g->o.hooks->agent_self ? g->o.hooks->agent_self(g->o.arg, was, is, err) : 0;
}

static int on_gateway_self(void *arg, const struct km_msg_gateway_self *was,
			   const struct km_msg_gateway_self *is, struct km_errtext *err)
{
	struct km_guard *g = arg;

	return g->o.hooks->gateway_self ? g->o.hooks->gateway_self(g->o.arg, was, is, err) : 0;
}

static int on_tunnel(void *arg, const struct km_msg_tunnel *was, const struct km_msg_tunnel *is,
		     struct km_errtext *err)
{
	struct km_guard *g = arg;

	return g->o.hooks->tunnel ? g->o.hooks->tunnel(g->o.arg, was, is, err) : 0;
}

static int on_settled(void *arg, struct km_errtext *err)
{
	struct km_guard *g = arg;

	if (g->revoked)
		km_revoked_save(g->revoked);
	return g->o.hooks->settled ? g->o.hooks->settled(g->o.arg, err) : 0;
}

const struct km_replica_hooks *km_guard_hooks(void)
{
	static const struct km_replica_hooks hooks = {
	    .agent_self = on_agent_self,
	    .gateway_self = on_gateway_self,
	    .gateway = on_gateway,
	    .agent = on_agent,
	    .tunnel = on_tunnel,
	    .settled = on_settled,
	};

	return &hooks;
}

void km_guard_replica(struct km_guard *g, struct km_replica *r)
{
	g->replica = r;
}

/* ---- all peers, when trust or time has changed ---- */

static void on_gone(void *arg, bool gateway, bool next, const char *id,
		    const struct km_errtext *why)
{
	struct km_guard *g = arg;
	struct km_errtext err = {""};
	int rc = 0;

	if (next) { /* the present key is another matter: it is judged by itself */
		km_warn("a peer's next key is no longer accepted", km_ks("id", id),
			km_ks("why", why->text));
		g->offer_again = true;
		g->n_refused++;
		return;
	}
	km_error("peer cut off", km_ks("type", gateway ? "gateway" : "agent"), km_ks("id", id),
		 km_ks("why", why->text));
	g->n_refused++;
	km_metric_add(g->refused, 1);
	if (gateway && g->o.hooks->gateway) {
		const struct km_msg_gateway *is = km_replica_gateway(g->replica, id);

		rc = is ? g->o.hooks->gateway(g->o.arg, is, NULL, &err) : 0;
	} else if (!gateway && g->o.hooks->agent) {
		const struct km_msg_agent *is = km_replica_agent(g->replica, id);

		rc = is ? g->o.hooks->agent(g->o.arg, is, NULL, &err) : 0;
	}
	if (rc)
		km_error("peer not removed", km_ks("id", id), km_ks("why", err.text));
}

static void warn_of_end(struct km_guard *g, struct km_trust_clock now)
{
	const struct km_cert *own = km_trust_own(g->trust);
	int64_t left;

	km_metric_set(g->not_after, own ? own->not_after : 0);
	if (!own || g->o.off)
		return;
	left = own->not_after - now.wall_s;
	if (left > (own->not_after - own->not_before) / 4 ||
	    (g->warned_ms && now.mono_ms - g->warned_ms < WARN_S * 1000))
		return;
	g->warned_ms = now.mono_ms;
	if (left > 0)
		km_warn("this host's certificate ends soon and has not been renewed",
			km_ki("days_left", left / 86400));
	else
		km_error("this host's certificate has ended", km_ki("days_ago", -left / 86400));
}

/* Who was cut off by a clock may come back when it has been put right. */
static void look_at_clock(struct km_guard *g, struct km_trust_clock now)
{
	int64_t skew = now.wall_s - now.mono_ms / 1000, by = skew - g->skew_s;

	if (by > -SKEW_S && by < SKEW_S)
		return;
	g->skew_s = skew;
	g->offer_again = true;
	km_warn("the clock was put", km_ki("seconds", by));
}

static void review(struct km_guard *g)
{
	struct km_trust_clock now = km_trust_clock();
	struct km_errtext err = {""};
	size_t before = g->n_refused;
	int64_t left;

	look_at_clock(g, now);
	km_trust_review(g->trust, now, on_gone, g);
	if (g->revoked)
		km_revoked_look(g->revoked, g->trust, g->o.gateway_revoked, g->o.arg);
	km_metric_set(g->borne, (int64_t)km_trust_borne(g->trust, &left));
	if (km_trust_borne(g->trust, &left))
		km_warn("peers' certificates look expired; they are borne with for a time",
			km_ki("peers", (int64_t)km_trust_borne(g->trust, &left)),
			km_ki("first_cut_off_in_s", left));
	warn_of_end(g, now);
	if (g->offer_again && g->replica && g->n_refused) {
		g->offer_again = false;
		g->n_refused = 0;
		if (km_replica_replay(g->replica, &err))
			km_warn("configuration applied in part", km_ks("reason", err.text));
	} else if (g->n_refused != before && on_settled(g, &err)) {
		km_error("peers not settled", km_ks("why", err.text));
	}
	if (now.mono_ms - g->saved_ms > SAVE_S * 1000) {
		g->saved_ms = now.mono_ms;
		if (km_trust_save(g->trust, now))
			km_warn("trust.times not written");
	}
}

static void on_timer(evutil_socket_t none, short what, void *arg)
{
	(void)none, (void)what;
	review(arg);
}

/* ---- messages ---- */

int64_t km_guard_trust_number(const struct km_guard *g)
{
	return (int64_t)km_trust_number(g->trust);
}

void km_guard_trust(struct km_guard *g, const json_t *data)
{
	static const struct timeval soon = {0, SOON_US};
	bool first = !km_trust_ready(g->trust), changed;
	struct km_errtext err = {""};
	struct km_msg_trust m;
	int rc;

	if (km_msg_parse(&km_msg_desc_trust, &m, data, &err)) {
		km_error("trust bundle malformed", km_ks("why", err.text));
		return;
	}
	rc = km_trust_take(g->trust, m.bundle, km_trust_clock(), &changed, &err);
	km_msg_clear(&km_msg_desc_trust, &m);
	if (rc)
		km_error("trust bundle refused", km_ks("why", err.text),
			 km_ki("taken_in_part", changed));
	if (!changed)
		return;
	km_metric_set(g->number, km_guard_trust_number(g));
	km_info("trust bundle taken", km_ki("number", km_guard_trust_number(g)),
		km_ks("first", !first           ? "no"
			       : g->o.ca_pin->n ? "yes, signed by the pinned CA"
						: "yes, trusted on first use"));
	g->offer_again = true;
	if (first)
		review(g);
	else
		event_add(g->soon, &soon);
}

void km_guard_identity(struct km_guard *g, const json_t *data)
{
	struct km_errtext err = {""};
	struct km_msg_identity m;
	const struct km_cert *own;
	char text[KM_ISO8601_LEN], code[KM_WG_CODE_STRLEN] = "";
	uint8_t key[KM_WG_KEY_LEN];

	if (km_msg_parse(&km_msg_desc_identity, &m, data, &err)) {
		km_error("identity malformed", km_ks("why", err.text));
		return;
	}
	if (km_trust_set_own(g->trust, m.certificate, &err))
		km_error("own certificate not kept", km_ks("why", err.text));
	if (m.wireguard_public_key && km_wg_key_parse(key, m.wireguard_public_key) == 0)
		km_wg_key_code(key, code);
	km_msg_clear(&km_msg_desc_identity, &m);
	own = km_trust_own(g->trust);
	km_metric_set(g->not_after, own ? own->not_after : 0);
	if (own)
		km_info("own certificate",
			km_ks("not_after", km_iso8601(own->not_after * 1000, text)),
			km_ks("code", code));
	else
		km_warn("this host has no certificate yet: it waits to be signed",
			km_ks("code", code));
}

/* ---- life ---- */

static struct km_metric *metric(const struct km_guard *g, enum km_metric_kind kind,
				const char *what, const char *help)
{
	char name[80];

	snprintf(name, sizeof(name), "kakuremichi_%s_%s", g->o.type, what);
	return km_metric(kind, name, "", help);
}

static int start(struct km_guard *g, struct km_errtext *err)
{
	/* Often enough that the end of the grace time is seen in time. */
	int64_t look_s = g->o.grace_s / LOOKS < LOOK_S ? g->o.grace_s / LOOKS + 1 : LOOK_S;
	const struct timeval every = {look_s, 0};
	const struct km_trust_opts o = {g->o.state_dir, g->o.ca_pin, g->o.grace_s};
	struct km_trust_clock now = km_trust_clock();
	int rc = km_trust_open(&g->trust, &o, now, err);

	if (rc)
		return rc;
	g->saved_ms = now.mono_ms;
	g->skew_s = now.wall_s - now.mono_ms / 1000;
	if (km_trust_behind(g->trust, now))
		km_warn("the clock stands before the time at which this host ran last: it is "
			"wrong, and "
			"certificates cannot be judged by it");
	warn_of_end(g, now);
	km_metric_set(g->number, km_guard_trust_number(g));
	g->timer = event_new(g->o.base, -1, EV_PERSIST, on_timer, g);
	g->soon = event_new(g->o.base, -1, 0, on_timer, g);
	if (!g->timer || !g->soon || event_add(g->timer, &every) != 0)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	if (g->o.gateway_revoked && !g->o.off) {
		g->revoked = km_revoked_new(g->o.state_dir);
		event_active(g->soon, EV_TIMEOUT, 0); /* what was blocked before the last end */
	}
	return 0;
}

int km_guard_open(struct km_guard **out, const struct km_guard_opts *opts, struct km_errtext *err)
{
	struct km_guard *g = km_xcalloc(1, sizeof(*g));
	int rc;

	g->o = *opts;
	g->refused =
	    metric(g, KM_METRIC_COUNTER, "peers_refused_total",
		   "Agents or gateways that were refused, or cut off, for their certificates.");
	g->borne = metric(g, KM_METRIC_GAUGE, "certificates_borne",
			  "Peers whose certificates look expired and that are borne with.");
	g->not_after = metric(g, KM_METRIC_GAUGE, "certificate_not_after_seconds",
			      "When this host's own certificate ends (Unix time; 0: it has none).");
	g->number = metric(g, KM_METRIC_GAUGE, "trust_number",
			   "The number of the trust bundle that is obeyed; 0: none.");
	rc = start(g, err);
	if (rc) {
		km_guard_free(g);
		g = NULL;
	}
	*out = g;
	return rc;
}

void km_guard_free(struct km_guard *g)
{
	if (!g)
		return;
	if (g->trust && km_trust_save(g->trust, km_trust_clock()))
		km_warn("trust.times not written");
	km_revoked_free(g->revoked);
	km_trust_free(g->trust);
	if (g->timer)
		event_free(g->timer);
	if (g->soon)
		event_free(g->soon);
	free(g);
}
