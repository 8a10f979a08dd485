/* SPDX-License-Identifier: MIT */
/* Inside dns/: single questions to the resolver, and lookups that follow CNAMEs. */
#ifndef GATEWAYD_ACME_DNS_QUERY_H
#define GATEWAYD_ACME_DNS_QUERY_H

#include "gatewayd/acme/dns/dns.h"
#include "gatewayd/acme/dns/message.h"

enum dns_status {
	DNS_FOUND,
	DNS_NO_DATA, /* the name exists, but not with this type */
	DNS_NO_NAME, /* NXDOMAIN */
	DNS_FAILED,  /* nobody knows */
};

/* ---- one question ---- */
struct dns_reply {
	enum dns_status status;
	const char
	    *failed; /* DNS_FAILED: what went wrong, such as "no DNS server answered in time" */
	struct dns_msg msg; /* DNS_FOUND; borrowed during the call */
};
struct dns_query;
/* At most DNS_QUERIES_MAX are under way at once, further ones wait their turn. c-ares bounds the
 * time. done comes once, never before this returns; the query is gone then. NULL: no memory. */
#define DNS_QUERIES_MAX 64
struct dns_query *dns_query(struct dns *d, const char *name, uint16_t type,
			    void (*done)(void *arg, const struct dns_reply *r), void *arg);
/* done is not called any more. Accepts NULL. */
void dns_query_cancel(struct dns_query *q);

/* ---- a lookup: CNAMEs are followed, over several questions if need be ---- */
#define DNS_RRSET_MAX 32 /* further records of a set are not looked at */
#define DNS_CNAMES_MAX 16
struct dns_found {
	enum dns_status status;
	const char *failed;
	const char *name; /* where the CNAMEs ended */
	const struct dns_msg *msg;
	struct dns_rr rr[DNS_RRSET_MAX]; /* of the type that was asked for; borrowed */
	size_t n;
};
struct dns_lookup;
/* As dns_query. type CNAME is not followed. */
struct dns_lookup *dns_lookup(struct dns *d, const char *name, uint16_t type,
			      void (*done)(void *arg, const struct dns_found *f), void *arg);
void dns_lookup_cancel(struct dns_lookup *l);

struct event_base *dns_base(struct dns *d);

/* ---- what works on after its owner has let go, until its own end or that of d ---- */
struct dns_orphan {
	void (*free)(struct dns_orphan *o); /* called by dns_free */
	struct dns_orphan *prev, *next;
};
void dns_orphan_add(struct dns *d, struct dns_orphan *o);
void dns_orphan_drop(struct dns *d, struct dns_orphan *o);

/* ---- what dns_preflight and dns_persist_check return: base struct first ---- */
struct dns_ask {
	void (*cancel)(struct dns_ask *a);
};
/* A copy of a NULL-terminated list of texts (NULL of NULL), and its end. */
char **dns_list_copy(const char *const *list);
void dns_list_free(char **list);

#endif
