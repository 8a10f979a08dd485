/* SPDX-License-Identifier: MIT */
/* An exchange's connection to its target: taken from the pool or waited for, lost, and what has
 * been sent on it sent once more. For exchange.c, with what both files need of each other. */
#ifndef GATEWAYD_EDGE_EXCHANGE_UP_H
#define GATEWAYD_EDGE_EXCHANGE_UP_H

#include "gatewayd/edge/exchange.h"

/* The request's head, in w->head, goes to the target. What fails is answered. */
void exchange_up_begin(struct exchange *x);
/* The same with a head that is in x->again, with what has come of the body (gather.h). */
void exchange_up_gathered(struct exchange *x);
/* The connection is broken or refused: the request is sent once more if it may be, else the
 * exchange fails. Afterwards x->up may be NULL, or another one. */
void exchange_up_failed(struct exchange *x, const char *why);
/* The target has answered that it has not heard the request (408): true when it has been sent once
 * more, or has failed in that; false when the answer is to be passed on. */
bool exchange_up_unheard(struct exchange *x);
/* The private network of the connection is no more (the pool may have another), or the agent at its
 * other end, or the one that it waits for, has been removed or revoked, as x->lost says: what runs
 * there is cut or answered with 502. */
void exchange_up_lost(struct exchange *x);
/* Which of the two, in words, while x->lost says so. */
const char *exchange_up_lost_why(const struct exchange *x);
/* 503: the target has as many connections as it may have. */
void exchange_up_busy(struct exchange *x, const char *why);

/* Rounds of exchange_step: whether the connection is there now, or has failed; what goes of
 * x->up->out. */
bool exchange_up_connect(struct exchange *x);
bool exchange_up_flush(struct exchange *x);
/* The last n bytes of x->up->out are kept too, if what is before them is. */
void exchange_up_keep(struct exchange *x, size_t n);

/* exchange.c: the target gave no whole answer. Says so, or, when an answer has begun, cuts the
 * client, which must not take half an answer for a whole one. */
void exchange_fail(struct exchange *x, int status, const char *why);
/* exchange.c: its timer runs as this kind from now on. */
void exchange_limit(struct exchange *x, enum timer_kind kind);

#endif
