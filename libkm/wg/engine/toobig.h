/* SPDX-License-Identifier: MIT */
/* Inner packets that are larger than the path to their peer carries. Sans-I/O. */
#ifndef KM_WG_ENGINE_TOOBIG_H
#define KM_WG_ENGINE_TOOBIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WG_TOOBIG_ROOM 1280

/* Writes the answer to the sender of pkt (complete, its header checked): ICMP "fragmentation
 * needed" (RFC 792, RFC 1191) or ICMPv6 "packet too big" (RFC 4443, section 3.2), as if from its
 * destination. Gives its length; 0: such a packet gets no answer (errors, later fragments, a source
 * that is nobody's; RFC 1812, section 4.3.2.7). */
size_t wg_toobig_answer(uint8_t out[static WG_TOOBIG_ROOM], const uint8_t *pkt, size_t n,
			uint32_t mtu);

/* An IPv4 packet that may be fragmented, on its way into fragments (RFC 791). */
struct wg_fragments {
	const uint8_t *pkt;
	size_t n, header, at, size;
};
/* false: it may not. pkt stays in use until the last fragment. */
bool wg_fragments_begin(struct wg_fragments *f, const uint8_t *pkt, size_t n, uint32_t mtu);
/* The length of the next fragment; 0: that was the last. And the fragment itself, into room for it.
 */
size_t wg_fragments_len(const struct wg_fragments *f);
void wg_fragments_next(struct wg_fragments *f, uint8_t *out);

/* Whether this is an echo request: such packets look for the path's width. */
bool wg_is_echo(const uint8_t *pkt, size_t n);

#endif
