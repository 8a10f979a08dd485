/* SPDX-License-Identifier: MIT */
/* Two cores, a and b, with a network and a clock between them that a test moves: hours pass in
 * milliseconds, and every message can be looked at on its way. */
#ifndef KM_TESTS_UNIT_WG_WORLD_H
#define KM_TESTS_UNIT_WG_WORLD_H

#include "libkm/wg/engine/core.h"
#include <stdlib.h>
#include <string.h>

#define WORLD_SURE(x) ((x) ? (void)0 : abort())
#define WIRE 64
#define DATA 64 /* bytes of a data packet */
#define STEP_MS 50

struct packet {
	struct wg_endpoint from;
	size_t n;
	uint8_t data[WG_AEAD_LEAD + 256];
};
struct node {
	struct world *w;
	struct wg_core *core;
	struct wg_aead *aead;
	struct wg_endpoint at;
	struct wg_peer *peer;     /* the other one */
	struct packet wire[WIRE]; /* on its way to us */
	unsigned n_wire;
	unsigned staged;
	bool deaf; /* loses what comes */
	enum wg_load load;
	/* Data carries its number, and none is taken twice. */
	uint32_t sent;
	uint8_t taken[8192]; /* bits */
	/* counts */
	unsigned initiations, responses, cookies, data, empty, dropped, got;
};
struct world {
	struct node a, b;
	struct wg_clock now;
	uint8_t key_a[WG_KEY], key_b[WG_KEY]; /* private ones */
};

static inline struct node *other(struct node *x)
{
	return x == &x->w->a ? &x->w->b : &x->w->a;
}

static inline void put(struct node *from, const struct wg_endpoint *to, const uint8_t *msg,
		       size_t n)
{
	struct node *x = other(from);
	struct packet *p;

	if (!wg_endpoint_same(to, &x->at) || x->deaf || x->n_wire == WIRE)
		return;
	p = &x->wire[x->n_wire++];
	p->from = from->at;
	p->n = n;
	WORLD_SURE(n <= 256);
	memcpy(p->data + WG_AEAD_LEAD, msg, n);
}

static inline void io_send(void *arg, const struct wg_endpoint *to, const uint8_t *msg, size_t n)
{
	struct node *x = arg;

	x->initiations += msg[0] == 1;
	x->responses += msg[0] == 2;
	x->cookies += msg[0] == 3;
	put(x, to, msg, n);
}

/* As the sending thread: makes n bytes, which stand at p + 16, a message of n + 32 bytes. The
 * WG_AEAD_LEAD bytes before p + 16 and the 16 behind are used. */
static inline void seal_data(struct wg_aead *a, struct wg_session *s, uint8_t *p, size_t n)
{
	wg_aead_seal(a, s->send_key, s->sent, p + 16, n);
	memset(p, 0, 16);
	p[0] = 4;
	memcpy(p + 4, &s->remote_index, 4);
	memcpy(p + 8, &s->sent, 8);
	s->sent++;
}

/* As the receiving thread: the session of a message of n bytes, whose plaintext comes to
 * plain + WG_AEAD_LEAD; NULL: it is not believed. */
static inline struct wg_session *open_data(struct wg_core *c, struct wg_aead *a, uint8_t *p,
					   size_t n, uint8_t *plain, int64_t now_ms)
{
	struct wg_session *s;
	uint32_t index;
	uint64_t counter;

	if (n < 32 || memcmp(p, (uint8_t[]){4, 0, 0, 0}, 4) != 0)
		return NULL;
	memcpy(&index, p + 4, 4);
	memcpy(&counter, p + 8, 8);
	s = wg_path_receiver(c, index, now_ms);
	if (s == NULL || !wg_aead_open(a, s->recv_key, counter, p + 16, n - 32, plain) ||
	    !wg_replay_accept(&s->replay, counter))
		return NULL;
	return s;
}

static inline void send_under(struct node *x, struct wg_session *s, size_t n)
{
	uint8_t room[WG_AEAD_LEAD + 256] = {0}, *p = room + WG_AEAD_LEAD;
	struct wg_endpoint to;

	wg_endpoint_load(&x->peer->endpoint, &to);
	if (n > 0) {
		memcpy(p + 16, &x->sent, sizeof(x->sent));
		x->sent++;
	}
	seal_data(x->aead, s, p, n);
	wg_path_sent(x->peer, n > 0, n + 32, x->w->now.ms);
	x->data += n > 0;
	x->empty += n == 0;
	put(x, &to, p, n + 32);
}

/* As the sending thread: under a session, or kept until there is one. */
static inline void send_data(struct node *x)
{
	struct wg_session *s = wg_path_sender(x->peer, x->w->now.ms);

	if (s != NULL)
		send_under(x, s, DATA);
	else
		x->staged++;
}

static inline void io_flush(void *arg, struct wg_peer *p, enum wg_flush what)
{
	struct node *x = arg;
	struct wg_session *s;

	if (p != x->peer)
		return;
	if (what == WG_FLUSH_DROP) {
		x->dropped += x->staged;
		x->staged = 0;
		return;
	}
	if ((s = wg_path_sender(p, x->w->now.ms)) == NULL)
		return;
	if (x->staged == 0 && what != WG_FLUSH_STAGED)
		send_under(x, s, 0);
	for (; x->staged > 0; x->staged--)
		send_under(x, s, DATA);
}

static inline void io_none(void *arg)
{
	(void)arg;
}

static inline void io_forget(void *arg, struct wg_peer *p)
{
	(void)arg;
	(void)p;
}

static inline void take_number(struct node *x, const uint8_t *plain)
{
	uint32_t number;

	memcpy(&number, plain, sizeof(number));
	WORLD_SURE(number < other(x)->sent);
	number %= sizeof(x->taken) * 8;
	WORLD_SURE((x->taken[number / 8] >> number % 8 & 1) == 0);
	x->taken[number / 8] |= (uint8_t)(1 << number % 8);
}

static inline void receive_data(struct node *x, struct packet *p)
{
	uint8_t plain[WG_AEAD_LEAD + 256];
	struct wg_session *s = open_data(x->core, x->aead, p->data + WG_AEAD_LEAD, p->n, plain,
					 x->w->now.ms);

	if (s == NULL)
		return;
	wg_path_received(s, &p->from, p->n > 32, p->n, x->w->now.ms);
	x->got += p->n > 32;
	if (p->n == 32 + DATA)
		take_number(x, plain + WG_AEAD_LEAD);
}

/* Gives x the first message on its way, without a look at what that makes it ask for. */
static inline void deliver_unattended(struct node *x)
{
	struct packet p;

	if (x->n_wire == 0)
		return;
	p = x->wire[0];
	memmove(&x->wire[0], &x->wire[1], --x->n_wire * sizeof(p));
	if (p.data[WG_AEAD_LEAD] == 4)
		receive_data(x, &p);
	else
		wg_core_message(x->core, &p.from, p.data + WG_AEAD_LEAD, p.n, x->load, &x->w->now);
}

static inline bool deliver(struct node *x)
{
	bool any = x->n_wire > 0;

	while (x->n_wire > 0) {
		deliver_unattended(x);
		wg_core_attend(x->core, &x->w->now);
	}
	return any;
}

/* Until nothing is on its way. */
static inline void settle(struct world *w)
{
	bool any;

	do {
		wg_core_attend(w->a.core, &w->now);
		wg_core_attend(w->b.core, &w->now);
		any = deliver(&w->a);
		any |= deliver(&w->b);
	} while (any);
	wg_core_reclaim(w->a.core);
	wg_core_reclaim(w->b.core);
}

static inline void pass(struct world *w, int64_t ms)
{
	for (; ms > 0; ms -= STEP_MS) {
		w->now.ms += STEP_MS;
		w->now.unix_ns += STEP_MS * 1000000LL;
		wg_core_tick(w->a.core, &w->now);
		wg_core_tick(w->b.core, &w->now);
		settle(w);
	}
}

static inline void node_init(struct world *w, struct node *x, uint8_t id,
			     const uint8_t key[static WG_KEY])
{
	struct wg_core_io io = {.arg = x,
				.send = io_send,
				.flush = io_flush,
				.wake = io_none,
				.quiesce = io_none,
				.forget = io_forget};

	x->w = w;
	x->core = wg_core_new(&io);
	if (x->aead == NULL)
		x->aead = wg_aead_new();
	WORLD_SURE(x->core != NULL && x->aead != NULL);
	wg_core_set_key(x->core, key);
	x->at.ip[15] = id;
	x->at.port = 1000;
}

/* *w is zeroed but for its keys. Then a knows where b is, and nothing is on its way. */
static inline void world_init(struct world *w)
{
	w->now = (struct wg_clock){1000000, 1700000000LL * 1000000000};
	node_init(w, &w->a, 1, w->key_a);
	node_init(w, &w->b, 2, w->key_b);
	w->a.peer = wg_core_peer_new(w->a.core, w->b.core->self.pub);
	w->b.peer = wg_core_peer_new(w->b.core, w->a.core->self.pub);
	WORLD_SURE(w->a.peer != NULL && w->b.peer != NULL);
	wg_peer_set_endpoint(w->a.peer, &w->b.at);
}

static inline void world_free(struct world *w)
{
	wg_core_free(w->a.core);
	wg_core_free(w->b.core);
	wg_aead_free(w->a.aead);
	wg_aead_free(w->b.aead);
}

#endif
