/* SPDX-License-Identifier: MIT */
/* A bounded table of small values by who a stranger is, shared by all workers. An IPv4 address counts as
 * one stranger, and so does a /64 of IPv6: whoever has one address there has them all. Where two
 * values of one stranger are meant (two tunnels), a scope tells them apart. Strangers cannot make two keys
 * meet on purpose (the hash has a random key). Any thread. */
#ifndef GATEWAYD_EDGE_BYADDR_H
#define GATEWAYD_EDGE_BYADDR_H

#include "libkm/base/addr.h"

#define BYADDR_SCOPE 16 /* bytes: a UUID */

struct byaddr;
struct byaddr_key {
	uint8_t family;
	uint8_t ip[8]; /* IPv4: 4 bytes and zeroes; IPv6: the first 8 */
	uint8_t scope[BYADDR_SCOPE];
};
struct byaddr_opts {
	size_t max;   /* entries, about (they stand in 16 parts with a bound each) */
	size_t value; /* bytes of a value */
	bool evict;   /* when full, the entry that was longest unused goes; else a new one is refused */
};

/* The key of a; scope NULL: none. */
struct byaddr_key byaddr_key(const struct km_addr *a, const uint8_t *scope);

/* NULL: no memory. */
struct byaddr *byaddr_new(const struct byaddr_opts *o);
/* Accepts NULL. */
void byaddr_free(struct byaddr *t);
/* Calls use with the value of this key, which is made of zeroes when there is none; when use returns false
 * the entry is dropped. A lock is held meanwhile: use must be short and not call byaddr_use. 0, or with use not
 * called KM_EFULL, KM_ENOMEM. */
int byaddr_use(struct byaddr *t, const struct byaddr_key *k, bool (*use)(void *value, void *arg),
	       void *arg) __attribute__((warn_unused_result));
/* How many entries there are now. */
size_t byaddr_count(struct byaddr *t);

#endif
