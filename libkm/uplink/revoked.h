/* SPDX-License-Identifier: MIT */
/* Which gateways have been revoked, as opposed to removed, expired or refused: what they knew must
 * be thought known to others. Control takes a gateway away and blocks its certificates in two
 * messages that may come in either order, with a restart in between; so the certificates by which
 * gateways were accepted are kept (STATE/gateways.json) until the blocklist names them. Main loop
 * only; it logs. */
#ifndef KM_UPLINK_REVOKED_H
#define KM_UPLINK_REVOKED_H

#include "libkm/trust/trust.h"

#define KM_REVOKED_MAX 1024 /* gateways that are remembered; of more, some are forgotten */

struct km_revoked;

struct km_revoked *km_revoked_new(const char *state_dir);
void km_revoked_free(struct km_revoked *r);
/* trust has just admitted the gateway with this id. */
void km_revoked_saw(struct km_revoked *r, const struct km_trust *trust, const char *id);
/* After a round of that: writes down what has changed. */
void km_revoked_save(struct km_revoked *r);
/* Calls told for each gateway whose certificate trust blocks, once, but again when the host dies in
 * between. */
void km_revoked_look(struct km_revoked *r, const struct km_trust *trust,
		     void (*told)(void *arg, const char *gateway_id), void *arg);

#endif
