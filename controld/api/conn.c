/* SPDX-License-Identifier: MIT */
/* TLS connections under evhttp. Each has a struct conn that hangs on its SSL object, which counts
 * connections and bounds what one request may send: evhttp itself can only refuse with an HTML
 * page. */
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
	bool known; /* it has shown a token */
	struct conn *prev, *next;
};

static const char too_large[] =
    "HTTP/1.1 413 Payload Too Large\r\nContent-Type: application/json\r\n"
    "Connection: close\r\nContent-Length: 74\r\n\r\n"
    "{\"error\":\"the body is larger than 1 MiB\",\"code\":\"TOO_LARGE\",\"details\":[]}\n";

static void conn_gone(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	(void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
	struct conn *c = ptr;
	if (!c)
		return;
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

static void refuse(struct conn *c)
{
	c->refused = true;
	bufferevent_enable(c->bev, EV_WRITE); /* off while evhttp reads */
	bufferevent_write(c->bev, too_large, sizeof(too_large) - 1);
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

void conn_request_answered(struct evhttp_request *ev, bool known)
{
	struct conn *c = conn_of(ev);
	if (!c)
		return;
	c->answering = false;
	if (known) {
		c->known = true;
		DL_DELETE(c->api->conns, c);
		DL_APPEND(c->api->conns, c);
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

static int use_key(SSL_CTX *tls, const char *pem)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;
	int ok =
	    key && SSL_CTX_use_PrivateKey(tls, key) == 1 && SSL_CTX_check_private_key(tls) == 1;
	ERR_clear_error();
	EVP_PKEY_free(key);
	BIO_free(bio);
	return ok ? 0 : KM_EINVAL;
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
	const char *what = NULL;
	if (use_chain(tls, cert_pem) < 0)
		what = "the server certificate cannot be read";
	else if (use_key(tls, key_pem) < 0)
		what = "the server's private key cannot be read or belongs to another certificate";
	if (what) {
		SSL_CTX_free(tls);
		(void)km_errtext_set(err, KM_EINVAL, "%s", what);
		return NULL;
	}
	return tls;
}
