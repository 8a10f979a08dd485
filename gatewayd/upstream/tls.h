/* SPDX-License-Identifier: MIT */
/* TLS towards https targets, inside the stream that the agent moves without looking: end to end to
 * the target. One object for all workers; sessions are resumed for the same version of the same
 * tunnel only. */
#ifndef GATEWAYD_UPSTREAM_TLS_H
#define GATEWAYD_UPSTREAM_TLS_H

#include "libkm/base/err.h"
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#define UP_TLS_SESSIONS_MAX 1024 /* the one kept longest goes */
#define UP_TLS_SESSION_MS                                                                          \
	3600000 /* one is resumed so long: then certificates are looked at anew                    \
		 */

struct up_tls;

/* NULL: no memory. */
struct up_tls *up_tls_new(void);
/* Connections that it made may outlive it no longer. Accepts NULL. */
void up_tls_free(struct up_tls *t);

struct up_tls_want {
	bool verify; /* chain and name are checked; else neither, and old keys are accepted too */
	const char *name; /* what the certificate must name; a host name is also sent (SNI). "" or
			   * NULL: nothing is sent, the chain alone is checked */
	bool is_addr;     /* the name is an IP address */
	X509_STORE
	*store; /* what to trust, the target's own certificate too; NULL: the system's CAs */
	uint64_t serial; /* of the route: what sessions are kept by */
	bool h2;         /* HTTP/2 is offered, before HTTP/1.1 */
};
/* A client side, TLS 1.2 or 1.3, still without a BIO. Takes a reference to the store. NULL: no
 * memory. Any thread. */
SSL *up_tls_connect(struct up_tls *t, const struct up_tls_want *want, int64_t now);
/* After the handshake: whether the target has chosen HTTP/2. One that chooses nothing speaks
 * HTTP/1.1. */
bool up_tls_h2(const SSL *ssl);

/* Why the handshake of ssl failed, for people; to be called right after it has. `reason` is one of
 * a few words for a metric. */
enum up_tls_reason {
	UP_TLS_SELF_SIGNED,
	UP_TLS_UNTRUSTED,
	UP_TLS_NAME,
	UP_TLS_TIME,
	UP_TLS_OTHER_CERTIFICATE,
	UP_TLS_PROTOCOL, /* no agreement on anything, or no TLS at all */
	UP_TLS_CLOSED,
	UP_TLS_REASONS
};
enum up_tls_reason up_tls_why(SSL *ssl, struct km_errtext *err);
/* The counter of such failures, and the label of each. */
void up_tls_count(enum up_tls_reason reason);

#endif
