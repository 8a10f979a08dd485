/* SPDX-License-Identifier: MIT */
/* The tunnels that lead to this agent, found by tunnel and target id. Entries are immutable but for
 * their counters and marks, and live as long as someone holds a reference; a changed tunnel is a
 * new entry. Written by the main loop, read by the workers. */
#ifndef AGENTD_FORWARD_TUNNEL_H
#define AGENTD_FORWARD_TUNNEL_H

#include "agentd/forward/allow.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/msg/msg.h"
#include <pthread.h>
#include <stdatomic.h>
#include <uthash.h>

enum tunnel_health { TUNNEL_UNKNOWN, TUNNEL_HEALTHY, TUNNEL_UNHEALTHY };

struct tunnel {
	uint8_t id[16], target_id[16];
	char id_text[KM_UUID_STRLEN], target_id_text[KM_UUID_STRLEN];
	char *domain, *target_text;
	struct km_target target;
	bool enabled, datagram; /* datagram: UDP, which has no connections to splice */
	bool refused;           /* by allow_targets, whatever the name resolves to */
	_Atomic int health;     /* what the last connection or probe saw: enum tunnel_health */
	struct km_metric *connections, *errors, *bytes_in, *bytes_out;
	_Atomic unsigned refs;
	UT_hash_handle hh;
};

/* Makes an entry with one reference. KM_EINVAL (an id or the target is malformed), KM_ENOMEM. */
int tunnel_new(struct tunnel **out, const struct km_msg_tunnel *m, const struct allow *allow,
	       struct km_errtext *err) __attribute__((warn_unused_result));
struct tunnel *tunnel_ref(struct tunnel *t);
void tunnel_unref(struct tunnel *t); /* accepts NULL */

struct tunnel_table {
	pthread_rwlock_t lock;
	struct tunnel *by_id;
};
void tunnel_table_init(struct tunnel_table *tt);
void tunnel_table_free(struct tunnel_table *tt);
/* Takes over the caller's reference; an entry with this tunnel id is replaced (and returned to
 * nobody). Main loop only. */
void tunnel_table_set(struct tunnel_table *tt, struct tunnel *t);
void tunnel_table_remove(struct tunnel_table *tt, const uint8_t id[static 16]);
/* A new reference to the tunnel, or NULL: unknown, or its target has another id. */
struct tunnel *tunnel_table_find(struct tunnel_table *tt, const uint8_t id[static 16],
				 const uint8_t target_id[static 16]);

/* Whether the tunnel is there and enabled: running connections of others end. */
bool tunnel_table_serves(struct tunnel_table *tt, const uint8_t id[static 16]);

#endif
