/* SPDX-License-Identifier: MIT */
/* The one TLS context of all workers: TLS 1.2 and 1.3, certificate by SNI. */
#ifndef GATEWAYD_EDGE_TLS_H
#define GATEWAYD_EDGE_TLS_H

#include "gatewayd/edge/certs.h"
#include "gatewayd/route/route.h"

struct tls;

/* routes and certs must outlive it. NULL: OpenSSL refused (its queue says why). */
struct tls *tls_new(const struct route_table *routes, struct certs *certs);
void tls_free(struct tls *t);

/* What a connection's handshake has found. */
struct tls_peer {
	char sni[ROUTE_DOMAIN_MAX + 1]; /* "" until the ClientHello has come */
	struct cert *cert;              /* give back with cert_put */
	bool refused;                   /* unknown or missing name: the alert was sent */
};
/* A server side for this descriptor; peer must outlive it. NULL: no memory. */
SSL *tls_accept(struct tls *t, int fd, struct tls_peer *peer);

#endif
