/* SPDX-License-Identifier: MIT */
/* One connection of a stranger, and what its worker keeps. For the files of edge/ only. */
#ifndef GATEWAYD_EDGE_CONN_H
#define GATEWAYD_EDGE_CONN_H

#include "gatewayd/edge/account.h"
#include "gatewayd/edge/admit.h"
#include "gatewayd/edge/client.h"
#include "gatewayd/edge/exchange.h"
#include "gatewayd/edge/heads.h"
#include "gatewayd/edge/io.h"
#include "gatewayd/edge/limit.h"
#include "gatewayd/edge/timers.h"
#include "gatewayd/edge/tls.h"
#include "gatewayd/settings.h"
#include "gatewayd/upstream/pool.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/event/mailbox.h"

#define CONN_READ 16384             /* bytes asked from a client at once: one TLS record */
#define CONN_HIGH 65536             /* a buffer that holds this much holds back its sender */
#define CONN_LINGER_BYTES (1 << 20) /* read and dropped after our last answer */
#define CONN_INTERIM_MAX 16         /* 1xx answers to one request */

/* Why a connection is closed before anything else. */
enum refused { REFUSED_ADDRESS, REFUSED_PROXY, REFUSED_KINDS };

/* Why a target gave no whole answer. */
enum up_failure {
	UP_QUEUE,    /* no connection became free, or too many wait for one */
	UP_CONNECT,  /* its agent or it cannot be reached, TLS and HTTP/2 included */
	UP_SILENT,   /* it took the request and ended without an answer */
	UP_TIMEOUT,  /* 504 */
	UP_PROTOCOL, /* its answer is not HTTP */
	UP_BROKEN,   /* it ended in the middle of its answer */
	UP_LOST,     /* agent revoked or removed, private network gone */
	UP_FAILURES,
};

/* What all workers share. */
struct edge_shared {
	const struct gw_settings *settings;
	const struct route_table *routes;
	struct tls *tls;
	struct up_tls *up_tls;
	struct slots_hub *slots;
	struct h2_shared *h2;          /* NULL: not offered */
	struct waits *waits;           /* NULL: no handshake waits */
	struct challenges *challenges; /* NULL: none are answered */
	struct http_limits limits;
	size_t buf_max;
	int64_t max_conns;
	struct admit *admit;
	struct pace_rule pace; /* of clients that are waited for */
	int https_port;        /* for redirects */
	struct client_trust trust;
	struct limits rates;
	struct km_mailbox *to_main;
	_Atomic int64_t conns;
	struct km_metric *m_conns, *m_accepted, *m_requests, *m_bad, *m_bytes_in, *m_bytes_out,
	    *m_upstream_errors[UP_FAILURES], *m_repeated, *m_handshake_errors, *m_paused, *m_challenged, *m_waiting, *m_gathering,
	    *m_passed, *m_refused[REFUSED_KINDS], *m_shed, *m_limited, *m_looped,
	    *m_slow[2];              /* sending, reading */
	struct access_log *access;   /* NULL: none */
	struct account_stats *stats; /* of each worker */
	size_t stats_taken;
	struct km_log_limit bad_log, upstream_log, accept_log, refused_log, slow_log, limit_log, loop_log;
};

struct listener;
struct worker {
	struct edge_shared *sh;
	struct loop *loop;
	struct timers timers;
	struct pool *pool;
	struct conn *conns;       /* all of this worker */
	struct conn *later;       /* have more to do when others had their turn */
	struct exchange *running; /* that hold a route */
	struct conn *waiting;     /* handshakes that wait for a certificate */
	struct conn *shaking;     /* handshakes that could go on, when others had their turn */
	bool shakes;              /* their turn has come */
	int64_t lingering;        /* connections that are about to go */
	_Atomic bool wake;        /* some of them have waited long enough: set by the main loop */
	int64_t now;              /* monotonic, of this turn of the loop */
	bool draining, cutting;
	bool closing; /* the turn of the loop is at its end: what was collected goes out */
	struct http_request req; /* of the connection at hand */
	struct client client;    /* whose it is */
	struct http_response resp;
	struct km_buf head; /* a head being written */
	struct account_stats *stats;
	struct access_lane *lane; /* of the access log; NULL: there is none */
	int64_t wall_ahead;       /* what to add to `now` for the wall clock's time */
	int64_t date_s;           /* the second of `date` */
	char date[HEADS_DATE + 1];
};

enum conn_state {
	CONN_PROXIED,  /* behind a load balancer: waits for its PROXY header */
	CONN_PEEK,     /* whose the server name is, before anything is read */
	CONN_TLS,      /* handshake */
	CONN_WAIT,     /* handshake that waits for a certificate */
	CONN_HEAD,     /* HTTP/1: waits for a request's head */
	CONN_EXCHANGE, /* HTTP/1: an exchange has it */
	CONN_H2,       /* HTTP/2: a session has it */
	CONN_PASS,     /* TLS that the target ends itself: bytes both ways */
	CONN_LINGER,   /* answered for the last time; waits for the client to close */
	CONN_OVER,     /* to be freed */
};

/* HTTP/1: what is known of the request at hand and of the connection. */
struct h1_conn {
	bool served;      /* has answered before */
	bool close_after; /* ends when `out` has gone */
	bool skipped;     /* the empty line that may stand before a request */
	bool keep_alive;  /* as the client asks for */
	uint8_t minor;
	size_t scan_at;
};

struct conn {
	struct worker *w;
	struct io io;
	enum conn_state state;
	bool secure, later_on, shaking_on, polite;
	bool counted; /* among the connections of its address */
	bool lingers; /* among the worker's that do */
	size_t lingered;
	struct km_buf in, out;
	struct km_addr addr;
	uint16_t port, local_port;
	struct km_addr
	    local; /* by what address it came, as a PROXY header says; else of no family */
	struct tls_peer peer;
	struct timer timer;
	struct h1_conn h1;
	struct h2 *h2;     /* with CONN_H2 */
	struct exchange *x; /* HTTP/1's, one after another; passthrough's; NULL: idle, or not yet */
	struct conn *prev, *next, *later_next;
	struct conn *wait_prev, *wait_next, *shake_prev, *shake_next;
};

/* conn.c: takes over an accepted descriptor (closes it when there is no memory). */
void conn_new(struct worker *w, int fd, const struct sockaddr *sa, const struct listener *l);
/* conn.c: makes c->x, where there is none. False: no memory, and c is over. */
bool conn_exchange(struct conn *c);
/* conn.c: an idle connection keeps none. */
void conn_exchange_free(struct conn *c);
/* conn.c: whose it is has become clear: TLS, or the first request. */
void conn_begin(struct conn *c);
/* conn.c: counts it as one of its address; false: those are too many, and it is over. */
bool conn_admit(struct conn *c);
/* conn.c: counts and logs a refusal. */
void conn_refused(struct worker *w, const struct km_addr *who, enum refused kind, const char *why);
/* Goes on with a connection as far as it goes now; may free it. */
void conn_drive(struct conn *c);
/* Ends it when conn_drive returns; not politely: with a reset. */
void conn_over(struct conn *c, bool polite);
/* Drives it soon, from the loop, when others had their turn. */
void conn_later(struct conn *c);
/* Ends our side and waits for the client to end its own: closed at once, what it still sends would
 * reset the connection before it has read our last bytes. */
void conn_linger(struct conn *c);
/* One handshake of those that can goes on; false: there is none. */
bool conn_shake(struct worker *w);
/* A certificate that handshakes of this worker wait for is there, or will not come soon. */
void conn_wake_waiting(struct worker *w);
/* The worker begins to drain. */
void conn_drain(struct conn *c);
/* Frees it at once, whatever it does. */
void conn_cut(struct conn *c);

/* proxied.c: the PROXY header. */
bool proxied_step(struct conn *c);
void proxied_late(struct conn *c);
/* pass.c: the server name is looked at while the bytes stay in the socket; those of a tunnel with
 * passthrough go to its agent as they are, all others' handshake begins (conn_tls_begin). */
bool peek_step(struct conn *c);
bool pass_step(struct conn *c);
void pass_late(struct conn *c);
/* conn.c: TLS begins on a connection of which nothing has been read. */
void conn_tls_begin(struct conn *c);

#endif
