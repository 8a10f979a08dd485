/* SPDX-License-Identifier: MIT */
/* Counters of requests: by class of status, and how long they took. Added to by any thread
 * (relaxed), read by the one that prints. */
#ifndef GATEWAYD_ROUTE_COUNTS_H
#define GATEWAYD_ROUTE_COUNTS_H

#include "libkm/base/buf.h"
#include <stdatomic.h>
#include <stdint.h>

#define COUNTS_CLASSES 5 /* 1xx to 5xx */
#define COUNTS_BUCKETS 8 /* the last one: longer than all bounds */

extern const int64_t counts_bounds_ms[COUNTS_BUCKETS - 1];

struct counts {
	_Atomic uint64_t by_class[COUNTS_CLASSES];
	_Atomic uint64_t took[COUNTS_BUCKETS], took_ms;
};

static inline void counts_bump(_Atomic uint64_t *n, uint64_t by)
{
	atomic_fetch_add_explicit(n, by, memory_order_relaxed);
}
static inline uint64_t counts_read(const _Atomic uint64_t *n)
{
	return atomic_load_explicit(n, memory_order_relaxed);
}
/* Into its bucket. */
void counts_took(struct counts *c, int64_t ms);
/* status: 100 to 599. */
static inline void counts_status(struct counts *c, int status)
{
	counts_bump(&c->by_class[status / 100 - 1], 1);
}

/* ---- printing them, in Prometheus text format ---- */

struct counts_sum {
	uint64_t by_class[COUNTS_CLASSES], took[COUNTS_BUCKETS], took_ms;
};
/* Adds what c has counted to the sum. */
void counts_sum_add(struct counts_sum *s, const struct counts *c);
/* HELP and TYPE. All of them: KM_ENOMEM, KM_ETOOBIG. */
int counts_print_head(struct km_buf *out, const char *name, const char *type, const char *help)
    __attribute__((warn_unused_result));
/* A line: name{labels} n. labels: ready to print, may be empty. */
int counts_print_line(struct km_buf *out, const char *name, const char *labels, uint64_t n)
    __attribute__((warn_unused_result));
/* A line for each class (class="2xx"); of those that never came only with `zeros`. */
int counts_print_classes(struct km_buf *out, const char *name, const char *labels,
			 const struct counts_sum *s, bool zeros)
    __attribute__((warn_unused_result));
/* The lines of a histogram in seconds. */
int counts_print_histogram(struct km_buf *out, const char *name, const char *labels,
			   const struct counts_sum *s) __attribute__((warn_unused_result));

#endif
