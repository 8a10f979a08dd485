/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/byaddr.h"
#include "libkm/base/util.h"
#include <pthread.h>
#include <sodium/crypto_shorthash.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define PARTS 16    /* by the hash's upper bits, so that workers seldom wait for one another */
#define PART_MIN 64 /* entries that a part may have at least: chance fills parts unevenly */

struct entry {
	UT_hash_handle hh;
	struct byaddr_key key;
	max_align_t value[];
};

struct part {
	_Alignas(64) pthread_mutex_t lock;
	struct entry *entries; /* uthash: in the order in which they were used last, with evict */
	size_t n;
};

struct byaddr {
	struct part parts[PARTS];
	size_t part_max, value;
	bool evict;
	uint8_t secret[crypto_shorthash_KEYBYTES];
};

struct byaddr_key byaddr_key(const struct km_addr *a, const uint8_t *scope)
{
	struct byaddr_key k = {.family = a->family};
	memcpy(k.ip, a->ip, a->family == AF_INET ? 4 : sizeof(k.ip));
	if (scope)
		memcpy(k.scope, scope, sizeof(k.scope));
	return k;
}

struct byaddr *byaddr_new(const struct byaddr_opts *o)
{
	struct byaddr *t = aligned_alloc(_Alignof(struct byaddr), sizeof(*t));
	if (!t)
		return NULL;
	memset(t, 0, sizeof(*t));
	t->part_max = o->max / PARTS + o->max / (4 * PARTS) + PART_MIN;
	t->value = o->value;
	t->evict = o->evict;
	km_random(t->secret, sizeof(t->secret));
	for (size_t i = 0; i < PARTS; i++)
		pthread_mutex_init(&t->parts[i].lock, NULL);
	return t;
}

static void drop(struct part *p, struct entry *e)
{
	HASH_DEL(p->entries, e);
	p->n--;
	free(e);
}

void byaddr_free(struct byaddr *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < PARTS; i++) {
		struct part *p = &t->parts[i];
		struct entry *e, *tmp;
		HASH_ITER (hh, p->entries, e, tmp)
			drop(p, e);
		pthread_mutex_destroy(&p->lock);
	}
	free(t);
}

static int make(struct byaddr *t, struct part *p, const struct byaddr_key *k, unsigned hash,
		struct entry **out)
{
	if (p->n >= t->part_max && !t->evict)
		return KM_EFULL;
	if (p->n >= t->part_max)
		drop(p, p->entries);
	struct entry *e = calloc(1, sizeof(*e) + t->value);
	if (!e)
		return KM_ENOMEM;
	e->key = *k;
	HASH_ADD_BYHASHVALUE(hh, p->entries, key, sizeof(e->key), hash, e);
	p->n++;
	*out = e;
	return 0;
}

static int find(struct byaddr *t, struct part *p, const struct byaddr_key *k, unsigned hash,
		struct entry **out)
{
	struct entry *e;
	HASH_FIND_BYHASHVALUE(hh, p->entries, k, sizeof(*k), hash, e);
	if (!e)
		return make(t, p, k, hash, out);
	if (t->evict && e->hh.next) { /* used last: to the end */
		HASH_DEL(p->entries, e);
		HASH_ADD_BYHASHVALUE(hh, p->entries, key, sizeof(e->key), hash, e);
	}
	*out = e;
	return 0;
}

int byaddr_use(struct byaddr *t, const struct byaddr_key *k, bool (*use)(void *value, void *arg),
	       void *arg)
{
	uint8_t digest[crypto_shorthash_BYTES];
	struct entry *e = NULL;
	unsigned hash;
	crypto_shorthash(digest, (const uint8_t *)k, sizeof(*k), t->secret);
	memcpy(&hash, digest, sizeof(hash));
	struct part *p = &t->parts[digest[sizeof(digest) - 1] % PARTS];
	pthread_mutex_lock(&p->lock);
	int rc = find(t, p, k, hash, &e);
	if (!rc && !use(e->value, arg))
		drop(p, e);
	pthread_mutex_unlock(&p->lock);
	return rc;
}

size_t byaddr_count(struct byaddr *t)
{
	size_t n = 0;
	for (size_t i = 0; i < PARTS; i++) {
		pthread_mutex_lock(&t->parts[i].lock);
		n += t->parts[i].n;
		pthread_mutex_unlock(&t->parts[i].lock);
	}
	return n;
}
