/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/allowed.h"
#include "libkm/base/err.h"
#include <stdlib.h>
#include <string.h>

struct wg_allowed_node {
	struct wg_allowed_node *child[2];
	void *peer; /* NULL: only a fork */
	uint8_t bits;
	uint8_t addr[16]; /* host bits zero */
};

static unsigned bit_at(const uint8_t *a, unsigned i)
{
	return a[i / 8] >> (7 - i % 8) & 1;
}

/* How many leading bits of a and b agree, at most max. */
static unsigned common(const uint8_t *a, const uint8_t *b, unsigned max)
{
	unsigned i = 0;

	while (i + 8 <= max && a[i / 8] == b[i / 8])
		i += 8;
	while (i < max && bit_at(a, i) == bit_at(b, i))
		i++;
	return i;
}

static struct wg_allowed_node *node_new(const uint8_t *addr, unsigned bits, void *peer)
{
	struct wg_allowed_node *n = calloc(1, sizeof(*n));

	if (n == NULL)
		return NULL;
	memcpy(n->addr, addr, (bits + 7) / 8);
	if (bits % 8 != 0)
		n->addr[bits / 8] &= (uint8_t)(0xff << (8 - bits % 8));
	n->bits = (uint8_t)bits;
	n->peer = peer;
	return n;
}

int wg_allowed_insert(struct wg_allowed *t, const uint8_t *addr, size_t naddr, unsigned bits,
		      void *peer)
{
	struct wg_allowed_node **at = naddr == 4 ? &t->root4 : &t->root6, *n, *fork;
	unsigned same;

	if ((naddr != 4 && naddr != 16) || bits > naddr * 8 || peer == NULL)
		return KM_EINVAL;
	for (;;) {
		if (*at == NULL)
			return (*at = node_new(addr, bits, peer)) ? 0 : KM_ENOMEM;
		same = common((*at)->addr, addr, (*at)->bits < bits ? (*at)->bits : bits);
		if (same < (*at)->bits)
			break;
		if ((*at)->bits == bits) {
			(*at)->peer = peer;
			return 0;
		}
		at = &(*at)->child[bit_at(addr, (*at)->bits)];
	}
	/* The new prefix leaves *at's path after `same` bits: it stands above it, or beside it. */
	if ((n = node_new(addr, bits, peer)) == NULL)
		return KM_ENOMEM;
	if (same == bits) {
		n->child[bit_at((*at)->addr, bits)] = *at;
		*at = n;
		return 0;
	}
	if ((fork = node_new(addr, same, NULL)) == NULL) {
		free(n);
		return KM_ENOMEM;
	}
	fork->child[bit_at((*at)->addr, same)] = *at;
	fork->child[bit_at(addr, same)] = n;
	*at = fork;
	return 0;
}

void *wg_allowed_find(const struct wg_allowed *t, const uint8_t *addr, size_t naddr)
{
	const struct wg_allowed_node *n = naddr == 4 ? t->root4 : t->root6;
	unsigned max = (unsigned)naddr * 8;
	void *found = NULL;

	while (n != NULL && common(n->addr, addr, n->bits) == n->bits) {
		if (n->peer != NULL)
			found = n->peer;
		if (n->bits >= max)
			break;
		n = n->child[bit_at(addr, n->bits)];
	}
	return found;
}

/* Removes peer below *at and every fork that no longer forks. Depth is at most 128. */
static void prune(struct wg_allowed_node **at, const void *peer)
{
	struct wg_allowed_node *n = *at, *only;

	if (n == NULL)
		return;
	prune(&n->child[0], peer);
	prune(&n->child[1], peer);
	if (n->peer == peer)
		n->peer = NULL;
	if (n->peer != NULL || (n->child[0] != NULL && n->child[1] != NULL))
		return;
	only = n->child[0] ? n->child[0] : n->child[1];
	free(n);
	*at = only;
}

void wg_allowed_remove_peer(struct wg_allowed *t, const void *peer)
{
	prune(&t->root4, peer);
	prune(&t->root6, peer);
}

static void each_node(const struct wg_allowed_node *n, size_t naddr, const void *peer,
		      void (*each)(void *, const uint8_t *, size_t, unsigned, void *), void *arg)
{
	if (n == NULL)
		return;
	if (n->peer != NULL && (peer == NULL || n->peer == peer))
		each(arg, n->addr, naddr, n->bits, n->peer);
	each_node(n->child[0], naddr, peer, each, arg);
	each_node(n->child[1], naddr, peer, each, arg);
}

void wg_allowed_each(const struct wg_allowed *t, const void *peer,
		     void (*each)(void *arg, const uint8_t *addr, size_t naddr, unsigned bits,
				  void *peer),
		     void *arg)
{
	each_node(t->root4, 4, peer, each, arg);
	each_node(t->root6, 16, peer, each, arg);
}

static void free_node(struct wg_allowed_node *n)
{
	if (n == NULL)
		return;
	free_node(n->child[0]);
	free_node(n->child[1]);
	free(n);
}

void wg_allowed_free(struct wg_allowed *t)
{
	free_node(t->root4);
	free_node(t->root6);
	t->root4 = t->root6 = NULL;
}
