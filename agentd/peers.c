/* SPDX-License-Identifier: MIT */
#include "agentd/peers.h"
#include "agentd/health/mtu.h"
#include "agentd/health/path.h"
#include "agentd/health/pinger.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/host/reach.h"
#include <event2/event_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uthash.h>

#define VIPS_MAX 4
#define KEEPALIVE_S 25
#define WIREGUARD_PORT 51820
#define MISSES_IN_SPITE 5 /* so many, and bytes that still arrive prove nothing */
#define BUSY_BYTES 65536  /* between two looks: the path is in use */

struct peer {
	struct peers *ps;
	char id[KM_UUID_STRLEN], name[65];
	struct km_wg_peer wg;
	bool has_key;
	/* The key to come of a rotation: a peer without addresses, until the gateway uses it. */
	bool has_next, adopted;
	uint8_t next[KM_WG_KEY_LEN];
	struct km_reach *reach;
	size_t n_vips;
	struct km_addr vips[VIPS_MAX];
	struct path path;
	struct event timer;
	uint64_t rx_seen; /* at the last look */
	struct mtu mtu;
	uint64_t bytes_seen;
	unsigned width; /* of the path, as it was logged last */
	struct km_metric *up, *kicks, *path_mtu;
	struct km_wg_peer_status told; /* what peers_status gave last */
	UT_hash_handle hh;
};

struct peers {
	struct event_base *base;
	struct km_reaches *reaches;
	int64_t interval_ms;
	struct km_privnet *net;
	struct pinger *pinger;
	struct peer *by_id;
};

struct peers *peers_new(struct event_base *base, struct km_resolver_port *port,
			const char *state_dir, int64_t probe_interval_ms)
{
	struct peers *ps = calloc(1, sizeof(*ps));
	char *file;

	if (!ps)
		return NULL;
	file = km_xasprintf("%s/endpoints.json", state_dir);
	ps->reaches = km_reaches_new(base, port, "agent", file);
	free(file);
	if (!ps->reaches) {
		free(ps);
		return NULL;
	}
	ps->base = base;
	ps->interval_ms = probe_interval_ms;
	return ps;
}

/* ---- the endpoint ---- */

/* The addresses are with the next key once the gateway uses it, though control cannot know that
 * yet. */
static struct km_wg_peer wanted(const struct peer *p)
{
	struct km_wg_peer wg = p->wg;

	if (p->adopted)
		memcpy(wg.key, p->next, KM_WG_KEY_LEN);
	return wg;
}

static int apply(struct peer *p, struct km_errtext *err)
{
	const struct km_wg_peer wg = wanted(p);

	if (!p->ps->net || !p->has_key)
		return 0;
	return km_privnet_peer_set(p->ps->net, &wg, err);
}

static int start_anew(struct peer *p, struct km_errtext *err)
{
	const struct km_wg_peer wg = wanted(p);

	return km_privnet_peer_kick(p->ps->net, &wg, err);
}

/* A name has resolved to something better. Where the path works, or nothing was known before, this
 * is no reason to drop sessions. */
static void on_moved(void *arg)
{
	struct peer *p = arg;
	struct km_errtext err = {0};
	bool anew = p->wg.has_endpoint && p->path.known && !p->path.up;
	int rc;

	p->wg.has_endpoint = km_reach_endpoint(p->reach, &p->wg.endpoint);
	if (anew && p->ps->net && p->has_key)
		rc = start_anew(p, &err);
	else
		rc = apply(p, &err);
	if (rc)
		km_error("gateway's endpoint not applied", km_ks("gateway", p->name),
			 km_ks("error", err.text));
}

/* ---- the path ---- */

static void set_timer(struct peer *p, int64_t now)
{
	int64_t due = p->path.due_ms < p->mtu.due_ms ? p->path.due_ms : p->mtu.due_ms;
	int64_t ms = due > now ? due - now : 0;
	struct timeval tv = {ms / 1000, (ms % 1000) * 1000};

	event_add(&p->timer, &tv);
}

/* What the device knows of the peer. */
static bool look(struct peer *p, struct km_wg_peer_status *out)
{
	const struct km_wg_peer wg = wanted(p);
	struct km_wg_peer_status *s = NULL;
	bool found = false;
	size_t n = 0;

	if (km_privnet_peers(p->ps->net, &s, &n, NULL) != 0)
		return false;
	for (size_t i = 0; i < n && !found; i++) {
		found = memcmp(s[i].key, wg.key, KM_WG_KEY_LEN) == 0;
		*out = s[i];
	}
	free(s);
	return found;
}

/* Whether the device has received anything from the peer since the last look: then two lost replies
 * are a busy line, and no reason to drop the sessions. */
static bool still_receives(struct peer *p)
{
	struct km_wg_peer_status s;
	bool more;

	if (!look(p, &s))
		return false;
	more = s.rx_bytes > p->rx_seen;
	p->rx_seen = s.rx_bytes;
	return more;
}

static int apply_next(struct peer *p, struct km_errtext *err)
{
	struct km_wg_peer next = {.n_allowed = 0};

	if (!p->has_next || p->adopted || !p->ps->net)
		return 0;
	memcpy(next.key, p->next, KM_WG_KEY_LEN);
	return km_privnet_peer_set(p->ps->net, &next, err);
}

/* The gateway uses its next key already, and control could not say so: the addresses go over to it.
 */
static bool adopt_next(struct peer *p)
{
	struct km_wg_peer_status *all = NULL;
	struct km_errtext err = {0};
	size_t n = 0;
	bool used = false;

	if (!p->has_next || p->adopted || km_privnet_peers(p->ps->net, &all, &n, &err))
		return false;
	for (size_t i = 0; i < n; i++)
		used |=
		    memcmp(all[i].key, p->next, KM_WG_KEY_LEN) == 0 && all[i].last_handshake_ms > 0;
	free(all);
	p->adopted = used;
	if (!used || apply(p, &err)) {
		p->adopted = false;
		return false;
	}
	km_info("gateway uses its next WireGuard key", km_ks("gateway", p->name));
	return true;
}

static void kick(struct peer *p)
{
	struct km_errtext err = {0};

	if (adopt_next(p)) {
		path_spare(&p->path, km_now_ms());
		return;
	}

	if (still_receives(p) && p->path.misses < MISSES_IN_SPITE) {
		path_spare(&p->path, km_now_ms());
		return;
	}
	km_reach_failed(p->reach);
	p->wg.has_endpoint = km_reach_endpoint(p->reach, &p->wg.endpoint);
	km_metric_add(p->kicks, 1);
	km_debug("handshake started anew", km_ks("gateway", p->name));
	if (start_anew(p, &err))
		km_warn("handshake not started anew", km_ks("gateway", p->name),
			km_ks("error", err.text));
}

static void ping(struct peer *p)
{
	for (size_t i = 0; i < p->n_vips; i++)
		pinger_send(p->ps->pinger, &p->vips[i], 0);
}

/* ---- its width ---- */

static void tell_width(struct peer *p, unsigned width)
{
	if (width == p->width)
		return;
	if (p->width || width != KM_WG_MTU)
		km_info("path MTU to gateway changed", km_ks("gateway", p->name),
			km_ki("mtu", width));
	p->width = width;
	km_metric_set(p->path_mtu, width);
}

static void set_limit(struct peer *p)
{
	struct km_errtext err = {0};

	p->wg.mtu = (uint16_t)p->mtu.limit;
	if (apply(p, &err))
		km_warn("path MTU to gateway not applied", km_ks("gateway", p->name),
			km_ks("error", err.text));
}

/* Looks for packets that are too large and nobody says so. What routers do say the device knows. */
static void probe_width(struct peer *p, int64_t now)
{
	uint16_t sizes[MTU_SIZES];
	struct km_wg_peer_status s;
	unsigned most = KM_WG_MTU;
	uint64_t bytes;
	bool busy, changed;
	size_t n;

	if (now < p->mtu.due_ms)
		return;
	if (!look(p, &s)) {
		p->mtu.due_ms = now + p->ps->interval_ms;
		return;
	}
	bytes = s.rx_bytes + s.tx_bytes;
	busy = bytes - p->bytes_seen >= BUSY_BYTES;
	p->bytes_seen = bytes;
	tell_width(p, s.mtu ? s.mtu : KM_WG_MTU);
	if (s.mtu && s.mtu != p->wg.mtu)
		most = s.mtu;
	n = mtu_tick(&p->mtu, most, busy, p->path.up, now, sizes, &changed);
	for (size_t i = 0; i < n && p->n_vips; i++)
		pinger_send(p->ps->pinger, &p->vips[0], sizes[i]);
	if (changed) {
		set_limit(p);
		tell_width(p, p->mtu.limit ? p->mtu.limit : most);
	}
}

/* ---- what happens ---- */

static void on_due(evutil_socket_t none, short what, void *arg)
{
	struct peer *p = arg;
	int64_t now = km_now_ms();
	bool went_down;

	(void)none;
	(void)what;
	if (!p->ps->pinger || !p->ps->net)
		return;
	switch (path_tick(&p->path, now, km_random_below(PATH_KICK_JITTER_MS), &went_down)) {
	case PATH_KICK:
		kick(p);
		ping(p);
		break;
	case PATH_SEND:
		ping(p);
		break;
	case PATH_NOTHING:
		break;
	}
	if (went_down) {
		km_warn("path to gateway is down", km_ks("gateway", p->name));
		km_metric_set(p->up, 0);
	}
	probe_width(p, now);
	set_timer(p, now);
}

static void came_up(struct peer *p)
{
	mtu_again(&p->mtu, km_now_ms());
	km_info("path to gateway is up", km_ks("gateway", p->name));
	km_metric_set(p->up, 1);
}

static void on_reply(void *arg, const struct km_addr *from, size_t size)
{
	struct peers *ps = arg;
	int64_t now = km_now_ms();

	for (struct peer *p = ps->by_id; p; p = p->hh.next) {
		for (size_t i = 0; i < p->n_vips; i++) {
			if (!km_addr_eq(&p->vips[i], from))
				continue;
			if (path_reply(&p->path, now))
				came_up(p);
			km_reach_works(p->reach);
			mtu_reply(&p->mtu, (unsigned)size, now);
			set_timer(p, now);
		}
	}
}

static void start_probe(struct peer *p)
{
	int64_t now = km_now_ms();

	path_init(&p->path, p->ps->interval_ms, now);
	mtu_init(&p->mtu, p->ps->interval_ms, now);
	if (p->ps->pinger && p->has_key)
		set_timer(p, now);
	else
		event_del(&p->timer);
}

/* ---- the private network ---- */

static void open_pinger(struct peers *ps)
{
	struct km_errtext err = {0};
	int fd;

	if (km_privnet_sockets(ps->net, AF_INET, SOCK_DGRAM, IPPROTO_ICMP, &fd, 1, &err) == 0)
		ps->pinger = pinger_new(ps->base, fd, on_reply, ps);
	if (!ps->pinger)
		km_warn("paths to gateways are not probed", km_ks("error", err.text));
}

int peers_attach(struct peers *ps, struct km_privnet *net, bool probe, struct km_errtext *err)
{
	int rc = 0;

	pinger_free(ps->pinger);
	ps->pinger = NULL;
	ps->net = net;
	if (net && probe)
		open_pinger(ps);
	for (struct peer *p = ps->by_id; p && rc == 0; p = p->hh.next) {
		p->wg.mtu = 0; /* found anew */
		rc = apply(p, err);
		if (rc == 0)
			rc = apply_next(p, err);
		start_probe(p);
	}
	return rc ? rc : peers_settle(ps, err);
}

static size_t routes(const struct peers *ps, struct km_prefix *out, size_t max)
{
	size_t n = 0;

	for (struct peer *p = ps->by_id; p; p = p->hh.next) {
		for (size_t i = 0; i < p->n_vips && n < max; i++)
			out[n++] = km_prefix_of(&p->vips[i]);
	}
	return n;
}

size_t peers_addrs(const struct peers *ps, bool up, struct km_addr *out, size_t max)
{
	size_t n = 0;

	for (struct peer *p = ps->by_id; p; p = p->hh.next) {
		if (up && p->path.known && !p->path.up)
			continue;
		for (size_t i = 0; i < p->n_vips && n < max; i++)
			out[n++] = p->vips[i];
	}
	return n;
}

int peers_settle(struct peers *ps, struct km_errtext *err)
{
	static struct km_prefix r[PEERS_MAX * VIPS_MAX];
	static uint8_t keys[2 * PEERS_MAX][KM_WG_KEY_LEN];
	size_t n = 0;
	int rc;

	if (!ps->net)
		return 0;
	for (struct peer *p = ps->by_id; p && n < 2 * PEERS_MAX - 1; p = p->hh.next) {
		if (p->has_key)
			memcpy(keys[n++], p->wg.key, KM_WG_KEY_LEN);
		if (p->has_next)
			memcpy(keys[n++], p->next, KM_WG_KEY_LEN);
	}
	rc = km_privnet_peers_keep(ps->net, (const uint8_t(*)[KM_WG_KEY_LEN])keys, n, err);
	return rc ? rc : km_privnet_routes(ps->net, r, routes(ps, r, KM_ARRAY_LEN(r)), err);
}

/* ---- the configuration ---- */

static void peer_free(struct peer *p)
{
	km_reach_free(p->reach);
	event_del(&p->timer);
	km_metric_set(p->up, 0);
	HASH_DEL(p->ps->by_id, p);
	free(p);
}

static struct peer *peer_get(struct peers *ps, const char *id)
{
	struct peer *p;
	char labels[64];

	HASH_FIND_STR(ps->by_id, id, p);
	if (p || HASH_COUNT(ps->by_id) >= PEERS_MAX)
		return p;
	p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->ps = ps;
	snprintf(p->id, sizeof(p->id), "%s", id);
	p->reach = km_reach_new(ps->reaches, id, on_moved, p);
	snprintf(labels, sizeof(labels), "gateway=\"%s\"", p->id);
	p->up = km_metric(KM_METRIC_GAUGE, "kakuremichi_agent_path_up", labels,
			  "Whether the path to the gateway works.");
	p->path_mtu = km_metric(KM_METRIC_GAUGE, "kakuremichi_agent_path_mtu_bytes", labels,
				"The largest packet that the path to the gateway carries.");
	p->kicks = km_metric(KM_METRIC_COUNTER, "kakuremichi_agent_path_kicks_total", labels,
			     "Handshakes that were started anew because the path was down.");
	event_assign(&p->timer, ps->base, -1, EV_TIMEOUT, on_due, p);
	HASH_ADD_STR(ps->by_id, id, p);
	return p;
}

static int read_vips(struct peer *p, const struct km_msg_gateway *g, struct km_errtext *err)
{
	p->n_vips = 0;
	p->wg.n_allowed = 0;
	for (size_t i = 0; i < g->n_virtual_ips && p->n_vips < VIPS_MAX; i++) {
		struct km_addr *a = &p->vips[p->n_vips];

		if (km_addr_parse(a, g->virtual_ips[i]))
			return km_errtext_set(err, KM_EINVAL,
					      "gateway %s: virtual IP %s is malformed", p->name,
					      g->virtual_ips[i]);
		p->wg.allowed[p->wg.n_allowed++] = km_prefix_of(a);
		p->n_vips++;
	}
	return 0;
}

static int remove_key(struct peer *p, const uint8_t *key, struct km_errtext *err)
{
	return p->ps->net ? km_privnet_peer_remove(p->ps->net, key, err) : 0;
}

static int set_next(struct peer *p, const char *text, struct km_errtext *err)
{
	uint8_t key[KM_WG_KEY_LEN];
	int rc = 0;

	if (text && km_wg_key_parse(key, text))
		return km_errtext_set(err, KM_EINVAL, "gateway %s: malformed next key", p->name);
	if (p->has_next && (!text || memcmp(p->next, key, sizeof(key)) != 0)) {
		rc = remove_key(p, p->next, err);
		if (p->adopted) { /* the addresses were there */
			p->adopted = false;
			rc = rc || !text ? rc : apply(p, err);
		}
	}
	p->has_next = text != NULL;
	if (text)
		memcpy(p->next, key, sizeof(key));
	return rc ? rc : apply_next(p, err);
}

/* *old gets the key that is to be removed once the new one has the addresses; *has_old: there is
 * one. */
static int read_key(struct peer *p, const struct km_msg_gateway *g, uint8_t *old, bool *has_old,
		    struct km_errtext *err)
{
	uint8_t key[KM_WG_KEY_LEN];

	*has_old = false;
	if (!g->wireguard_public_key) {
		p->has_key = false;
		return 0;
	}
	if (km_wg_key_parse(key, g->wireguard_public_key))
		return km_errtext_set(err, KM_EINVAL, "gateway %s: malformed WireGuard key",
				      p->name);
	*has_old = p->has_key && memcmp(key, p->wg.key, sizeof(key)) != 0;
	memcpy(old, p->wg.key, KM_WG_KEY_LEN);
	if (p->has_next && memcmp(p->next, key, sizeof(key)) == 0)
		p->has_next = p->adopted = false; /* it is the present one now */
	memcpy(p->wg.key, key, sizeof(key));
	p->has_key = true;
	return 0;
}

int peers_set(struct peers *ps, const struct km_msg_gateway *g, struct km_errtext *err)
{
	uint16_t port = g->has_wireguard_port ? (uint16_t)g->wireguard_port : WIREGUARD_PORT;
	struct peer *p = peer_get(ps, g->id);
	uint8_t old[KM_WG_KEY_LEN];
	bool probed, has_old = false;
	int rc;

	if (!p)
		return km_errtext_set(err, KM_EFULL, "no room for gateway %s", g->name);
	snprintf(p->name, sizeof(p->name), "%s", g->name);
	p->wg.keepalive_s = KEEPALIVE_S;
	probed = p->has_key && p->path.interval_ms;
	rc = read_vips(p, g, err);
	if (rc == 0)
		rc = read_key(p, g, old, &has_old, err);
	if (rc)
		return rc;
	km_reach_set(p->reach, p->name, (const char *const *)g->public_ip, g->n_public_ip, port);
	p->wg.has_endpoint = km_reach_endpoint(p->reach, &p->wg.endpoint);
	rc = apply(p, err);
	if (!rc && has_old)
		rc = remove_key(p, old, err);
	if (!rc)
		rc = set_next(p, g->next_public_key, err);
	if (!probed || !p->has_key)
		start_probe(p);
	return rc;
}

int peers_remove(struct peers *ps, const char *id, struct km_errtext *err)
{
	struct peer *p;
	int rc = 0;

	HASH_FIND_STR(ps->by_id, id, p);
	if (!p)
		return 0;
	rc = set_next(p, NULL, err);
	if (!rc && p->has_key)
		rc = remove_key(p, p->wg.key, err);
	peer_free(p);
	return rc;
}

void peers_free(struct peers *ps)
{
	struct peer *p, *tmp;

	if (!ps)
		return;
	km_reaches_flush(ps->reaches);
	HASH_ITER (hh, ps->by_id, p, tmp) {
		peer_free(p);
	}
	pinger_free(ps->pinger);
	km_reaches_free(ps->reaches);
	free(ps);
}

void peers_rekeyed(struct peers *ps)
{
	struct km_errtext err;

	for (struct peer *p = ps->by_id; p; p = p->hh.next)
		if (ps->net && p->has_key && start_anew(p, &err))
			km_warn("handshake not started anew", km_ks("gateway", p->name),
				km_ks("error", err.text));
}

/* ---- the status ---- */

static struct peer *by_key(struct peers *ps, const uint8_t key[static KM_WG_KEY_LEN])
{
	for (struct peer *p = ps->by_id; p; p = p->hh.next) {
		if (p->has_key && memcmp(p->adopted ? p->next : p->wg.key, key, KM_WG_KEY_LEN) == 0)
			return p;
	}
	return NULL;
}

static int64_t counter(uint64_t v)
{
	return v > INT64_MAX ? INT64_MAX : (int64_t)v;
}

static void tell(struct peer *p, const struct km_wg_peer_status *s, struct km_msg_peer_status *out)
{
	char text[KM_ISO8601_LEN], endpoint[KM_ENDPOINT_STRLEN];
	struct km_addr a;
	uint16_t port;

	p->told = *s;
	out->gateway_id = km_xstrdup(p->id);
	if (s->has_endpoint && !km_addr_from_sa(&a, &port, (const struct sockaddr *)&s->endpoint))
		out->endpoint = km_xstrdup(km_endpoint_str(&a, port, endpoint));
	if (s->last_handshake_ms > 0)
		out->last_handshake_at = km_xstrdup(km_iso8601(s->last_handshake_ms, text));
	out->has_rx_bytes = out->has_tx_bytes = true;
	out->rx_bytes = counter(s->rx_bytes);
	out->tx_bytes = counter(s->tx_bytes);
}

int peers_status(struct peers *ps, bool all, struct km_msg_peer_status **out, size_t *n,
		 struct km_errtext *err)
{
	struct km_wg_peer_status *s = NULL;
	size_t got = 0;
	int rc = ps->net ? km_privnet_peers(ps->net, &s, &got, err) : 0;

	*out = NULL;
	*n = 0;
	if (rc || !got)
		goto out;
	*out = km_xcalloc(got, sizeof(**out));
	for (size_t i = 0; i < got; i++) {
		struct peer *p = by_key(ps, s[i].key);

		if (p && (all || s[i].rx_bytes != p->told.rx_bytes ||
			  s[i].tx_bytes != p->told.tx_bytes ||
			  s[i].last_handshake_ms != p->told.last_handshake_ms))
			tell(p, &s[i], &(*out)[(*n)++]);
	}
out:
	free(s);
	return rc;
}

void peers_status_free(struct km_msg_peer_status *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		km_msg_clear(&km_msg_desc_peer_status, &s[i]);
	free(s);
}
