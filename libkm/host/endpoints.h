/* SPDX-License-Identifier: MIT */
/* Where a WireGuard peer may be reached: the entries of its public_ip (addresses and host names),
 * what the names resolve to, and which of all these addresses is in use. Sans-I/O: answers of the
 * resolver and verdicts on the path come in, the address to use goes out.
 *
 * Every address of every entry is a candidate, in the order of entries and answers. The one in use
 * stays as long as it works, whatever is resolved meanwhile. After KM_ENDPOINTS_TRIES fruitless
 * handshakes (one, when no entry names it any more, or there is no route to it) the next one is
 * taken: the one whose last failure is the longest ago, so that a new one comes before all that
 * have failed. */
#ifndef KM_HOST_ENDPOINTS_H
#define KM_HOST_ENDPOINTS_H

#include "libkm/base/addr.h"
#include <jansson.h>
#include <stdbool.h>

#define KM_ENDPOINTS_ENTRIES 8 /* further ones are dropped */
#define KM_ENDPOINTS_ADDRS 8   /* of one name; likewise */
#define KM_ENDPOINTS_TRIES 2

struct km_endpoints;

struct km_endpoints *km_endpoints_new(void);
void km_endpoints_free(struct km_endpoints *e);

/* The entries as configured. What is known of a name that stays is kept, and so is the address in
 * use if it is still among the candidates; else it is given up as soon as there is another. */
void km_endpoints_set(struct km_endpoints *e, const char *const *entries, size_t n);
/* The i-th entry if it is a host name, to be resolved; else NULL. */
const char *km_endpoints_host(const struct km_endpoints *e, size_t i);
/* What the i-th entry, a host name, resolves to now; with n = 0 (failed) the last answer stays.
 * True when other addresses than before are known. */
bool km_endpoints_resolved(struct km_endpoints *e, size_t i, const struct km_addr *addrs, size_t n);

/* A handshake with the address in use was fruitless. */
void km_endpoints_failed(struct km_endpoints *e);
/* The address in use works. True when it is another than the one that worked last. */
bool km_endpoints_works(struct km_endpoints *e);
/* Takes another address when it is time to; usable tells whether this host has a route to one. True
 * when the address in use has changed. */
bool km_endpoints_choose(struct km_endpoints *e, bool (*usable)(void *arg, const struct km_addr *a),
			 void *arg);
/* The address in use; NULL: none was usable so far. */
const struct km_addr *km_endpoints_used(const struct km_endpoints *e);
size_t km_endpoints_candidates(const struct km_endpoints *e);

/* What is worth keeping on disk (a new reference): the names' addresses, and the address that
 * worked last. Loading takes from it what fits the entries; anything malformed is passed over. To
 * be called after km_endpoints_set and before the first km_endpoints_choose. */
json_t *km_endpoints_save(const struct km_endpoints *e);
void km_endpoints_load(struct km_endpoints *e, const json_t *saved);

#endif
