/* SPDX-License-Identifier: MIT */
/* Two cores with right keys, and a network and clock that do whatever the input says: each action
 * is two bytes. Nothing forged or repeated is ever taken, and when the network behaves again the
 * two find together, whatever has happened. */
#include "libkm/base/util.h"
#include "tests/fuzz/told.h"
#include "tests/unit/wg/world.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

#define ACTIONS 400
#define SURE(x) WORLD_SURE(x)

enum {
	SEND,
	DELIVER,
	DROP,
	REPEAT, /* a message stays on the wire and is delivered too */
	SWAP,
	FLIP,
	CUT,
	REMAC, /* the attacker knows the public keys */
	REFLECT,
	WAIT,  /* up to 25 s */
	SLEEP, /* up to 5 min */
	ATTEND,
	LOAD,
	PSK,
	MOVE,
	KEEPALIVE,
	REMOVE,
	KEY,
	BACK, /* the wall clock, up to 12 s */
	NO_KEY,
	ACTIONS_N
};

static int64_t latest_ns; /* that the wall clock has shown */
static bool other_key[2];

static void tick(struct world *w, int64_t ms)
{
	w->now.ms += ms;
	w->now.unix_ns += ms * 1000000;
	latest_ns = w->now.unix_ns > latest_ns ? w->now.unix_ns : latest_ns;
	wg_core_tick(w->a.core, &w->now);
	wg_core_tick(w->b.core, &w->now);
}

static void key_of(const struct world *w, bool b, uint8_t key[static WG_KEY])
{
	memcpy(key, b ? w->key_b : w->key_a, WG_KEY);
	key[1] ^= other_key[b];
}

/* x has the other one as its only peer; what was known of it is gone. */
static void meet(struct node *x)
{
	struct world *w = x->w;
	uint8_t key[WG_KEY], pub[WG_KEY];

	if (x->peer != NULL)
		wg_peer_remove(x->peer);
	key_of(w, x == &w->a, key);
	wg_x25519_public(pub, key);
	x->peer = wg_core_peer_new(x->core, pub);
	SURE(x->peer != NULL);
	wg_peer_set_endpoint(x->peer, &other(x)->at);
}

static void set_key(struct world *w, bool b)
{
	uint8_t key[WG_KEY];

	key_of(w, b, key);
	wg_core_set_key(b ? w->b.core : w->a.core, key);
}

static void wire(struct node *x, unsigned what, unsigned arg)
{
	struct packet *p = &x->wire[0], kept;
	uint8_t *msg = p->data + WG_AEAD_LEAD;

	if (x->n_wire == 0)
		return;
	switch (what) {
	case DELIVER:
		deliver_unattended(x);
		break;
	case DROP:
		memmove(p, p + 1, --x->n_wire * sizeof(*p));
		break;
	case REPEAT:
		if (x->n_wire < WIRE)
			x->wire[x->n_wire++] = *p;
		deliver_unattended(x);
		break;
	case SWAP:
		kept = x->wire[arg % x->n_wire];
		x->wire[arg % x->n_wire] = *p;
		*p = kept;
		break;
	case FLIP:
		if (p->n > 0)
			msg[arg % p->n] ^= (uint8_t)(1 << arg % 7);
		break;
	case CUT:
		p->n = arg % (p->n + 1);
		break;
	case REMAC:
		if (p->n > 2 * WG_MAC && other(x)->peer != NULL)
			wg_macs(x->core->crypto, &other(x)->peer->remote, NULL, msg, p->n);
		break;
	default: /* REFLECT */
		if (other(x)->n_wire < WIRE)
			other(x)->wire[other(x)->n_wire++] = *p;
	}
}

static void act(struct world *w, unsigned op, unsigned arg)
{
	struct node *x = op & 128 ? &w->b : &w->a;
	uint8_t psk[WG_KEY] = {(uint8_t)(arg & 3)};
	static const uint8_t none[WG_KEY];

	op = op % 128 % ACTIONS_N;
	switch (op) {
	case SEND:
		if (x->peer != NULL)
			send_data(x);
		break;
	case WAIT:
		tick(w, 1 + arg * 100);
		break;
	case SLEEP:
		for (unsigned i = 0; i < arg; i++)
			tick(w, 1200);
		break;
	case ATTEND:
		wg_core_attend(x->core, &w->now);
		wg_core_reclaim(x->core);
		break;
	case LOAD:
		x->load = arg % 3;
		break;
	case PSK:
		if (x->peer != NULL)
			wg_peer_set_psk(x->peer, psk);
		break;
	case MOVE:
		x->at.port = (uint16_t)(1 + arg);
		break;
	case KEEPALIVE:
		if (x->peer != NULL)
			wg_peer_set_keepalive(x->peer, (uint16_t)arg);
		break;
	case REMOVE:
		if (x->peer == NULL || arg & 1) {
			meet(x);
		} else {
			wg_peer_remove(x->peer);
			x->peer = NULL;
		}
		break;
	case KEY:
		other_key[x == &w->b] ^= 1;
		set_key(w, x == &w->b);
		break;
	case BACK:
		w->now.unix_ns -= (int64_t)arg * 50000000;
		break;
	case NO_KEY:
		wg_core_set_key(x->core, none);
		break;
	default:
		wire(x, op, arg);
	}
	/* No data but what was sent, and that once. */
	SURE(w->a.got <= w->b.data && w->b.got <= w->a.data);
}

/* The world is as it should be; within half a minute both hear each other. Whoever has an old
 * cookie, a session that the other has lost or a handshake under way needs a few tries. */
static void heal(struct world *w)
{
	static const uint8_t psk[WG_KEY] = {5};
	const unsigned a = w->a.got, b = w->b.got;

	for (struct node *x = &w->a; x != NULL; x = x == &w->a ? &w->b : NULL) {
		x->load = WG_CALM;
		x->n_wire = 0;
		set_key(w, x == &w->b);
	}
	for (struct node *x = &w->a; x != NULL; x = x == &w->a ? &w->b : NULL) {
		uint8_t key[WG_KEY], pub[WG_KEY];

		key_of(w, x == &w->a, key);
		wg_x25519_public(pub, key);
		x->peer = wg_core_peer(x->core, pub);
		if (x->peer == NULL)
			meet(x);
		wg_peer_set_psk(x->peer, psk);
		wg_peer_set_endpoint(x->peer, &other(x)->at);
	}
	w->now.unix_ns = latest_ns + 1000000000;
	for (unsigned i = 0; i < 45; i++) {
		tick(w, 1000);
		if (w->a.peer == NULL || w->b.peer == NULL)
			abort();
		send_data(&w->a);
		send_data(&w->b);
		settle(w);
	}
	SURE(w->a.got > a && w->b.got > b);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct world *w;

	if (n > 2 * ACTIONS)
		return 0;
	told_begin();
	w = km_xcalloc(1, sizeof(*w));
	memcpy(w->key_a, (uint8_t[WG_KEY]){8, 1, [31] = 64}, WG_KEY);
	memcpy(w->key_b, (uint8_t[WG_KEY]){16, 2, [31] = 64}, WG_KEY);
	other_key[0] = other_key[1] = false;
	world_init(w);
	latest_ns = w->now.unix_ns;
	for (; n >= 2; p += 2, n -= 2)
		act(w, p[0], p[1]);
	heal(w);
	world_free(w);
	free(w);
	return 0;
}
