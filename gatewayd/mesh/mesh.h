/* SPDX-License-Identifier: MIT */
/* What gateways say to each other, inside the private network and never through control: who lives,
 * who orders a certificate, which challenges are open, and the certificates themselves. Each
 * gateway listens at its virtual IP, port MESH_PORT; the peer is known by its address, which
 * WireGuard binds to its key and libkm/trust to its certificate with the group `gateway`. Main loop
 * only.
 *
 * With `wireguard = none` or share_certificates = off there is no mesh: this gateway is alone. */
#ifndef GATEWAYD_MESH_MESH_H
#define GATEWAYD_MESH_MESH_H

#include "gatewayd/acme/challenges.h"
#include "libkm/base/addr.h"
#include "libkm/privnet/privnet.h"
#include <event2/event.h>

#define MESH_PORT 4437
#define MESH_PEERS_MAX 256

struct mesh;

/* A certificate that a gateway has, as told to others; no private thing. */
struct mesh_fact {
	char domain[256];
	bool rsa;
	char fingerprint[65];
	int64_t not_after_ms;
};

/* Each may be NULL. None may call mesh_free, mesh_net, mesh_self, mesh_peer or mesh_peer_gone. */
struct mesh_hooks {
	/* Another gateway has a challenge open (open) or has closed it; token alone is set then. */
	void (*challenge)(void *arg, const struct challenge *ch, bool open);
	/* Another gateway has this certificate. The receiver asks for it with mesh_fetch if it
	 * wants it. */
	void (*announced)(void *arg, const uint8_t gateway[static 16], const struct mesh_fact *f);
	/* Another gateway asks for a certificate: key and chain as PEM (malloc'd; wiped and freed
	 * by the mesh), or NULL. It is noted by whoever answers that this gateway knows the key
	 * now. */
	char *(*give)(void *arg, const uint8_t gateway[static 16], const char *domain, bool rsa);
	/* Another gateway wants to order for this name: false if we are ordering it ourselves. */
	bool (*yields)(void *arg, const char *domain);
	/* Another gateway has failed to obtain it (for status and backoff). */
	void (*failed)(void *arg, const char *domain, const char *why, int64_t next_try_ms);
	/* The set of living gateways has changed: who orders what may have too. */
	void (*changed)(void *arg);
	/* A gateway has come: tell it what is open and what there is (mesh_challenge_to,
	 * mesh_announce_to). */
	void (*joined)(void *arg, const uint8_t gateway[static 16]);
};

struct mesh_opts {
	struct event_base *base;
	const struct mesh_hooks *hooks; /* borrowed; NULL: none */
	void *arg;
	int64_t dead_after_ms; /* a peer that is silent so long is dead; 0: 5 s */
};
/* NULL: no memory. It logs, and counts kakuremichi_mesh_peers, _messages_total, _refused_total,
 * _dropped_total, _given_total, _fetches_total. */
struct mesh *mesh_new(const struct mesh_opts *o);
/* What has been asked and not answered is forgotten: its done is not called. Accepts NULL. */
void mesh_free(struct mesh *m);

/* The private network to listen and dial in (borrowed; NULL: none for now). Connections begin anew.
 * Errors with a sentence: KM_EIO, as km_privnet_listen. */
int mesh_net(struct mesh *m, struct km_privnet *net, struct km_errtext *err);
/* This gateway's own id and virtual IP. Likewise. */
int mesh_self(struct mesh *m, const uint8_t id[static 16], const struct km_addr *virtual_ip,
	      struct km_errtext *err);
/* Another gateway has come (or has another address), or is gone (an unknown one is no error): then
 * it is cut off at once. KM_EINVAL (it is ourselves, or two have one address), KM_EFULL, KM_ENOMEM.
 * Of two gateways the one whose id is the lower makes the connection. */
int mesh_peer(struct mesh *m, const uint8_t id[static 16], const struct km_addr *virtual_ip,
	      struct km_errtext *err);
void mesh_peer_gone(struct mesh *m, const uint8_t id[static 16]);

size_t mesh_alive(const struct mesh *m); /* others */
/* How long, in ms, it is worth while to wait for gateways that have been named but not been met: as long
 * as their silence does not say that they are dead. 0: for none. hooks.changed is called when one comes. */
int64_t mesh_awaits(const struct mesh *m);
bool mesh_is_alive(const struct mesh *m, const uint8_t id[static 16]);
/* Whether this gateway is the one that orders for a name: the highest of the rendezvous hashes of
 * all that live (ourselves too). */
bool mesh_mine(const struct mesh *m, const char *domain);

/* In all that follows, done is called once and never from within the call. */

/* Tells every living gateway and calls done once all have acknowledged, died or timed out (2 s).
 * done may be NULL. */
void mesh_challenge(struct mesh *m, const struct challenge *ch, bool open, void (*done)(void *arg),
		    void *arg);
/* Tells one that has come of a challenge that is open. */
void mesh_challenge_to(struct mesh *m, const uint8_t gateway[static 16],
		       const struct challenge *ch);
/* Asks every living gateway whether it yields (hooks.yields); done(arg, true) when nobody objects.
 * Ends after 2 s; silence is consent. false also when more than 8,192 questions are open. */
void mesh_claim(struct mesh *m, const char *domain, void (*done)(void *arg, bool granted),
		void *arg);
/* To every living gateway, or to one. When more than 16 MiB wait for a gateway, it is not told. */
void mesh_announce(struct mesh *m, const struct mesh_fact *f);
void mesh_announce_to(struct mesh *m, const uint8_t gateway[static 16], const struct mesh_fact *f);
void mesh_failed(struct mesh *m, const char *domain, const char *why, int64_t next_try_ms);
/* Fetches key and chain from a gateway; pem is wiped after done. NULL: it has none, or is gone, or
 * has not answered within 10 s. */
void mesh_fetch(struct mesh *m, const uint8_t gateway[static 16], const char *domain, bool rsa,
		void (*done)(void *arg, const char *pem), void *arg);

/* ---- the hash ---- */
/* The index of the winner for a name among n ids of 16 bytes each (highest random weight, SHA-256
 * of id and name). n > 0. */
size_t mesh_winner(const uint8_t (*ids)[16], size_t n, const char *name);

#endif
