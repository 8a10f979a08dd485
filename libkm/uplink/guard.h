/* SPDX-License-Identifier: MIT */
/* Stands between the configuration (libkm/replica) and a daemon's hooks: an agent or a gateway
 * reaches the daemon as a peer only with a certificate that libkm/trust accepts. One that loses it
 * is taken away from the daemon as if control had removed it. Main loop only; it logs, and counts
 * kakuremichi_TYPE_peers_refused, _certificates_borne, _certificate_not_after_seconds,
 * _trust_number. */
#ifndef KM_UPLINK_GUARD_H
#define KM_UPLINK_GUARD_H

#include "libkm/replica/replica.h"
#include "libkm/trust/trust.h"
#include <event2/event.h>

struct km_guard;

struct km_guard_opts {
	struct event_base *base;
	const char *type; /* "agent" or "gateway" */
	const char *state_dir;
	const struct km_strlist *ca_pin;
	int64_t grace_s;
	bool off; /* there is no WireGuard whose peers could be guarded: everything passes */
	const struct km_replica_hooks *hooks; /* the daemon's */
	/* A gateway's certificate has been blocked (not: it is removed, or its time is over); never
	 * from within km_guard_open, and again after a restart in between. NULL: nobody cares. */
	void (*gateway_revoked)(void *arg, const char *id);
	void *arg;
};

/* Reads what is on disk. Strings and hooks are borrowed. Errors of km_trust_open, KM_ENOMEM. */
int km_guard_open(struct km_guard **out, const struct km_guard_opts *opts, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Writes down what must not be forgotten. Accepts NULL. Before the replica is freed. */
void km_guard_free(struct km_guard *g);
/* What the replica is to be opened with; its arg is g. */
const struct km_replica_hooks *km_guard_hooks(void);
/* The replica whose items are judged anew when trust changes; borrowed. */
void km_guard_replica(struct km_guard *g, struct km_replica *r);

int64_t km_guard_trust_number(const struct km_guard *g);
/* The messages `trust` and `identity`. */
void km_guard_trust(struct km_guard *g, const json_t *data);
void km_guard_identity(struct km_guard *g, const json_t *data);

#endif
