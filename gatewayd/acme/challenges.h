/* SPDX-License-Identifier: MIT */
/* The ACME challenges that are open now, our own and those of other gateways: what workers answer
 * the CA with (http-01, RFC 8555 section 8.3; tls-alpn-01, RFC 8737). Written by the main loop, read by
 * any thread. A name that has none costs a stranger nothing but one look into an empty table. */
#ifndef GATEWAYD_ACME_CHALLENGES_H
#define GATEWAYD_ACME_CHALLENGES_H

#include "libkm/base/err.h"
#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#define CHALLENGES_MAX 4096
#define CHALLENGES_OTHERS_MAX (CHALLENGES_MAX / 2) /* of other gateways, so that there is room for ours */
#define CHALLENGE_TOKEN_MAX 128    /* bytes; base64url only */
#define CHALLENGE_KEY_AUTH_MAX 256 /* token "." thumbprint */
#define CHALLENGE_ALPN "acme-tls/1"

enum challenge_type { CHALLENGE_HTTP, CHALLENGE_ALPN_TLS };

/* One open challenge; no private thing is in it. */
struct challenge {
	enum challenge_type type;
	char name[256]; /* the identifier: lower-case host name or IP address */
	char token[CHALLENGE_TOKEN_MAX + 1];
	char key_auth[CHALLENGE_KEY_AUTH_MAX + 1];
};

struct challenges;

/* served(arg) is called on whatever thread answered; NULL: nobody cares. NULL: no memory. */
struct challenges *challenges_new(void (*served)(void *arg, const char *token), void *arg);
void challenges_free(struct challenges *c);

/* Opens ch until expires_ms (monotonic). The same token again replaces what was there. KM_EINVAL (a
 * token or name with foreign characters), KM_EFULL, KM_ENOMEM. */
int challenges_open(struct challenges *c, const struct challenge *ch, int64_t expires_ms)
    __attribute__((warn_unused_result));
/* An unknown token is no error. */
void challenges_close(struct challenges *c, const char *token);
/* Drops what has expired; every minute or so. */
void challenges_tidy(struct challenges *c, int64_t now_ms);
size_t challenges_count(const struct challenges *c);
/* Calls each for every open one that was opened with challenges_open. */
void challenges_each(struct challenges *c, void (*each)(void *arg, const struct challenge *ch),
		     void *arg);

/* What to answer GET /.well-known/acme-challenge/TOKEN of this host with (lower case, no port): true,
 * and the text in out. */
bool challenges_http(struct challenges *c, const char *host, const char *token, size_t n,
		     char out[static CHALLENGE_KEY_AUTH_MAX + 1]);
/* Whether a tls-alpn-01 challenge is open for the SNI (for an IP address: its reverse name), and then
 * certificate and key to answer with: the caller's references. */
bool challenges_alpn(struct challenges *c, const char *sni, X509 **cert, EVP_PKEY **key);

#endif
