/* SPDX-License-Identifier: MIT */
/* What the configuration means for certificates: which tunnels want one, and by which addresses strangers
 * reach gateways. Main loop only. */
#ifndef GATEWAYD_WANTS_H
#define GATEWAYD_WANTS_H

#include "gatewayd/acme/acme.h"
#include "libkm/msg/msg.h"

struct wants;

/* acme may be NULL: nothing is wanted then. NULL: no memory. */
struct wants *wants_new(struct acme *acme, const struct gw_settings *settings);
/* Accepts NULL. */
void wants_free(struct wants *w);
/* The routed tunnel wants a certificate for this domain; NULL: none (any more). */
void wants_set(struct wants *w, const uint8_t tunnel[static 16], const char *domain);
/* This gateway, and another one (is NULL: gone), as control describes them. */
void wants_self(struct wants *w, const struct km_msg_gateway_self *is);
void wants_gateway(struct wants *w, const uint8_t id[static 16], const struct km_msg_gateway *is);
/* A round of changes is over. */
void wants_settled(struct wants *w);

#endif
