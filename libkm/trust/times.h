/* SPDX-License-Identifier: MIT */
/* How long certificates that look expired are borne with on a host whose clock may be wrong.
 * Sans-I/O; the state has a text form that a host keeps on disk.
 *
 * A clock that is ahead makes everything look expired. So from the moment when that is first seen a
 * grace time passes, counted while this host runs and not by that clock; when the clock is put
 * right within it, nothing has happened. What looks not yet valid is a matter of clocks alone (a CA
 * has signed it) and is no business of this module: nobody is refused for it. */
#ifndef KM_TRUST_TIMES_H
#define KM_TRUST_TIMES_H

#include "libkm/base/buf.h"
#include "libkm/cert/cert.h"

#define KM_TIMES_MAX (8U << 20) /* bytes of the text form */

struct km_times;

/* NULL: no memory. mono_ms: the monotonic clock now. */
struct km_times *km_times_new(int64_t grace_s, int64_t mono_ms) __attribute__((warn_unused_result));
/* Accepts NULL. */
void km_times_free(struct km_times *t);

/* This certificate looks expired: whether it is borne with yet. The first call begins its grace
 * time; *left_s gets what is left of it (0: none). */
bool km_times_bear(struct km_times *t, const uint8_t fp[static KM_CERT_FP_LEN], int64_t mono_ms,
		   int64_t *left_s);
/* It looks valid (again), or is no longer of interest. */
void km_times_fine(struct km_times *t, const uint8_t fp[static KM_CERT_FP_LEN]);

/* The wall clock (Unix seconds) when the text was written that km_times_parse took; 0: none. */
int64_t km_times_saved(const struct km_times *t);

/* Appends the text form. KM_ETOOBIG, KM_ENOMEM. */
int km_times_format(const struct km_times *t, struct km_buf *out, int64_t wall_s, int64_t mono_ms)
    __attribute__((warn_unused_result));
/* Takes one over into a fresh t. KM_EINVAL: not such a text; t is then as fresh as before. */
int km_times_parse(struct km_times *t, const char *text) __attribute__((warn_unused_result));

#endif
