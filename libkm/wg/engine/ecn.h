/* SPDX-License-Identifier: MIT */
/* Explicit congestion notification through a tunnel: RFC 6040, normal mode. The inner field is
 * copied to the outer header; what a router has set there comes back into the inner one. */
#ifndef KM_WG_ENGINE_ECN_H
#define KM_WG_ENGINE_ECN_H

#include <stdbool.h>
#include <stdint.h>

/* The two bits of an IP packet (of either family, its header complete). */
static inline uint8_t wg_ecn_of(const uint8_t *pkt)
{
	return (pkt[0] >> 4 == 4 ? pkt[1] : pkt[1] >> 4) & 3;
}

/* Brings what the outer header had (a type of service) into the inner packet, whose header checksum
 * stays right. false: it is to be dropped (section 4.2: congestion that its sender would not hear
 * of). */
bool wg_ecn_decap(uint8_t *pkt, uint8_t outer);

#endif
