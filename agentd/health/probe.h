/* SPDX-License-Identifier: MIT */
/* The health of every tunnel's target: a connection is made and closed again every ten seconds or
 * so, sooner while the target is down, and what real connections see counts at once. Main loop. */
#ifndef AGENTD_HEALTH_PROBE_H
#define AGENTD_HEALTH_PROBE_H

#include "agentd/forward/dial.h"
#include "agentd/forward/tunnel.h"

#define PROBE_INTERVAL_MS 10000
#define PROBE_RETRY_MIN_MS 2000 /* while unhealthy, doubling */
#define PROBE_RETRY_MAX_MS 30000
#define PROBES_AT_ONCE 16

struct probes;

/* changed is called whenever there is something new for probes_status. env is borrowed. NULL: no
 * memory. */
struct probes *probes_new(const struct dial_env *env, int64_t timeout_ms,
			  void (*changed)(void *arg), void *arg);
void probes_free(struct probes *ps);
/* A tunnel is new or has changed (a reference is taken), or goes. The first probe follows at once.
 * KM_ENOMEM. */
int probes_set(struct probes *ps, struct tunnel *t) __attribute__((warn_unused_result));
void probes_remove(struct probes *ps, const uint8_t id[static 16]);
/* What a real connection saw. */
void probes_seen(struct probes *ps, const struct tunnel *t, bool healthy, const char *why);

/* At most max tunnels whose health control has not heard of, as it is now; they count as told. The
 * strings are borrowed until the next call of any function here. Returns how many. */
size_t probes_status(struct probes *ps, struct km_msg_tunnel_status *out, size_t max);
/* Control has heard of none. */
void probes_untold(struct probes *ps);

#endif
