/* SPDX-License-Identifier: MIT */
/* TLS towards https targets, inside the stream that the agent moves without looking: end to end to
 * the target. One object for all workers: contexts are shared by tunnels that trust alike, sessions
 * are resumed for the same version of the same tunnel only. */
#ifndef GATEWAYD_UPSTREAM_TLS_H
#define GATEWAYD_UPSTREAM_TLS_H

#include "libkm/base/err.h"
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#define UP_TLS_CONTEXTS_MAX 64   /* the one used longest ago goes */
#define UP_TLS_SESSIONS_MAX 1024 /* the same */
#define UP_TLS_SESSION_MS                                                                          \
	3600000 /* a session is resumed so long: then certificates are looked at anew */

struct up_tls;

/* NULL: no memory. */
struct up_tls *up_tls_new(void);
/* Connections that it made may outlive it no longer. Accepts NULL. */
void up_tls_free(struct up_tls *t);

struct up_tls_want {
	bool verify; /* chain and name are checked; else neither, and old keys are accepted too */
	const char
	    *name; /* what the certificate must name, host name or IP address; a host name is also
		    * sent (SNI). "" or NULL: nothing is sent, the chain alone is checked */
	const char *ca;  /* PEM of the CAs (or of the target's own certificate) to be trusted; NULL
			  * or "": those  of the system */
	uint64_t serial; /* of the route: what sessions are kept by */
};
/* A client side for this descriptor, TLS 1.2 or 1.3, ALPN http/1.1. Strings are copied. KM_EINVAL
 * (with a sentence): `ca` holds no certificate, or `name` can be in none; KM_ENOMEM. Any thread. */
int up_tls_connect(struct up_tls *t, const struct up_tls_want *want, int fd, int64_t now, SSL **out,
		   struct km_errtext *err) __attribute__((warn_unused_result));

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
