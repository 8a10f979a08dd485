/* SPDX-License-Identifier: MIT */
/* The WireGuard handshake, Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, sans-I/O: bytes in, bytes and a
 * verdict out. Source: the WireGuard paper, section 5.4 (messages) and 5.4.4 (cookie MACs). */
#ifndef KM_WG_ENGINE_NOISE_H
#define KM_WG_ENGINE_NOISE_H

#include "libkm/wg/engine/crypto.h"

#define WG_INITIATION_LEN 148
#define WG_RESPONSE_LEN 92
#define WG_TIMESTAMP_LEN 12

/* Who we are: keys, and what mac1 and cookies to us are keyed with. */
struct wg_self {
	uint8_t priv[WG_KEY], pub[WG_KEY];
	uint8_t mac1_key[WG_HASH], cookie_key[WG_HASH];
};
void wg_self_init(struct wg_crypto *c, struct wg_self *s, const uint8_t priv[static WG_KEY]);

/* What is known of a peer beforehand. */
struct wg_remote {
	uint8_t pub[WG_KEY], psk[WG_KEY]; /* psk: zeros when unset */
	uint8_t shared[WG_KEY];           /* DH of both static keys */
	uint8_t mac1_key[WG_HASH], cookie_key[WG_HASH];
};
/* false: the peer's key is of low order (its shared secret with ours is zero). psk may be NULL. */
bool wg_remote_init(struct wg_crypto *c, struct wg_remote *r, const struct wg_self *self,
		    const uint8_t pub[static WG_KEY], const uint8_t *psk);

/* A handshake under way. */
struct wg_handshake {
	uint8_t hash[WG_HASH], ck[WG_HASH];
	uint8_t eph_priv[WG_KEY], remote_eph[WG_KEY];
	uint32_t local_index, remote_index;
};
/* The pair of transport keys that a finished handshake gives. */
struct wg_keys {
	uint8_t send[WG_KEY], recv[WG_KEY];
	uint32_t local_index, remote_index;
};

/* Initiator: writes the message without its MACs (wg_macs adds them) and begins *h. eph is a fresh
 * private key. */
void wg_initiation_make(struct wg_crypto *c, struct wg_handshake *h, const struct wg_self *self,
			const struct wg_remote *r, uint32_t index, const uint8_t eph[static WG_KEY],
			const uint8_t timestamp[static WG_TIMESTAMP_LEN],
			uint8_t msg[static WG_INITIATION_LEN]);
/* Responder, first half: learns who claims to speak (pub). false: not addressed to us or forged. */
bool wg_initiation_who(struct wg_crypto *c, struct wg_handshake *h, const struct wg_self *self,
		       const uint8_t msg[static WG_INITIATION_LEN], uint8_t pub[static WG_KEY]);
/* Second half, with the peer looked up: proves it and gives its timestamp, which the caller
 * compares with the last it accepted. */
bool wg_initiation_prove(struct wg_crypto *c, struct wg_handshake *h, const struct wg_remote *r,
			 const uint8_t msg[static WG_INITIATION_LEN],
			 uint8_t timestamp[static WG_TIMESTAMP_LEN]);
/* Responder: writes the response (without MACs) and the transport keys; *h is spent (zeroed).
 * false: the initiator's ephemeral key is of low order. */
bool wg_response_make(struct wg_crypto *c, struct wg_handshake *h, const struct wg_remote *r,
		      uint32_t index, const uint8_t eph[static WG_KEY],
		      uint8_t msg[static WG_RESPONSE_LEN], struct wg_keys *keys);
/* Initiator: checks the response and gives the transport keys; *h is spent on success only. */
bool wg_response_take(struct wg_crypto *c, struct wg_handshake *h, const struct wg_self *self,
		      const struct wg_remote *r, const uint8_t msg[static WG_RESPONSE_LEN],
		      struct wg_keys *keys);

/* Fills mac1 and mac2 at the end of a message of n bytes; cookie NULL: mac2 is zeros. */
void wg_macs(struct wg_crypto *c, const struct wg_remote *r, const uint8_t *cookie, uint8_t *msg,
	     size_t n);
/* Whether mac1 is right (the sender knows our public key). */
bool wg_mac1_ok(struct wg_crypto *c, const struct wg_self *self, const uint8_t *msg, size_t n);
/* TAI64N as WireGuard sends it: low 24 bits of the nanoseconds cleared. */
void wg_timestamp(uint8_t out[static WG_TIMESTAMP_LEN], int64_t unix_s, uint32_t ns);

#endif
