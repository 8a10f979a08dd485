/* SPDX-License-Identifier: MIT */
/* TLS 1.3's key schedule (RFC 8446 section 7.1) and the MAC of Finished and tickets, of OpenSSL's
 * SHA-256 and without OpenSSL 3.0's detours: each of a handshake's some twenty secrets takes its
 * own TLS13-KDF seven allocations, two algorithms looked up by name and a generic HMAC, which is
 * six times the digest's work. */
#ifndef GATEWAYD_EDGE_SECRETS_H
#define GATEWAYD_EDGE_SECRETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* For SSL_CTX_new_ex(3): what secrets_load brings is preferred, all else is OpenSSL's. */
#define SECRETS_PROPERTIES "?provider=kakuremichi"

/* Makes it known to OpenSSL's default context, once in the process. What it does not know itself (a
 * digest other than SHA-256) it hands on. False: OpenSSL refuses, and SECRETS_PROPERTIES mean
 * nothing. */
bool secrets_load(void);

/* Called with each application traffic secret (the client's or the server's; section 7.1) that is derived
 * where SECRETS_PROPERTIES are preferred. Not to be kept longer than the call. */
typedef void secrets_told(void *arg, bool server, const uint8_t *secret, size_t n);
/* On this thread from now on. NULL: nobody is told. */
void secrets_watch(secrets_told *told, void *arg);

#endif
