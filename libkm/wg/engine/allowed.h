/* SPDX-License-Identifier: MIT */
/* Which peer an inner address belongs to: longest prefix match in a binary trie with skipped levels
 * (the cost follows the length of the prefixes, not the number of peers). One writer at a time;
 * readers beside it need no lock: they see a tree as it was or as it is. What is taken out stays in
 * memory until wg_allowed_reclaim, which the writer calls when no reader can still stand on it. */
#ifndef KM_WG_ENGINE_ALLOWED_H
#define KM_WG_ENGINE_ALLOWED_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct wg_allowed_node;
struct wg_allowed {
	struct wg_allowed_node *_Atomic root4, *_Atomic root6;
	struct wg_allowed_node *retired;
	_Atomic uint64_t
	    version; /* rises with every change: what a reader remembers is stale then */
};

/* Gives the prefix (4 or 16 bytes, first `bits` of them) to peer, taking it from whoever had it.
 * 0, or KM_EINVAL, KM_ENOMEM. */
int wg_allowed_insert(struct wg_allowed *t, const uint8_t *addr, size_t naddr, unsigned bits,
		      void *peer);
/* Takes exactly this prefix from peer; nothing happens when it is not that peer's. */
void wg_allowed_remove(struct wg_allowed *t, const uint8_t *addr, size_t naddr, unsigned bits,
		       const void *peer);
/* The peer of the longest prefix that holds addr, or NULL. */
void *wg_allowed_find(const struct wg_allowed *t, const uint8_t *addr, size_t naddr);
/* The peer of exactly this prefix, or NULL. */
void *wg_allowed_exact(const struct wg_allowed *t, const uint8_t *addr, size_t naddr,
		       unsigned bits);
/* Frees what was taken out before. */
void wg_allowed_reclaim(struct wg_allowed *t);
void wg_allowed_free(struct wg_allowed *t);

#endif
