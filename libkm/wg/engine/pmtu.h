/* SPDX-License-Identifier: MIT */
/* What the path to a peer carries. Sans-I/O.
 *
 * Outer packets may not be fragmented (DF, RFC 1191; RFC 8201). A router that cannot pass one says
 * so by ICMP, which the socket's error queue brings; this host's own first link says so when a send
 * is refused. The value holds for WG_PMTU_EXPIRE_MS, then larger packets are tried again. It is
 * never raised by a message.
 *
 * Anybody may forge ICMP. What that can do: an error counts only for the endpoint of a peer. One
 * that quotes our packet as far as the receiver's index (ICMPv6 always does, and routers of today)
 * must quote the index of a session of that peer, 32 random bits, and cannot go below the least
 * that IP promises. One that quotes less counts for IPv4 only, and not below WG_PMTU_UNPROVEN. So
 * who sees our packets can make them small for ten minutes, who does not can make them 1280 bytes;
 * nobody can stop them. A flood of such errors costs system calls that are repeated, and runs of
 * packets that IP cuts while it lasts; at most WG_NEWS_AT_ONCE of them are looked at in WG_TICK_MS.
 */
#ifndef KM_WG_ENGINE_PMTU_H
#define KM_WG_ENGINE_PMTU_H

#include "libkm/wg/engine/endpoint.h"

#define WG_PMTU_EXPIRE_MS 600000
#define WG_PMTU_MIN4 576
#define WG_PMTU_MIN6 1280
#define WG_PMTU_UNPROVEN 1280
#define WG_PMTU_QUOTE 8 /* of a data message: its type and the receiver's index */

/* A packet of ours was too large. */
struct wg_pmtu_news {
	struct wg_endpoint to; /* where it was going */
	uint32_t mtu;          /* of the link that it did not fit; 0: not told */
	uint8_t n_quote, quote[WG_PMTU_QUOTE];
};

/* Whether the message quotes enough to be proven, or (false) is not ours to believe: *index is what
 * the peer must know. */
bool wg_pmtu_quoted(const struct wg_pmtu_news *n, uint32_t *index);
/* The path MTU to take; 0: none, the news are not believed or bring nothing. now: the one that
 * holds (0: none). proven: the index was right. */
uint32_t wg_pmtu_judge(const struct wg_pmtu_news *n, bool proven, uint32_t now);
/* The largest inner packet in an outer one of so many bytes. */
uint32_t wg_pmtu_inner(uint32_t outer, bool v4);

#endif
