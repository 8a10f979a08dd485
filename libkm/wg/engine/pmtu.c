/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/pmtu.h"

enum { DATA = 4, UDP_HEADER = 8, DATA_OVERHEAD = 32 };

bool wg_pmtu_quoted(const struct wg_pmtu_news *n, uint32_t *index)
{
	const uint8_t *q = n->quote;

	if (n->n_quote < WG_PMTU_QUOTE || q[0] != DATA || q[1] != 0 || q[2] != 0 || q[3] != 0)
		return false;
	*index = (uint32_t)q[4] | (uint32_t)q[5] << 8 | (uint32_t)q[6] << 16 | (uint32_t)q[7] << 24;
	return true;
}

uint32_t wg_pmtu_judge(const struct wg_pmtu_news *n, bool proven, uint32_t now)
{
	bool v4 = wg_endpoint_v4(&n->to);
	uint32_t least = v4 ? WG_PMTU_MIN4 : WG_PMTU_MIN6, mtu = n->mtu;

	if (!proven && (!v4 || n->n_quote >= WG_PMTU_QUOTE))
		return 0;
	/* Routers from before RFC 1191 do not tell. */
	if (!proven || mtu == 0)
		least = WG_PMTU_UNPROVEN;
	if (mtu < least)
		mtu = least;
	return now == 0 || mtu < now ? mtu : 0;
}

uint32_t wg_pmtu_inner(uint32_t outer, bool v4)
{
	uint32_t overhead = (v4 ? 20 : 40) + UDP_HEADER + DATA_OVERHEAD;

	return outer > overhead ? outer - overhead : 0;
}
