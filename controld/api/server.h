/* SPDX-License-Identifier: MIT */
/* The inside of the REST server: connections over TLS, and the requests under way. */
#ifndef CONTROLD_API_SERVER_H
#define CONTROLD_API_SERVER_H

#include "controld/api/api.h"
#include "controld/api/limit.h"
#include "controld/api/request.h"
#include <event2/listener.h>
#include <openssl/ssl.h>
#include <stdbool.h>

#define API_MAX_CONNECTIONS 256 /* then the idlest is closed for a new one */
#define API_MAX_BODY (1024 * 1024)
#define API_MAX_HEADERS (64 * 1024)
#define API_TIMEOUT_S 30

struct conn;

struct api {
	struct event_base *base;
	struct evhttp *http;
	struct evconnlistener *listener; /* owned by http once bound */
	SSL_CTX *tls;
	struct store *store;
	const struct vault *vault;
	struct authority *authority;
	const struct km_strlist *link_urls;
	const char *pin;
	struct limit *failures;
	struct conn *conns;
	size_t n_conns;
	bool paused; /* the listener */
	struct req *reqs;
	uint16_t port;
};

/* conn.c */
/* A TLS context of certificate, chain and key; NULL with a sentence. */
SSL_CTX *conn_tls(const char *cert_pem, const char *key_pem, struct km_errtext *err);
/* For evhttp_set_bevcb: arg is the api. */
struct bufferevent *conn_new(struct event_base *base, void *arg);
/* A request of this connection is complete: the bound on its bytes begins anew. */
void conn_request_read(struct evhttp_request *ev);
/* Answers it; known: for somebody with a token, whose connection is kept before others'. */
void conn_answer(struct evhttp_request *ev, int status, struct evbuffer *body, bool known);
/* The api goes away before its connections do. */
void conn_forget_all(struct api *api);

/* request.c */
/* A request has arrived whole (evhttp_set_gencb: arg is the api). */
void req_arrived(struct evhttp_request *ev, void *arg);
/* "Not Found" …; "Unknown" for what is not known. */
const char *req_reason(int status);
/* Counts an answer. */
void req_counted(int status);
/* Forgets those under way: neither answered nor called back. */
void req_forget_all(struct api *api);

/* auth.c: finds the token of rq and goes on with req_authenticated, or answers 401, 429. */
void auth_check(struct req *rq);
void req_authenticated(struct req *rq);

#endif
