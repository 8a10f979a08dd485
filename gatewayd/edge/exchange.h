/* SPDX-License-Identifier: MIT */
/* One request and its answer, on the way between a client's side (struct front: HTTP/1 or HTTP/2)
 * and a target's side (struct back, upstream/back.h). What passes from side to side is bytes of
 * bodies in km_bufs; both sides hold back their senders when a buffer is full (CONN_HIGH). For the
 * files of edge/ only, as everything that runs on a worker's thread. */
#ifndef GATEWAYD_EDGE_EXCHANGE_H
#define GATEWAYD_EDGE_EXCHANGE_H

#include "gatewayd/edge/body.h"
#include "gatewayd/edge/http.h"
#include "gatewayd/edge/pace.h"
#include "gatewayd/edge/timers.h"
#include "gatewayd/upstream/pool.h"

struct conn;
struct exchange;
struct heads_answer;

/* The client's side. None of them frees the exchange: what is over is freed when the loop that
 * drives it comes back to its connection. */
struct front {
	/* Brings more of what the client sends into x->in (HTTP/1: reads the socket; HTTP/2: it is
	 * there already), until that holds `most`; true when something came. Sets x->in_ended when
	 * nothing more will come. */
	bool (*read)(struct exchange *x, size_t most);
	/* n bytes of x->in have gone on (HTTP/2: opens the window). NULL: nobody needs to know. */
	void (*taken)(struct exchange *x, size_t n);
	/* Writes an interim answer (1xx), or with status 101 the one that upgrades. KM_ENOMEM,
	 * KM_ETOOBIG. */
	int (*interim)(struct exchange *x, const struct http_response *r);
	/* Writes the final answer's head; *encode: its body goes into x->out in chunks. The same
	 * errors. */
	int (*head)(struct exchange *x, const struct http_response *r, bool *encode);
	/* Sends of x->out what goes; true when something went. */
	bool (*flush)(struct exchange *x);
	/* Writes an answer of the gateway's own in the place of the target's; the client is asked
	 * for nothing more with a->close. */
	void (*answer)(struct exchange *x, struct heads_answer *a);
	/* The client must see that something is missing: reset. Sets x->state to EXCHANGE_OVER. */
	void (*cut)(struct exchange *x);
	/* The answer's last byte is in x->out (an upgraded one: the target has ended). The exchange
	 * is dropped right after, but for x->out; trailers in x->resp are the front's to take. */
	void (*done)(struct exchange *x);
	/* Something may have become possible: steps it as far as it goes now. May free it. */
	void (*drive)(struct exchange *x);
	/* The same, but soon, from the loop. */
	void (*wake)(struct exchange *x);
};

enum exchange_state {
	EXCHANGE_NONE, /* no request, or one that is not sent on */
	EXCHANGE_RUNS, /* request and answer pass */
	EXCHANGE_RAW,  /* upgraded: bytes both ways */
	EXCHANGE_OVER, /* cut */
};

struct exchange {
	/* These stay from request to request. */
	struct conn *c;
	const struct front *front;
	struct km_buf *in, *out; /* what has come from the client; what goes to it */
	struct timer *timer;
	size_t high; /* bytes of either body that are held at most, about: CONN_HIGH or less */
	struct timer total;    /* request_timeout */
	struct pace pace_out;  /* of the client's reading */
	uint64_t acked;        /* at acked_ms, see patience.c */
	int64_t acked_ms;
	/* All below is one request's. */
	enum exchange_state state;
	struct up *up; /* NULL: none; while it runs: it waits for one, or for its body */
	struct route route;
	struct km_addr client;  /* who asks; of no family before the head has been read */
	bool secure;            /* with TLS, towards us or a trusted proxy */
	bool active;            /* route.state is held */
	bool listed;            /* among the worker's */
	bool head, html;        /* the request's method; what it likes to read */
	bool upgrade, trailers; /* it asks for an upgrade; takes trailers */
	bool bit_by_bit;        /* its body may come to a target of HTTP/2 as slowly as it likes */
	bool asks;              /* it waits for a 100 before it sends its body */
	bool lags;              /* to be looked at: exchange_lags has said so */
	bool gathers;           /* its body is awaited before its target is asked, see gather.h */
	bool in_ended;          /* nothing more will come from the client */
	bool answer_begun;      /* a final answer's head has gone to the client's buffer */
	bool answer_any;        /* a byte has come from the target */
	bool up_keep;           /* the target keeps the connection */
	bool passes;            /* passthrough */
	bool in_shut, out_shut; /* of it: the end was passed on */
	bool up_once;           /* GET and the like with a body: some targets do not read it, and would
				   take it for the next request on the connection */
	enum { LOST_NOT, LOST_AGENT, LOST_NET } lost; /* the ground under `up` has gone */
	bool lost_it;           /* it did, at some time */
	uint8_t interims;
	int status;             /* of the answer: the target's, or the gateway's own */
	bool whole;             /* the answer is whole */
	uint8_t upstream;       /* enum access_upstream */
	const char *error;      /* why the gateway itself has answered, or cut */
	int64_t began, first_byte; /* monotonic: of the request, of the target's answer; 0: not (yet) */
	struct access_note *note; /* for the access log; NULL: there is none */
	struct body req, resp;
	struct km_buf again;    /* what has been sent, while it may have to be sent once more, or is to be */
	size_t again_head;      /* so much of it is the head */
	uint8_t repeats;        /* so often it has been */
	bool idempotent;
	struct pool_wait wait; /* for a connection to the target; then there is no `up` */
	uint64_t bytes_in, bytes_out;
	int64_t body_max; /* bytes of the request's body; -1: any number */
	struct pace pace_in;
	struct exchange *prev, *next; /* the worker's, while a route is held */
};

/* Zeroed memory becomes an exchange without a request; in, out and timer are the connection's or
 * the stream's, and so is what `fired` of the timer does (exchange_late, then drive). */
void exchange_init(struct exchange *x, struct conn *c, const struct front *front, struct km_buf *in,
		   struct km_buf *out, struct timer *timer);
/* x->route (enabled, active) serves this request, which is w->client's: sends it on. */
void exchange_begin(struct exchange *x, const struct http_request *r);
/* x->route is held from now on; exchange_drop gives it back. */
void exchange_hold(struct exchange *x);
/* Its turn has come to have a connection to its target (pool_opts.granted). May free it. */
void exchange_granted(struct exchange *x);
/* One round of EXCHANGE_RUNS or EXCHANGE_RAW; true when something moved. */
bool exchange_step(struct exchange *x);
/* An answer of the gateway's own, and the end of the exchange. what: see heads_answer. */
void exchange_answer(struct exchange *x, int status, const char *what, bool close);
/* The same with an answer of the caller's, in which html, head and hsts are filled in; x->error may say
 * why, else its status does. */
void exchange_answer_as(struct exchange *x, struct heads_answer *a);
/* It holds one of its target's connections, others wait for one, and it waits for its client, who sends too
 * slowly: it is to give way. */
bool exchange_lags(const struct exchange *x);
/* Its timer has ended. */
void exchange_late(struct exchange *x);
/* Gives back what it holds (upstream connection, route, counters); politely: the upstream
 * connection is ended with a FIN, else with a reset. Any time. */
void exchange_drop(struct exchange *x, bool politely);
/* Counts and logs that a target gave no whole answer; status 0: that its agent could not be reached, and
 * nobody can be told (passthrough). */
void exchange_failed(struct exchange *x, int status, const char *why);
/* Who asks: the client as the request names it, or the peer before there is one. */
const struct km_addr *exchange_client(const struct exchange *x);
/* An empty buffer gives its memory back. */
void exchange_quiet(struct km_buf *b);

#endif
