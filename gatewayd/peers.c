/* SPDX-License-Identifier: MIT */
#include "gatewayd/peers.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/host/kept.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define KEPT "learned endpoints"
#define VIPS_MAX 4          /* of a gateway */
#define ROUTES_EXACT 1024   /* up to so many agents each has a route of its own */
#define KNOCK_KEEPALIVE_S 5 /* while the gateway begins the handshake itself */
#define KNOCK_MS 120000     /* then the agent has to come by itself */

struct peer {
	struct peers *all;
	char id[KM_UUID_STRLEN];
	struct neighbour *neighbour; /* a gateway's; NULL: an agent */
	struct km_wg_peer want;
	/* The key to come of a rotation: a peer without addresses, until the host uses it. */
	bool has_next, adopted;
	uint8_t next[KM_WG_KEY_LEN];
	struct km_prefix route; /* an agent's; to a gateway lead its allowed IPs */
	int64_t knock_until;    /* 0: not knocking */
	struct km_wg_peer_status seen;
	bool has_seen;
	UT_hash_handle hh;
};

struct peers {
	char *file;
	json_t *endpoints; /* public key -> "address:port" */
	bool endpoints_changed, routes_changed, sweep;
	struct km_privnet *net;
	struct neighbours *neighbours; /* NULL: other gateways are no peers */
	struct km_metric *narrow;
	struct peer *all;
};

/* ---- endpoints on disk ---- */

static void endpoints_write(struct peers *p)
{
	if (p->endpoints_changed)
		p->endpoints_changed = !km_kept_write(p->file, p->endpoints, KEPT);
}

static bool endpoint_known(const struct peers *p, const uint8_t *key, struct sockaddr_storage *ss)
{
	char name[KM_WG_KEY_STRLEN];
	struct km_hostport hp;
	const char *text =
	    json_string_value(json_object_get(p->endpoints, km_wg_key_str(key, name)));
	if (!text || km_hostport_parse(&hp, text, NULL) || !hp.is_addr)
		return false;
	km_addr_to_sa(ss, &hp.addr, hp.port);
	return true;
}

static void endpoint_note(struct peers *p, const struct km_wg_peer_status *s)
{
	char name[KM_WG_KEY_STRLEN], text[KM_ENDPOINT_STRLEN];
	struct km_addr a;
	uint16_t port;
	if (!s->has_endpoint || !s->last_handshake_ms ||
	    km_addr_from_sa(&a, &port, (const struct sockaddr *)&s->endpoint))
		return;
	km_endpoint_str(&a, port, text);
	const char *old =
	    json_string_value(json_object_get(p->endpoints, km_wg_key_str(s->key, name)));
	if (old && !strcmp(old, text))
		return;
	if (!json_object_set_new(p->endpoints, name, json_string(text)))
		p->endpoints_changed = true;
}

static void endpoint_forget(struct peers *p, const uint8_t *key)
{
	char name[KM_WG_KEY_STRLEN];
	if (!json_object_del(p->endpoints, km_wg_key_str(key, name)))
		p->endpoints_changed = true;
}

/* ---- life ---- */

static const char *kind(const struct peer *e)
{
	return e->neighbour ? "gateway" : "agent";
}

struct peers *peers_new(const char *state_dir, struct neighbours *neighbours)
{
	struct peers *p = km_xcalloc(1, sizeof(*p));
	p->neighbours = neighbours;
	p->file = km_xasprintf("%s/endpoints.json", state_dir);
	p->narrow = km_metric(KM_METRIC_GAUGE, "kakuremichi_gateway_narrow_paths", "",
			      "Agents behind a path that carries less than the tunnel's MTU.");
	p->endpoints = km_kept_read(p->file, KEPT);
	return p;
}

static void peer_drop(struct peers *p, struct peer *e)
{
	HASH_DEL(p->all, e);
	neighbour_free(e->neighbour);
	free(e);
}

void peers_free(struct peers *p)
{
	struct peer *e, *tmp;
	if (!p)
		return;
	if (p->neighbours)
		neighbours_flush(p->neighbours);
	HASH_ITER (hh, p->all, e, tmp)
		peer_drop(p, e);
	json_decref(p->endpoints);
	free(p->file);
	free(p);
}

void peers_net(struct peers *p, struct km_privnet *net)
{
	p->net = net;
	p->routes_changed = p->sweep = true;
	if (net)
		peers_look(p, km_now_ms());
}

/* ---- what control wants ---- */

static int agent_read(struct peer *e, const struct km_msg_agent *is, struct km_errtext *err)
{
	struct km_addr own;
	if (km_wg_key_parse(e->want.key, is->wireguard_public_key))
		return km_errtext_set(err, KM_EINVAL, "agent %s: malformed public key", is->name);
	if (km_addr_parse(&own, is->virtual_ip) || km_prefix_parse(&e->route, is->subnet))
		return km_errtext_set(err, KM_EINVAL, "agent %s: malformed address", is->name);
	e->want.allowed[0] = km_prefix_of(&own);
	e->want.n_allowed = 1;
	return 0;
}

static int gateway_read(struct peer *e, const struct km_msg_gateway *is, struct km_errtext *err)
{
	struct km_addr a;
	if (km_wg_key_parse(e->want.key, is->wireguard_public_key))
		return km_errtext_set(err, KM_EINVAL, "gateway %s: malformed public key", is->name);
	for (size_t i = 0; i < is->n_virtual_ips && i < VIPS_MAX; i++) {
		if (km_addr_parse(&a, is->virtual_ips[i]))
			return km_errtext_set(err, KM_EINVAL, "gateway %s: malformed address",
					      is->name);
		e->want.allowed[e->want.n_allowed++] = km_prefix_of(&a);
	}
	if (!e->want.n_allowed)
		return km_errtext_set(err, KM_EINVAL, "gateway %s: no virtual IP", is->name);
	return 0;
}

/* An agent that the device has not heard of yet, but whose endpoint is known from before: the
 * keepalive makes the device begin the handshake at once. */
static void knock(const struct peers *p, struct peer *e)
{
	if (e->has_seen && e->seen.has_endpoint)
		return;
	if (!endpoint_known(p, e->want.key, &e->want.endpoint))
		return;
	e->want.has_endpoint = true;
	e->want.keepalive_s = KNOCK_KEEPALIVE_S;
	e->knock_until = km_now_ms() + KNOCK_MS;
}

static int peer_remove(struct peers *p, const uint8_t *key, struct km_errtext *err)
{
	endpoint_forget(p, key);
	return p->net ? km_privnet_peer_remove(p->net, key, err) : 0;
}

/* The addresses are with the next key once the host uses it, though control cannot know that yet.
 */
static struct km_wg_peer wanted(const struct peer *e)
{
	struct km_wg_peer want = e->want;
	if (e->adopted) {
		memcpy(want.key, e->next, KM_WG_KEY_LEN);
		want.has_endpoint = false; /* the device knows it */
	}
	if (e->neighbour)
		want.has_endpoint = neighbour_endpoint(e->neighbour, &want.endpoint);
	return want;
}

static int want_set(const struct peers *p, const struct peer *e, struct km_errtext *err)
{
	struct km_wg_peer want = wanted(e);
	return km_privnet_peer_set(p->net, &want, err);
}

/* The handshake begins anew. */
static void kick(const struct peers *p, const struct peer *e)
{
	struct km_wg_peer want = wanted(e);
	struct km_errtext err;
	if (p->net && km_privnet_peer_kick(p->net, &want, &err))
		km_warn("handshake not started anew", km_ks(kind(e), e->id),
			km_ks("why", err.text));
}

/* The next key as a peer without addresses; NULL: there is none. */
static int next_set(struct peers *p, struct peer *e, const char *key, struct km_errtext *err)
{
	struct km_wg_peer next = {.n_allowed = 0};
	int rc = 0;
	if (key && km_wg_key_parse(next.key, key))
		return km_errtext_set(err, KM_EINVAL, "%s %s: malformed next key", kind(e), e->id);
	if (e->has_next && (!key || memcmp(e->next, next.key, KM_WG_KEY_LEN)))
		rc = peer_remove(p, e->next, err);
	e->has_next = key != NULL;
	e->adopted = e->adopted && key && !memcmp(e->next, next.key, KM_WG_KEY_LEN);
	if (!key)
		return rc;
	memcpy(e->next, next.key, KM_WG_KEY_LEN);
	return !rc && p->net && !e->adopted ? km_privnet_peer_set(p->net, &next, err) : rc;
}

/* The host has another key: the addresses go over to it, and then the old one goes. */
static int key_change(struct peers *p, struct peer *e, const uint8_t *key, struct km_errtext *err)
{
	struct km_wg_peer now = e->want;
	bool expected = e->has_next && !memcmp(e->next, key, KM_WG_KEY_LEN);
	uint8_t old[KM_WG_KEY_LEN];
	int rc = 0;
	memcpy(old, e->want.key, sizeof(old));
	memcpy(e->want.key, key, KM_WG_KEY_LEN);
	e->has_seen = false;
	e->knock_until = 0;
	if (expected) {
		e->has_next = e->adopted = false;
		memcpy(now.key, key, KM_WG_KEY_LEN);
		now.has_endpoint = false; /* the device knows it */
		if (p->net)
			rc = km_privnet_peer_set(p->net, &now, err);
	}
	return rc ? rc : peer_remove(p, old, err);
}

static int peer_gone(struct peers *p, const char *id, struct km_errtext *err)
{
	struct peer *e;
	HASH_FIND_STR(p->all, id, e);
	if (!e)
		return 0;
	int rc = next_set(p, e, NULL, err);
	rc = rc ? rc : peer_remove(p, e->want.key, err);
	peer_drop(p, e);
	return rc;
}

static struct peer *peer_get(struct peers *p, const char *id)
{
	struct peer *e;
	HASH_FIND_STR(p->all, id, e);
	if (e)
		return e;
	e = km_xcalloc(1, sizeof(*e));
	e->all = p;
	snprintf(e->id, sizeof(e->id), "%s", id);
	HASH_ADD_STR(p->all, id, e);
	return e;
}

/* e as it is to be: fresh, and its key to come (NULL: none). */
static int peer_take(struct peers *p, struct peer *e, const struct peer *fresh, const char *next,
		     struct km_errtext *err)
{
	int rc;
	if (e->want.n_allowed && memcmp(e->want.key, fresh->want.key, KM_WG_KEY_LEN) &&
	    (rc = key_change(p, e, fresh->want.key, err)))
		return rc;
	memcpy(e->want.key, fresh->want.key, sizeof(e->want.key));
	memcpy(e->want.allowed, fresh->want.allowed, sizeof(e->want.allowed));
	e->want.n_allowed = fresh->want.n_allowed;
	e->route = fresh->route;
	return next_set(p, e, next, err);
}

int peers_agent(struct peers *p, const struct km_msg_agent *was, const struct km_msg_agent *is,
		struct km_errtext *err)
{
	struct peer *e, fresh = {0};
	int rc;

	p->routes_changed = true;
	if (!is || !is->wireguard_public_key)
		return peer_gone(p, is ? is->id : was->id, err);
	if ((rc = agent_read(&fresh, is, err)))
		return rc;
	e = peer_get(p, is->id);
	if ((rc = peer_take(p, e, &fresh, is->next_public_key, err)) || !p->net)
		return rc;
	knock(p, e);
	rc = want_set(p, e, err);
	e->want.has_endpoint = false; /* from now on the device knows better */
	return rc;
}

/* A name has resolved to something better. */
static void on_moved(void *arg)
{
	const struct peer *e = arg;
	struct km_errtext err;
	if (e->all->net && want_set(e->all, e, &err))
		km_error("gateway's endpoint not applied", km_ks("gateway", e->id),
			 km_ks("why", err.text));
}

int peers_gateway(struct peers *p, const struct km_msg_gateway *was,
		  const struct km_msg_gateway *is, struct km_errtext *err)
{
	struct peer *e, fresh = {0};
	int rc;

	if (!p->neighbours)
		return 0;
	p->routes_changed = true;
	if (!is || !is->wireguard_public_key)
		return peer_gone(p, is ? is->id : was->id, err);
	if ((rc = gateway_read(&fresh, is, err)))
		return rc;
	e = peer_get(p, is->id);
	if (!e->neighbour && !(e->neighbour = neighbour_new(p->neighbours, is->id, on_moved, e))) {
		peer_drop(p, e);
		return km_errtext_set(err, KM_EFULL, "more than %d gateways", NEIGHBOURS_MAX);
	}
	neighbour_set(e->neighbour, is);
	e->want.keepalive_s = NEIGHBOUR_KEEPALIVE_S;
	rc = peer_take(p, e, &fresh, is->next_public_key, err);
	return rc || !p->net ? rc : want_set(p, e, err);
}

int peers_key_next(struct peers *p, uint8_t pub[static KM_WG_KEY_LEN], struct km_errtext *err)
{
	return p->net ? km_privnet_key_next(p->net, pub, err) : KM_ECLOSED;
}

/* Every agent is knocked at: it learns of the new key by a handshake. So does a gateway. */
static void rekeyed(struct peers *p)
{
	struct km_errtext err;
	struct peer *e, *tmp;
	HASH_ITER (hh, p->all, e, tmp) {
		if (e->neighbour) {
			kick(p, e);
			continue;
		}
		e->want.keepalive_s = KNOCK_KEEPALIVE_S;
		e->knock_until = km_now_ms() + KNOCK_MS;
		if (p->net && want_set(p, e, &err))
			km_warn("peer cannot be set", km_ks("agent", e->id),
				km_ks("why", err.text));
	}
}

int peers_key_switch(struct peers *p, const uint8_t pub[static KM_WG_KEY_LEN],
		     struct km_errtext *err)
{
	int rc = p->net ? km_privnet_key_switch(p->net, pub, err) : KM_ECLOSED;
	if (!rc)
		rekeyed(p);
	return rc;
}

int peers_self(struct peers *p, const struct km_msg_gateway_self *is, struct km_errtext *err)
{
	struct km_prefix own[4];
	size_t n = 0;
	for (size_t i = 0; is && i < is->n_virtual_ips && n < KM_ARRAY_LEN(own); i++)
		if (km_prefix_parse(&own[n++], is->virtual_ips[i]))
			return km_errtext_set(err, KM_EINVAL, "%s: not an address",
					      is->virtual_ips[i]);
	return p->net ? km_privnet_addresses(p->net, own, n, err) : 0;
}

static int prefix_order(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct km_prefix));
}

static struct km_prefix *route_add(struct km_prefix *to, const struct km_prefix *r, bool wide)
{
	memcpy(to, r, sizeof(*to));
	/* Many agents share wider routes; the device's allowed IPs still part them. */
	if (wide && to->addr.family == AF_INET && to->bits > 16) {
		to->bits = 16;
		to->addr.ip[2] = 0;
		to->addr.ip[3] = 0;
	}
	return to + 1;
}

static int routes_set(struct peers *p, struct km_errtext *err)
{
	struct peer *e, *tmp;
	size_t n, distinct = 0, count = HASH_COUNT(p->all);
	struct km_prefix *r = km_xcalloc(count + (VIPS_MAX - 1) * NEIGHBOURS_MAX + 1, sizeof(*r)),
			 *to = r;
	HASH_ITER (hh, p->all, e, tmp)
		for (size_t i = 0; i < (e->neighbour ? e->want.n_allowed : 1); i++)
			to = route_add(to, e->neighbour ? &e->want.allowed[i] : &e->route,
				       count > ROUTES_EXACT && !e->neighbour);
	n = (size_t)(to - r);
	qsort(r, n, sizeof(*r), prefix_order);
	for (size_t i = 0; i < n; i++)
		if (!distinct || memcmp(&r[distinct - 1], &r[i], sizeof(*r)))
			r[distinct++] = r[i];
	int rc = km_privnet_routes(p->net, r, distinct, err);
	free(r);
	return rc;
}

static int sweep(struct peers *p, struct km_errtext *err)
{
	struct peer *e, *tmp;
	size_t n = 0;
	uint8_t(*keys)[KM_WG_KEY_LEN] = km_xcalloc(2 * HASH_COUNT(p->all) + 1, sizeof(*keys));
	HASH_ITER (hh, p->all, e, tmp) {
		memcpy(keys[n++], e->want.key, KM_WG_KEY_LEN);
		if (e->has_next)
			memcpy(keys[n++], e->next, KM_WG_KEY_LEN);
	}
	int rc = km_privnet_peers_keep(p->net, (const uint8_t(*)[KM_WG_KEY_LEN])keys, n, err);
	free(keys);
	return rc;
}

int peers_settled(struct peers *p, struct km_errtext *err)
{
	int rc = 0, rc2 = 0;
	if (!p->net)
		return 0;
	if (p->sweep && !(rc = sweep(p, err)))
		p->sweep = false;
	if (p->routes_changed && !(rc2 = routes_set(p, err)))
		p->routes_changed = false;
	return rc ? rc : rc2;
}

/* ---- what the device sees ---- */

static void knock_end(struct peers *p, struct peer *e, int64_t now_ms)
{
	struct km_errtext err;
	if (!e->knock_until || (!e->seen.last_handshake_ms && now_ms < e->knock_until))
		return;
	e->knock_until = 0;
	e->want.keepalive_s = 0;
	if (want_set(p, e, &err))
		km_warn("peer cannot be set", km_ks(kind(e), e->id), km_ks("why", err.text));
}

static struct km_wg_peer_status *status_of(struct km_wg_peer_status *all, size_t n,
					   const uint8_t *key)
{
	for (size_t i = 0; i < n; i++)
		if (!memcmp(all[i].key, key, KM_WG_KEY_LEN))
			return &all[i];
	return NULL;
}

/* The host uses its next key already, and control cannot say so: the addresses go over to it. */
static void next_adopt(struct peers *p, struct peer *e, const struct km_wg_peer_status *s,
		       const struct km_wg_peer_status *next)
{
	struct km_errtext err;
	if (e->adopted || !next || !next->last_handshake_ms ||
	    (s && s->last_handshake_ms >= next->last_handshake_ms))
		return;
	e->adopted = true;
	if (want_set(p, e, &err)) {
		km_warn("next key of a peer cannot be used", km_ks(kind(e), e->id),
			km_ks("why", err.text));
		e->adopted = false;
	} else {
		km_info(e->neighbour ? "gateway uses its next WireGuard key"
				     : "agent uses its next WireGuard key",
			km_ks(kind(e), e->id));
	}
}

void peers_look(struct peers *p, int64_t now_ms)
{
	struct km_wg_peer_status *all = NULL;
	struct km_errtext err;
	struct peer *e, *tmp;
	size_t n = 0, hint = 0, narrow = 0;
	if (!p->net)
		return;
	if (km_privnet_peers(p->net, &all, &n, &err)) {
		km_warn("peers cannot be seen", km_ks("why", err.text));
		return;
	}
	for (size_t i = 0; i < n; i++)
		endpoint_note(p, &all[i]);
	HASH_ITER (hh, p->all, e, tmp) {
		/* The device tends to list them in the order in which they were set. */
		struct km_wg_peer_status *s =
		    hint < n && !memcmp(all[hint].key, e->want.key, KM_WG_KEY_LEN)
			? &all[hint]
			: status_of(all, n, e->want.key);
		if (e->has_next)
			next_adopt(p, e, s, status_of(all, n, e->next));
		if (e->neighbour) {
			if (neighbour_look(e->neighbour,
					   e->adopted ? status_of(all, n, e->next) : s, now_ms))
				kick(p, e);
			continue;
		}
		if (!s) {
			e->has_seen = false;
			continue;
		}
		hint = (size_t)(s - all) + 1;
		if (s->mtu != (e->has_seen ? e->seen.mtu : 0))
			km_info("path MTU to agent changed", km_ks("agent", e->id),
				km_ki("mtu", s->mtu ? s->mtu : KM_WG_MTU));
		narrow += s->mtu != 0;
		e->has_seen = true;
		e->seen = *s;
		knock_end(p, e, now_ms);
	}
	free(all);
	km_metric_set(p->narrow, (int64_t)narrow);
	endpoints_write(p);
}

void peers_each(const struct peers *p,
		void (*each)(void *arg, const char *agent_id, const struct km_wg_peer_status *s),
		void *arg)
{
	struct peer *e, *tmp;
	HASH_ITER (hh, p->all, e, tmp)
		if (e->has_seen)
			each(arg, e->id, &e->seen);
}
