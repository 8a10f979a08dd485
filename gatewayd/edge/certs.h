/* SPDX-License-Identifier: MIT */
/* The certificates that strangers are served with: the operator's folder, then what the gateway
 * obtained (acme/cache.h). Nothing is read before it is asked for; what was read stays in a bounded
 * cache, the least recently used go first. Shared by all workers: a hit takes one short lock of one
 * of 16 shards and touches no disk. */
#ifndef GATEWAYD_EDGE_CERTS_H
#define GATEWAYD_EDGE_CERTS_H

#include "gatewayd/edge/cert.h"
#include "gatewayd/route/route.h"

#define CERTS_MAX 4096        /* certificates kept, unless told */
#define CERTS_RECHECK_MS 2000 /* how long a file may be changed unnoticed */

struct certs;

struct certs_opts {
	const char
	    *own_dir; /* DOMAIN or DOMAIN.pem, for a second key DOMAIN+rsa or DOMAIN+rsa.pem */
	const char *acme_dir; /* DOMAIN, DOMAIN+rsa; NULL: none */
	size_t max;           /* certificates kept in memory; 0: CERTS_MAX */
};
/* NULL: no memory. The folders need not be there. */
struct certs *certs_new(const struct certs_opts *o);
/* No worker may be left. Accepts NULL. */
void certs_free(struct certs *c);

struct certs_ask {
	const char *host; /* lower case, no port; or the domain of a tunnel, "*.parent" too */
	bool wildcard; /* the tunnel is "*.parent": only its certificates, so that strangers' names
			* cannot make us look for files */
	enum route_tls mode; /* AUTO: also what was obtained; all others: the operator's only */
	bool ecdsa;          /* the client can do ECDSA */
	bool peek;           /* to report, not to serve: not counted, not kept in place of others */
	int64_t now_ms;      /* monotonic */
	int64_t wall_ms;
};
/* The certificate that a host is served with: of the name itself, else of "*.parent", the
 * operator's before obtained ones, ECDSA before RSA (RSA, when there is one, for a client that
 * cannot do ECDSA), and one that is out of its time only when there is no better. The caller gets a
 * reference. KM_ENOTFOUND: there is none; KM_EINVAL and others: there is a file, but it cannot be
 * used (err says why). A file of the operator's that was replaced by a bad one does not take away
 * the one that was loaded before; a bad file in acme_dir is set aside (acme/cache.h). Any thread;
 * blocks for a disk's read when cold. */
int certs_for_host(struct certs *c, const struct certs_ask *ask, struct cert **out,
		   struct km_errtext *err) __attribute__((warn_unused_result));

/* The obtained certificates of this domain ("*.x" too) were written or removed: the next ask on any
 * thread sees it. */
void certs_changed(struct certs *c, const char *domain);

#endif
