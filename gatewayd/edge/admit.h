/* SPDX-License-Identifier: MIT */
/* Who may connect, and how often at once. Any thread. */
#ifndef GATEWAYD_EDGE_ADMIT_H
#define GATEWAYD_EDGE_ADMIT_H

#include "gatewayd/settings.h"
#include "libkm/base/addr.h"

struct admit;

/* As the settings (max_connections_per_address, proxy_protocol_from) say; max_conns: connections there can
 * be in all. NULL: no memory. */
struct admit *admit_new(const struct gw_settings *s, int64_t max_conns);
/* Accepts NULL. */
void admit_free(struct admit *a);
/* Whether this address may say by a PROXY header whose connection it passes on. */
bool admit_proxy(const struct admit *a, const struct km_addr *from);
/* Whether one more connection of this stranger may be open; *counted: admit_leave is to be called when it
 * is closed. */
bool admit_enter(struct admit *a, const struct km_addr *who, bool *counted);
void admit_leave(struct admit *a, const struct km_addr *who);

#endif
