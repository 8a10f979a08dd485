/* SPDX-License-Identifier: MIT */
/* The agents and the other gateways as WireGuard peers of this gateway: set, removed, routed,
 * watched. What was learned about their endpoints is kept on disk, so that the gateway can begin
 * the handshake itself after a restart and traffic does not wait for the agent's next packet. Main
 * loop only. */
#ifndef GATEWAYD_PEERS_H
#define GATEWAYD_PEERS_H

#include "gatewayd/neighbours.h"
#include "libkm/msg/msg.h"
#include "libkm/privnet/privnet.h"

struct peers;

/* Reads STATE_DIR/endpoints.json, if there is one. neighbours (borrowed) knows how other gateways
 * are reached; NULL: they are no peers. NULL: no memory. */
struct peers *peers_new(const char *state_dir, struct neighbours *neighbours);
void peers_free(struct peers *p);
/* The private network to work on (borrowed; NULL: none for now). Everything must be given again. */
void peers_net(struct peers *p, struct km_privnet *net);

/* The hooks of km_replica for agents, other gateways and this gateway's own addresses. */
int peers_agent(struct peers *p, const struct km_msg_agent *was, const struct km_msg_agent *is,
		struct km_errtext *err);
int peers_gateway(struct peers *p, const struct km_msg_gateway *was,
		  const struct km_msg_gateway *is, struct km_errtext *err);
int peers_self(struct peers *p, const struct km_msg_gateway_self *is, struct km_errtext *err);
/* After a round of them: removes peers that nobody wants any more and makes the routes right. */
int peers_settled(struct peers *p, struct km_errtext *err);

/* This gateway's own next key, and the change to it (km_privnet_key_next, km_privnet_key_switch);
 * KM_ECLOSED: there is no private network now. */
int peers_key_next(struct peers *p, uint8_t pub[static KM_WG_KEY_LEN], struct km_errtext *err);
int peers_key_switch(struct peers *p, const uint8_t pub[static KM_WG_KEY_LEN],
		     struct km_errtext *err);

/* Looks at the device, notes learned endpoints, writes them when they changed; to be called every
 * few seconds and once at the end. */
void peers_look(struct peers *p, int64_t now_ms);
/* What peers_look saw last, one per agent. */
void peers_each(const struct peers *p,
		void (*each)(void *arg, const char *agent_id, const struct km_wg_peer_status *s),
		void *arg);

#endif
