/* SPDX-License-Identifier: MIT */
/* What a ClientHello says (RFC 8446 section 4.1.2). Foreign bytes: bounded, sans-I/O. */
#ifndef GATEWAYD_EDGE_HELLO_H
#define GATEWAYD_EDGE_HELLO_H

#include "gatewayd/edge/h1.h"
#include <openssl/ssl.h>

/* Inside OpenSSL's ClientHello callback: */

/* The host name of the server_name extension (RFC 6066 section 3), lower case, no last dot. False:
 * there is none, or it is no host name. */
bool hello_sni(SSL *ssl, char out[static HTTP_HOST_MAX + 1]);
/* Whether the client offers acme-tls/1 and nothing else (RFC 8737 section 4). */
bool hello_asks_challenge(SSL *ssl);
/* Whether the client can be shown a certificate with a P-256 key: ecdsa_secp256r1_sha256 is among
 * its signature algorithms, and it offers TLS 1.3, or one of our ECDSA suites and the curve. */
bool hello_can_ecdsa(SSL *ssl);

/* Before OpenSSL, which gets the same bytes again: */

#define HELLO_PEEK_MAX 17408 /* what is looked at before it is left to OpenSSL: 17 KiB */

/* Looks for the server name in the first n bytes of a connection: TLS records of which the
 * ClientHello may fill several. 0: sni is as of hello_sni ("": there is none). KM_ETRUNC: more
 * bytes are needed. KM_EPROTO: no ClientHello. KM_ETOOBIG: longer than HELLO_PEEK_MAX, and no name
 * in that. */
int hello_peek(const uint8_t *p, size_t n, char sni[static HTTP_HOST_MAX + 1])
    __attribute__((warn_unused_result));

#endif
