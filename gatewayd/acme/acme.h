/* SPDX-License-Identifier: MIT */
/* The certificates of this gateway: which names want one, when each is obtained, renewed, fetched from
 * another gateway or tried again, and what is known of each. Remembers on disk (STATE/certificates.log).
 * Main loop only; it logs, counts and alerts by itself. */
#ifndef GATEWAYD_ACME_ACME_H
#define GATEWAYD_ACME_ACME_H

#include "gatewayd/acme/challenges.h"
#include "gatewayd/edge/certs.h"
#include "gatewayd/mesh/mesh.h"
#include "gatewayd/settings.h"
#include <event2/event.h>

/* With `acme = off` there is none: all functions accept NULL for it, and do nothing. */
struct acme;

/* The lease in control's database (see "lease" in docs/protocol.md): advice, not permission. */
struct acme_lease {
	/* done(arg, granted, holder): granted false with holder (the other gateway's id, 16 bytes); true also
	 * when control is away or does not answer within 2 s (holder NULL). */
	void (*take)(void *arg, const char *domain,
		     void (*done)(void *done_arg, bool granted, const uint8_t *holder), void *done_arg);
	void (*release)(void *arg, const char *domain);
	void *arg;
};

struct acme_opts {
	const struct gw_settings *settings;
	struct event_base *base;
	struct certs *certs;           /* told with certs_changed */
	struct challenges *challenges;
	struct mesh *mesh;             /* NULL: alone */
	struct acme_lease lease;       /* take NULL: none */
	/* A certificate has come (ok), or an attempt has ended without one: handshakes that wait for this
	 * host name or tunnel go on. */
	void (*settled)(void *arg, const char *domain, bool ok);
	/* A new one, for control: the chain without key. May be NULL. */
	void (*obtained)(void *arg, const char *domain, const char *chain, int64_t not_after_ms);
	void *arg;
};
/* Errors carry a sentence: state_dir that cannot be read, malformed settings of DNS, no memory. An acme_dir
 * that cannot be used is none: nothing is obtained until it can. */
int acme_start(struct acme **out, const struct acme_opts *o, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Before it the mesh is taken away (acme_mesh with NULL) and freed; whoever gives leases is asked nothing
 * afterwards, and must not answer any more. */
void acme_free(struct acme *a);
/* The end is near: no further order is made. done(arg) is called once, perhaps before this returns, when the
 * answer to each that was asked for has come and is remembered, so that the next start makes none twice; at
 * the latest after 10 s. What is under way goes on until acme_free. a may be NULL. */
void acme_quiet(struct acme *a, void (*done)(void *arg), void *arg);
/* A challenge has been answered (challenges_new). Any thread, as long as acme_free has not been called. */
void acme_served(struct acme *a, const char *token);

/* A tunnel with `tls: auto` has this domain ("*.x" too), or has it no more. Counted: as many unwants as
 * wants. */
void acme_want(struct acme *a, const char *domain);
void acme_unwant(struct acme *a, const char *domain);
/* The configuration has been given: work begins (so that a start with 100,000 names is one pass). */
void acme_settled(struct acme *a);
/* A stranger's handshake waits for the domain of a tunnel; true: an attempt is under way or begins now,
 * and opts.settled will be called; false: nothing can be expected soon. */
bool acme_asked(struct acme *a, const char *domain);
/* Addresses by which strangers reach gateways that answer a CA for this one's orders (ours, and others' that
 * share certificates), for the preflight. */
void acme_addresses(struct acme *a, const struct km_addr *addrs, size_t n);
/* A gateway has been revoked: what it knew is obtained anew with new keys, and the old is revoked. */
void acme_gateway_revoked(struct acme *a, const uint8_t gateway[static 16]);
/* The hooks of the mesh, with a as their arg. */
const struct mesh_hooks *acme_mesh_hooks(void);
void acme_mesh(struct acme *a, struct mesh *m);

enum acme_state { ACME_PENDING, ACME_ISSUING, ACME_READY, ACME_RENEWAL_DUE, ACME_ERROR };
struct acme_status {
	const char *domain;
	enum acme_state state;
	int64_t not_after_ms;   /* 0: none */
	const char *error;      /* NULL: none */
	int64_t next_try_ms;    /* wall clock; 0: none */
	const char *issuer;     /* NULL */
};
/* Calls each for names whose status changed since `since` (a counter; 0: all); returns the counter now. */
uint64_t acme_each(const struct acme *a, uint64_t since,
		   void (*each)(void *arg, const struct acme_status *s), void *arg);
/* Whether it is among those: wanted, and not served by a file of the operator's. */
bool acme_manages(const struct acme *a, const char *domain);

#endif
