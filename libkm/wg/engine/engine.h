/* SPDX-License-Identifier: MIT */
/* The engine: a core (core.h) with a TUN device and a UDP socket, and three threads: one sends, one
 * receives, one does handshakes and timers. Calls come from one other thread at a time, or more:
 * they take turns by a lock that the packet path never takes. */
#ifndef KM_WG_ENGINE_ENGINE_H
#define KM_WG_ENGINE_ENGINE_H

#include "libkm/wg/engine/core.h"

struct wg_engine;

/* A UDP socket for this port (0: any), in the network namespace of the calling thread: IPv6 that
 * takes IPv4 too, or IPv4 where the host has no IPv6. KM_EEXIST: the port is taken; KM_EIO. */
int wg_udp_open(int *fd, uint16_t port);
/* A TUN device in the network namespace of the calling thread; name is "" (any) or the wanted one
 * and gets the real one. uso: it takes UDP super-packets too. KM_EPERM, KM_EEXIST, KM_EUNSUPPORTED
 * (no /dev/net/tun), KM_EIO. */
int wg_tun_open(int *fd, char name[static 16], bool *uso);

/* Starts an engine over these two, which it closes at its end (not when this fails). KM_ENOMEM,
 * KM_EUNSUPPORTED (an algorithm is missing), KM_EIO. */
int wg_engine_start(struct wg_engine **out, int tun_fd, bool uso, int udp_fd);
/* Ends the threads and frees everything. */
void wg_engine_stop(struct wg_engine *e);
/* Readable when the TUN device has gone. */
int wg_engine_gone_fd(const struct wg_engine *e);
/* Readable when what a peer's path carries has changed (wg_peer_mtu); reading it silences it. */
int wg_engine_width_fd(const struct wg_engine *e);
/* The device's MTU, beyond which nothing is padded (1420 at first). */
void wg_engine_set_mtu(struct wg_engine *e, unsigned mtu);
unsigned wg_engine_mtu(const struct wg_engine *e);

/* The core, for wg_core_* and wg_peer_* between these two calls; the second wakes the engine to
 * what has changed. */
struct wg_core *wg_engine_lock(struct wg_engine *e);
void wg_engine_unlock(struct wg_engine *e);
/* Between these two: whoever waits has a turn, handshakes above all. Peers may have gone after. */
void wg_engine_give_way(struct wg_engine *e);
/* As wg_core_set_key; takes the lock itself. */
void wg_engine_set_key(struct wg_engine *e, const uint8_t priv[static WG_KEY]);
/* Handshakes bear no time before this (Unix seconds), whatever the clock says: the other ends refuse
 * what is older than what they have seen. Gives the time that the next would bear. */
int64_t wg_engine_stamp(struct wg_engine *e, int64_t not_before_s);
/* The port that the socket has, in host order; and another one (KM_EEXIST, KM_EIO: all stays). */
uint16_t wg_engine_port(struct wg_engine *e);
int wg_engine_set_port(struct wg_engine *e, uint16_t port);

/* The mark (SO_MARK) of outer packets; 0: none. KM_EPERM, KM_EIO. */
uint32_t wg_engine_mark(const struct wg_engine *e);
int wg_engine_set_mark(struct wg_engine *e, uint32_t mark);

/* Between endpoints and socket addresses of either family. */
void wg_endpoint_from_sa(struct wg_endpoint *e, const struct sockaddr_storage *ss);
/* An IPv4 endpoint becomes sockaddr_in when v4 is true, else sockaddr_in6. Gives its length. */
socklen_t wg_endpoint_to_sa(const struct wg_endpoint *e, struct sockaddr_storage *ss, bool v4);

#endif
