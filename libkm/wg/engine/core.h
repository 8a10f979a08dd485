/* SPDX-License-Identifier: MIT */
/* Peers, sessions and timers of WireGuard (the paper's section 6), sans-I/O: messages and time come
 * in, messages and wishes go out through struct wg_core_io.
 *
 * Three kinds of callers. The owner (whoever holds the lock that the caller keeps around the core)
 * calls wg_core_* and wg_peer_*. One sending and one receiving thread call wg_path_*, with no lock:
 * they find peers and sessions in tables that the owner changes beside them, touch only what is
 * theirs, and leave word in atomics. What the owner takes out of the tables it frees in
 * wg_core_reclaim, after io.quiesce has waited until no thread can still hold it. */
#ifndef KM_WG_ENGINE_CORE_H
#define KM_WG_ENGINE_CORE_H

#include "libkm/base/addr.h"
#include "libkm/wg/engine/allowed.h"
#include "libkm/wg/engine/cookie.h"
#include "libkm/wg/engine/endpoint.h"
#include "libkm/wg/engine/noise.h"
#include "libkm/wg/engine/pmtu.h"
#include "libkm/wg/engine/replay.h"
#include <stdatomic.h>
#include <uthash.h>

#define WG_REKEY_AFTER_MS 120000
#define WG_REKEY_EARLIER_MS 10000 /* at most, so that peers that began together do not stay so */
#define WG_REJECT_AFTER_MS 180000
#define WG_REKEY_TIMEOUT_MS 5000
#define WG_REKEY_JITTER_MS 333
#define WG_REKEY_ON_RECEIVE_MS 165000 /* reject time less keepalive and rekey timeouts */
#define WG_KEEPALIVE_MS 10000
#define WG_NEW_HANDSHAKE_MS 15000 /* keepalive and rekey timeouts */
#define WG_MAX_RETRIES 18
#define WG_INITIATION_GAP_MS 20
/* A persistent keepalive comes by up to this part earlier, the first of a session at any time. */
#define WG_KEEPALIVE_EARLIER 8
#define WG_REKEY_AFTER_MESSAGES (1ULL << 60)
#define WG_UNDER_LOAD_MS 1000
#define WG_TICK_MS 250
/* Initiations that one core begins: so many in a burst, then one in so many microseconds (each
 * takes about 100 of the processor's). Timers leave a quarter of the burst to packets that wait. */
#define WG_INITIATION_BURST 64
#define WG_INITIATION_EACH_US 300
#define WG_HURRY_MS 10 /* until those that were too many for now are looked at again */

struct wg_core;
struct wg_peer;

struct wg_clock {
	int64_t ms;      /* monotonic, never 0 */
	int64_t unix_ns; /* wall clock */
};

/* What the sending thread is asked to do for a peer. */
enum wg_flush {
	WG_FLUSH_STAGED = 1,    /* a session is there: send what waits */
	WG_FLUSH_CONFIRM = 2,   /* the same, or an empty packet when nothing waits */
	WG_FLUSH_KEEPALIVE = 4, /* an empty packet */
	WG_FLUSH_DROP = 8,      /* drop what waits */
};
struct wg_core_io {
	void *arg;
	/* A handshake message to be sent now. */
	void (*send)(void *arg, const struct wg_endpoint *to, const uint8_t *msg, size_t n);
	void (*flush)(void *arg, struct wg_peer *p, enum wg_flush what);
	/* From any thread: wg_core_tick has something to do. */
	void (*wake)(void *arg);
	/* Waits until every thread has left what it may have found in the tables. */
	void (*quiesce)(void *arg);
	/* A peer is about to be freed: free its staged packets. */
	void (*forget)(void *arg, struct wg_peer *p);
	/* The MTU of this host's own link to there; 0: not known. NULL: nobody knows. */
	uint32_t (*link_mtu)(void *arg, const struct wg_endpoint *to);
	/* What a peer's path carries has changed. NULL: nobody cares. */
	void (*width)(void *arg);
};

struct wg_index {
	uint32_t value;
	struct wg_session *session;
	struct wg_index *_Atomic next;
};
/* A pair of transport keys. */
struct wg_session {
	struct wg_index index; /* ours: data to us carries it */
	struct wg_peer *peer;
	struct wg_session *retired;
	uint32_t remote_index;
	bool initiator;
	int64_t made_ms;
	int64_t rekey_ms; /* when a packet asks for the next one, of the initiator */
	atomic_bool used; /* something has come under it */
	/* The sending thread's. */
	uint8_t send_key[WG_KEY];
	uint64_t sent;
	/* The receiving thread's. */
	uint8_t recv_key[WG_KEY];
	struct wg_replay replay;
};

struct wg_prefix {
	uint8_t addr[16], naddr, bits;
};

struct wg_peer {
	struct wg_remote remote;
	struct wg_core *core;
	UT_hash_handle hh; /* by public key */
	struct wg_peer *retired;

	/* Left by the threads, read by the owner. */
	struct wg_session *_Atomic current;
	struct wg_session *_Atomic next; /* begun by them, until the owner learns that something came */
	struct wg_endpoint_cell endpoint;
	atomic_uint attention;
	struct wg_peer *attention_next;
	atomic_bool wants_handshake;
	atomic_bool waiting; /* a packet has found no session since the last initiation */
	_Atomic int64_t unanswered_ms; /* data sent at, nothing authentic received since; 0: none */
	_Atomic int64_t unacknowledged_ms; /* data received at, nothing sent since; 0: none */
	_Atomic int64_t traffic_ms;        /* anything authentic, either way */
	_Atomic uint64_t tx_bytes, rx_bytes;

	/* The largest inner packet that the path carries, left by the owner for the sending thread; 0:
	 * no limit is known. The flag: it is a probe's finding. */
#define WG_CARRY_PROBED 0x80000000u
	_Atomic uint32_t carry;

	/* The sending thread's; flush under the lock of whoever implements io.flush. */
	void *staged;
	unsigned flush;
	struct wg_peer *flush_next;
	bool flush_queued;
	int64_t told_ms; /* when a stream's sender was told last that its segments are too large */

	/* The owner's. */
	struct wg_session *previous;
	struct wg_handshake handshake;
	bool handshaking; /* an initiation of ours waits for its answer */
	uint32_t handshake_index;
	UT_hash_handle hh_index; /* by handshake_index, while handshaking */
	struct wg_cookie cookie;
	int64_t initiated_ms; /* our last initiation; 0: never */
	int64_t retry_ms;     /* when the next one is due; 0: none */
	unsigned retries;
	int64_t accepted_ms; /* their last initiation that we answered */
	uint8_t timestamp[WG_TIMESTAMP_LEN];
	int64_t handshake_unix_ns; /* last completed; 0: never */
	uint16_t keepalive_s, jitter_ms;
	uint32_t keepalive_ms; /* until the next one: a little less, each time another */
	struct wg_prefix *allowed;
	size_t n_allowed, room_allowed;
	uint32_t path_mtu; /* of outer packets; 0: none is known */
	uint32_t probed;   /* of inner packets; 0: no limit was found */
	int64_t path_until_ms;
	bool dead;
};

#define WG_INDEX_BUCKETS 16384
struct wg_core {
	struct wg_core_io io;
	struct wg_crypto *crypto;
	struct wg_self self;
	bool has_key;
	struct wg_allowed allowed;
	struct wg_peer *peers;    /* by public key */
	struct wg_peer *by_index; /* handshakes under way */
	size_t n_peers;
	struct wg_index *_Atomic index[WG_INDEX_BUCKETS];
	struct wg_peer *_Atomic attention;
	struct wg_cookie_jar jar;
	struct wg_limiter limiter;
	int64_t load_until_ms;
	struct wg_session *retired_sessions;
	struct wg_peer *retired_peers;
	int64_t ahead_ns;        /* the wall clock less the other at its greatest (see stamp_ns) */
	int64_t begun_us;        /* what the initiations begun are paid up to (see may_begin) */
	bool hurry;              /* some were too many for now */
	struct wg_peer *tick_at; /* where the last tick ended early; NULL: it did not */
	uint64_t n_handshakes, n_refused, n_cookies;
};

/* NULL without memory or a needed algorithm. */
struct wg_core *wg_core_new(const struct wg_core_io *io);
/* Initiations bear no time before this from now on; gives the time that one would bear now. */
int64_t wg_core_stamp(struct wg_core *c, int64_t not_before_ns, const struct wg_clock *now);
/* Peers, sessions, keys and memory; every thread has left. */
void wg_core_free(struct wg_core *c);
/* A new private key: every session ends; a peer with our own public key, or one of low order, is
 * removed. All zero: no key. */
void wg_core_set_key(struct wg_core *c, const uint8_t priv[static WG_KEY]);

struct wg_peer *wg_core_peer(const struct wg_core *c, const uint8_t pub[static WG_KEY]);
/* Makes a peer. NULL: no memory, our own key, or a key of low order. */
struct wg_peer *wg_core_peer_new(struct wg_core *c, const uint8_t pub[static WG_KEY]);
void wg_peer_remove(struct wg_peer *p);
void wg_peer_set_psk(struct wg_peer *p, const uint8_t psk[static WG_KEY]);
void wg_peer_set_endpoint(struct wg_peer *p, const struct wg_endpoint *e);
/* Off: 0. Turned on, it sends at once. */
void wg_peer_set_keepalive(struct wg_peer *p, uint16_t seconds);
/* A probe has found that larger inner packets do not arrive, and nobody says so; 0: they do. */
void wg_peer_set_probed(struct wg_peer *p, uint32_t mtu);
/* The MTU towards the peer on a device with this one. */
static inline uint32_t wg_peer_mtu(struct wg_peer *p, uint32_t device)
{
	uint32_t carry = atomic_load_explicit(&p->carry, memory_order_relaxed) & ~WG_CARRY_PROBED;

	return carry != 0 && carry < device ? carry : device;
}
/* 0, KM_EINVAL, KM_ENOMEM. */
int wg_peer_allow(struct wg_peer *p, const uint8_t *addr, size_t naddr, unsigned bits);
void wg_peer_disallow(struct wg_peer *p, const uint8_t *addr, size_t naddr, unsigned bits);
void wg_peer_disallow_all(struct wg_peer *p);

/* Whether this has the type and length of a handshake message: nothing else is worth a place in a
 * queue, and with types 1 and 2 only those whose mac1 is right (wg_mac1_ok). */
bool wg_core_expects(const uint8_t *msg, size_t n);
/* How full the queue is that handshake messages come from. From an eighth of it on a sender must
 * prove its address, and is given a cookie to do so. When half is taken, those who bring none get no
 * answer either: looking at them costs little, so that whoever has a cookie finds a place. */
enum wg_load { WG_CALM, WG_LOADED, WG_CROWDED };
/* A handshake message (anything else is refused; mac1 has been checked by the caller for types 1
 * and 2). */
void wg_core_message(struct wg_core *c, const struct wg_endpoint *from, const uint8_t *msg,
		     size_t n, enum wg_load load, const struct wg_clock *now);
/* A packet of ours did not fit on its way (pmtu.h). It looks at every peer: to be called so often and
 * no oftener. */
void wg_core_too_big(struct wg_core *c, const struct wg_pmtu_news *n, const struct wg_clock *now);
/* What the threads asked for: attention to peers; cheap when there is nothing. Whether
 * wg_core_tick is to be called within WG_HURRY_MS. */
bool wg_core_attend(struct wg_core *c, const struct wg_clock *now);
/* We are to be found elsewhere now (another port): whoever we have a session with is told so by
 * an empty packet. A peer that only sends would otherwise do so into nothing while we are silent. */
void wg_core_announce(struct wg_core *c, const struct wg_clock *now);
/* Every timer. Gives the milliseconds until it should be called again; -1: no need to. */
int wg_core_tick(struct wg_core *c, const struct wg_clock *now);
/* Frees what left the tables; may wait for the threads. */
void wg_core_reclaim(struct wg_core *c);

/* ---- the packet path ---- */

/* Sending thread: the kernel has refused a packet of this size. */
void wg_path_refused(struct wg_peer *p);

/* The peer that an inner address belongs to; NULL: nobody. */
static inline struct wg_peer *wg_path_route(const struct wg_core *c, const uint8_t *addr, size_t n)
{
	return wg_allowed_find(&c->allowed, addr, n);
}
/* Sending thread: the session to send under now; NULL: none yet (it is asked for). */
struct wg_session *wg_path_sender(struct wg_peer *p, int64_t now_ms);
/* Sending thread: something was sent; data: not only empty packets. */
void wg_path_sent(struct wg_peer *p, bool data, uint64_t bytes, int64_t now_ms);
/* Receiving thread: the session for a receiver index; NULL: unknown or too old. */
struct wg_session *wg_path_receiver(struct wg_core *c, uint32_t index, int64_t now_ms);
/* Receiving thread: authentic packets have come under s from this endpoint. */
void wg_path_received(struct wg_session *s, const struct wg_endpoint *from, bool data,
		      uint64_t bytes, int64_t now_ms);

#endif
