/* SPDX-License-Identifier: MIT */
#include "controld/api/limit.h"
#include <stdio.h>
#include <stdlib.h>
#include <uthash.h>

/* A leaky bucket: empty_ms is when nothing is in it any more. */
struct bucket {
	char key[64];
	int64_t empty_ms;
	UT_hash_handle hh;
};
struct limit {
	struct bucket *buckets; /* in the order of the last failure */
	uint32_t burst;
	int64_t every_ms;
	size_t max;
};

struct limit *limit_new(uint32_t burst, int64_t every_ms, size_t max)
{
	struct limit *l = calloc(1, sizeof(*l));
	if (l)
		*l = (struct limit){.burst = burst, .every_ms = every_ms, .max = max};
	return l;
}

static struct bucket *find(struct limit *l, const char *key, char cut[static 64])
{
	struct bucket *b = NULL;
	snprintf(cut, 64, "%s", key);
	HASH_FIND_STR(l->buckets, cut, b);
	return b;
}

int64_t limit_wait_ms(struct limit *l, const char *key, int64_t now_ms)
{
	char cut[64];
	const struct bucket *b = find(l, key, cut);
	if (!b)
		return 0;
	/* One more failure must fit below the brim. */
	int64_t over = b->empty_ms + l->every_ms - now_ms - (int64_t)l->burst * l->every_ms;
	return over > 0 ? over : 0;
}

void limit_failed(struct limit *l, const char *key, int64_t now_ms)
{
	char cut[64];
	struct bucket *b = find(l, key, cut);
	if (b)
		HASH_DEL(l->buckets, b);
	else if (HASH_COUNT(l->buckets) >= l->max) {
		b = l->buckets;
		HASH_DEL(l->buckets, b);
		b->empty_ms = 0;
	} else {
		b = calloc(1, sizeof(*b));
	}
	if (!b)
		return;
	memcpy(b->key, cut, sizeof(cut));
	b->empty_ms = (b->empty_ms > now_ms ? b->empty_ms : now_ms) + l->every_ms;
	HASH_ADD_STR(l->buckets, key, b);
}

void limit_free(struct limit *l)
{
	struct bucket *b, *next;
	if (!l)
		return;
	HASH_ITER (hh, l->buckets, b, next) {
		HASH_DEL(l->buckets, b);
		free(b);
	}
	free(l);
}
