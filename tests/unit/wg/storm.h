/* SPDX-License-Identifier: MIT */
/* One gateway and its agents, as many as wanted, begin all at once: how long it takes until each
 * has a session, and how thick the handshakes come. The gateway answers 5,000 handshakes a second.
 */
#ifndef KM_TESTS_UNIT_WG_STORM_H
#define KM_TESTS_UNIT_WG_STORM_H

#include "many.h"

#define STORM_COST_US 200
#define STORM_PROBE_MS 3000

/* The most in any stretch of ten parts. */
struct storm_count {
	int64_t part_us, last;
	unsigned ring[10], most;
};
struct storm {
	struct net *net;
	struct host *gateway;
	unsigned n;
	bool probing;
	int64_t settled_us; /* -1: not yet */
	struct storm_count gateway_100ms, agents_100ms, all_1s;
	unsigned initiations;
};

static inline void storm_count(struct storm_count *c, int64_t now_us)
{
	int64_t part = now_us / c->part_us;
	unsigned sum = 0;

	for (; c->last < part; c->last++)
		c->ring[(c->last + 1) % 10] = 0;
	c->ring[part % 10]++;
	for (unsigned i = 0; i < 10; i++)
		sum += c->ring[i];
	if (sum > c->most)
		c->most = sum;
}

/* Begins to count anew. */
static inline void storm_mark(struct storm *s)
{
	const int64_t now = s->net->now_us;

	s->gateway_100ms = s->agents_100ms =
	    (struct storm_count){.part_us = 10000, .last = now / 10000};
	s->all_1s = (struct storm_count){.part_us = 100000, .last = now / 100000};
	s->initiations = 0;
	s->settled_us = -1;
	s->gateway->dropped = s->gateway->longest = 0;
}

static inline void storm_on_send(struct host *from, const uint8_t *msg, size_t n)
{
	struct storm *s = from->net->user;

	if (msg[0] != 1 || n != WG_INITIATION_LEN)
		return;
	s->initiations++;
	storm_count(from == s->gateway ? &s->gateway_100ms : &s->agents_100ms, s->net->now_us);
	storm_count(&s->all_1s, s->net->now_us);
}

static inline bool storm_settled(const struct storm *s)
{
	struct wg_session *x, *y;
	struct wg_peer *p, *tmp;

	HASH_ITER (hh, s->gateway->core->peers, p, tmp)
		if (atomic_load(&p->current) == NULL)
			return false;
	for (unsigned i = 1; i < s->net->n_hosts; i++) {
		p = s->net->hosts[i]->core->peers;
		x = atomic_load(&p->current);
		y = x ? wg_index_find(s->gateway->core, x->remote_index) : NULL;
		if (y == NULL)
			return false;
	}
	return true;
}

/* Runs until each agent and the gateway have a session together, for `limit_ms` at most. Gives the
 * time it took; -1: it did not come to that. */
static inline int64_t storm_settle(struct storm *s, int64_t limit_ms)
{
	const int64_t from = s->net->now_us;

	for (; limit_ms > 0; limit_ms -= 100) {
		many_run(s->net, 100);
		if (storm_settled(s))
			return (s->net->now_us - from) / 1000;
	}
	return -1;
}

static inline void storm_probe(struct net *n, void *arg)
{
	struct host *h = arg;
	struct storm *s = n->user;
	const uint8_t data[MANY_DATA] = {0};

	if (s->probing)
		many_send(h, h->core->peers, data);
	many_later(n, STORM_PROBE_MS, storm_probe, h);
}

/* Agents that know the gateway and keep in touch; the gateway knows them by key. Nothing has been
 * sent yet. */
static inline struct storm *storm_new(unsigned n)
{
	struct storm *s = km_xcalloc(1, sizeof(*s));
	struct host *h;

	s->net = many_new(1);
	s->net->user = s;
	s->net->on_send = storm_on_send;
	s->n = n;
	s->gateway = many_host(s->net);
	many_costs(s->gateway, STORM_COST_US);
	for (unsigned i = 0; i < n; i++) {
		h = many_host(s->net);
		many_peer(s->gateway, h, false);
		wg_peer_set_keepalive(many_peer(h, s->gateway, true), 25);
		many_touched(h);
		many_later(s->net, many_random(s->net, STORM_PROBE_MS), storm_probe, h);
	}
	storm_mark(s);
	return s;
}

/* The gateway loses everything but its key and its settings; endpoints: these too are known. */
static inline void storm_restart(struct storm *s, bool endpoints)
{
	uint8_t key[WG_KEY];
	struct wg_peer *p;

	memcpy(key, s->gateway->core->self.priv, WG_KEY);
	wg_core_free(s->gateway->core);
	many_core(s->gateway, key);
	for (unsigned i = 1; i < s->net->n_hosts; i++) {
		p = many_peer(s->gateway, s->net->hosts[i], endpoints);
		if (endpoints)
			wg_peer_set_keepalive(p, 25);
	}
	many_touched(s->gateway);
	storm_mark(s);
}

static inline void storm_free(struct storm *s)
{
	many_free(s->net);
	free(s);
}

#endif
