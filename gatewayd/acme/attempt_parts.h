/* SPDX-License-Identifier: MIT */
/* What the files of an attempt say to each other; for attempt.c, attempt_begin.c and attempt_order.c only. */
#ifndef GATEWAYD_ACME_ATTEMPT_PARTS_H
#define GATEWAYD_ACME_ATTEMPT_PARTS_H

#include "gatewayd/acme/manager.h"

#define ATTEMPT_TYPES 5 /* of challenges, with the NULL at their end */

/* attempt.c: ends it; its name is tried again at the time that it has by then. */
void attempt_over(struct attempt *t);
/* attempt.c: ends it; it has failed, for a cause and in words. */
void attempt_failf(struct attempt *t, enum acme_cause cause, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* attempt_begin.c: the challenges that can be used for this domain, NULL behind them; their number. */
size_t attempt_types(const struct acme *a, const char *domain, const char *out[static ATTEMPT_TYPES]);
/* attempt_begin.c: whether the CA counts it as the renewal of a certificate that this account has obtained. */
bool attempt_renews(const struct name *n);
/* attempt_begin.c: whether the CA's limits have the name wait; then it does. */
bool attempt_held(struct name *n);

/* attempt_order.c: it has all that it needs to order. May end it. */
void attempt_order(struct attempt *t);
/* attempt_order.c: its job is done, or has failed. Ends it. */
void attempt_ordered(struct attempt *t);
void attempt_order_failed(struct attempt *t);

#endif
