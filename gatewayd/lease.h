/* SPDX-License-Identifier: MIT */
/* The gateway's side of the leases on domains (struct acme_lease): asks control, which is advice
 * and never a condition. Main loop only. */
#ifndef GATEWAYD_LEASE_H
#define GATEWAYD_LEASE_H

#include "gatewayd/acme/acme.h"
#include <event2/event.h>
#include <jansson.h>

#define LEASE_WAIT_MS 2000
#define LEASES_MAX 4096 /* unanswered at once; who asks beyond is not held up */

struct leases;

/* NULL: no memory. */
struct leases *leases_new(struct event_base *base);
/* What is unanswered is forgotten: its done is not called. Accepts NULL. */
void leases_free(struct leases *l);
/* How to send the message `lease` to control: takes data's reference, fails while control is away.
 * NULL: there is no control, everything is granted. */
void leases_sender(struct leases *l, int (*send)(void *arg, json_t *data), void *arg);
/* The message `lease_result`. */
void leases_result(struct leases *l, const json_t *data);
/* For acme_opts. done is never called from within take; it is granted when control is away,
 * malformed in what it says, or silent for LEASE_WAIT_MS. */
struct acme_lease leases_ops(struct leases *l);

#endif
