/* SPDX-License-Identifier: MIT */
/* What the record layer (records.h) must know of a handshake of OpenSSL's, in order to go on after it: the
 * traffic secrets, which OpenSSL tells to its callback for key logs, and how many records it has sealed with
 * the server's, those of session tickets. Nothing of it is logged. */
#ifndef GATEWAYD_EDGE_HANDOVER_H
#define GATEWAYD_EDGE_HANDOVER_H

#include <openssl/ssl.h>
#include <stdbool.h>

struct records;

/* The context's connections, of servers, are watched from now on. Takes its callbacks for key logs and
 * messages. False: no memory. */
bool handover_use(SSL_CTX *ctx);
/* The record layer for ssl, whose handshake is done, and which must neither have read more than it (no read
 * ahead) nor be used any more. NULL: OpenSSL must keep it (not of such a context, not TLS 1.3, smaller records
 * agreed upon as of RFC 6066, no memory). The secrets that were kept are overwritten, either way. */
struct records *handover_records(SSL *ssl);

#endif
