/* SPDX-License-Identifier: MIT */
/* HTTP/1 towards a client: its requests one after another, each an exchange. */
#ifndef GATEWAYD_EDGE_FRONT_H1_H
#define GATEWAYD_EDGE_FRONT_H1_H

#include "gatewayd/edge/exchange.h"

extern const struct front front_h1;

/* One round of CONN_HEAD; true when something moved. */
bool h1_head_step(struct conn *c);
/* The timer of CONN_HEAD has ended. */
void h1_head_late(struct conn *c);

#endif
