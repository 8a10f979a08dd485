/* SPDX-License-Identifier: MIT */
/* What the gateway tells control about itself: `status` messages with what has changed since the
 * last. */
#ifndef GATEWAYD_REPORT_H
#define GATEWAYD_REPORT_H

#include "gatewayd/acme/acme.h"
#include "gatewayd/edge/certs.h"
#include "gatewayd/peers.h"
#include "gatewayd/route/route.h"
#include <jansson.h>

struct report;

/* acme may be NULL. */
struct report *report_new(const struct route_table *routes, const struct peers *peers,
			  struct certs *certs, const struct acme *acme);
void report_free(struct report *r);
/* Forgets what was sent: the next report is whole. */
void report_reset(struct report *r);
/* Forgets what was sent on a tunnel that is gone, and on its domain: control does, too. */
void report_forget(struct report *r, const char *id, const char *domain);
/* Gathers what has changed and calls send for each message (whose reference it takes), each within
 * what the link takes; what could not be sent (send returns an error) comes again next time. */
void report_send(struct report *r, int64_t now_ms, int64_t wall_ms,
		 int (*send)(void *arg, json_t *data), void *arg);

#endif
