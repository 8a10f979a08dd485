/* SPDX-License-Identifier: MIT */
/* What each tunnel carries, as metrics with the tunnel's domain (and path) as labels: nothing that
 * a stranger sends is among them. Their number is bounded; the tunnels beyond it are summed. Main
 * loop only. */
#ifndef GATEWAYD_TUNNEL_METRICS_H
#define GATEWAYD_TUNNEL_METRICS_H

#include "gatewayd/route/route.h"
#include "libkm/base/buf.h"

struct tunnel_metrics;

/* At most `limit` tunnels have series of their own: all, or where there are more the busiest of
 * those that have had a request. All others are one, domain="other". Who has got series keeps them
 * for keep_ms, and loses them only to one that has had twice as many requests of late (those of a
 * third of keep_ms ago count half; a connection that lasts counts like a request every fifteenth of
 * it). So limit * (time / keep_ms + 1) sets of series come up in a time at most, and tunnels that
 * are about as busy do not change places.
 *
 * Each request is counted in one series for ever: in the tunnel's own if it had them, else in the
 * others'. No counter goes back, all of them together are the requests of all, and series that come
 * back go on from where they were. A tunnel that is removed takes its own along.
 *
 * keep_ms: above 0. routes must outlive it. NULL: no memory. */
struct tunnel_metrics *tunnel_metrics_new(const struct route_table *routes, size_t limit,
					  int64_t keep_ms);
/* Accepts NULL. */
void tunnel_metrics_free(struct tunnel_metrics *m);
/* Appends all series; now (monotonic, ms) decides about places. KM_ENOMEM, KM_ETOOBIG. */
int tunnel_metrics_write(struct tunnel_metrics *m, int64_t now, struct km_buf *out)
    __attribute__((warn_unused_result));
/* The same now. For km_metrics_also; arg is the struct tunnel_metrics. */
int tunnel_metrics_print(void *arg, struct km_buf *out);

#endif
