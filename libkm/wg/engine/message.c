/* SPDX-License-Identifier: MIT */
/* What handshake messages bring. */
#include "libkm/base/util.h"
#include "libkm/wg/engine/core_priv.h"
#include <string.h>

enum { MSG_INITIATION = 1, MSG_RESPONSE = 2, MSG_COOKIE = 3 };

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* An authentic handshake message came from the peer. */
static void heard(struct wg_peer *p, const struct wg_endpoint *from, size_t n,
		  const struct wg_clock *now)
{
	struct wg_endpoint known;

	wg_endpoint_load(&p->endpoint, &known);
	if (!wg_endpoint_same(&known, from)) {
		wg_endpoint_store(&p->endpoint, from);
		if (memcmp(known.ip, from->ip, sizeof(known.ip)) != 0)
			wg_peer_path_forget(p);
	}
	atomic_store(&p->unanswered_ms, 0);
	atomic_store(&p->traffic_ms, now->ms);
	atomic_fetch_add(&p->rx_bytes, n);
}

static void respond(struct wg_core *c, struct wg_peer *p, struct wg_handshake *h,
		    const struct wg_endpoint *to, const struct wg_clock *now)
{
	uint8_t msg[WG_RESPONSE_LEN], eph[WG_KEY];
	struct wg_keys keys;

	wg_x25519_private(eph);
	if (!wg_response_make(c->crypto, h, &p->remote, wg_index_new(c), eph, msg, &keys) ||
	    wg_session_begin(p, &keys, false, now) == NULL)
		goto out;
	wg_macs(c->crypto, &p->remote, wg_cookie_use(&p->cookie, now->ms), msg, sizeof(msg));
	memcpy(p->cookie.last_mac1, msg + sizeof(msg) - 2 * WG_MAC, WG_MAC);
	p->cookie.sent = true;
	atomic_fetch_add(&p->tx_bytes, sizeof(msg));
	c->io.send(c->io.arg, to, msg, sizeof(msg));
out:
	km_wipe(eph, sizeof(eph));
	km_wipe(&keys, sizeof(keys));
}

static bool on_initiation(struct wg_core *c, const struct wg_endpoint *from, const uint8_t *msg,
			  const struct wg_clock *now)
{
	struct wg_handshake h;
	struct wg_peer *p;
	uint8_t pub[WG_KEY], time[WG_TIMESTAMP_LEN];
	bool ok = wg_initiation_who(c->crypto, &h, &c->self, msg, pub) &&
		  (p = wg_core_peer(c, pub)) != NULL &&
		  wg_initiation_prove(c->crypto, &h, &p->remote, msg, time) &&
		  memcmp(time, p->timestamp, sizeof(time)) > 0 &&
		  (p->accepted_ms == 0 || now->ms - p->accepted_ms >= WG_INITIATION_GAP_MS);

	if (ok) {
		memcpy(p->timestamp, time, sizeof(time));
		p->accepted_ms = now->ms;
		heard(p, from, WG_INITIATION_LEN, now);
		respond(c, p, &h, from, now);
	}
	km_wipe(&h, sizeof(h));
	return ok;
}

static bool on_response(struct wg_core *c, const struct wg_endpoint *from, const uint8_t *msg,
			const struct wg_clock *now)
{
	uint32_t index = get32(msg + 8);
	struct wg_session *s = NULL;
	struct wg_keys keys;
	struct wg_peer *p;

	HASH_FIND(hh_index, c->by_index, &index, sizeof(index), p);
	if (p == NULL ||
	    !wg_response_take(c->crypto, &p->handshake, &c->self, &p->remote, msg, &keys))
		return false;
	wg_peer_end_handshake(p);
	heard(p, from, WG_RESPONSE_LEN, now);
	s = wg_session_begin(p, &keys, true, now);
	km_wipe(&keys, sizeof(keys));
	if (s != NULL) {
		wg_peer_handshake_done(p, now);
		c->io.flush(c->io.arg, p, WG_FLUSH_CONFIRM);
	}
	return true;
}

static bool on_cookie(struct wg_core *c, const uint8_t *msg, const struct wg_clock *now)
{
	uint32_t index = get32(msg + 4);
	struct wg_session *s;
	struct wg_peer *p;

	HASH_FIND(hh_index, c->by_index, &index, sizeof(index), p);
	if (p == NULL && (s = wg_index_find(c, index)) != NULL)
		p = s->peer;
	return p != NULL && wg_cookie_take(&p->remote, &p->cookie, msg, now->ms);
}

/* While handshakes pile up, only who proves its address is listened to, and not too often. */
static bool admitted(struct wg_core *c, const struct wg_endpoint *from, const uint8_t *msg,
		     size_t n, enum wg_load load, const struct wg_clock *now)
{
	uint8_t source[18], reply[WG_COOKIE_REPLY_LEN];
	bool v4 = wg_endpoint_v4(from);

	memcpy(source, from->ip, 16);
	memcpy(source + 16, &from->port, 2);
	if (!wg_mac2_ok(c->crypto, &c->jar, msg, n, source, sizeof(source), now->ms)) {
		if (load == WG_CROWDED)
			return false;
		wg_cookie_reply(c->crypto, &c->jar, &c->self, msg, n, source, sizeof(source),
				now->ms, reply);
		c->n_cookies++;
		c->io.send(c->io.arg, from, reply, sizeof(reply));
		return false;
	}
	return wg_limiter_allow(&c->limiter, v4 ? from->ip + 12 : from->ip, v4 ? 4 : 16,
				now->ms * 1000);
}

bool wg_core_expects(const uint8_t *msg, size_t n)
{
	static const size_t len[] = {[MSG_INITIATION] = WG_INITIATION_LEN,
				     [MSG_RESPONSE] = WG_RESPONSE_LEN,
				     [MSG_COOKIE] = WG_COOKIE_REPLY_LEN};
	uint32_t type = n >= 4 ? get32(msg) : 0;

	return type >= MSG_INITIATION && type <= MSG_COOKIE && n == len[type];
}

void wg_core_message(struct wg_core *c, const struct wg_endpoint *from, const uint8_t *msg,
		     size_t n, enum wg_load load, const struct wg_clock *now)
{
	bool ok = false;

	if (!c->has_key)
		return;
	if (load != WG_CALM)
		c->load_until_ms = now->ms + WG_UNDER_LOAD_MS;
	if (wg_core_expects(msg, n)) {
		if (msg[0] != MSG_COOKIE && now->ms < c->load_until_ms &&
		    !admitted(c, from, msg, n, load, now))
			return;
		ok = msg[0] == MSG_INITIATION ? on_initiation(c, from, msg, now)
		     : msg[0] == MSG_RESPONSE ? on_response(c, from, msg, now)
					      : on_cookie(c, msg, now);
	}
	if (!ok)
		c->n_refused++;
}
