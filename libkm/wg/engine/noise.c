/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/noise.h"
#include <openssl/crypto.h>
#include <string.h>

/* Offsets in the messages. */
enum { I_SENDER = 4, I_EPH = 8, I_STATIC = 40, I_TIME = 88, I_MAC1 = 116 };
enum { R_SENDER = 4, R_RECEIVER = 8, R_EPH = 12, R_EMPTY = 44, R_MAC1 = 60 };

static const char construction[] = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
static const char identifier[] = "WireGuard v1 zx2c4 Jason@zx2c4.com";

static void put32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
	p[2] = (uint8_t)(v >> 16);
	p[3] = (uint8_t)(v >> 24);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void labelled(struct wg_crypto *c, uint8_t out[static WG_HASH], const char label[static 8],
		     const uint8_t key[static WG_KEY])
{
	wg_hash(c, out, label, 8, key, WG_KEY);
}

void wg_self_init(struct wg_crypto *c, struct wg_self *s, const uint8_t priv[static WG_KEY])
{
	memcpy(s->priv, priv, WG_KEY);
	wg_x25519_public(s->pub, priv);
	labelled(c, s->mac1_key, "mac1----", s->pub);
	labelled(c, s->cookie_key, "cookie--", s->pub);
}

bool wg_remote_init(struct wg_crypto *c, struct wg_remote *r, const struct wg_self *self,
		    const uint8_t pub[static WG_KEY], const uint8_t *psk)
{
	memset(r, 0, sizeof(*r));
	memcpy(r->pub, pub, WG_KEY);
	if (psk != NULL)
		memcpy(r->psk, psk, WG_KEY);
	labelled(c, r->mac1_key, "mac1----", pub);
	labelled(c, r->cookie_key, "cookie--", pub);
	return wg_x25519(r->shared, self->priv, pub);
}

static void mix_hash(struct wg_crypto *c, struct wg_handshake *h, const void *p, size_t n)
{
	wg_hash(c, h->hash, h->hash, WG_HASH, p, n);
}

/* C0 and H0 of the paper, then the responder's static key. */
static void begin(struct wg_crypto *c, struct wg_handshake *h, const uint8_t pub[static WG_KEY])
{
	wg_hash(c, h->ck, construction, sizeof(construction) - 1, NULL, 0);
	wg_hash(c, h->hash, h->ck, WG_HASH, identifier, sizeof(identifier) - 1);
	mix_hash(c, h, pub, WG_KEY);
}

static void mix_ephemeral(struct wg_crypto *c, struct wg_handshake *h,
			  const uint8_t e[static WG_KEY])
{
	mix_hash(c, h, e, WG_KEY);
	wg_kdf(c, h->ck, NULL, NULL, h->ck, e, WG_KEY);
}

static void seal_mix(struct wg_crypto *c, struct wg_handshake *h, uint8_t *out,
		     const uint8_t key[static WG_KEY], const void *p, size_t n)
{
	wg_seal(c, out, key, 0, p, n, h->hash, WG_HASH);
	mix_hash(c, h, out, n + WG_TAG);
}

static bool open_mix(struct wg_crypto *c, struct wg_handshake *h, uint8_t *out,
		     const uint8_t key[static WG_KEY], const uint8_t *p, size_t n)
{
	if (!wg_open(c, out, key, 0, p, n, h->hash, WG_HASH))
		return false;
	mix_hash(c, h, p, n);
	return true;
}

void wg_initiation_make(struct wg_crypto *c, struct wg_handshake *h, const struct wg_self *self,
			const struct wg_remote *r, uint32_t index, const uint8_t eph[static WG_KEY],
			const uint8_t timestamp[static WG_TIMESTAMP_LEN],
			uint8_t msg[static WG_INITIATION_LEN])
{
	uint8_t key[WG_KEY], dh[WG_KEY];

	memset(msg, 0, WG_INITIATION_LEN);
	put32(msg, 1);
	put32(msg + I_SENDER, index);
	begin(c, h, r->pub);
	h->local_index = index;
	memcpy(h->eph_priv, eph, WG_KEY);
	wg_x25519_public(msg + I_EPH, eph);
	mix_ephemeral(c, h, msg + I_EPH);
	/* Not zero: wg_remote_init has refused peers' keys of low order. */
	(void)wg_x25519(dh, eph, r->pub);
	wg_kdf(c, h->ck, key, NULL, h->ck, dh, WG_KEY);
	seal_mix(c, h, msg + I_STATIC, key, self->pub, WG_KEY);
	wg_kdf(c, h->ck, key, NULL, h->ck, r->shared, WG_KEY);
	seal_mix(c, h, msg + I_TIME, key, timestamp, WG_TIMESTAMP_LEN);
	OPENSSL_cleanse(key, sizeof(key));
	OPENSSL_cleanse(dh, sizeof(dh));
}

bool wg_initiation_who(struct wg_crypto *c, struct wg_handshake *h, const struct wg_self *self,
		       const uint8_t msg[static WG_INITIATION_LEN], uint8_t pub[static WG_KEY])
{
	uint8_t key[WG_KEY], dh[WG_KEY];
	bool ok;

	begin(c, h, self->pub);
	memcpy(h->remote_eph, msg + I_EPH, WG_KEY);
	h->remote_index = get32(msg + I_SENDER);
	mix_ephemeral(c, h, h->remote_eph);
	ok = wg_x25519(dh, self->priv, h->remote_eph);
	if (ok) {
		wg_kdf(c, h->ck, key, NULL, h->ck, dh, WG_KEY);
		ok = open_mix(c, h, pub, key, msg + I_STATIC, WG_KEY + WG_TAG);
	}
	OPENSSL_cleanse(key, sizeof(key));
	OPENSSL_cleanse(dh, sizeof(dh));
	return ok;
}

bool wg_initiation_prove(struct wg_crypto *c, struct wg_handshake *h, const struct wg_remote *r,
			 const uint8_t msg[static WG_INITIATION_LEN],
			 uint8_t timestamp[static WG_TIMESTAMP_LEN])
{
	uint8_t key[WG_KEY];
	bool ok;

	wg_kdf(c, h->ck, key, NULL, h->ck, r->shared, WG_KEY);
	ok = open_mix(c, h, timestamp, key, msg + I_TIME, WG_TIMESTAMP_LEN + WG_TAG);
	OPENSSL_cleanse(key, sizeof(key));
	return ok;
}

/* What both sides do after the response's ephemeral key: two DHs, the psk, the empty seal's key. */
static bool mix_response(struct wg_crypto *c, struct wg_handshake *h, const struct wg_remote *r,
			 const uint8_t ee[static WG_KEY], const uint8_t se[static WG_KEY],
			 uint8_t key[static WG_KEY])
{
	uint8_t tau[WG_HASH];

	wg_kdf(c, h->ck, NULL, NULL, h->ck, ee, WG_KEY);
	wg_kdf(c, h->ck, NULL, NULL, h->ck, se, WG_KEY);
	wg_kdf(c, h->ck, tau, key, h->ck, r->psk, WG_KEY);
	mix_hash(c, h, tau, WG_HASH);
	OPENSSL_cleanse(tau, sizeof(tau));
	return true;
}

static void split(struct wg_crypto *c, struct wg_handshake *h, bool initiator, struct wg_keys *keys)
{
	uint8_t first[WG_HASH], second[WG_HASH];

	wg_kdf(c, first, second, NULL, h->ck, "", 0);
	memcpy(initiator ? keys->send : keys->recv, first, WG_KEY);
	memcpy(initiator ? keys->recv : keys->send, second, WG_KEY);
	keys->local_index = h->local_index;
	keys->remote_index = h->remote_index;
	OPENSSL_cleanse(first, sizeof(first));
	OPENSSL_cleanse(second, sizeof(second));
	OPENSSL_cleanse(h, sizeof(*h));
}

bool wg_response_make(struct wg_crypto *c, struct wg_handshake *h, const struct wg_remote *r,
		      uint32_t index, const uint8_t eph[static WG_KEY],
		      uint8_t msg[static WG_RESPONSE_LEN], struct wg_keys *keys)
{
	uint8_t key[WG_KEY], ee[WG_KEY], se[WG_KEY];
	bool ok;

	memset(msg, 0, WG_RESPONSE_LEN);
	put32(msg, 2);
	put32(msg + R_SENDER, index);
	put32(msg + R_RECEIVER, h->remote_index);
	h->local_index = index;
	wg_x25519_public(msg + R_EPH, eph);
	mix_ephemeral(c, h, msg + R_EPH);
	ok = wg_x25519(ee, eph, h->remote_eph) && wg_x25519(se, eph, r->pub) &&
	     mix_response(c, h, r, ee, se, key);
	if (ok) {
		seal_mix(c, h, msg + R_EMPTY, key, "", 0);
		split(c, h, false, keys);
	}
	OPENSSL_cleanse(key, sizeof(key));
	OPENSSL_cleanse(ee, sizeof(ee));
	OPENSSL_cleanse(se, sizeof(se));
	return ok;
}

bool wg_response_take(struct wg_crypto *c, struct wg_handshake *h, const struct wg_self *self,
		      const struct wg_remote *r, const uint8_t msg[static WG_RESPONSE_LEN],
		      struct wg_keys *keys)
{
	uint8_t key[WG_KEY], ee[WG_KEY], se[WG_KEY], none[1];
	struct wg_handshake try = *h; /* a forged response must not spoil the handshake */
	bool ok;

	if (get32(msg + R_RECEIVER) != h->local_index)
		return false;
	try.remote_index = get32(msg + R_SENDER);
	mix_ephemeral(c, &try, msg + R_EPH);
	ok = wg_x25519(ee, h->eph_priv, msg + R_EPH) && wg_x25519(se, self->priv, msg + R_EPH) &&
	     mix_response(c, &try, r, ee, se, key) &&
	     open_mix(c, &try, none, key, msg + R_EMPTY, WG_TAG);
	if (ok) {
		split(c, &try, true, keys);
		OPENSSL_cleanse(h, sizeof(*h));
	}
	OPENSSL_cleanse(&try, sizeof(try));
	OPENSSL_cleanse(key, sizeof(key));
	OPENSSL_cleanse(ee, sizeof(ee));
	OPENSSL_cleanse(se, sizeof(se));
	return ok;
}

void wg_macs(struct wg_crypto *c, const struct wg_remote *r, const uint8_t *cookie, uint8_t *msg,
	     size_t n)
{
	wg_mac16(c, msg + n - 2 * WG_MAC, r->mac1_key, WG_HASH, msg, n - 2 * WG_MAC);
	if (cookie != NULL)
		wg_mac16(c, msg + n - WG_MAC, cookie, WG_MAC, msg, n - WG_MAC);
	else
		memset(msg + n - WG_MAC, 0, WG_MAC);
}

bool wg_mac1_ok(struct wg_crypto *c, const struct wg_self *self, const uint8_t *msg, size_t n)
{
	uint8_t mac[WG_MAC];

	wg_mac16(c, mac, self->mac1_key, WG_HASH, msg, n - 2 * WG_MAC);
	return CRYPTO_memcmp(mac, msg + n - 2 * WG_MAC, WG_MAC) == 0;
}

void wg_timestamp(uint8_t out[static WG_TIMESTAMP_LEN], int64_t unix_s, uint32_t ns)
{
	uint64_t s = 0x400000000000000aULL + (uint64_t)unix_s;
	int i;

	ns &= ~(uint32_t)0xffffff;
	for (i = 0; i < 8; i++)
		out[i] = (uint8_t)(s >> (56 - 8 * i));
	for (i = 0; i < 4; i++)
		out[8 + i] = (uint8_t)(ns >> (24 - 8 * i));
}
