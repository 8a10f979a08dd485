/* SPDX-License-Identifier: MIT */
/* Cookies against floods of handshakes from forged addresses, and the limiter per source: sans-I/O.
 * Source: the WireGuard paper, sections 5.3, 5.4.7. */
#ifndef KM_WG_ENGINE_COOKIE_H
#define KM_WG_ENGINE_COOKIE_H

#include "libkm/wg/engine/noise.h"

#define WG_COOKIE_REPLY_LEN 64
#define WG_COOKIE_SECRET_MS 120000 /* a secret's, and so a cookie's, life */
#define WG_COOKIE_USE_MS 115000    /* how long a sender uses one: less, as clocks differ */

/* Responder's side. */
struct wg_cookie_jar {
	uint8_t secret[WG_HASH];
	int64_t made_ms; /* 0: none yet */
};
/* source: address and port bytes of the sender (at most 18). Whether mac2 of the message of n bytes
 * proves that the sender receives at source. */
bool wg_mac2_ok(struct wg_crypto *c, struct wg_cookie_jar *jar, const uint8_t *msg, size_t n,
		const uint8_t *source, size_t nsource, int64_t now_ms);
/* Writes a cookie reply to the handshake message of n bytes (its sender index and mac1). */
void wg_cookie_reply(struct wg_crypto *c, struct wg_cookie_jar *jar, const struct wg_self *self,
		     const uint8_t *msg, size_t n, const uint8_t *source, size_t nsource,
		     int64_t now_ms, uint8_t reply[static WG_COOKIE_REPLY_LEN]);

/* Initiator's side: the cookie that a peer gave us. */
struct wg_cookie {
	uint8_t cookie[WG_MAC], last_mac1[WG_MAC];
	bool sent;      /* last_mac1 is of a message under way */
	int64_t got_ms; /* 0: none */
};
/* Takes a reply that answers our last message; false: forged or unasked. */
bool wg_cookie_take(const struct wg_remote *r, struct wg_cookie *k,
		    const uint8_t reply[static WG_COOKIE_REPLY_LEN], int64_t now_ms);
/* The cookie to use now, or NULL. */
const uint8_t *wg_cookie_use(const struct wg_cookie *k, int64_t now_ms);

/* Handshakes per source while under load: 20 a second, bursts of 5; IPv6 by /64. A table of fixed
 * size: a source that shares a slot with others shares their allowance while slots are short. */
#define WG_LIMIT_SLOTS 8192
struct wg_limiter {
	uint8_t key[16];
	struct {
		uint64_t source;
		int64_t tokens_us, last_us;
	} slot[WG_LIMIT_SLOTS];
};
/* *l is zeroed memory, of which little is touched until there is a flood. */
void wg_limiter_init(struct wg_limiter *l);
bool wg_limiter_allow(struct wg_limiter *l, const uint8_t *addr, size_t naddr, int64_t now_us);

#endif
