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

/* The wall clock for timestamps: while it is put back, it goes on from where it was. */
static int64_t stamp_ns(struct wg_core *c, const struct wg_clock *now)
{
	int64_t ahead = now->unix_ns - now->ms * 1000000;

	if (ahead > c->ahead_ns)
		c->ahead_ns = ahead;
	return now->ms * 1000000 + c->ahead_ns;
}

int64_t wg_core_stamp(struct wg_core *c, int64_t not_before_ns, const struct wg_clock *now)
{
	if (not_before_ns - now->ms * 1000000 > c->ahead_ns)
		c->ahead_ns = not_before_ns - now->ms * 1000000;
	return stamp_ns(c, now);
}

/* Whether p may begin now, as initiations cost time that others wait for. */
static bool may_begin(struct wg_peer *p, bool packet, const struct wg_clock *now)
{
	const int64_t burst = packet ? WG_INITIATION_BURST : WG_INITIATION_BURST * 3 / 4;
	struct wg_core *c = p->core;
	int64_t paid = c->begun_us > now->ms * 1000 ? c->begun_us : now->ms * 1000;

	if (paid - now->ms * 1000 > (burst - 1) * WG_INITIATION_EACH_US) {
		c->hurry = true;
		if (c->tick_at == NULL)
			c->tick_at = p;
		return false;
	}
	c->begun_us = paid + WG_INITIATION_EACH_US;
	return true;
}

static void send_initiation(struct wg_peer *p, const struct wg_endpoint *to,
			    const struct wg_clock *now)
{
	struct wg_core *c = p->core;
	uint8_t msg[WG_INITIATION_LEN], eph[WG_KEY], time[WG_TIMESTAMP_LEN];
	int64_t stamp = stamp_ns(c, now);

	wg_peer_end_handshake(p);
	p->handshake_index = wg_index_new(c);
	wg_x25519_private(eph);
	wg_timestamp(time, stamp / 1000000000, (uint32_t)(stamp % 1000000000));
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

bool wg_peer_initiate(struct wg_peer *p, bool packet, const struct wg_clock *now)
{
	struct wg_endpoint to;
	int64_t soonest = p->initiated_ms ? p->initiated_ms + WG_REKEY_TIMEOUT_MS : 0;

	wg_endpoint_load(&p->endpoint, &to);
	if (p->retry_ms != 0 || to.port == 0 || !p->core->has_key || p->dead)
		return true; /* without an endpoint the wish stands until there is one */
	if (now->ms >= soonest && !may_begin(p, packet, now))
		return false;
	p->retries = 0;
	atomic_store(&p->waiting, false);
	if (now->ms < soonest)
		p->retry_ms = soonest;
	else
		send_initiation(p, &to, now);
	return true;
}

void wg_peer_handshake_done(struct wg_peer *p, const struct wg_clock *now)
{
	p->retry_ms = 0;
	p->retries = 0;
	p->handshake_unix_ns = now->unix_ns;
	atomic_store(&p->wants_handshake, false);
	p->core->n_handshakes++;
}

static void give_up(struct wg_peer *p)
{
	wg_peer_end_handshake(p);
	p->retry_ms = 0;
	atomic_store(&p->wants_handshake, false);
	p->core->io.flush(p->core->io.arg, p, WG_FLUSH_DROP);
}

static void retry(struct wg_peer *p, const struct wg_clock *now)
{
	bool waiting = atomic_load(&p->waiting);
	struct wg_endpoint to;

	/* The local address may be what is in the way: the kernel chooses again. */
	if (p->retries > 0)
		wg_endpoint_forget_src(&p->endpoint);
	wg_endpoint_load(&p->endpoint, &to);
	if ((p->retries >= WG_MAX_RETRIES && !waiting) || to.port == 0) {
		give_up(p);
		return;
	}
	if (!may_begin(p, waiting, now))
		return;
	/* The count begins anew with each packet that is to be sent. */
	if (waiting) {
		p->retries = 0;
		atomic_store(&p->waiting, false);
	}
	p->retries++;
	send_initiation(p, &to, now);
}

/* An empty packet is due; without a session, a handshake comes first. */
static void persistent(struct wg_peer *p, const struct wg_clock *now)
{
	struct wg_core *c = p->core;

	if (wg_session_usable(atomic_load(&p->current), now->ms))
		c->io.flush(c->io.arg, p, WG_FLUSH_KEEPALIVE);
	else if (!wg_peer_initiate(p, false, now))
		return;
	atomic_store(&p->traffic_ms, now->ms);
	wg_peer_next_keepalive(p);
}

void wg_core_announce(struct wg_core *c, const struct wg_clock *now)
{
	struct wg_peer *p, *tmp;

	HASH_ITER (hh, c->peers, p, tmp)
		if (wg_session_usable(atomic_load(&p->current), now->ms))
			c->io.flush(c->io.arg, p, WG_FLUSH_KEEPALIVE);
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

	if (p->path_until_ms != 0 && now->ms >= p->path_until_ms)
		wg_peer_path_forget(p);
	if (p->retry_ms != 0 && now->ms >= p->retry_ms)
		retry(p, now);
	/* A wish from before there was an endpoint, which a message of the peer's has brought. */
	if (p->retry_ms == 0 &&
	    (p->accepted_ms == 0 || now->ms - p->accepted_ms >= WG_REKEY_TIMEOUT_MS) &&
	    atomic_load_explicit(&p->wants_handshake, memory_order_relaxed))
		wg_peer_initiate(p, true, now);
	if (due(unanswered, WG_NEW_HANDSHAKE_MS + p->jitter_ms, now->ms)) {
		wg_endpoint_forget_src(&p->endpoint);
		if (wg_peer_initiate(p, true, now))
			atomic_store(&p->unanswered_ms, 0);
	}
	if (due(owed, WG_KEEPALIVE_MS, now->ms)) {
		atomic_store(&p->unacknowledged_ms, 0);
		c->io.flush(c->io.arg, p, WG_FLUSH_KEEPALIVE);
	}
	if (p->keepalive_s != 0 && now->ms - traffic >= p->keepalive_ms)
		persistent(p, now);
	/* One that another session has overtaken. */
	if (p->handshaking && now->ms - p->initiated_ms >= WG_REJECT_AFTER_MS)
		wg_peer_end_handshake(p);
	wg_peer_drop_old_sessions(p, now->ms);
}

int wg_core_tick(struct wg_core *c, const struct wg_clock *now)
{
	struct wg_peer *first = c->tick_at ? c->tick_at : c->peers, *p = first;

	if (first == NULL)
		return -1;
	c->hurry = false;
	c->tick_at = NULL;
	do {
		peer_tick(p, now);
		p = p->hh.next ? p->hh.next : c->peers;
	} while (p != first);
	return c->hurry ? WG_HURRY_MS : WG_TICK_MS;
}

bool wg_core_attend(struct wg_core *c, const struct wg_clock *now)
{
	struct wg_peer *p = atomic_exchange(&c->attention, NULL), *next;
	unsigned what;

	for (; p != NULL; p = next) {
		next = p->attention_next;
		what = atomic_exchange(&p->attention, 0);
		if (p->dead)
			continue;
		if (what & WG_ASK_MOVED)
			wg_peer_path_forget(p);
		if (what & WG_ASK_REFUSED)
			wg_peer_refused(p, now);
		if (what & WG_ASK_CONFIRMED)
			wg_session_confirmed(p, now);
		if ((what & WG_ASK_HANDSHAKE) && atomic_load(&p->wants_handshake))
			wg_peer_initiate(p, true, now);
	}
	return c->hurry;
}
