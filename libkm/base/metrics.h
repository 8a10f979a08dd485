/* SPDX-License-Identifier: MIT */
/* Counters and gauges in Prometheus text format (exposition format 0.0.4). Series are made once
 * and live as long as the process, updates are lock-free and safe from any thread. */
#ifndef KM_BASE_METRICS_H
#define KM_BASE_METRICS_H

#include "libkm/base/buf.h"
#include <stdatomic.h>
#include <stdint.h>

struct km_metric {
	_Atomic int64_t value;
};
enum km_metric_kind { KM_METRIC_COUNTER, KM_METRIC_GAUGE };

/* The series `name{labels}`, made at the first call (then the same pointer is given). name begins
 * with "kakuremichi_"; labels is "" or `key="value",…` ready to print. At most 1,024 series: after
 * that all further ones share one that is named kakuremichi_metrics_overflow_total. Never NULL. */
struct km_metric *km_metric(enum km_metric_kind kind, const char *name, const char *labels,
			    const char *help);
static inline void km_metric_add(struct km_metric *m, int64_t n)
{
	atomic_fetch_add_explicit(&m->value, n, memory_order_relaxed);
}
static inline void km_metric_set(struct km_metric *m, int64_t n)
{
	atomic_store_explicit(&m->value, n, memory_order_relaxed);
}
/* Has print called at the end of km_metrics_print, for series that come and go (it appends whole lines,
 * with HELP and TYPE); print NULL: no longer for this arg. At most 8; on the thread that prints. */
void km_metrics_also(int (*print)(void *arg, struct km_buf *out), void *arg);
/* Appends all series, grouped by name, with HELP and TYPE lines. */
int km_metrics_print(struct km_buf *out) __attribute__((warn_unused_result));

#endif
