/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/backoff.h"
#include "gatewayd/acme/schedule.h"
#include "libkm/base/util.h"

#define S 1000LL
#define MIN (60 * S)
#define HOUR (60 * MIN)
#define DAY (24 * HOUR)
#define WAIT_MAX (7 * DAY)

static const int64_t steps[] = {MIN, 10 * MIN, 100 * MIN, DAY};
static const int64_t network_steps[] = {15 * S, 30 * S, MIN, 2 * MIN, 5 * MIN, 10 * MIN, 30 * MIN};
static const int64_t local_steps[] = {30 * S, MIN, 2 * MIN, 5 * MIN, 10 * MIN, 30 * MIN, HOUR};

/* Give or take a tenth. */
static int64_t jittered(int64_t ms, uint32_t rnd)
{
	return ms - ms / 10 + share_of(ms / 5, rnd);
}

static int64_t step(const int64_t *table, size_t n, unsigned count)
{
	size_t i = count ? count - 1 : 0;
	return table[i < n ? i : n - 1];
}

int64_t backoff_delay(enum acme_cause cause, unsigned count, int64_t wait_ms, int64_t life_ms,
		      uint32_t rnd)
{
	int64_t ms;
	switch (cause) {
	case ACME_NETWORK:
		ms = step(network_steps, KM_ARRAY_LEN(network_steps), count);
		break;
	case ACME_LOCAL:
		ms = step(local_steps, KM_ARRAY_LEN(local_steps), count);
		break;
	case ACME_REJECTED:
	case ACME_UNSUPPORTED:
		ms = DAY;
		break;
	default:
		ms = step(steps, KM_ARRAY_LEN(steps), count);
	}
	if (life_ms > 0 && life_ms < RENEWAL_SHORT_MS && ms > life_ms / 10)
		ms = life_ms / 10 > 5 * S ? life_ms / 10 : 5 * S;
	ms = jittered(ms, rnd);
	if (wait_ms > WAIT_MAX)
		wait_ms = WAIT_MAX;
	/* What the CA asks for is the least, and not all come at that very moment. */
	if (wait_ms > 0 && (cause == ACME_RATE_LIMITED || ms < wait_ms))
		ms = wait_ms + share_of(wait_ms / 20 + S, rnd);
	return ms;
}

int64_t backoff_preflight(unsigned count, uint32_t rnd)
{
	int64_t ms = 5 * S;
	for (; count > 1 && ms < 10 * MIN; count--)
		ms *= 2;
	return jittered(ms < 10 * MIN ? ms : 10 * MIN, rnd);
}

bool outage_may(const struct outage *o, int64_t now_ms)
{
	return !o->count || (!o->probing && now_ms >= o->until_ms);
}

void outage_begin(struct outage *o)
{
	o->probing = o->count > 0;
}

void outage_failed(struct outage *o, int64_t now_ms, int64_t wait_ms, uint32_t rnd)
{
	/* Those that were under way when it went away are one failure. */
	if (o->count && !o->probing)
		return;
	o->probing = false;
	o->count++;
	o->until_ms = now_ms + backoff_delay(ACME_NETWORK, o->count, wait_ms, 0, rnd);
}

void outage_unused(struct outage *o)
{
	o->probing = false;
}

bool outage_over(struct outage *o)
{
	bool was = o->count > 0;
	*o = (struct outage){0};
	return was;
}
