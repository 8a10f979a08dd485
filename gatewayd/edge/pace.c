/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/pace.h"

bool pace_too_few(const struct pace_rule *r, uint64_t bytes, int64_t ms)
{
	/* At least one byte, whatever the rate. */
	return bytes < 1 || bytes < (uint64_t)r->min_rate * (uint64_t)ms / 1000;
}

bool pace_slow(struct pace *p, const struct pace_rule *r, uint64_t n, bool waits, int64_t now_ms)
{
	if (p->since)
		p->waited += now_ms - p->since;
	p->bytes += n;
	p->since = waits ? now_ms : 0;
	if (p->waited < r->window_ms)
		return false;
	bool slow = waits && pace_too_few(r, p->bytes, p->waited);
	p->waited = 0;
	p->bytes = 0;
	return slow;
}

bool pace_lags(const struct pace *p, const struct pace_rule *r, int64_t ms, int64_t now_ms)
{
	int64_t waited = p->waited + now_ms - p->since;
	return p->since && waited >= ms && pace_too_few(r, p->bytes, waited);
}
