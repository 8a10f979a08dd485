/* SPDX-License-Identifier: MIT */
/* What the record layer (records.h) must know of a handshake of OpenSSL's, in order to go on after
 * it: the traffic secrets, as they are derived (secrets.h), and how many records OpenSSL has sealed
 * with the server's, those of session tickets. Nothing of it is logged. */
#ifndef GATEWAYD_EDGE_HANDOVER_H
#define GATEWAYD_EDGE_HANDOVER_H

#include <openssl/ssl.h>
#include <stdbool.h>

struct records;

/* The context, of servers and made with SECRETS_PROPERTIES, may be given to the functions below.
 * Takes its callback for messages. False: no memory. */
bool handover_use(SSL_CTX *ctx);
/* Right before and after each SSL_do_handshake of a connection. Others' contexts are not minded. */
void handover_watch(SSL *ssl);
void handover_watched(void);
/* The record layer for ssl, whose handshake is done, and which must neither have read more than it
 * (no read ahead) nor be used any more. NULL: OpenSSL must keep it (not of such a context, not
 * watched, not TLS 1.3, smaller records agreed upon as of RFC 6066, no memory). The secrets that
 * were kept are overwritten, either way. */
struct records *handover_records(SSL *ssl);

#endif
