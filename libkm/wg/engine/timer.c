/* SPDX-License-Identifier: MIT */
/* What time brings (the paper's section 6), and what the threads ask for. */
#include "libkm/base/util.h"
#include "libkm/wg/engine/core_priv.h"
#include <sodium.h>
#include <string.h>

static void enlist(struct wg_peer *p)
{
	struct wg_core *c = p->core;
	struct wg_peer *head = atomic_load(&c->attention);

	do
		p->attention_next = head;
	while (!atomic_compare_exchange_weak(&c->attention, &head, p));
	c->io.wake(c->io.arg);
}

void wg_ask(struct wg_peer *p, unsigned what)
{
	if (atomic_fetch_or(&p->attention, what) == 0)
		enlist(p); /* else it stands in the list */
}

void wg_attention_bury(struct wg_core *c)
{
	struct wg_peer *p = atomic_exchange(&c->attention, NULL), *next;

	for (; p != NULL; p = next) {
		next = p->attention_next;
		if (!p->dead)
			enlist(p);
	}
}

void wg_ask_handshake(struct wg_peer *p)
{
	if (!atomic_load_explicit(&p->wants_handshake, memory_order_relaxed) &&
	    !atomic_exchange(&p->wants_handshake, true))
		wg_ask(p, WG_ASK_HANDSHAKE);
}

static void send_initiation(struct wg_peer *p, const struct wg_endpoint *to,
			    const struct wg_clock *now)
{
	struct wg_core *c = p->core;
	uint8_t msg[WG_INITIATION_LEN], eph[WG_KEY], time[WG_TIMESTAMP_LEN];

	wg_peer_end_handshake(p);
	p->handshake_index = wg_index_new(c);
	wg_x25519_private(eph);
	wg_timestamp(time, now->unix_ns / 1000000000, (uint32_t)(now->unix_ns % 1000000000));
	wg_initiation_make(c->crypto, &p->handshake, &c->self, &p->remote, p->handshake_index, eph,
			   time, msg);
	km_wipe(eph, sizeof(eph));
	HASH_ADD(hh_index, c->by_index, handshake_index, sizeof(p->handshake_index), p);
	p->handshaking = true;
	wg_macs(c->crypto, &p->remote, wg_cookie_use(&p->cookie, now->ms), msg, sizeof(msg));
	memcpy(p->cookie.last_mac1, msg + sizeof(msg) - 2 * WG_MAC, WG_MAC);
	p->cookie.sent = true;
	p->initiated_ms = now->ms;
	p->retry_ms = now->ms + WG_REKEY_TIMEOUT_MS + randombytes_uniform(WG_REKEY_JITTER_MS + 1);
	atomic_store(&p->traffic_ms, now->ms);
	atomic_fetch_add(&p->tx_bytes, sizeof(msg));
	c->io.send(c->io.arg, to, msg, sizeof(msg));
}

void wg_peer_initiate(struct wg_peer *p, const struct wg_clock *now)
{
	struct wg_endpoint to;
	int64_t soonest = p->initiated_ms ? p->initiated_ms + WG_REKEY_TIMEOUT_MS : 0;

	wg_endpoint_load(&p->endpoint, &to);
	if (p->retry_ms != 0 || to.port == 0 || !p->core->has_key || p->dead)
		return; /* without an endpoint the wish stands until there is one */
	p->retries = 0;
	atomic_store(&p->waiting, false);
	if (now->ms < soonest)
		p->retry_ms = soonest;
	else
		send_initiation(p, &to, now);
}

void wg_peer_handshake_done(struct wg_peer *p, const struct wg_clock *now)
{
	p->retry_ms = 0;
	p->retries = 0;
	p->handshake_unix_ns = now->unix_ns;
	atomic_store(&p->wants_handshake, false);
	p->core->n_handshakes++;
}

static void give_up(struct wg_peer *p, const struct wg_clock *now)
{
	wg_peer_end_handshake(p);
	p->retry_ms = 0;
	if (p->session_ms == 0)
		p->session_ms = now->ms;
	atomic_store(&p->wants_handshake, false);
	p->core->io.flush(p->core->io.arg, p, WG_FLUSH_DROP);
}

static void retry(struct wg_peer *p, const struct wg_clock *now)
{
	struct wg_endpoint to;

	wg_endpoint_load(&p->endpoint, &to);
	/* The count begins anew with each packet that is to be sent. */
	if (atomic_exchange(&p->waiting, false))
		p->retries = 0;
	if (p->retries >= WG_MAX_RETRIES || to.port == 0) {
		give_up(p, now);
		return;
	}
	p->retries++;
	send_initiation(p, &to, now);
}

static bool usable(const struct wg_session *s, int64_t now_ms)
{
	return s != NULL && now_ms - s->made_ms < WG_REJECT_AFTER_MS;
}

/* An empty packet is due; without a session, a handshake comes first. */
static void persistent(struct wg_peer *p, const struct wg_clock *now)
{
	struct wg_core *c = p->core;

	if (usable(atomic_load(&p->current), now->ms)) {
		atomic_store(&p->traffic_ms, now->ms);
		c->io.flush(c->io.arg, p, WG_FLUSH_KEEPALIVE);
	} else if (c->budget == 0) {
		c->hurry = true;
	} else {
		c->budget--;
		atomic_store(&p->traffic_ms, now->ms);
		wg_peer_initiate(p, now);
	}
}

static bool due(int64_t since_ms, int64_t after_ms, int64_t now_ms)
{
	return since_ms != 0 && now_ms - since_ms >= after_ms;
}

static void peer_tick(struct wg_peer *p, const struct wg_clock *now)
{
	struct wg_core *c = p->core;
	int64_t unanswered = atomic_load_explicit(&p->unanswered_ms, memory_order_relaxed);
	int64_t owed = atomic_load_explicit(&p->unacknowledged_ms, memory_order_relaxed);
	int64_t traffic = atomic_load_explicit(&p->traffic_ms, memory_order_relaxed);

	if (p->retry_ms != 0 && now->ms >= p->retry_ms)
		retry(p, now);
	/* A wish from before there was an endpoint, which a message of the peer's has brought. */
	if (p->retry_ms == 0 && now->ms - p->accepted_ms >= WG_REKEY_TIMEOUT_MS &&
	    atomic_load_explicit(&p->wants_handshake, memory_order_relaxed))
		wg_peer_initiate(p, now);
	if (due(unanswered, WG_NEW_HANDSHAKE_MS + p->jitter_ms, now->ms)) {
		atomic_store(&p->unanswered_ms, 0);
		wg_peer_initiate(p, now);
	}
	if (due(owed, WG_KEEPALIVE_MS, now->ms)) {
		atomic_store(&p->unacknowledged_ms, 0);
		c->io.flush(c->io.arg, p, WG_FLUSH_KEEPALIVE);
	}
	if (p->keepalive_s != 0 && now->ms - traffic >= p->keepalive_s * 1000)
		persistent(p, now);
	if (due(p->session_ms, WG_FORGET_KEYS_MS, now->ms)) {
		wg_peer_end_handshake(p);
		wg_peer_drop_sessions(p);
	}
}

int wg_core_tick(struct wg_core *c, const struct wg_clock *now)
{
	struct wg_peer *p, *tmp;

	c->budget = WG_TICK_INITIATIONS;
	c->hurry = false;
	HASH_ITER (hh, c->peers, p, tmp)
		peer_tick(p, now);
	return c->n_peers == 0 ? -1 : c->hurry ? 10 : WG_TICK_MS;
}

void wg_core_attend(struct wg_core *c, const struct wg_clock *now)
{
	struct wg_peer *p = atomic_exchange(&c->attention, NULL), *next;
	unsigned what;

	for (; p != NULL; p = next) {
		next = p->attention_next;
		what = atomic_exchange(&p->attention, 0);
		if (p->dead)
			continue;
		if (what & WG_ASK_CONFIRMED)
			wg_session_confirmed(p, now);
		if ((what & WG_ASK_HANDSHAKE) && atomic_load(&p->wants_handshake))
			wg_peer_initiate(p, now);
	}
}
