/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/tls.h"
#include "gatewayd/edge/h1.h"
#include "gatewayd/edge/tickets.h"
#include "libkm/base/buf.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

struct tls {
	SSL_CTX *ctx;
	const struct route_table *routes;
	struct certs *certs;
	struct challenges *challenges;
	struct tickets *tickets;
	struct km_metric *refused, *no_cert, *challenged;
	struct km_log_limit refused_log, no_cert_log;
};

static const char suites_12[] = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
				"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
				"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

/* The host name of the server_name extension (RFC 6066 section 3), in normal form. */
static bool sni_read(SSL *ssl, char out[static H1_HOST_MAX + 1])
{
	const unsigned char *p;
	size_t n;
	uint32_t port;
	if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &p, &n))
		return false;
	struct km_cur all = km_cur_of(p, n);
	struct km_cur list = km_cur_sub(&all, km_cur_be16(&all));
	uint8_t type = km_cur_u8(&list);
	uint16_t len = km_cur_be16(&list);
	const uint8_t *name = km_cur_take(&list, len);
	if (all.bad || all.left || list.bad || type != TLSEXT_NAMETYPE_host_name || !len ||
	    memchr(name, ':', len) || memchr(name, '[', len))
		return false;
	return h1_host_normal((struct h1_str){(const char *)name, len}, out, &port);
}

static int refuse(struct tls *t, struct tls_peer *peer, int *alert)
{
	uint32_t held;
	peer->refused = true;
	*alert = SSL_AD_UNRECOGNIZED_NAME;
	km_metric_add(t->refused, 1);
	if (km_log_allow(&t->refused_log, km_now_ms(), 5, 10000, &held))
		km_info("tls refused, no such name", km_ks("sni", peer->sni), km_ki("held", held));
	return SSL_CLIENT_HELLO_ERROR;
}

/* Whether the client offers acme-tls/1 and nothing else (RFC 8737 section 4). */
static bool asks_for_challenge(SSL *ssl)
{
	static const char want[] = CHALLENGE_ALPN;
	const unsigned char *p;
	size_t n;
	if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_application_layer_protocol_negotiation, &p, &n))
		return false;
	return n == sizeof(want) + 2 && !p[0] && p[1] == sizeof(want) && p[2] == sizeof(want) - 1 &&
	       !memcmp(p + 3, want, sizeof(want) - 1);
}

/* The certificate is made for this one name and proof; nobody resumes such a session. */
static int challenge_answer(struct tls *t, SSL *ssl, struct tls_peer *peer, int *alert)
{
	if (!t->challenges || !challenges_alpn(t->challenges, peer->sni, &peer->challenge_cert,
					       &peer->challenge_key)) {
		peer->refused = true;
		*alert = SSL_AD_NO_APPLICATION_PROTOCOL;
		km_metric_add(t->refused, 1);
		return SSL_CLIENT_HELLO_ERROR;
	}
	peer->challenge = true;
	SSL_set_options(ssl, SSL_OP_NO_TICKET);
	SSL_set_num_tickets(ssl, 0);
	km_metric_add(t->challenged, 1);
	return SSL_CLIENT_HELLO_SUCCESS;
}

static int on_client_hello(SSL *ssl, int *alert, void *arg)
{
	struct tls *t = arg;
	struct tls_peer *peer = SSL_get_app_data(ssl);
	struct km_errtext err = {0};
	struct route r;
	uint32_t held;

	if (peer->cert || peer->challenge) /* the second ClientHello, after HelloRetryRequest */
		return SSL_CLIENT_HELLO_SUCCESS;
	if (!sni_read(ssl, peer->sni)) {
		peer->sni[0] = '\0';
		return refuse(t, peer, alert);
	}
	if (asks_for_challenge(ssl))
		return challenge_answer(t, ssl, peer, alert);
	if (!route_find(t->routes, peer->sni, &r))
		return refuse(t, peer, alert);
	route_state_put(r.state);
	struct certs_ask ask = {.host = peer->sni,
				.wildcard = r.wildcard,
				.mode = r.tls,
				.ecdsa = true,
				.now_ms = km_now_ms(),
				.wall_ms = km_wall_ms()};
	int rc = certs_for_host(t->certs, &ask, &peer->cert, &err);
	if (!rc)
		return SSL_CLIENT_HELLO_SUCCESS;
	peer->refused = true;
	*alert = SSL_AD_UNRECOGNIZED_NAME;
	km_metric_add(t->no_cert, 1);
	if (km_log_allow(&t->no_cert_log, km_now_ms(), 5, 10000, &held))
		km_warn("no certificate for a served name", km_ks("sni", peer->sni),
			km_ks("why", err.text), km_ki("held", held));
	return SSL_CLIENT_HELLO_ERROR;
}

static int on_certificate(SSL *ssl, void *arg)
{
	struct tls_peer *peer = SSL_get_app_data(ssl);
	(void)arg;
	if (peer->challenge)
		return SSL_use_cert_and_key(ssl, peer->challenge_cert, peer->challenge_key, NULL,
					    1) == 1;
	return peer->cert && SSL_use_cert_and_key(ssl, peer->cert->leaf, peer->cert->key,
						  peer->cert->chain, 1) == 1;
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *outlen,
		   const unsigned char *in, unsigned int inlen, void *arg)
{
	static const unsigned char http[] = "\x08http/1.1", acme[] = "\x0a" CHALLENGE_ALPN;
	const struct tls_peer *peer = SSL_get_app_data(ssl);
	const unsigned char *ours = peer->challenge ? acme : http;
	(void)arg;
	return SSL_select_next_proto((unsigned char **)out, outlen, ours, 1u + ours[0], in, inlen) ==
		       OPENSSL_NPN_NEGOTIATED
		   ? SSL_TLSEXT_ERR_OK
		   : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static bool ctx_set(struct tls *t)
{
	SSL_CTX *c = t->ctx;
	static const unsigned char context[] = "kakuremichi";
	SSL_CTX_set_options(c, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
				   SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA |
				   SSL_OP_IGNORE_UNEXPECTED_EOF);
	SSL_CTX_set_mode(c, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
				SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_read_ahead(c, 1);
	SSL_CTX_set_num_tickets(c, 1);
	SSL_CTX_set_client_hello_cb(c, on_client_hello, t);
	SSL_CTX_set_cert_cb(c, on_certificate, t);
	SSL_CTX_set_alpn_select_cb(c, on_alpn, t);
	return tickets_use(t->tickets, c) &&
	       SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION) == 1 &&
	       SSL_CTX_set_cipher_list(c, suites_12) == 1 &&
	       SSL_CTX_set1_groups_list(c, "X25519:P-256:P-384") == 1 &&
	       SSL_CTX_set_session_id_context(c, context, sizeof(context) - 1) == 1;
}

struct tls *tls_new(const struct route_table *routes, struct certs *certs,
		    struct challenges *challenges)
{
	struct tls *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->routes = routes;
	t->certs = certs;
	t->challenges = challenges;
	t->challenged = km_metric(KM_METRIC_COUNTER, "kakuremichi_acme_challenges_answered_total",
				  "type=\"tls-alpn-01\"", "Challenges of CAs answered.");
	t->refused = km_metric(KM_METRIC_COUNTER, "kakuremichi_tls_refused_total",
			       "reason=\"name\"", "TLS handshakes refused before they began.");
	t->no_cert =
	    km_metric(KM_METRIC_COUNTER, "kakuremichi_tls_refused_total",
		      "reason=\"no_certificate\"", "TLS handshakes refused before they began.");
	t->tickets = tickets_new(TICKET_EVERY_MS, km_now_ms);
	t->ctx = SSL_CTX_new(TLS_server_method());
	if (t->tickets && t->ctx && ctx_set(t))
		return t;
	tls_free(t);
	return NULL;
}

void tls_free(struct tls *t)
{
	if (!t)
		return;
	SSL_CTX_free(t->ctx);
	tickets_free(t->tickets);
	free(t);
}

void tls_peer_clear(struct tls_peer *peer)
{
	cert_put(peer->cert);
	X509_free(peer->challenge_cert);
	EVP_PKEY_free(peer->challenge_key);
	memset(peer, 0, sizeof(*peer));
}

SSL *tls_accept(struct tls *t, int fd, struct tls_peer *peer)
{
	SSL *ssl = SSL_new(t->ctx);
	if (!ssl)
		return NULL;
	SSL_set_app_data(ssl, peer);
	SSL_set_accept_state(ssl);
	if (SSL_set_fd(ssl, fd) == 1)
		return ssl;
	SSL_free(ssl);
	return NULL;
}
