/* SPDX-License-Identifier: MIT */
/* Which peer an inner address belongs to: longest prefix match in a binary trie with skipped levels
 * (the cost follows the length of the prefixes, not the number of peers). One writer with no reader
 * beside it; the engine replaces whole tables for its readers. */
#ifndef KM_WG_ENGINE_ALLOWED_H
#define KM_WG_ENGINE_ALLOWED_H

#include <stddef.h>
#include <stdint.h>

struct wg_allowed_node;
struct wg_allowed {
	struct wg_allowed_node *root4, *root6;
};

/* Gives the prefix (4 or 16 bytes, first `bits` of them) to peer, taking it from whoever had it.
 * 0, or KM_EINVAL, KM_ENOMEM. */
int wg_allowed_insert(struct wg_allowed *t, const uint8_t *addr, size_t naddr, unsigned bits,
		      void *peer);
/* The peer of the longest prefix that holds addr, or NULL. */
void *wg_allowed_find(const struct wg_allowed *t, const uint8_t *addr, size_t naddr);
/* Takes every prefix from peer. */
void wg_allowed_remove_peer(struct wg_allowed *t, const void *peer);
/* Calls each for every prefix of peer (NULL: of all). */
void wg_allowed_each(const struct wg_allowed *t, const void *peer,
		     void (*each)(void *arg, const uint8_t *addr, size_t naddr, unsigned bits,
				  void *peer),
		     void *arg);
void wg_allowed_free(struct wg_allowed *t);

#endif
