/* SPDX-License-Identifier: MIT */
/* The one TLS context of all workers: TLS 1.2 and 1.3, certificate by SNI. */
#ifndef GATEWAYD_EDGE_TLS_H
#define GATEWAYD_EDGE_TLS_H

#include "gatewayd/acme/challenges.h"
#include "gatewayd/edge/certs.h"
#include "gatewayd/route/route.h"

struct tls;

/* What it points to must outlive it; challenges may be NULL. NULL: OpenSSL refused (its queue says
 * why). */
struct tls *tls_new(const struct route_table *routes, struct certs *certs,
		    struct challenges *challenges);
void tls_free(struct tls *t);

/* What a connection's handshake has found. */
struct tls_peer {
	char sni[ROUTE_DOMAIN_MAX + 1]; /* "" until the ClientHello has come */
	struct cert *cert;              /* give back with cert_put */
	bool refused;                   /* unknown or missing name: the alert was sent */
	/* The CA asks for the answer to a tls-alpn-01 challenge (RFC 8737): no application data may
	 * follow the handshake. */
	bool challenge;
	X509 *challenge_cert;
	EVP_PKEY *challenge_key;
};
/* Gives back what it holds. */
void tls_peer_clear(struct tls_peer *peer);
/* A server side for this descriptor; peer must outlive it. NULL: no memory. */
SSL *tls_accept(struct tls *t, int fd, struct tls_peer *peer);

#endif
