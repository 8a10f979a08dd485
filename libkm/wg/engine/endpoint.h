/* SPDX-License-Identifier: MIT */
/* Where a peer is: address and port, the local address that it speaks to, and a cell that holds one
 * for readers without a lock. */
#ifndef KM_WG_ENGINE_ENDPOINT_H
#define KM_WG_ENGINE_ENDPOINT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* IPv4 as ::ffff:a.b.c.d; port in network byte order, 0: no endpoint. src: where the peer's last
 * authentic message came in, and what goes to it leaves from; all zero: the kernel chooses. */
struct wg_endpoint {
	uint8_t ip[16];
	uint32_t scope;
	uint16_t port, unused;
	uint8_t src[16];
};
#define WG_ENDPOINT_WORDS 5
_Static_assert(sizeof(struct wg_endpoint) == WG_ENDPOINT_WORDS * 8, "whole words");

struct wg_endpoint_cell {
	atomic_uint turn; /* odd: being written */
	_Atomic uint64_t word[WG_ENDPOINT_WORDS];
};

static inline bool wg_endpoint_same(const struct wg_endpoint *a, const struct wg_endpoint *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

static inline bool wg_endpoint_v4(const struct wg_endpoint *e)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

	return memcmp(e->ip, mapped, 12) == 0;
}

static inline bool wg_endpoint_has_src(const struct wg_endpoint *e)
{
	static const uint8_t none[16];

	return memcmp(e->src, none, 16) != 0;
}

static inline void wg_endpoint_load(struct wg_endpoint_cell *c, struct wg_endpoint *out)
{
	uint64_t w[WG_ENDPOINT_WORDS];
	unsigned turn;

	do {
		turn = atomic_load_explicit(&c->turn, memory_order_acquire);
		for (int i = 0; i < WG_ENDPOINT_WORDS; i++)
			w[i] = atomic_load_explicit(&c->word[i], memory_order_acquire);
	} while ((turn & 1) != 0 || atomic_load_explicit(&c->turn, memory_order_relaxed) != turn);
	memcpy(out, w, sizeof(w));
}

/* Writers take turns. */
static inline void wg_endpoint_store(struct wg_endpoint_cell *c, const struct wg_endpoint *in)
{
	uint64_t w[WG_ENDPOINT_WORDS];
	unsigned turn;

	memcpy(w, in, sizeof(w));
	do
		turn = atomic_load(&c->turn) & ~1U;
	while (!atomic_compare_exchange_weak(&c->turn, &turn, turn + 1));
	for (int i = 0; i < WG_ENDPOINT_WORDS; i++)
		atomic_store_explicit(&c->word[i], w[i], memory_order_release);
	atomic_store_explicit(&c->turn, turn + 2, memory_order_release);
}

/* The local address is of no use any more. */
static inline void wg_endpoint_forget_src(struct wg_endpoint_cell *c)
{
	struct wg_endpoint e;

	wg_endpoint_load(c, &e);
	if (!wg_endpoint_has_src(&e))
		return;
	memset(e.src, 0, sizeof(e.src));
	wg_endpoint_store(c, &e);
}

#endif
