/* SPDX-License-Identifier: MIT */
/* Handshakes that wait until the certificate of a served name has been obtained. The names are the
 * operator's tunnels, who waits is a stranger: all of it is bounded, and the main loop hears of a name
 * once, however many come for it. Shared by all workers. */
#ifndef GATEWAYD_EDGE_WAITS_H
#define GATEWAYD_EDGE_WAITS_H

#include <stdbool.h>
#include <stdint.h>

#define WAITS_MAX 1024        /* handshakes, and names */
#define WAITS_PER_NAME 64     /* handshakes */
#define WAITS_AGAIN_MS 1000   /* after a failure nobody waits for the name so long */
#define WAITS_ASKED_MS 2000   /* nor is the main loop asked again within this, though all have left */

struct waits;
struct wait; /* all that wait for one domain */

enum wait_state { WAIT_ON, WAIT_OVER };

/* NULL: no memory. */
struct waits *waits_new(void);
/* Everybody must have left. Accepts NULL. */
void waits_free(struct waits *w);

enum waits_join {
	WAITS_JOINED,
	WAITS_FIRST,   /* joined, and the main loop is to be told of the name */
	WAITS_FULL,    /* must not wait, for want of room */
	WAITS_IN_VAIN, /* must not wait: it failed a moment ago */
};
/* One more that waits for this domain (of a tunnel, "*.parent" too), on *out. now_ms: monotonic. */
enum waits_join waits_join(struct waits *w, const char *domain, int64_t now_ms, struct wait **out);
/* It waits no more. Accepts NULL. */
void waits_leave(struct waits *w, struct wait *x);
/* WAIT_OVER: look again whether there is a certificate now; no reason to wait on. */
enum wait_state waits_state(const struct wait *x);
/* Nothing more is to be expected for this domain: a certificate has come (ok), or none will soon.
 * Whether somebody waits, and so is to be woken. */
bool waits_settle(struct waits *w, const char *domain, bool ok, int64_t now_ms);

#endif
