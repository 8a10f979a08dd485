/* SPDX-License-Identifier: MIT */
/* What the route table is made of: route.c writes it, find.c reads it. For these two only. */
#ifndef GATEWAYD_ROUTE_TABLE_H
#define GATEWAYD_ROUTE_TABLE_H

#define URCU_INLINE_SMALL_FUNCTIONS
#include <urcu/urcu-memb.h>

#include "gatewayd/route/route.h"
#include <uthash.h>

struct entry {
	struct route_entry e; /* first: readers see only this, and */
	uint16_t path_len;    /* close to it */
	bool leaving;         /* in nobody's way */
	struct domain *domain;
	struct entry *sibling; /* of the same domain, with a path that is not longer */
	struct entry *next_dead;
	UT_hash_handle by_tunnel;
	char path[];
};

/* The writer's: the tunnels of one domain, those with longer paths first. */
struct domain {
	struct entry *entries;
	size_t n;
	uint32_t hash;
	UT_hash_handle by_name;
	char name[];
};

/* A domain as readers see it. */
struct slot {
	uint32_t hash, n; /* n 0: nothing here */
	union {
		const struct entry *one;         /* n == 1 */
		const struct entry *const *many; /* as in struct domain */
	};
};

struct view {
	size_t mask;
	bool passthrough;   /* some entry has it */
	struct slot slot[]; /* mask + 1, and behind them the lists that they point to */
};

struct route_table {
	_Atomic(struct view *) view; /* RCU: readers use it inside a read-side section */
	struct domain *domains;
	struct entry *tunnels;
	struct entry *dead; /* still seen by readers of the published view */
	uint64_t serial;
	bool changed;
};

/* ThreadSanitizer does not see liburcu's barriers: it is told that what readers did comes before
 * the end of the grace period. */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);
#define READER_DONE(p) __tsan_release((void *)(uintptr_t)(p))
#define READERS_DONE(p) __tsan_acquire((void *)(uintptr_t)(p))
#else
#define READER_DONE(p) ((void)(p))
#define READERS_DONE(p) ((void)(p))
#endif

/* FNV-1a: the names are the operator's, strangers can only look them up. */
static inline uint32_t table_hash(const char *prefix, const char *s)
{
	uint32_t h = 2166136261u;
	for (; *prefix; prefix++)
		h = (h ^ (unsigned char)*prefix) * 16777619u;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 16777619u;
	return h ^ (h >> 15);
}

#endif
