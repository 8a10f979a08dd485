/* SPDX-License-Identifier: MIT */
/* Token buckets that keep orders below the CA's limits, so that it need not refuse them: new orders of
 * the account, certificates below one registered domain, certificates for the very same name, failed
 * validations of a name. What was used is kept over restarts. Renewals that the CA knows by ARI are not
 * asked about. Times are monotonic milliseconds, passed in. */
#ifndef GATEWAYD_ACME_THROTTLE_H
#define GATEWAYD_ACME_THROTTLE_H

#include "libkm/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define THROTTLE_BUCKETS_MAX 65536 /* then the fullest are forgotten */
#define THROTTLE_FAILURES_MAX 5	   /* failed validations of a name in an hour */

struct throttle;

struct throttle_rate {
	int64_t n, ms; /* n in each ms */
};
/* name: certificates for the very same name, of either kind of key. path: the file in which it is kept;
 * NULL: none. What cannot be read there counts as nothing used. NULL: no memory. */
struct throttle *throttle_new(struct throttle_rate orders, struct throttle_rate domain,
			      struct throttle_rate name, const char *path, int64_t mono_ms, int64_t wall_ms);
void throttle_free(struct throttle *t);

/* The domain below which the CA counts: by the public suffix list, the one label more than a suffix;
 * where there is none (an address, a suffix itself), the name. Points into name or is it. */
const char *throttle_registered(const char *name);

/* 0: an order for the name (with "*." too) may be made now; else for how many milliseconds not, and why
 * (such as "280 orders in 3h"). */
int64_t throttle_wait(const struct throttle *t, const char *name, int64_t mono_ms, char *why,
		      size_t size);
/* It is made. */
void throttle_order(struct throttle *t, const char *name, int64_t mono_ms);
/* No certificate came of it: what counts those gets its tokens back; and if no order was made after all, what
 * counts orders too. */
void throttle_undo(struct throttle *t, const char *name, bool made, int64_t mono_ms);
/* A validation has failed. */
void throttle_failed(struct throttle *t, const char *name, int64_t mono_ms);

/* Writes what is used, if anything has changed. KM_EIO (errno), KM_ENOMEM: it stays to be written. */
int throttle_save(struct throttle *t, int64_t mono_ms, int64_t wall_ms)
    __attribute__((warn_unused_result));

#endif
