/* SPDX-License-Identifier: MIT */
/* What the files of the core share: core.c peers and tables, timer.c what time brings, message.c
 * what handshake messages bring, path.c the packet path's side. */
#ifndef KM_WG_ENGINE_CORE_PRIV_H
#define KM_WG_ENGINE_CORE_PRIV_H

#include "libkm/wg/engine/core.h"

/* Bits of wg_peer.attention. */
enum { WG_ASK_HANDSHAKE = 1, WG_ASK_CONFIRMED = 2, WG_ASK_REFUSED = 4, WG_ASK_MOVED = 8 };

/* From any thread: the owner is to look at this peer. */
void wg_ask(struct wg_peer *p, unsigned what);
/* From any thread, any number of times: a handshake is wanted. */
void wg_ask_handshake(struct wg_peer *p);
/* Takes dead peers, whom no thread can name any more, out of the list of those who ask. */
void wg_attention_bury(struct wg_core *c);

/* A random index that neither a session nor a handshake has. */
uint32_t wg_index_new(const struct wg_core *c);
struct wg_session *wg_index_find(const struct wg_core *c, uint32_t value);
/* Begins a session with these keys and puts it in its place among the peer's. NULL: no memory. */
struct wg_session *wg_session_begin(struct wg_peer *p, const struct wg_keys *k, bool initiator,
				    const struct wg_clock *now);
/* The peer uses the session that we offered as responder: so do we. */
void wg_session_confirmed(struct wg_peer *p, const struct wg_clock *now);
/* Whether packets may still come and go under it; NULL: no. */
static inline bool wg_session_usable(const struct wg_session *s, int64_t now_ms)
{
	return s != NULL && now_ms - s->made_ms < WG_REJECT_AFTER_MS;
}
void wg_peer_drop_sessions(struct wg_peer *p);
/* Those that are of no use any more, with their keys. */
void wg_peer_drop_old_sessions(struct wg_peer *p, int64_t now_ms);
/* Draws how long it is until the next persistent keepalive. */
void wg_peer_next_keepalive(struct wg_peer *p);
/* Our initiation is answered, or given up. */
void wg_peer_end_handshake(struct wg_peer *p);

/* A handshake is wanted: begins one, unless it is under way or too soon. packet: one waits for it,
 * or for an answer. false: too many have begun, wg_core_tick is to try again. */
bool wg_peer_initiate(struct wg_peer *p, bool packet, const struct wg_clock *now);
/* A send to the peer was refused: how wide is our own link? */
void wg_peer_refused(struct wg_peer *p, const struct wg_clock *now);
/* The peer is elsewhere, or long enough has passed: what is known of the path holds no more. */
void wg_peer_path_forget(struct wg_peer *p);
/* A session is agreed; the timers of the handshake rest. */
void wg_peer_handshake_done(struct wg_peer *p, const struct wg_clock *now);

#endif
