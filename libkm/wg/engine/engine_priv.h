/* SPDX-License-Identifier: MIT */
/* What the engine's threads share: engine.c the engine and its control thread, send.c and recv.c
 * the packet path, loop.c its threads, udp.c the socket, tun.c the device. */
#ifndef KM_WG_ENGINE_ENGINE_PRIV_H
#define KM_WG_ENGINE_ENGINE_PRIV_H

#include "libkm/wg/engine/cmsg.h"
#include "libkm/wg/engine/engine.h"
#include "libkm/wg/engine/packet.h"
#include <pthread.h>

#define WG_DATA_HEADER 16
#define WG_DATA_OVERHEAD (WG_DATA_HEADER + WG_TAG)
#define WG_DATA_TYPE 4
#define WG_UDP_MAX 65400   /* of one message or run of segments, in either family */
#define WG_UDP_SEGMENTS 64 /* of one run; what every kernel takes */
#define WG_QUEUE 4096      /* handshake messages */
#define WG_QUEUE_LOADED (WG_QUEUE / 8)
#define WG_QUEUE_CROWDED (WG_QUEUE / 2)
#define WG_NEWS 64         /* of packets that were too large, on their way to the control thread */
#define WG_NEWS_AT_ONCE 16 /* looked at in WG_TICK_MS, which bounds what forged ones cost */

/* A handshake message on its way to the control thread. */
struct wg_queued {
	struct wg_endpoint from;
	uint16_t n;
	uint8_t msg[WG_INITIATION_LEN];
};

struct wg_sender;
struct wg_receiver;
struct wg_engine {
	struct wg_core *core;
	pthread_mutex_t lock; /* of the core */
	pthread_mutex_t gate; /* held while waiting for it: whoever waits has the next turn */
	int tun, udp;
	_Atomic uint32_t mark;
	bool v4_only; /* the socket's family */
	atomic_bool gso;
	bool uso;
	atomic_uint mtu;
	int wake_control, wake_send, wake_recv, gone, width; /* event descriptors */
	atomic_bool stop, tick_now;
	atomic_bool moved; /* to another port */
	atomic_bool parked; /* the sending thread: the receiving one does its work (loop.c) */
	pthread_t threads[3];
	unsigned n_threads;
	struct wg_sender *sender;
	struct wg_receiver *receiver;

	pthread_mutex_t flush_lock;
	struct wg_peer *flush;
	atomic_bool flush_wanted;

	/* From the receiving to the control thread: only the former moves tail, the latter head. */
	struct wg_queued *queue;
	atomic_uint queue_head, queue_tail;
	struct wg_pmtu_news news[WG_NEWS]; /* likewise */
	atomic_uint news_head, news_tail;
	int64_t news_ms; /* the control thread's: when news_left was filled */
	unsigned news_left;
	pthread_mutex_t self_lock;
	uint8_t mac1_key[WG_HASH];
};

/* ThreadSanitizer does not see liburcu's barriers: it is told that what readers did comes before
 * the end of the grace period. */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define WG_READER_DONE(e) __tsan_release(e)
#define WG_READERS_DONE(e) __tsan_acquire(e)
#else
#define WG_READER_DONE(e) ((void)(e))
#define WG_READERS_DONE(e) ((void)(e))
#endif

/* Rings or silences an event descriptor. */
void wg_ring(int fd);
void wg_silence(int fd);
int64_t wg_now_ms(void);
int64_t wg_now_us(void);
/* The device is gone: says so, once the threads have nothing more to do. */
void wg_engine_gone(struct wg_engine *e);
/* Whether the socket takes UDP_SEGMENT. */
bool wg_udp_segments(int fd);
/* Whether outer packets may be fragmented by IP; they may not at first. */
void wg_udp_fragment(int fd, bool v4_only, bool may);
/* The MTU of this host's link to there, for packets with this mark; 0: not known. */
uint32_t wg_udp_link_mtu(const struct wg_endpoint *to, bool v4_only, uint32_t mark);
/* Reads one message of the error queue. false: there is none. n->to.port is 0 when it is of no
 * interest. */
bool wg_udp_error(int fd, struct wg_pmtu_news *n);
/* Sends a handshake message; what is lost is sent again by its timers. */
void wg_udp_send(int fd, bool v4_only, const struct wg_endpoint *to, const uint8_t *msg, size_t n);

/* What a turn found to do. LITTLE: no more than a few small packets, and nothing is left. */
enum wg_found { WG_NOTHING, WG_LITTLE, WG_MUCH, WG_GONE };
#define WG_LITTLE_BYTES 4096

struct wg_sender *wg_sender_new(struct wg_engine *e);
void wg_sender_free(struct wg_sender *s);
/* Carries what stands in the TUN, as much as is worth a system call, and what the control thread
 * asked for. From any registered thread; GONE: the device has gone. */
enum wg_found wg_sender_turn(struct wg_sender *s);
/* Likewise, but nothing while another thread does it. lone: a packet after silence, that is not to
 * wait until it is clear that no other follows. */
enum wg_found wg_sender_try(struct wg_sender *s, bool lone);
/* Frees the packets that wait for this peer. */
void wg_sender_forget(struct wg_peer *p);

struct wg_receiver *wg_receiver_new(struct wg_engine *e);
void wg_receiver_free(struct wg_receiver *r);
/* Carries a burst of what the socket holds. From the receiving thread only. */
enum wg_found wg_receiver_turn(struct wg_receiver *r);
/* What the socket's error queue has, as much as the control thread has room for; the rest is
 * dropped. */
void wg_receiver_errors(struct wg_receiver *r);

/* The threads, for pthread_create (loop.c); arg is the engine. */
void *wg_sender_run(void *arg);
void *wg_receiver_run(void *arg);

#endif
