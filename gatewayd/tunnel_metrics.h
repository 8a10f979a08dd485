/* SPDX-License-Identifier: MIT */
/* What each tunnel carries, as metrics with the tunnel's domain (and path) as labels: nothing that
 * a stranger sends is among them. Their number is bounded; the tunnels beyond it are summed. Main
 * loop only. */
#ifndef GATEWAYD_TUNNEL_METRICS_H
#define GATEWAYD_TUNNEL_METRICS_H

#include "gatewayd/route/route.h"
#include "libkm/base/buf.h"

struct tunnel_metrics;

/* At most `limit` tunnels have series of their own: where there are more, the first that have had a
 * request when somebody looks, for as long as they are there. All others are one, domain="other".
 * routes must outlive it. NULL: no memory. */
struct tunnel_metrics *tunnel_metrics_new(const struct route_table *routes, size_t limit);
/* Accepts NULL. */
void tunnel_metrics_free(struct tunnel_metrics *m);
/* For km_metrics_also; arg is the struct tunnel_metrics. */
int tunnel_metrics_print(void *arg, struct km_buf *out);

#endif
