/* SPDX-License-Identifier: MIT */
/* Inside of the mesh: mesh.c knows who is there and what has been asked, conn.c has the
 * connections. */
#ifndef GATEWAYD_MESH_INTERNAL_H
#define GATEWAYD_MESH_INTERNAL_H

#include "gatewayd/mesh/codec.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <event2/event.h>

#define MESH_QUEUE_MAX (16u << 20) /* bytes that wait for one peer */

struct conn;

/* Another gateway, alive or not. */
struct peer {
	struct mesh *m;
	uint8_t id[16];
	char name[37]; /* the id, for the log */
	struct km_addr addr;
	struct conn *conn; /* NULL: none */
	bool alive;        /* its hello has come */
	bool met;          /* it has been alive since it was named, or since we listen */
	int64_t named_ms;  /* when that was */
	int64_t dial_ms;   /* not before; when it is ours to dial */
	unsigned failures; /* of dialling, in a row */
};

struct mesh {
	struct mesh_opts o;
	struct km_privnet *net;
	bool has_self, listening;
	int64_t listen_ms; /* when it is tried again */
	uint8_t id[16];
	struct km_addr self;
	struct event *listener, *resume, *tick;
	struct peer *peers[MESH_PEERS_MAX];
	size_t n_peers;
	struct ask *asks;
	uint32_t last_ask;
	struct km_metric *alive, *sent, *received, *refused, *dropped, *given, *fetched, *missed;
};

/* Whether a line of which a gateway can cause many should be written. */
static inline bool mesh_log_allow(struct km_log_limit *l, uint32_t *held)
{
	return km_log_allow(l, km_now_ms(), 200, 100, held);
}

/* ---- conn.c ---- */
/* A connection to p, which has none, begins to be made. */
void conn_dial(struct peer *p, int64_t now_ms);
/* p has made one (fd is taken over); the one that it had is gone. */
void conn_accept(struct peer *p, int fd, int64_t now_ms);
/* Ends p's connection, if there is one, and calls mesh_peer_down. */
void conn_drop(struct peer *p, const char *why);
/* Queues a message: KM_ECLOSED (none is alive), KM_EFULL, or as mesh_encode. */
int conn_send(struct peer *p, const struct mesh_msg *m);
/* To be called often: pings, and drops who is silent. */
void conn_look(struct peer *p, int64_t now_ms);

/* ---- mesh.c, called by conn.c; p->conn may be gone afterwards ---- */
void mesh_peer_up(struct peer *p);
void mesh_peer_down(struct peer *p);
struct peer *mesh_peer_by_id(const struct mesh *m, const uint8_t id[static 16]); /* NULL: none */

/* ---- talk.c ---- */
/* p will not answer any more; nobody will. */
void mesh_asks_unwait(struct peer *p);
void mesh_asks_free(struct mesh *m);
void mesh_said(struct peer *p, const struct mesh_msg *m);

#endif
