/* SPDX-License-Identifier: MIT */
/* The primitives of WireGuard, from OpenSSL (X25519, ChaCha20-Poly1305, BLAKE2s) and libsodium
 * (XChaCha20-Poly1305). No primitive of our own. */
#ifndef KM_WG_ENGINE_CRYPTO_H
#define KM_WG_ENGINE_CRYPTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WG_KEY 32
#define WG_HASH 32
#define WG_TAG 16
#define WG_MAC 16

/* Contexts and fetched algorithms that one thread uses again and again. Not for two threads. */
struct wg_crypto;
/* NULL when the library lacks an algorithm or there is no memory. */
struct wg_crypto *wg_crypto_new(void);
void wg_crypto_free(struct wg_crypto *c);

/* BLAKE2s-256 over up to two pieces (RFC 7693). */
void wg_hash(struct wg_crypto *c, uint8_t out[static WG_HASH], const void *a, size_t na,
	     const void *b, size_t nb);
/* Keyed BLAKE2s with an output length of 16 bytes (not a truncated hash). */
void wg_mac16(struct wg_crypto *c, uint8_t out[static WG_MAC], const uint8_t *key, size_t nkey,
	      const void *p, size_t n);
/* HKDF with HMAC-BLAKE2s (RFC 5869 as Noise uses it): up to three outputs; t2 and t3 may be NULL.
 * ck and t1 may be the same memory. */
void wg_kdf(struct wg_crypto *c, uint8_t t1[static WG_HASH], uint8_t *t2, uint8_t *t3,
	    const uint8_t ck[static WG_HASH], const void *input, size_t n);

/* The public key of a private one. */
void wg_x25519_public(uint8_t pub[static WG_KEY], const uint8_t priv[static WG_KEY]);
/* A fresh private key, clamped. */
void wg_x25519_private(uint8_t priv[static WG_KEY]);
/* The shared secret; false when it is all zero (the peer's point is of low order). */
bool wg_x25519(uint8_t out[static WG_KEY], const uint8_t priv[static WG_KEY],
	       const uint8_t pub[static WG_KEY]);

/* ChaCha20-Poly1305 (RFC 8439) with the nonce 0x00000000 || counter (little endian). Seal writes
 * n + 16 bytes, open n - 16 and returns false when the tag does not fit. In place works. */
void wg_seal(struct wg_crypto *c, uint8_t *out, const uint8_t key[static WG_KEY], uint64_t counter,
	     const void *p, size_t n, const void *ad, size_t nad);
bool wg_open(struct wg_crypto *c, uint8_t *out, const uint8_t key[static WG_KEY], uint64_t counter,
	     const void *p, size_t n, const void *ad, size_t nad);

/* The same AEAD without associated data, for the packets of sessions. OpenSSL's own
 * ChaCha20-Poly1305 sets much up anew for each packet and makes the block that keys Poly1305 by
 * itself; here ChaCha20 runs once over that block and the packet, which saves a quarter of the
 * time. One for each thread, for every key: a session is only its keys. NULL without memory or an
 * algorithm. */
struct wg_aead;
#define WG_AEAD_LEAD 64 /* the keying block's place before the packet */
struct wg_aead *wg_aead_new(void);
void wg_aead_free(struct wg_aead *a);
/* In place: n bytes, and the tag of 16 behind them. The WG_AEAD_LEAD bytes before p are used and
 * put back. */
void wg_aead_seal(struct wg_aead *a, const uint8_t key[static WG_KEY], uint64_t counter, uint8_t *p,
		  size_t n);
/* n bytes and their tag at p; the WG_AEAD_LEAD bytes before p are overwritten. The plaintext comes
 * to out + WG_AEAD_LEAD, after bytes that mean nothing; false: it is worthless. */
bool wg_aead_open(struct wg_aead *a, const uint8_t key[static WG_KEY], uint64_t counter, uint8_t *p,
		  size_t n, uint8_t *out);

#endif
