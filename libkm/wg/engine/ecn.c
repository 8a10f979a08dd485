/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/ecn.h"

enum { NOT_ECT = 0, ECT1 = 1, ECT0 = 2, CE = 3 };

static void set(uint8_t *pkt, uint8_t ecn)
{
	uint8_t was = pkt[1];
	uint32_t sum;

	if (pkt[0] >> 4 != 4) {
		pkt[1] = (uint8_t)((pkt[1] & ~(3 << 4)) | ecn << 4);
		return;
	}
	pkt[1] = (uint8_t)((pkt[1] & ~3) | ecn);
	/* RFC 1624: HC' = ~(~HC + ~m + m'); only the low byte of the first word has changed. */
	sum = (uint32_t)(~(pkt[10] << 8 | pkt[11]) & 0xffff) + (~(uint32_t)was & 0xffff) + pkt[1];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	pkt[10] = (uint8_t)(~sum >> 8);
	pkt[11] = (uint8_t)~sum;
}

bool wg_ecn_decap(uint8_t *pkt, uint8_t outer)
{
	uint8_t inner = wg_ecn_of(pkt);

	outer &= 3;
	if (inner == NOT_ECT)
		return outer != CE;
	if (outer == CE && inner != CE)
		set(pkt, CE);
	else if (outer == ECT1 && inner == ECT0)
		set(pkt, ECT1);
	return true;
}
