/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/cookie.h"
#include <openssl/crypto.h>
#include <sodium.h>
#include <string.h>

enum { C_RECEIVER = 4, C_NONCE = 8, C_COOKIE = 32 };

#define LIMIT_COST_US 50000 /* 20 a second */
#define LIMIT_BURST_US (5 * LIMIT_COST_US)

static void cookie_of(struct wg_crypto *c, struct wg_cookie_jar *jar, const uint8_t *source,
		      size_t nsource, int64_t now_ms, uint8_t cookie[static WG_MAC])
{
	if (jar->made_ms == 0 || now_ms - jar->made_ms >= WG_COOKIE_SECRET_MS) {
		randombytes_buf(jar->secret, sizeof(jar->secret));
		jar->made_ms = now_ms;
	}
	wg_mac16(c, cookie, jar->secret, sizeof(jar->secret), source, nsource);
}

bool wg_mac2_ok(struct wg_crypto *c, struct wg_cookie_jar *jar, const uint8_t *msg, size_t n,
		const uint8_t *source, size_t nsource, int64_t now_ms)
{
	uint8_t cookie[WG_MAC], mac[WG_MAC];

	if (jar->made_ms == 0 || now_ms - jar->made_ms >= WG_COOKIE_SECRET_MS)
		return false;
	cookie_of(c, jar, source, nsource, now_ms, cookie);
	wg_mac16(c, mac, cookie, WG_MAC, msg, n - WG_MAC);
	return CRYPTO_memcmp(mac, msg + n - WG_MAC, WG_MAC) == 0;
}

void wg_cookie_reply(struct wg_crypto *c, struct wg_cookie_jar *jar, const struct wg_self *self,
		     const uint8_t *msg, size_t n, const uint8_t *source, size_t nsource,
		     int64_t now_ms, uint8_t reply[static WG_COOKIE_REPLY_LEN])
{
	uint8_t cookie[WG_MAC];

	cookie_of(c, jar, source, nsource, now_ms, cookie);
	memset(reply, 0, WG_COOKIE_REPLY_LEN);
	reply[0] = 3;
	memcpy(reply + C_RECEIVER, msg + 4, 4);
	randombytes_buf(reply + C_NONCE, 24);
	crypto_aead_xchacha20poly1305_ietf_encrypt(reply + C_COOKIE, NULL, cookie, WG_MAC,
						   msg + n - 2 * WG_MAC, WG_MAC, NULL,
						   reply + C_NONCE, self->cookie_key);
	OPENSSL_cleanse(cookie, sizeof(cookie));
}

bool wg_cookie_take(const struct wg_remote *r, struct wg_cookie *k,
		    const uint8_t reply[static WG_COOKIE_REPLY_LEN], int64_t now_ms)
{
	uint8_t cookie[WG_MAC];

	if (!k->sent || crypto_aead_xchacha20poly1305_ietf_decrypt(
			    cookie, NULL, NULL, reply + C_COOKIE, WG_MAC + WG_TAG, k->last_mac1,
			    WG_MAC, reply + C_NONCE, r->cookie_key) != 0)
		return false;
	memcpy(k->cookie, cookie, WG_MAC);
	k->got_ms = now_ms;
	k->sent = false;
	return true;
}

const uint8_t *wg_cookie_use(const struct wg_cookie *k, int64_t now_ms)
{
	return k->got_ms != 0 && now_ms - k->got_ms < WG_COOKIE_USE_MS ? k->cookie : NULL;
}

void wg_limiter_init(struct wg_limiter *l)
{
	randombytes_buf(l->key, sizeof(l->key));
}

bool wg_limiter_allow(struct wg_limiter *l, const uint8_t *addr, size_t naddr, int64_t now_us)
{
	uint8_t digest[8];
	uint64_t source;
	size_t i;

	crypto_shorthash(digest, addr, naddr == 16 ? 8 : naddr, l->key);
	memcpy(&source, digest, sizeof(source));
	source |= 1;
	i = (source >> 8) % WG_LIMIT_SLOTS;
	if (l->slot[i].source != source) {
		/* Another source's slot is taken over once that one has its whole allowance back.
		 */
		if (l->slot[i].source == 0 ||
		    l->slot[i].tokens_us + now_us - l->slot[i].last_us >= LIMIT_BURST_US) {
			l->slot[i].source = source;
			l->slot[i].tokens_us = LIMIT_BURST_US;
			l->slot[i].last_us = now_us;
		}
	}
	l->slot[i].tokens_us += now_us - l->slot[i].last_us;
	if (l->slot[i].tokens_us > LIMIT_BURST_US)
		l->slot[i].tokens_us = LIMIT_BURST_US;
	l->slot[i].last_us = now_us;
	if (l->slot[i].tokens_us < LIMIT_COST_US)
		return false;
	l->slot[i].tokens_us -= LIMIT_COST_US;
	return true;
}
