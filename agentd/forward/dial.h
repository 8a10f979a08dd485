/* SPDX-License-Identifier: MIT */
/* One connection to a target: its name is resolved off the loop, every address is checked against
 * the agent's list, and exactly the checked ones are tried in turn. */
#ifndef AGENTD_FORWARD_DIAL_H
#define AGENTD_FORWARD_DIAL_H

#include "agentd/forward/allow.h"
#include "libkm/host/resolver.h"

struct dial;

/* err is 0: fd is a connected, non-blocking socket that now belongs to the callee. Else fd is -1
 * and why a sentence (borrowed): KM_EPERM (not in the list), KM_ENOTFOUND (the name has no
 * address), KM_ETIMEOUT, KM_EIO (refused, unreachable …), KM_EFULL, KM_ENOMEM. */
typedef void dial_done(void *arg, int fd, int err, const char *why);

struct dial_env {
	struct event_base *base;
	struct km_resolver_port *port;
	const struct allow *allow;
};

/* Starts; env and target must outlive the dial. done is called once, later, never from within, and
 * the dial is then gone. timeout_ms bounds all addresses together; each gets an even share of what
 * is left. NULL: no memory. */
struct dial *dial_start(const struct dial_env *env, const struct km_target *target,
			int64_t timeout_ms, dial_done *done, void *arg);
/* Gives it up; no callback follows. Accepts NULL. */
void dial_cancel(struct dial *d);

#endif
