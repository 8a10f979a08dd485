/* SPDX-License-Identifier: MIT */
/* Deadlines by the thousand: every kind has one duration, so each kind's timers stand in a list in
 * the order of their deadlines, and setting one costs a few pointer moves. Single-threaded. */
#ifndef GATEWAYD_EDGE_TIMERS_H
#define GATEWAYD_EDGE_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

enum timer_kind {
	TIMER_HEADER,   /* handshake, head of a request */
	TIMER_WAIT,     /* handshake that waits for a certificate */
	TIMER_IDLE,     /* kept-alive client */
	TIMER_BODY,     /* progress of bodies and of writing to a client */
	TIMER_CONNECT,  /* to the agent */
	TIMER_UPSTREAM, /* first byte of the target's answer */
	TIMER_UPGRADE,  /* silence of an upgraded connection */
	TIMER_LINGER,   /* reading what a client still sends after our last answer */
	TIMER_REQUEST,  /* a request, all in all */
	TIMER_POOL,     /* unused connection to a target */
	TIMER_PING,     /* silence of a target of HTTP/2 that owes an answer */
	TIMER_KINDS
};
struct timer {
	struct timer *prev, *next;
	int64_t deadline;
	uint8_t kind;
	bool on;
	void (*fired)(struct timer *t); /* the timer is off when it is called */
};
struct timers {
	struct timer *list[TIMER_KINDS];
	int64_t ms[TIMER_KINDS]; /* durations; set before the first use */
};

/* Sets t to end ms[kind] after now, whatever it was before. */
void timer_set(struct timers *ts, struct timer *t, enum timer_kind kind, int64_t now);
void timer_stop(struct timers *ts, struct timer *t);
/* Calls `fired` of the one of this kind that is next, before its time; false: there is none. */
bool timers_hurry(struct timers *ts, enum timer_kind kind);
/* Calls `fired` of those whose time has come, of at most TIMERS_BATCH; true: there are more, for the next turn. */
#define TIMERS_BATCH 32
bool timers_run(struct timers *ts, int64_t now);

#endif
