/* SPDX-License-Identifier: MIT */
/* The packet path's side of the core: no lock, no allocation. */
#include "libkm/wg/engine/core_priv.h"

struct wg_session *wg_path_sender(struct wg_peer *p, int64_t now_ms)
{
	struct wg_session *s = atomic_load_explicit(&p->next, memory_order_acquire);

	/* Once they have shown that they have it, for they may have no other any more. */
	if (s == NULL || !atomic_load_explicit(&s->used, memory_order_relaxed))
		s = atomic_load_explicit(&p->current, memory_order_acquire);
	if (s == NULL || now_ms - s->made_ms >= WG_REJECT_AFTER_MS ||
	    s->sent >= WG_REJECT_AFTER_MESSAGES) {
		if (!atomic_load_explicit(&p->waiting, memory_order_relaxed))
			atomic_store_explicit(&p->waiting, true, memory_order_relaxed);
		wg_ask_handshake(p);
		return NULL;
	}
	if (s->sent >= WG_REKEY_AFTER_MESSAGES || (s->initiator && now_ms >= s->rekey_ms))
		wg_ask_handshake(p);
	return s;
}

/* Written only when it changes: both threads look at these lines. */
static void set(_Atomic int64_t *at, int64_t value)
{
	if (atomic_load_explicit(at, memory_order_relaxed) != value)
		atomic_store_explicit(at, value, memory_order_relaxed);
}

static void set_first(_Atomic int64_t *at, int64_t value)
{
	if (atomic_load_explicit(at, memory_order_relaxed) == 0)
		atomic_store_explicit(at, value, memory_order_relaxed);
}

void wg_path_sent(struct wg_peer *p, bool data, uint64_t bytes, int64_t now_ms)
{
	set(&p->unacknowledged_ms, 0);
	set(&p->traffic_ms, now_ms);
	if (data)
		set_first(&p->unanswered_ms, now_ms);
	atomic_fetch_add_explicit(&p->tx_bytes, bytes, memory_order_relaxed);
}

void wg_path_refused(struct wg_peer *p)
{
	wg_ask(p, WG_ASK_REFUSED);
}

struct wg_session *wg_path_receiver(struct wg_core *c, uint32_t index, int64_t now_ms)
{
	struct wg_session *s = wg_index_find(c, index);

	return s != NULL && now_ms - s->made_ms < WG_REJECT_AFTER_MS ? s : NULL;
}

void wg_path_received(struct wg_session *s, const struct wg_endpoint *from, bool data,
		      uint64_t bytes, int64_t now_ms)
{
	struct wg_peer *p = s->peer;
	struct wg_endpoint known;

	wg_endpoint_load(&p->endpoint, &known);
	if (!wg_endpoint_same(&known, from)) {
		wg_endpoint_store(&p->endpoint, from);
		if (memcmp(known.ip, from->ip, sizeof(known.ip)) != 0)
			wg_ask(p, WG_ASK_MOVED);
	}
	set(&p->unanswered_ms, 0);
	set(&p->traffic_ms, now_ms);
	if (data)
		set_first(&p->unacknowledged_ms, now_ms);
	atomic_fetch_add_explicit(&p->rx_bytes, bytes, memory_order_relaxed);
	if (!s->initiator && !atomic_load_explicit(&s->used, memory_order_relaxed)) {
		atomic_store(&s->used, true);
		wg_ask(p, WG_ASK_CONFIRMED);
	}
	if (s->initiator && now_ms - s->made_ms >= WG_REKEY_ON_RECEIVE_MS &&
	    atomic_load_explicit(&p->current, memory_order_relaxed) == s)
		wg_ask_handshake(p);
}
