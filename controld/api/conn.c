/* SPDX-License-Identifier: MIT */
/* TLS connections under evhttp. Each has a struct conn that hangs on its SSL object, which counts
 * connections and bounds what one request may send. evhttp refuses by itself what is no HTTP, with
 * a page of HTML that a program cannot read (a callback for that came only after libevent 2.1):
 * what it puts into the output while no answer of ours is sent is taken out and becomes our JSON.
 */
#include "controld/api/server.h"
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <utlist.h>

/* How much more of a refused body is read away, so that the answer is not lost to a reset. */
#define LINGER_BYTES (64 * 1024 * 1024)

struct conn {
	struct api
	    *api; /* NULL: gone; else it stands in its list, longest without a request first */
	struct bufferevent *bev;
	size_t bytes; /* of the request being read */
	bool refused, draining, answering, evicted;
	bool known;                         /* it has shown a token */
	bool sending, rewriting, rewritten; /* our answer; evhttp's page */
	bool *gone;                         /* set when the connection ends */
	struct conn *prev, *next;
};

static void conn_gone(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	(void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
	struct conn *c = ptr;
	if (!c)
		return;
	if (c->gone)
		*c->gone = true;
	struct api *api = c->api;
	if (api) {
		DL_DELETE(api->conns, c);
		api->n_conns--;
		if (api->paused && api->n_conns < API_MAX_CONNECTIONS) {
			api->paused = false;
			evconnlistener_enable(api->listener);
		}
	}
	free(c);
}

static int ex_index(void)
{
	static int index = -1; /* the main loop is the only caller */
	if (index < 0)
		index = SSL_get_ex_new_index(0, NULL, NULL, NULL, conn_gone);
	return index;
}

/* ---- what is no request for a handler ---- */

struct refusal {
	int status;
	const char *code, *message;
};
static const struct refusal refusals[] = {
    {400, "VALIDATION_ERROR", "this is no request in HTTP/1.1, or its head is larger than 64 KiB"},
    {413, "TOO_LARGE", "the body is larger than 1 MiB"},
    {417, "VALIDATION_ERROR", "this expectation cannot be met"},
    {501, "METHOD_NOT_ALLOWED", "there is no such method here"},
    {500, "INTERNAL_ERROR", "something went wrong"}, /* the last: any other */
};

static const struct refusal *refusal_of(int status)
{
	const struct refusal *r = refusals;
	while (r->status != status && r < refusals + KM_ARRAY_LEN(refusals) - 1)
		r++;
	return r;
}

/* The whole answer, after which the connection ends. */
static void refusal_write(struct conn *c, int status)
{
	const struct refusal *r = refusal_of(status);
	char body[256];
	int n = snprintf(body, sizeof(body), "{\"error\":\"%s\",\"code\":\"%s\",\"details\":[]}",
			 r->message, r->code);
	req_counted(status);
	evbuffer_add_printf(bufferevent_get_output(c->bev),
			    "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
			    "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
			    "Connection: close\r\nContent-Length: %d\r\n\r\n%s",
			    status, req_reason(status), n, body);
}

static void refuse(struct conn *c)
{
	c->refused = true;
	bufferevent_enable(c->bev, EV_WRITE); /* off while evhttp reads */
	refusal_write(c, 413);
}

static void cut_end(struct evbuffer *b, size_t n)
{
	struct evbuffer *front = evbuffer_new();
	if (!front)
		abort(); /* no memory */
	evbuffer_remove_buffer(b, front, evbuffer_get_length(b) - n);
	evbuffer_drain(b, n);
	evbuffer_add_buffer(b, front);
	evbuffer_free(front);
}

/* Something is to be sent: the first piece of evhttp's own answer is its status line. */
static void conn_output(struct evbuffer *out, const struct evbuffer_cb_info *info, void *arg)
{
	struct conn *c = arg;
	char line[16] = "";
	int status;
	if (c->sending || c->refused || c->rewriting || info->n_added == 0)
		return;
	if (!c->rewritten) {
		evbuffer_copyout(out, line, sizeof(line) - 1);
		if (sscanf(line, "HTTP/%*d.%*d %3d", &status) != 1 || status < 400)
			return; /* 100 Continue */
	}
	c->rewriting = true; /* this calls back here */
	cut_end(out, info->n_added);
	if (!c->rewritten)
		refusal_write(c, status);
	c->rewriting = false;
	c->rewritten = true;
}

/* Bytes have come in. */
static void conn_input(struct evbuffer *in, const struct evbuffer_cb_info *info, void *arg)
{
	struct conn *c = arg;
	if (c->draining || info->n_added == 0)
		return;
	c->bytes += info->n_added;
	if (!c->refused && c->bytes > API_MAX_BODY + API_MAX_HEADERS)
		refuse(c);
	if (c->refused) {
		c->draining = true; /* the drain calls back here */
		evbuffer_drain(in, evbuffer_get_length(in));
		c->draining = false;
		if (c->bytes > LINGER_BYTES)
			shutdown(bufferevent_getfd(c->bev), SHUT_RDWR);
	}
}

static struct conn *idlest(struct api *api, bool known)
{
	struct conn *c;
	DL_FOREACH (api->conns, c) {
		if (!c->answering && !c->evicted && c->known == known)
			return c;
	}
	return NULL;
}

/* Too many connections: the one that has been idle longest makes room (it ends when the loop sees
 * its end of file), those without a token first, so that whoever only holds connections cannot shut
 * others out. */
static void make_room(struct api *api)
{
	struct conn *c = idlest(api, false);
	if (!c)
		c = idlest(api, true);
	if (!c)
		return;
	c->evicted = true;
	shutdown(bufferevent_getfd(c->bev), SHUT_RDWR);
}

struct bufferevent *conn_new(struct event_base *base, void *arg)
{
	struct api *api = arg;
	if (api->n_conns >= API_MAX_CONNECTIONS)
		make_room(api);
	struct conn *c = km_xcalloc(1, sizeof(*c));
	SSL *ssl = SSL_new(api->tls);
	if (!ssl || SSL_set_ex_data(ssl, ex_index(), c) != 1)
		abort(); /* no memory; without a bufferevent evhttp would serve plain HTTP */
	c->api = api;
	DL_APPEND(api->conns, c);
	if (++api->n_conns >= 2 * API_MAX_CONNECTIONS && !api->paused) {
		api->paused = true; /* until the evicted ones are gone */
		evconnlistener_disable(api->listener);
	}
	c->bev = bufferevent_openssl_socket_new(base, -1, ssl, BUFFEREVENT_SSL_ACCEPTING,
						BEV_OPT_CLOSE_ON_FREE);
	if (!c->bev)
		abort();
	bufferevent_openssl_set_allow_dirty_shutdown(c->bev, 1);
	evbuffer_add_cb(bufferevent_get_input(c->bev), conn_input, c);
	evbuffer_add_cb(bufferevent_get_output(c->bev), conn_output, c);
	return c->bev;
}

static struct conn *conn_of(struct evhttp_request *ev)
{
	struct evhttp_connection *evcon = evhttp_request_get_connection(ev);
	struct bufferevent *bev = evcon ? evhttp_connection_get_bufferevent(evcon) : NULL;
	SSL *ssl = bev ? bufferevent_openssl_get_ssl(bev) : NULL;
	return ssl ? SSL_get_ex_data(ssl, ex_index()) : NULL;
}

void conn_request_read(struct evhttp_request *ev)
{
	struct conn *c = conn_of(ev);
	if (!c)
		return;
	c->bytes = evbuffer_get_length(bufferevent_get_input(c->bev));
	c->answering = true;
}

void conn_answer(struct evhttp_request *ev, int status, struct evbuffer *body, bool known)
{
	struct conn *c = conn_of(ev);
	bool gone = c == NULL;
	if (c) {
		c->answering = false;
		c->sending = true;
		c->gone = &gone;
		if (known) {
			c->known = true;
			DL_DELETE(c->api->conns, c);
			DL_APPEND(c->api->conns, c);
		}
	}
	evhttp_send_reply(ev, status, req_reason(status), body); /* also when the client is gone */
	if (!gone) {
		c->sending = false;
		c->gone = NULL;
	}
}

void conn_forget_all(struct api *api)
{
	struct conn *c;
	DL_FOREACH (api->conns, c)
		c->api = NULL;
	api->conns = NULL;
}

/* ---- the context ---- */

static int use_chain(SSL_CTX *tls, const char *pem)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	X509 *x = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
	int ok = x && SSL_CTX_use_certificate(tls, x) == 1;
	while (ok) {
		X509_free(x);
		x = PEM_read_bio_X509(bio, NULL, NULL, NULL);
		if (!x)
			break;
		ok = SSL_CTX_add1_chain_cert(tls, x) == 1;
	}
	ERR_clear_error(); /* the end of the file is reported as an error */
	X509_free(x);
	BIO_free(bio);
	return ok ? 0 : KM_EINVAL;
}

/* NULL, or what is wrong with it. */
static const char *use_key(SSL_CTX *tls, const char *pem)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	/* "" is the passphrase: nobody is asked for one. */
	EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)(uintptr_t)"") : NULL;
	const char *what = NULL;
	if (!key)
		what = "no private key in PEM without a passphrase";
	else if (SSL_CTX_use_PrivateKey(tls, key) != 1 || SSL_CTX_check_private_key(tls) != 1)
		what = "the private key is not that of the certificate";
	ERR_clear_error();
	EVP_PKEY_free(key);
	BIO_free(bio);
	return what;
}

SSL_CTX *conn_tls(const char *cert_pem, const char *key_pem, struct km_errtext *err)
{
	SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
	if (!tls) {
		(void)km_errtext_set(err, KM_ENOMEM, "no TLS context");
		return NULL;
	}
	SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION);
	SSL_CTX_set_options(tls, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
				     SSL_OP_CIPHER_SERVER_PREFERENCE);
	SSL_CTX_set_mode(tls, SSL_MODE_RELEASE_BUFFERS);
	const char *what = use_chain(tls, cert_pem) < 0 ? "no certificate in PEM that can be served"
							: use_key(tls, key_pem);
	if (what) {
		SSL_CTX_free(tls);
		(void)km_errtext_set(err, KM_EINVAL, "%s", what);
		return NULL;
	}
	return tls;
}
