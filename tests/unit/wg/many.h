/* SPDX-License-Identifier: MIT */
/* Any number of cores on a network that delays, reorders, duplicates and loses, and remembers what
 * passed to bring it up again from elsewhere. Time jumps from event to event: hours pass in
 * seconds. A host may be given a cost for each handshake message; then they queue as in the engine.
 */
#ifndef KM_TESTS_UNIT_WG_MANY_H
#define KM_TESTS_UNIT_WG_MANY_H

#include "libkm/base/util.h"
#include "libkm/wg/engine/core_priv.h"
#include "libkm/wg/engine/engine_priv.h"
#include "world.h"

#define MANY_DATA 32      /* bytes of a data packet */
#define MANY_PAST 64      /* messages that the network remembers */
#define MANY_STRANGER 255 /* the first byte of the address that replays come from */

struct host {
	struct net *net;
	struct wg_core *core;
	struct wg_endpoint at; /* the last four bytes are its number */
	int64_t tick_us;       /* when its next look at the timers is due */
	int64_t wall_ns;       /* how far its wall clock is off */
	/* handshake messages that wait, when they cost something */
	int64_t cost_us, free_us;
	struct packet **queue;
	unsigned head, tail, longest, dropped;
	bool deaf;
	unsigned sent[5]; /* messages by type; 0: data that is not empty */
	uint64_t got;
};

enum event_kind { EV_PACKET, EV_TICK, EV_SERVE, EV_CALL };
struct event {
	int64_t at_us;
	uint64_t order;
	enum event_kind kind;
	struct host *host;
	union {
		struct packet *packet;
		void (*call)(struct net *n, void *arg);
	};
	void *arg;
};

struct net {
	int64_t now_us;
	struct wg_aead *aead;
	struct host **hosts;
	unsigned n_hosts;
	struct event *heap;
	size_t n_events, room;
	uint64_t order, rng;
	/* in thousandths; milliseconds */
	unsigned loss, twice, again;
	unsigned delay_min_ms, delay_max_ms;
	struct packet *past[MANY_PAST];
	void *user;
	/* every message; may be NULL */
	void (*on_send)(struct host *from, const uint8_t *msg, size_t n);
	/* authentic data; may be NULL */
	void (*on_data)(struct host *to, struct wg_session *s, const uint8_t *plain);
};

/* ---- chance: from a seed, so that a run is the same but for the keys ---- */

static inline uint32_t many_random(struct net *n, uint32_t below)
{
	n->rng ^= n->rng << 13;
	n->rng ^= n->rng >> 7;
	n->rng ^= n->rng << 17;
	return (uint32_t)((n->rng >> 16) % below);
}

static inline bool many_chance(struct net *n, unsigned thousandths)
{
	return thousandths > 0 && many_random(n, 1000) < thousandths;
}

/* ---- events ---- */

static inline bool sooner(const struct event *a, const struct event *b)
{
	return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static inline void many_push(struct net *n, struct event e)
{
	size_t i;

	if (n->n_events == n->room) {
		n->room = n->room * 2 + 64;
		n->heap = realloc(n->heap, n->room * sizeof(*n->heap));
		WORLD_SURE(n->heap != NULL);
	}
	e.order = n->order++;
	for (i = n->n_events++; i > 0 && sooner(&e, &n->heap[(i - 1) / 2]); i = (i - 1) / 2)
		n->heap[i] = n->heap[(i - 1) / 2];
	n->heap[i] = e;
}

static inline struct event many_pop(struct net *n)
{
	struct event top = n->heap[0], e = n->heap[--n->n_events];
	size_t i = 0, k;

	while ((k = 2 * i + 1) < n->n_events) {
		if (k + 1 < n->n_events && sooner(&n->heap[k + 1], &n->heap[k]))
			k++;
		if (!sooner(&n->heap[k], &e))
			break;
		n->heap[i] = n->heap[k];
		i = k;
	}
	n->heap[i] = e;
	return top;
}

/* call(n, arg) after so many milliseconds. */
static inline void many_later(struct net *n, int64_t ms, void (*call)(struct net *n, void *arg),
			      void *arg)
{
	many_push(n,
		  (struct event){
		      .at_us = n->now_us + ms * 1000, .kind = EV_CALL, .call = call, .arg = arg});
}

static inline struct wg_clock many_clock(const struct host *h)
{
	const struct net *n = h->net;

	return (struct wg_clock){n->now_us / 1000 + 1,
				 1700000000LL * 1000000000 + n->now_us * 1000 + h->wall_ns};
}

static inline void many_tick_at(struct host *h, int64_t at_us)
{
	if (h->tick_us != 0 && h->tick_us <= at_us)
		return;
	h->tick_us = at_us;
	many_push(h->net, (struct event){.at_us = at_us, .kind = EV_TICK, .host = h});
}

/* As the control thread: hears what was asked for. */
static inline void many_attend(struct host *h)
{
	struct wg_clock t = many_clock(h);

	if (wg_core_attend(h->core, &t))
		many_tick_at(h, h->net->now_us + WG_HURRY_MS * 1000);
	wg_core_reclaim(h->core);
}

/* Something about its peers was set. */
static inline void many_touched(struct host *h)
{
	many_attend(h);
	many_tick_at(h, h->net->now_us + 1000);
}

/* ---- packets ---- */

static inline struct host *many_host_at(const struct net *n, const struct wg_endpoint *e)
{
	uint32_t i;

	memcpy(&i, e->ip + 12, 4);
	return i < n->n_hosts && wg_endpoint_same(&n->hosts[i]->at, e) ? n->hosts[i] : NULL;
}

static inline void many_fly(struct net *n, const struct wg_endpoint *from, struct host *to,
			    const uint8_t *msg, size_t len)
{
	struct packet *p = malloc(sizeof(*p));
	unsigned spread = n->delay_max_ms - n->delay_min_ms;

	WORLD_SURE(p != NULL && len <= 256);
	p->from = *from;
	p->n = len;
	memcpy(p->data + WG_AEAD_LEAD, msg, len);
	many_push(n, (struct event){.at_us = n->now_us +
					     (n->delay_min_ms + many_random(n, spread + 1)) * 1000,
				    .kind = EV_PACKET,
				    .host = to,
				    .packet = p});
}

static inline void many_put(struct host *from, const struct wg_endpoint *to, const uint8_t *msg,
			    size_t len)
{
	struct net *n = from->net;
	struct host *h = many_host_at(n, to);

	if (n->on_send != NULL)
		n->on_send(from, msg, len);
	if (h == NULL || many_chance(n, n->loss))
		return;
	many_fly(n, &from->at, h, msg, len);
	if (many_chance(n, n->twice))
		many_fly(n, &from->at, h, msg, len);
}

static inline void many_io_send(void *arg, const struct wg_endpoint *to, const uint8_t *msg,
				size_t len)
{
	struct host *h = arg;

	h->sent[msg[0]]++;
	many_put(h, to, msg, len);
}

static inline void many_send_under(struct host *h, struct wg_peer *p, struct wg_session *s,
				   const uint8_t *plain, size_t len)
{
	uint8_t room[WG_AEAD_LEAD + MANY_DATA + 32] = {0}, *m = room + WG_AEAD_LEAD;
	struct wg_endpoint to;

	memcpy(m + 16, plain, len);
	wg_endpoint_load(&p->endpoint, &to);
	seal_data(h->net->aead, s, m, len);
	h->sent[len > 0 ? 0 : 4]++;
	wg_path_sent(p, len > 0, len + 32, many_clock(h).ms);
	many_put(h, &to, m, len + 32);
}

/* As the sending thread; without a session the newest packet waits. Whether it was sent. */
static inline bool many_send(struct host *h, struct wg_peer *p, const uint8_t plain[MANY_DATA])
{
	struct wg_session *s = wg_path_sender(p, many_clock(h).ms);

	if (s != NULL) {
		many_send_under(h, p, s, plain, MANY_DATA);
	} else {
		if (p->staged == NULL)
			p->staged = malloc(MANY_DATA);
		WORLD_SURE(p->staged != NULL);
		memcpy(p->staged, plain, MANY_DATA);
	}
	many_attend(h);
	return s != NULL;
}

static inline void many_io_forget(void *arg, struct wg_peer *p)
{
	(void)arg;
	free(p->staged);
	p->staged = NULL;
}

static inline void many_io_flush(void *arg, struct wg_peer *p, enum wg_flush what)
{
	struct host *h = arg;
	struct wg_session *s;

	if (what == WG_FLUSH_DROP) {
		many_io_forget(h, p);
		return;
	}
	if ((s = wg_path_sender(p, many_clock(h).ms)) == NULL)
		return;
	if (p->staged != NULL)
		many_send_under(h, p, s, p->staged, MANY_DATA);
	else if (what != WG_FLUSH_STAGED)
		many_send_under(h, p, s, (const uint8_t *)"", 0);
	many_io_forget(h, p);
}

static inline void many_serve(struct host *h)
{
	struct packet *p = h->queue[h->head++ % WG_QUEUE];
	struct wg_clock t = many_clock(h);

	unsigned cookies = h->sent[3];

	wg_core_message(h->core, &p->from, p->data + WG_AEAD_LEAD, p->n,
			h->tail - h->head + 1 >= WG_QUEUE_LOADED, &t);
	free(p);
	/* To ask for a cookie takes little. */
	h->free_us = h->net->now_us + (h->sent[3] > cookies ? h->cost_us / 10 : h->cost_us);
	if (h->head != h->tail)
		many_push(h->net, (struct event){.at_us = h->free_us, .kind = EV_SERVE, .host = h});
	many_attend(h);
}

static inline void many_enqueue(struct host *h, struct packet *p)
{
	int64_t at = h->free_us > h->net->now_us ? h->free_us : h->net->now_us;

	if (h->tail - h->head == WG_QUEUE) {
		h->dropped++;
		free(p);
		return;
	}
	if (h->head == h->tail)
		many_push(h->net, (struct event){.at_us = at, .kind = EV_SERVE, .host = h});
	h->queue[h->tail++ % WG_QUEUE] = p;
	if (h->tail - h->head > h->longest)
		h->longest = h->tail - h->head;
}

static inline void many_data(struct host *h, struct packet *p)
{
	uint8_t plain[WG_AEAD_LEAD + 256];
	struct wg_clock t = many_clock(h);
	struct wg_session *s =
	    open_data(h->core, h->net->aead, p->data + WG_AEAD_LEAD, p->n, plain, t.ms);

	if (s == NULL)
		return;
	wg_path_received(s, &p->from, p->n > 32, p->n, t.ms);
	h->got += p->n > 32;
	if (p->n > 32 && h->net->on_data != NULL)
		h->net->on_data(h, s, plain + WG_AEAD_LEAD);
	many_attend(h);
}

/* What was said before is not brought up again: a peer that is made anew has forgotten the newest timestamp,
 * and would take an old initiation for a new one, as WireGuard does. */
static inline void many_past_forget(struct net *n)
{
	for (unsigned i = 0; i < MANY_PAST; i++) {
		free(n->past[i]);
		n->past[i] = NULL;
	}
}

/* What has been heard may be brought up again, by a stranger. */
static inline void many_remember(struct net *n, struct host *h, const struct packet *p)
{
	const struct wg_endpoint stranger = {.ip = {MANY_STRANGER}, .port = 1};
	unsigned i = many_random(n, MANY_PAST);

	if (n->again == 0 || p->from.ip[0] == MANY_STRANGER)
		return;
	free(n->past[i]);
	n->past[i] = malloc(sizeof(*p));
	WORLD_SURE(n->past[i] != NULL);
	*n->past[i] = *p;
	i = many_random(n, MANY_PAST);
	if (many_chance(n, n->again) && n->past[i] != NULL)
		many_fly(n, &stranger, h, n->past[i]->data + WG_AEAD_LEAD, n->past[i]->n);
}

static inline void many_arrived(struct host *h, struct packet *p)
{
	struct wg_clock t = many_clock(h);

	/* What nobody has heard is news, whoever brings it: his would then be the peer's address. */
	if (!h->deaf)
		many_remember(h->net, h, p);
	if (!h->deaf && p->data[WG_AEAD_LEAD] == 4) {
		many_data(h, p);
	} else if (!h->deaf && h->cost_us > 0) {
		many_enqueue(h, p);
		return;
	} else if (!h->deaf) {
		wg_core_message(h->core, &p->from, p->data + WG_AEAD_LEAD, p->n, false, &t);
		many_attend(h);
	}
	free(p);
}

static inline void many_tick(struct host *h, int64_t at_us)
{
	struct wg_clock t = many_clock(h);
	int next;

	if (h->tick_us != at_us)
		return; /* an earlier one has taken its place */
	h->tick_us = 0;
	next = wg_core_tick(h->core, &t);
	wg_core_reclaim(h->core);
	if (next >= 0)
		many_tick_at(h, at_us + next * 1000);
}

/* Lets this much time pass. */
static inline void many_run(struct net *n, int64_t ms)
{
	const int64_t end = n->now_us + ms * 1000;
	struct event e;

	while (n->n_events > 0 && n->heap[0].at_us <= end) {
		e = many_pop(n);
		n->now_us = e.at_us;
		if (e.kind == EV_PACKET)
			many_arrived(e.host, e.packet);
		else if (e.kind == EV_TICK)
			many_tick(e.host, e.at_us);
		else if (e.kind == EV_SERVE)
			many_serve(e.host);
		else
			e.call(n, e.arg);
	}
	n->now_us = end;
}

/* ---- hosts ---- */

static inline void many_core(struct host *h, const uint8_t key[static WG_KEY])
{
	struct wg_core_io io = {.arg = h,
				.send = many_io_send,
				.flush = many_io_flush,
				.wake = io_none,
				.quiesce = io_none,
				.forget = many_io_forget};

	h->core = wg_core_new(&io);
	WORLD_SURE(h->core != NULL);
	wg_core_set_key(h->core, key);
}

static inline struct host *many_host(struct net *n)
{
	struct host *h = km_xcalloc(1, sizeof(*h));
	uint8_t key[WG_KEY];

	h->net = n;
	n->hosts = realloc(n->hosts, (n->n_hosts + 1) * sizeof(struct host *));
	WORLD_SURE(n->hosts != NULL);
	h->at.ip[10] = h->at.ip[11] = 0xff;
	memcpy(h->at.ip + 12, &n->n_hosts, 4);
	h->at.port = 1000;
	n->hosts[n->n_hosts++] = h;
	wg_x25519_private(key);
	many_core(h, key);
	return h;
}

/* Handshake messages cost this host so much each, and wait for one another. */
static inline void many_costs(struct host *h, int64_t us)
{
	h->cost_us = us;
	h->queue = km_xcalloc(WG_QUEUE, sizeof(struct packet *));
}

/* h's peer for `other`; both ends are to do this. */
static inline struct wg_peer *many_peer(struct host *h, const struct host *other, bool endpoint)
{
	struct wg_peer *p = wg_core_peer_new(h->core, other->core->self.pub);

	WORLD_SURE(p != NULL);
	if (endpoint)
		wg_peer_set_endpoint(p, &other->at);
	return p;
}

static inline struct net *many_new(uint64_t seed)
{
	struct net *n = km_xcalloc(1, sizeof(*n));

	n->rng = seed * 0x9e3779b97f4a7c15ULL | 1;
	n->now_us = 1000000;
	n->delay_min_ms = 5;
	n->delay_max_ms = 40;
	n->aead = wg_aead_new();
	WORLD_SURE(n->aead != NULL);
	return n;
}

static inline void many_free(struct net *n)
{
	unsigned i;

	for (size_t k = 0; k < n->n_events; k++)
		if (n->heap[k].kind == EV_PACKET)
			free(n->heap[k].packet);
	for (i = 0; i < n->n_hosts; i++) {
		wg_core_free(n->hosts[i]->core);
		for (; n->hosts[i]->head != n->hosts[i]->tail; n->hosts[i]->head++)
			free(n->hosts[i]->queue[n->hosts[i]->head % WG_QUEUE]);
		free(n->hosts[i]->queue);
		free(n->hosts[i]);
	}
	for (i = 0; i < MANY_PAST; i++)
		free(n->past[i]);
	wg_aead_free(n->aead);
	free(n->heap);
	free(n->hosts);
	free(n);
}

#endif
