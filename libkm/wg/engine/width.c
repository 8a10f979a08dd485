/* SPDX-License-Identifier: MIT */
/* How wide the path to each peer is: what pmtu.h makes of the news, and what a probe has found. */
#include "libkm/wg/engine/core_priv.h"
#include "libkm/wg/engine/pmtu.h"

static void settle(struct wg_peer *p)
{
	struct wg_core *c = p->core;
	struct wg_endpoint to;
	uint32_t carry;

	wg_endpoint_load(&p->endpoint, &to);
	carry = p->path_mtu != 0 ? wg_pmtu_inner(p->path_mtu, wg_endpoint_v4(&to)) : 0;
	if (p->probed != 0 && (carry == 0 || p->probed < carry))
		carry = p->probed | WG_CARRY_PROBED;
	if (atomic_exchange(&p->carry, carry) != carry && c->io.width != NULL)
		c->io.width(c->io.arg);
}

static void set(struct wg_peer *p, uint32_t mtu, const struct wg_clock *now)
{
	if (mtu == 0)
		return;
	p->path_mtu = mtu;
	p->path_until_ms = now->ms + WG_PMTU_EXPIRE_MS;
	settle(p);
}

static bool knows(struct wg_peer *p, uint32_t index)
{
	const struct wg_session *s = atomic_load(&p->current);

	return (s != NULL && s->remote_index == index) ||
	       (p->previous != NULL && p->previous->remote_index == index) ||
	       (p->next != NULL && p->next->remote_index == index);
}

void wg_core_too_big(struct wg_core *c, const struct wg_pmtu_news *n, const struct wg_clock *now)
{
	struct wg_peer *p, *tmp;
	struct wg_endpoint at;
	uint32_t index;
	bool quoted = wg_pmtu_quoted(n, &index);

	HASH_ITER (hh, c->peers, p, tmp) {
		wg_endpoint_load(&p->endpoint, &at);
		if (at.port == n->to.port && memcmp(at.ip, n->to.ip, sizeof(at.ip)) == 0)
			set(p, wg_pmtu_judge(n, quoted && knows(p, index), p->path_mtu), now);
	}
}

void wg_peer_refused(struct wg_peer *p, const struct wg_clock *now)
{
	struct wg_core *c = p->core;
	struct wg_pmtu_news n = {.mtu = 0};

	if (c->io.link_mtu == NULL)
		return;
	wg_endpoint_load(&p->endpoint, &n.to);
	n.mtu = c->io.link_mtu(c->io.arg, &n.to);
	if (n.mtu != 0)
		set(p, wg_pmtu_judge(&n, true, p->path_mtu), now);
}

void wg_peer_path_forget(struct wg_peer *p)
{
	if (p->path_mtu == 0)
		return;
	p->path_mtu = 0;
	p->path_until_ms = 0;
	settle(p);
}

void wg_peer_set_probed(struct wg_peer *p, uint32_t mtu)
{
	p->probed = mtu;
	settle(p);
}
