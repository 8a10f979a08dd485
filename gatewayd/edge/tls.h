/* SPDX-License-Identifier: MIT */
/* The one TLS context of all workers: TLS 1.2 and 1.3, certificate by SNI. */
#ifndef GATEWAYD_EDGE_TLS_H
#define GATEWAYD_EDGE_TLS_H

#include "gatewayd/acme/challenges.h"
#include "gatewayd/edge/certs.h"
#include "gatewayd/edge/waits.h"
#include "gatewayd/route/route.h"

struct tls;

struct tls_opts {
	const struct route_table *routes;
	struct certs *certs;
	struct challenges *challenges; /* NULL: none are answered */
	struct waits *waits;           /* NULL: no handshake waits for a certificate */
	/* Somebody waits for the certificate of a tunnel's domain: waits_settle is to be called for it, soon
	 * or late. False: nobody can be told. Any worker's thread. */
	bool (*ask)(void *arg, const char *domain);
	void *arg;
	bool http2;   /* is offered */
	bool records; /* TLS 1.3 goes on without OpenSSL's record layer (handover.h) */
};
/* What o points to must outlive it. NULL: OpenSSL refused (its queue says why). */
struct tls *tls_new(const struct tls_opts *o);
void tls_free(struct tls *t);

/* What a connection's handshake has found. */
struct tls_peer {
	char *sni;              /* NULL until the ClientHello has come */
	struct cert *cert;              /* give back with cert_put */
	bool refused;                   /* unknown or missing name: the alert was sent */
	uint8_t tunnel[16];             /* whose name it is, with cert */
	/* It waits for a certificate (SSL_ERROR_WANT_CLIENT_HELLO_CB): to be left with waits_leave once the
	 * handshake goes on or ends. */
	struct wait *wait;
	bool wait_late; /* the caller: it has waited long enough */
	/* The CA asks for the answer to a tls-alpn-01 challenge (RFC 8737): no application data may
	 * follow the handshake. */
	bool challenge;
	X509 *challenge_cert;
	EVP_PKEY *challenge_key;
};
/* Gives back what it holds; it must not wait. */
void tls_peer_clear(struct tls_peer *peer);
/* A server side without a BIO (io_open, io_secure); peer must outlive it. NULL: no memory. */
SSL *tls_accept(struct tls *t, struct tls_peer *peer);
/* Whether the handshake, which is done, has chosen HTTP/2. */
bool tls_is_h2(const SSL *ssl);

#endif
