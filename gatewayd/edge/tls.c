/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/tls.h"
#include "gatewayd/edge/handover.h"
#include "gatewayd/edge/hello.h"
#include "gatewayd/edge/secrets.h"
#include "gatewayd/edge/tickets.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tls {
	SSL_CTX *ctx;
	struct tls_opts o;
	struct tickets *tickets;
	struct km_metric *refused[4], *challenged; /* by enum refusal */
	struct km_log_limit refused_log[4];
};

static const char suites_12[] = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
				"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
				"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

/* In the order of TLS 1.2's: the shorter key is enough, its digest is in hardware (a fifth of a
 * handshake's instructions otherwise), and so each byte costs less. */
static const char suites_13[] = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

enum refusal { NO_NAME, NO_CERTIFICATE, NO_CHALLENGE, NO_ROOM };

/* Counts and logs, and ends the handshake. */
static int refuse(struct tls *t, struct tls_peer *peer, enum refusal why, const char *text, int *alert)
{
	static const char *const events[] = {
	    [NO_NAME] = "tls refused, no such name",
	    [NO_CERTIFICATE] = "no certificate for a served name",
	    [NO_CHALLENGE] = "tls refused, no such challenge",
	    [NO_ROOM] = "tls refused, too many wait for a certificate",
	};
	const char *sni = peer->sni ? peer->sni : "";
	uint32_t held;
	peer->refused = true;
	*alert = why == NO_CHALLENGE ? SSL_AD_NO_APPLICATION_PROTOCOL : SSL_AD_UNRECOGNIZED_NAME;
	km_metric_add(t->refused[why], 1);
	if (!km_log_allow(&t->refused_log[why], km_now_ms(), 5, 10000, &held))
		return SSL_CLIENT_HELLO_ERROR;
	if (why == NO_CERTIFICATE)
		km_warn(events[why], km_ks("sni", sni), km_ks("why", text), km_ki("held", held));
	else
		km_info(events[why], km_ks("sni", sni), km_ki("held", held));
	return SSL_CLIENT_HELLO_ERROR;
}

/* The certificate is made for this one name and proof; nobody resumes such a session. */
static int challenge_answer(struct tls *t, SSL *ssl, struct tls_peer *peer, int *alert)
{
	if (!t->o.challenges || !challenges_alpn(t->o.challenges, peer->sni, &peer->challenge_cert,
						 &peer->challenge_key))
		return refuse(t, peer, NO_CHALLENGE, NULL, alert);
	peer->challenge = true;
	SSL_set_options(ssl, SSL_OP_NO_TICKET);
	SSL_set_num_tickets(ssl, 0);
	km_metric_add(t->challenged, 1);
	return SSL_CLIENT_HELLO_SUCCESS;
}

static int certificate_find(struct tls *t, SSL *ssl, struct tls_peer *peer, const struct route *r,
			    struct km_errtext *err)
{
	struct certs_ask ask = {.host = peer->sni,
				.wildcard = r->wildcard,
				.mode = r->tls,
				.ecdsa = hello_can_ecdsa(ssl),
				.now_ms = km_now_ms(),
				.wall_ms = km_wall_ms()};
	return certs_for_host(t->o.certs, &ask, &peer->cert, err);
}

/* No certificate: the handshake stands still, if one may come soon. */
static int certificate_wait(struct tls *t, struct tls_peer *peer, const struct route *r,
			    const struct km_errtext *err, int *alert)
{
	char domain[ROUTE_DOMAIN_MAX + 2];
	if (peer->wait) {
		if (!peer->wait_late && waits_state(peer->wait) == WAIT_ON)
			return SSL_CLIENT_HELLO_RETRY;
		return refuse(t, peer, NO_CERTIFICATE, err->text, alert);
	}
	if (!t->o.waits || r->tls != ROUTE_TLS_AUTO)
		return refuse(t, peer, NO_CERTIFICATE, err->text, alert);
	snprintf(domain, sizeof(domain), "%s%s", r->wildcard ? "*" : "",
		 r->wildcard ? strchr(peer->sni, '.') : peer->sni);
	switch (waits_join(t->o.waits, domain, km_now_ms(), &peer->wait)) {
	case WAITS_FULL:
		return refuse(t, peer, NO_ROOM, NULL, alert);
	case WAITS_IN_VAIN:
		return refuse(t, peer, NO_CERTIFICATE, err->text, alert);
	case WAITS_FIRST:
		if (t->o.ask(t->o.arg, domain))
			return SSL_CLIENT_HELLO_RETRY;
		/* Nobody would settle it. */
		waits_settle(t->o.waits, domain, false, km_now_ms());
		waits_leave(t->o.waits, peer->wait);
		peer->wait = NULL;
		return refuse(t, peer, NO_CERTIFICATE, err->text, alert);
	default:
		return SSL_CLIENT_HELLO_RETRY;
	}
}

static bool sni_take(SSL *ssl, struct tls_peer *peer)
{
	char sni[ROUTE_DOMAIN_MAX + 1];
	free(peer->sni);
	peer->sni = hello_sni(ssl, sni) ? strdup(sni) : NULL;
	return peer->sni;
}

/* Called again after SSL_CLIENT_HELLO_RETRY, with the same ClientHello; and for the second one after a
 * HelloRetryRequest, when all is decided. Sessions that are resumed come through here too: a name that
 * is served no more is refused whatever ticket is brought. */
static int on_client_hello(SSL *ssl, int *alert, void *arg)
{
	struct tls *t = arg;
	struct tls_peer *peer = SSL_get_app_data(ssl);
	struct km_errtext err = {0};
	struct route r;

	if (peer->cert || peer->challenge)
		return SSL_CLIENT_HELLO_SUCCESS;
	if (!sni_take(ssl, peer))
		return refuse(t, peer, NO_NAME, NULL, alert);
	if (hello_asks_challenge(ssl))
		return challenge_answer(t, ssl, peer, alert);
	if (!route_find(t->o.routes, peer->sni, &r))
		return refuse(t, peer, NO_NAME, NULL, alert);
	route_drop(&r);
	if (r.tls == ROUTE_TLS_OFF || r.tls == ROUTE_TLS_PASSTHROUGH)
		return refuse(t, peer, NO_NAME, NULL, alert);
	memcpy(peer->tunnel, r.tunnel, sizeof(peer->tunnel));
	if (!certificate_find(t, ssl, peer, &r, &err))
		return SSL_CLIENT_HELLO_SUCCESS;
	return certificate_wait(t, peer, &r, &err, alert);
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
	static const unsigned char http[] = "\x02h2\x08http/1.1", acme[] = "\x0a" CHALLENGE_ALPN;
	const struct tls *t = arg;
	const struct tls_peer *peer = SSL_get_app_data(ssl);
	const unsigned char *ours = peer->challenge ? acme : t->o.http2 ? http : http + 3;
	unsigned int n = ours == http ? sizeof(http) - 1 : 1u + ours[0];
	return SSL_select_next_proto((unsigned char **)out, outlen, ours, n, in, inlen) ==
		       OPENSSL_NPN_NEGOTIATED
		   ? SSL_TLSEXT_ERR_OK
		   : SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* ---- tickets ---- */

/* A ticket is for the name and the tunnel that its session was with: one owner's clients take none to
 * another's. */
struct ticket_for {
	uint8_t tunnel[16];
	char sni[ROUTE_DOMAIN_MAX + 1];
};

static size_t ticket_for(const struct tls_peer *peer, struct ticket_for *out)
{
	memcpy(out->tunnel, peer->tunnel, sizeof(out->tunnel));
	return sizeof(out->tunnel) +
	       (size_t)snprintf(out->sni, sizeof(out->sni), "%s", peer->sni);
}

static int on_ticket_made(SSL *ssl, void *arg)
{
	struct ticket_for f;
	size_t n = ticket_for(SSL_get_app_data(ssl), &f);
	(void)arg;
	return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), &f, n);
}

static SSL_TICKET_RETURN on_ticket_brought(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
					   size_t name_len, SSL_TICKET_STATUS status, void *arg)
{
	struct ticket_for f;
	size_t n = ticket_for(SSL_get_app_data(ssl), &f), got_n;
	void *got;
	(void)name, (void)name_len, (void)arg;
	if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW)
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	if (SSL_SESSION_get0_ticket_appdata(session, &got, &got_n) != 1 || got_n != n ||
	    memcmp(got, &f, n))
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	/* TLS 1.3's are used once (RFC 8446 appendix C.4): the client gets another. */
	return status == SSL_TICKET_SUCCESS && SSL_version(ssl) != TLS1_3_VERSION
		   ? SSL_TICKET_RETURN_USE
		   : SSL_TICKET_RETURN_USE_RENEW;
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
	SSL_CTX_set_num_tickets(c, 1);
	SSL_CTX_set_client_hello_cb(c, on_client_hello, t);
	SSL_CTX_set_cert_cb(c, on_certificate, t);
	SSL_CTX_set_alpn_select_cb(c, on_alpn, t);
	return (!t->o.records || handover_use(c)) && tickets_use(t->tickets, c) &&
	       SSL_CTX_set_session_ticket_cb(c, on_ticket_made, on_ticket_brought, NULL) == 1 &&
	       SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION) == 1 &&
	       SSL_CTX_set_cipher_list(c, suites_12) == 1 &&
	       SSL_CTX_set_ciphersuites(c, suites_13) == 1 &&
	       SSL_CTX_set1_groups_list(c, "X25519:P-256:P-384") == 1 &&
	       SSL_CTX_set_session_id_context(c, context, sizeof(context) - 1) == 1;
}

static void metrics_make(struct tls *t)
{
	static const char *const reasons[] = {
	    [NO_NAME] = "reason=\"name\"",
	    [NO_CERTIFICATE] = "reason=\"no_certificate\"",
	    [NO_CHALLENGE] = "reason=\"no_challenge\"",
	    [NO_ROOM] = "reason=\"waiting\"",
	};
	for (size_t i = 0; i < KM_ARRAY_LEN(reasons); i++)
		t->refused[i] = km_metric(KM_METRIC_COUNTER, "kakuremichi_tls_refused_total", reasons[i],
					  "TLS handshakes refused before they began.");
	t->challenged = km_metric(KM_METRIC_COUNTER, "kakuremichi_acme_challenges_answered_total",
				  "type=\"tls-alpn-01\"", "Challenges of CAs answered.");
}

bool tls_is_h2(const SSL *ssl)
{
	const unsigned char *p;
	unsigned int n;
	SSL_get0_alpn_selected(ssl, &p, &n);
	return n == 2 && !memcmp(p, "h2", 2);
}

struct tls *tls_new(const struct tls_opts *o)
{
	struct tls *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->o = *o;
	metrics_make(t);
	t->tickets = tickets_new(TICKET_EVERY_MS, km_now_ms);
	if (!o->records || secrets_load())
		t->ctx = SSL_CTX_new_ex(NULL, o->records ? SECRETS_PROPERTIES : NULL, TLS_server_method());
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
	free(peer->sni);
	cert_put(peer->cert);
	X509_free(peer->challenge_cert);
	EVP_PKEY_free(peer->challenge_key);
	memset(peer, 0, sizeof(*peer));
}

SSL *tls_accept(struct tls *t, struct tls_peer *peer)
{
	SSL *ssl = SSL_new(t->ctx);
	if (!ssl)
		return NULL;
	SSL_set_app_data(ssl, peer);
	SSL_set_accept_state(ssl);
	return ssl;
}
