/* SPDX-License-Identifier: MIT */
#include "agentd/health/mtu.h"

/* What fits, in the tunnel, the links that there are: PPPoE, tunnels of all kinds, mobile networks,
 * the least of IPv6 (1280 outside: 1220 over IPv4, 1200 over itself), and less. WireGuard pads to a
 * multiple of 16. */
static const uint16_t worth[MTU_SIZES - 1] = {1408, 1392, 1376, 1360, 1328, 1312, 1296,
					      1264, 1232, 1216, 1200, 1024, 576};

void mtu_init(struct mtu *m, int64_t interval_ms, int64_t now_ms)
{
	*m = (struct mtu){.interval_ms = interval_ms, .due_ms = now_ms, .idle_ms = now_ms};
}

void mtu_reply(struct mtu *m, unsigned size, int64_t now_ms)
{
	if (m->searching) {
		if (size > m->best)
			m->best = size;
	} else if (m->waiting && size == m->checked) {
		m->waiting = false;
		m->misses = 0;
		m->due_ms = now_ms + m->interval_ms;
	}
}

void mtu_again(struct mtu *m, int64_t now_ms)
{
	if (m->limit != 0)
		m->raise_ms = now_ms;
}

static size_t search(struct mtu *m, unsigned most, int64_t now_ms, uint16_t *sizes)
{
	size_t n = 0;

	m->rounds++;
	m->due_ms = now_ms + (m->rounds < MTU_ROUNDS ? MTU_ROUND_MS : MTU_REPLY_MS);
	sizes[n++] = (uint16_t)most;
	for (size_t i = 0; i < sizeof(worth) / sizeof(worth[0]); i++)
		if (worth[i] < most && worth[i] > m->best)
			sizes[n++] = worth[i];
	return n;
}

/* Nothing answered: that is no narrow path, but none. */
static bool conclude(struct mtu *m, unsigned most, int64_t now_ms)
{
	unsigned was = m->limit;

	m->searching = m->waiting = false;
	m->misses = 0;
	m->due_ms = now_ms + m->interval_ms;
	m->raise_ms = now_ms + MTU_RAISE_MS;
	if (m->best != 0)
		m->limit = m->best < most ? m->best : 0;
	return m->limit != was;
}

static size_t check(struct mtu *m, unsigned most, int64_t now_ms, uint16_t *sizes)
{
	m->checked = m->limit != 0 && m->limit < most ? m->limit : most;
	m->waiting = true;
	m->due_ms = now_ms + MTU_REPLY_MS;
	m->idle_ms = now_ms + MTU_IDLE_MS;
	sizes[0] = (uint16_t)m->checked;
	return 1;
}

size_t mtu_tick(struct mtu *m, unsigned most, bool busy, bool up, int64_t now_ms,
		uint16_t sizes[static MTU_SIZES], bool *changed)
{
	*changed = false;
	if (now_ms < m->due_ms)
		return 0;
	if (m->searching) {
		if (m->rounds < MTU_ROUNDS)
			return search(m, most, now_ms, sizes);
		*changed = conclude(m, most, now_ms);
		return 0;
	}
	if (!up || m->checked > most)
		m->misses =
		    0; /* the path does not work at all, or has been found narrow meanwhile */
	else if (m->waiting)
		m->misses++;
	m->waiting = false;
	if (m->misses >= MTU_MISSES || (up && m->limit != 0 && now_ms >= m->raise_ms)) {
		m->searching = true;
		m->rounds = m->best = 0;
		return search(m, most, now_ms, sizes);
	}
	if (up && (busy || m->misses > 0 || now_ms >= m->idle_ms))
		return check(m, most, now_ms, sizes);
	m->due_ms = now_ms + m->interval_ms;
	return 0;
}
