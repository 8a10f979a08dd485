/* SPDX-License-Identifier: MIT */
/* The route table: which tunnel a host name and a path lead to. One writer (the main loop) collects
 * changes and publishes them together; workers read without locks (liburcu, memb flavour: a reading
 * thread has called urcu_memb_register_thread). Entries never change once published; what a tunnel
 * gathers while it runs is a reference-counted route_state that outlives the entries that replace
 * each other. */
#ifndef GATEWAYD_ROUTE_ROUTE_H
#define GATEWAYD_ROUTE_ROUTE_H

#include "gatewayd/edge/loops.h"
#include "gatewayd/route/counts.h"
#include "gatewayd/route/path.h"
#include "gatewayd/route/rules.h"
#include "gatewayd/upstream/slots.h"
#include "libkm/base/addr.h"
#include <stdatomic.h>

#define ROUTE_DOMAIN_MAX 253

/* What one tunnel has gathered; relaxed atomics, added to by workers. */
struct route_state {
	_Atomic uint32_t refs;
	_Atomic uint64_t requests, bytes_in, bytes_out, errors;
	_Atomic int64_t full_at;  /* the bucket of its request rate: edge/limit.h */
	_Atomic uint64_t active;  /* requests, and passed-through connections, under way */
	_Atomic uint64_t limited; /* answered with 429 */
	_Atomic uint64_t passed;  /* connections passed through, that have ended */
	struct counts counts;     /* of requests: not of what is passed through */
	struct slots *slots;      /* of the target's connections */
	char mark[LOOPS_MARK];    /* the tunnel's, in requests that it has passed on */
};
struct route_state *route_state_ref(struct route_state *s);
/* Gives a reference back; the last one frees. Accepts NULL. Any thread. */
void route_state_put(struct route_state *s);

/* How strangers' connections for a domain are ended. */
enum route_tls {
	ROUTE_TLS_AUTO, /* TLS with a certificate that the gateway obtains, or of the operator's */
	ROUTE_TLS_OWN,  /* TLS with a certificate of the operator's only */
	ROUTE_TLS_PASSTHROUGH, /* the target ends TLS itself; nothing is looked into but the SNI */
	ROUTE_TLS_OFF,         /* plain HTTP on port 80, no TLS */
};

struct route_entry {
	char domain[ROUTE_DOMAIN_MAX + 1]; /* as configured: lower case, may begin with "*." */
	const char *path; /* NULL, "" or "/": all of the domain that no other has */
	uint8_t tunnel[16], target[16];
	struct km_addr agent; /* virtual IP */
	bool enabled;
	enum route_tls tls;
	const struct route_rules *rules; /* NULL: nothing special */
	uint64_t serial;                 /* another one for every version of every entry */
	struct route_state *state;
};

struct route_table;

/* An empty table; NULL: no memory. */
struct route_table *route_table_new(void);
/* No reader may be left. Accepts NULL. */
void route_table_free(struct route_table *t);

/* Writer: the tunnel e->tunnel is now as e says (domain, path, target, agent, enabled, tls are
 * copied, of rules a reference is taken; serial and state are the table's). Takes effect with
 * route_publish. The tunnels of a domain have different paths and the same tls; with passthrough
 * there is only one, without a path. KM_EINVAL: the domain or the path is none; KM_EEXIST: this
 * does not go together with another tunnel; KM_ENOMEM; each with a sentence. A tunnel that fails
 * keeps its older version. */
int route_set(struct route_table *t, const struct route_entry *e, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Writer: the tunnel is about to be set to something that its domain's others are not in agreement
 * with yet: until then it is in nobody's way. One that has got in the way of another meanwhile goes
 * with route_stay. An unknown one is no error. */
void route_leave(struct route_table *t, const uint8_t tunnel[static 16]);
void route_stay(struct route_table *t, const uint8_t tunnel[static 16]);
/* Writer: the tunnel goes; an unknown one is no error. */
void route_remove(struct route_table *t, const uint8_t tunnel[static 16]);
/* Writer: makes all changes visible to readers at once, waits until no reader sees the older table,
 * and frees what was replaced. KM_ENOMEM: readers go on with the older table. */
int route_publish(struct route_table *t) __attribute__((warn_unused_result));

/* Writer: every entry, in no order. */
void route_each(const struct route_table *t, void (*each)(void *arg, const struct route_entry *e),
		void *arg);
/* Writer: one entry of every domain, the one that route_find finds. */
void route_each_domain(const struct route_table *t,
		       void (*each)(void *arg, const struct route_entry *e), void *arg);
/* Tunnels. */
size_t route_count(const struct route_table *t);

/* Reader: what a request needs to know of its tunnel, copied out, with references to state and
 * rules. */
struct route {
	uint8_t tunnel[16], target[16];
	struct km_addr agent;
	bool enabled;
	enum route_tls tls;
	bool wildcard;     /* found by "*.parent" */
	uint16_t path_len; /* bytes of the tunnel's path, which the request's begins with; 0: all */
	uint64_t serial;
	const struct route_rules *rules; /* NULL: nothing special */
	struct route_state *state;
};
/* Gives back what route_find has given. */
void route_drop(struct route *r);

/* The domain of a host name (lower case, no port): the name itself, else "*.parent" of its parent
 * (one label, as certificates have it); of its tunnels the one with the shortest path. False: none.
 * out may be NULL. Any registered thread. */
bool route_find(const struct route_table *t, const char *host, struct route *out);

enum route_found {
	ROUTE_FOUND,
	ROUTE_NO_HOST, /* no such domain */
	ROUTE_NO_PATH, /* none of the domain's tunnels has this path */
	ROUTE_UNCLEAR, /* the path could be read in two ways that lead to different tunnels: see
			  path.h */
};
/* The tunnel of a request: of the host's domain (as route_find; a domain that is there by name
 * hides "*.parent" for all paths) the one with the longest path that fits the target's, n bytes in
 * origin-form or "*" or nothing, which both stand for "/". *out is filled with ROUTE_FOUND; with
 * the others but ROUTE_NO_HOST only tls is, and there is nothing to give back. Allocates nothing;
 * costs what route_find costs where the domain has one tunnel without a path. */
enum route_found route_match(const struct route_table *t, const char *host, const char *target,
			     size_t n, struct route *out);

/* Whether any tunnel has ROUTE_TLS_PASSTHROUGH. Any registered thread. */
bool route_any_passthrough(const struct route_table *t);

/* Whether s can be a tunnel's domain: lower-case labels of letters, digits, '-' and '_', at most 63
 * bytes each, perhaps "*." before; so it is safe as a file name too. */
bool route_domain_ok(const char *s);
/* Whether the domain is allowed by one of the n patterns ("example.org", or "*.example.org" for
 * every name below it and itself as a wildcard). */
bool route_domain_allowed(const char *domain, char *const *patterns, size_t n);

#endif
