/* SPDX-License-Identifier: MIT */
/* One name to its addresses, by getaddrinfo on a thread of its own that can be left behind: the
 * resolver may take half a minute, and neither the link nor its end shall wait for it. */
#ifndef KM_LINK_RESOLVE_H
#define KM_LINK_RESOLVE_H

#include "libkm/base/addr.h"
#include <stddef.h>

#define KM_RESOLVE_MAX 16

struct km_resolve;

/* Starts it; done is called once on the helper thread, unless km_resolve_free came first.
 * KM_ENOMEM, KM_EIO (no thread). */
int km_resolve_start(struct km_resolve **out, const char *host, void (*done)(void *arg), void *arg)
    __attribute__((warn_unused_result));
/* After done was called: copies at most KM_RESOLVE_MAX addresses, in the order to try them, and
 * returns their number; 0 with a sentence when there is none. */
size_t km_resolve_result(struct km_resolve *r, struct km_addr out[static KM_RESOLVE_MAX],
			 struct km_errtext *err);
/* Lets go of it at any time; done is not running any more when it returns. Accepts NULL. */
void km_resolve_free(struct km_resolve *r);

#endif
