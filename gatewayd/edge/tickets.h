/* SPDX-License-Identifier: MIT */
/* The keys that TLS session tickets are sealed with (RFC 5077, RFC 8446 section 4.6.1). Whoever
 * gets one can read the tickets under it, and with TLS 1.2 what was said in their sessions; so they
 * live in memory only, are made anew every so often, and are wiped once the tickets under them are
 * no longer taken. One set serves all workers. */
#ifndef GATEWAYD_EDGE_TICKETS_H
#define GATEWAYD_EDGE_TICKETS_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#define TICKET_KEYS 3 /* the one that seals, and two that still open */
#define TICKET_EVERY_MS (12LL * 3600 * 1000)

struct tickets;

/* A new key seals every_ms after the last one was made. now: a clock in milliseconds (km_now_ms).
 * NULL: no memory. */
struct tickets *tickets_new(int64_t every_ms, int64_t (*now)(void));
/* After every context that uses it. Accepts NULL. */
void tickets_free(struct tickets *t);
/* Lets ctx seal and open its tickets with t's keys. False: OpenSSL refuses. */
bool tickets_use(struct tickets *t, SSL_CTX *ctx);

#endif
