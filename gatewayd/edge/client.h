/* SPDX-License-Identifier: MIT */
/* Who a request comes from. What a stranger says about itself in X-Forwarded-* or Forwarded counts
 * for nothing; what a trusted proxy says does. Sans-I/O, no allocation. */
#ifndef GATEWAYD_EDGE_CLIENT_H
#define GATEWAYD_EDGE_CLIENT_H

#include "gatewayd/edge/http.h"
#include "libkm/base/addr.h"

#define CLIENT_HOPS_MAX 16 /* proxies in a row; the last of more counts as the client */

struct client_trust {
	struct km_prefix *proxies;
	size_t n;
};
/* The addresses and prefixes in texts; the caller frees t->proxies. KM_EINVAL, KM_ENOMEM; then
 * there is nothing to free. */
int client_trust_parse(struct client_trust *t, char *const *texts, size_t n)
    __attribute__((warn_unused_result));

/* Whether a is one of them. */
bool client_trusted(const struct client_trust *t, const struct km_addr *a);

struct client {
	struct km_addr addr;                  /* the client itself */
	struct km_addr hops[CLIENT_HOPS_MAX]; /* [0]: addr, then the proxies on the way, the last of
						 them the peer */
	size_t n_hops;
	bool secure;          /* the client speaks TLS with the first of us */
	struct http_str host; /* the Host that the client asked for */
};
/* Fills *out for a request of this peer, over TLS or not. Unless the peer is trusted it is the
 * client itself. If it is, X-Forwarded-For (all of its fields, in order), else Forwarded (RFC
 * 7239), is read from the right as long as trusted proxies speak; the first address that is not
 * trusted, or about which no more is said (the end, "unknown", "_hidden", anything that is no
 * address), is the client. Where both are there and do not say the same, neither counts: some proxy
 * has let one of them pass. X-Forwarded-Proto and -Host count when they stand there once and make
 * sense, else what Forwarded says beside the client's address. host points into r. */
void client_find(struct client *out, const struct client_trust *t, const struct km_addr *peer,
		 bool secure, const struct http_request *r);

#endif
