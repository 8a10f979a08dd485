/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/allowed.h"
#include "libkm/base/err.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct wg_allowed_node {
	struct wg_allowed_node *_Atomic child[2];
	void *_Atomic peer; /* NULL: only a fork */
	struct wg_allowed_node *retired;
	uint8_t bits;
	uint8_t addr[16]; /* host bits zero */
};
typedef struct wg_allowed_node *_Atomic edge;

static struct wg_allowed_node *follow(const edge *e)
{
	return atomic_load_explicit((edge *)e, memory_order_acquire);
}

static void point(edge *e, struct wg_allowed_node *n)
{
	atomic_store_explicit(e, n, memory_order_release);
}

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
	atomic_init(&n->peer, peer);
	return n;
}

static void changed(struct wg_allowed *t)
{
	atomic_fetch_add_explicit(&t->version, 1, memory_order_release);
}

static void retire(struct wg_allowed *t, struct wg_allowed_node *n)
{
	n->retired = t->retired;
	t->retired = n;
}

static edge *root_of(struct wg_allowed *t, size_t naddr)
{
	return naddr == 4 ? &t->root4 : &t->root6;
}

/* Puts a prefix that has no node yet at *at, whose path it leaves after `same` bits: it stands
 * above the node there, or beside it below a new fork. */
static int split(edge *at, struct wg_allowed_node *there, const uint8_t *addr, unsigned bits,
		 unsigned same, void *peer)
{
	struct wg_allowed_node *n = node_new(addr, bits, peer), *fork;

	if (n == NULL)
		return KM_ENOMEM;
	if (same == bits) {
		point(&n->child[bit_at(there->addr, bits)], there);
		point(at, n);
		return 0;
	}
	if ((fork = node_new(addr, same, NULL)) == NULL) {
		free(n);
		return KM_ENOMEM;
	}
	point(&fork->child[bit_at(there->addr, same)], there);
	point(&fork->child[bit_at(addr, same)], n);
	point(at, fork);
	return 0;
}

int wg_allowed_insert(struct wg_allowed *t, const uint8_t *addr, size_t naddr, unsigned bits,
		      void *peer)
{
	edge *at = root_of(t, naddr);
	struct wg_allowed_node *n;
	unsigned same;
	int rc = 0;

	if ((naddr != 4 && naddr != 16) || bits > naddr * 8 || peer == NULL)
		return KM_EINVAL;
	for (; (n = follow(at)) != NULL; at = &n->child[bit_at(addr, n->bits)]) {
		same = common(n->addr, addr, n->bits < bits ? n->bits : bits);
		if (same < n->bits) {
			rc = split(at, n, addr, bits, same, peer);
			goto out;
		}
		if (n->bits == bits) {
			atomic_store_explicit(&n->peer, peer, memory_order_release);
			goto out;
		}
	}
	if ((n = node_new(addr, bits, peer)) == NULL)
		return KM_ENOMEM;
	point(at, n);
out:
	changed(t);
	return rc;
}

/* The edge to the node of exactly this prefix (NULL: none) and the edge to its parent. */
static edge *find_exact(struct wg_allowed *t, const uint8_t *addr, size_t naddr, unsigned bits,
			edge **parent)
{
	edge *at = root_of(t, naddr);
	struct wg_allowed_node *n;

	*parent = NULL;
	while ((n = follow(at)) != NULL && n->bits <= bits &&
	       common(n->addr, addr, n->bits) == n->bits) {
		if (n->bits == bits)
			return at;
		*parent = at;
		at = &n->child[bit_at(addr, n->bits)];
	}
	return NULL;
}

/* Takes the node at *at out when it neither belongs to a peer nor forks. */
static bool collapse(struct wg_allowed *t, edge *at)
{
	struct wg_allowed_node *n = follow(at), *a = follow(&n->child[0]),
			       *b = follow(&n->child[1]);

	if (atomic_load(&n->peer) != NULL || (a != NULL && b != NULL))
		return false;
	point(at, a ? a : b);
	retire(t, n);
	return true;
}

void wg_allowed_remove(struct wg_allowed *t, const uint8_t *addr, size_t naddr, unsigned bits,
		       const void *peer)
{
	edge *parent, *at = find_exact(t, addr, naddr, bits, &parent);

	if (at == NULL || peer == NULL || atomic_load(&follow(at)->peer) != peer)
		return;
	atomic_store_explicit(&follow(at)->peer, NULL, memory_order_release);
	if (collapse(t, at) && parent != NULL)
		(void)collapse(t, parent);
	changed(t);
}

void *wg_allowed_exact(const struct wg_allowed *t, const uint8_t *addr, size_t naddr, unsigned bits)
{
	edge *parent, *at = find_exact((struct wg_allowed *)t, addr, naddr, bits, &parent);

	return at == NULL ? NULL : atomic_load(&follow(at)->peer);
}

void *wg_allowed_find(const struct wg_allowed *t, const uint8_t *addr, size_t naddr)
{
	const struct wg_allowed_node *n = follow(naddr == 4 ? &t->root4 : &t->root6);
	unsigned max = (unsigned)naddr * 8;
	void *found = NULL, *peer;

	while (n != NULL && common(n->addr, addr, n->bits) == n->bits) {
		peer = atomic_load_explicit((void *_Atomic *)&n->peer, memory_order_acquire);
		if (peer != NULL)
			found = peer;
		if (n->bits >= max)
			break;
		n = follow(&n->child[bit_at(addr, n->bits)]);
	}
	return found;
}

void wg_allowed_reclaim(struct wg_allowed *t)
{
	struct wg_allowed_node *n;

	while ((n = t->retired) != NULL) {
		t->retired = n->retired;
		free(n);
	}
}

/* Depth is at most 128. */
static void free_node(struct wg_allowed_node *n)
{
	if (n == NULL)
		return;
	free_node(follow(&n->child[0]));
	free_node(follow(&n->child[1]));
	free(n);
}

void wg_allowed_free(struct wg_allowed *t)
{
	free_node(follow(&t->root4));
	free_node(follow(&t->root6));
	point(&t->root4, NULL);
	point(&t->root6, NULL);
	wg_allowed_reclaim(t);
}
