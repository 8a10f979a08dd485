/* SPDX-License-Identifier: MIT */
#include "gatewayd/upstream/tls.h"
#include "libkm/base/addr.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

static const unsigned char alpn[] = "\x02h2\x08http/1.1";
#define ALPN_H2 3 /* bytes of it */

struct session {
	uint64_t serial;
	SSL_SESSION *s;
	int64_t since;
	UT_hash_handle hh; /* in the order in which they came */
};

struct up_tls {
	SSL_CTX *ctx[2]; /* without and with verification */
	pthread_mutex_t mutex;
	struct session *sessions;
};

/* ---- sessions ---- */

static void session_drop(struct up_tls *t, struct session *s)
{
	HASH_DEL(t->sessions, s);
	SSL_SESSION_free(s->s);
	free(s);
}

/* Keeps one of the target's tickets: a newer one takes the place of what is there. OpenSSL's
 * reference becomes ours when this returns 1. */
static int on_session(SSL *ssl, SSL_SESSION *session)
{
	struct up_tls *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	uint64_t serial = (uintptr_t)SSL_get_app_data(ssl);
	struct session *s;
	int kept = 0;
	pthread_mutex_lock(&t->mutex);
	HASH_FIND(hh, t->sessions, &serial, sizeof(serial), s);
	if (s) {
		HASH_DEL(t->sessions, s);
		SSL_SESSION_free(s->s);
	} else {
		s = calloc(1, sizeof(*s));
	}
	if (s) {
		s->serial = serial;
		s->s = session;
		s->since = km_now_ms();
		HASH_ADD(hh, t->sessions, serial, sizeof(s->serial), s);
		if (HASH_COUNT(t->sessions) > UP_TLS_SESSIONS_MAX)
			session_drop(t, t->sessions);
		kept = 1;
	}
	pthread_mutex_unlock(&t->mutex);
	return kept;
}

/* TLS 1.3's are for one use (RFC 8446 appendix C.4), the next answer brings others. */
static void session_offer(struct up_tls *t, SSL *ssl, uint64_t serial, int64_t now)
{
	struct session *s;
	pthread_mutex_lock(&t->mutex);
	HASH_FIND(hh, t->sessions, &serial, sizeof(serial), s);
	if (s && now - s->since < UP_TLS_SESSION_MS && SSL_SESSION_is_resumable(s->s))
		SSL_set_session(ssl, s->s);
	if (s && (SSL_SESSION_get_protocol_version(s->s) >= TLS1_3_VERSION ||
		  now - s->since >= UP_TLS_SESSION_MS))
		session_drop(t, s);
	pthread_mutex_unlock(&t->mutex);
}

/* ---- contexts ---- */

/* Where nothing is verified an end without close_notify, and old keys, are nothing worse. */
static bool context_set(SSL_CTX *c, bool verify)
{
	SSL_CTX_set_options(c, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
				   (verify ? 0 : SSL_OP_IGNORE_UNEXPECTED_EOF));
	SSL_CTX_set_mode(c, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
				SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(c, on_session);
	SSL_CTX_set_verify(c, verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
	SSL_CTX_set_read_ahead(c, 1);
	if (!verify)
		SSL_CTX_set_security_level(c, 1);
	return SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION) == 1 &&
	       SSL_CTX_set_default_verify_paths(c) == 1;
}

struct up_tls *up_tls_new(void)
{
	struct up_tls *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	pthread_mutex_init(&t->mutex, NULL);
	for (int verify = 0; verify < 2; verify++) {
		t->ctx[verify] = SSL_CTX_new(TLS_client_method());
		if (!t->ctx[verify] || !context_set(t->ctx[verify], verify)) {
			up_tls_free(t);
			return NULL;
		}
		SSL_CTX_set_app_data(t->ctx[verify], t);
	}
	return t;
}

void up_tls_free(struct up_tls *t)
{
	if (!t)
		return;
	SSL_CTX_free(t->ctx[0]);
	SSL_CTX_free(t->ctx[1]);
	while (t->sessions)
		session_drop(t, t->sessions);
	pthread_mutex_destroy(&t->mutex);
	free(t);
}

/* ---- connections ---- */

static bool trust_set(SSL *ssl, const struct up_tls_want *want)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
	const char *name = want->name && want->name[0] ? want->name : NULL;
	if (name && !want->is_addr && SSL_set_tlsext_host_name(ssl, name) != 1)
		return false;
	if (!want->verify)
		return true;
	if (want->store && SSL_set1_verify_cert_store(ssl, want->store) != 1)
		return false;
	if (want->store) /* every certificate in it is an anchor */
		X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
	X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (!name)
		return true;
	return want->is_addr ? X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1
			     : X509_VERIFY_PARAM_set1_host(param, name, 0) == 1;
}

SSL *up_tls_connect(struct up_tls *t, const struct up_tls_want *want, int64_t now)
{
	SSL *ssl = SSL_new(t->ctx[want->verify]);
	if (!ssl)
		return NULL;
	unsigned int skip = want->h2 ? 0 : ALPN_H2;
	if (!trust_set(ssl, want) ||
	    SSL_set_alpn_protos(ssl, alpn + skip, (unsigned int)sizeof(alpn) - 1 - skip)) {
		SSL_free(ssl);
		return NULL;
	}
	SSL_set_app_data(ssl, (void *)(uintptr_t)want->serial);
	SSL_set_connect_state(ssl);
	session_offer(t, ssl, want->serial, now);
	return ssl;
}

bool up_tls_h2(const SSL *ssl)
{
	const unsigned char *name;
	unsigned int n;
	SSL_get0_alpn_selected(ssl, &name, &n);
	return n == ALPN_H2 - 1 && !memcmp(name, alpn + 1, n);
}

/* ---- failures ---- */

/* The names in a certificate, cut where they are many. */
static void names_text(X509 *x, char *out, size_t size)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
	size_t at = 0;
	out[0] = '\0';
	for (int i = 0; names && i < sk_GENERAL_NAME_num(names) && at < size; i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
		char one[256] = "";
		struct km_addr a;
		if (g->type == GEN_DNS) {
			snprintf(one, sizeof(one), "%.*s", g->d.dNSName->length,
				 (const char *)g->d.dNSName->data);
		} else if (g->type == GEN_IPADD &&
			   (g->d.iPAddress->length == 4 || g->d.iPAddress->length == 16)) {
			a.family = g->d.iPAddress->length == 4 ? AF_INET : AF_INET6;
			memcpy(a.ip, g->d.iPAddress->data, (size_t)g->d.iPAddress->length);
			km_addr_str(&a, one);
		}
		if (one[0])
			at += (size_t)snprintf(out + at, size - at, "%s%s", at ? ", " : "", one);
	}
	GENERAL_NAMES_free(names);
	if (!out[0] &&
	    X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, out, (int)size) < 0)
		snprintf(out, size, "nothing");
}

static void time_text(const ASN1_TIME *t, char *out, size_t size)
{
	struct tm tm;
	if (ASN1_TIME_to_tm(t, &tm) != 1 || !strftime(out, size, "%Y-%m-%dT%H:%M:%SZ", &tm))
		snprintf(out, size, "?");
}

static enum up_tls_reason certificate_why(SSL *ssl, long verdict, struct km_errtext *err)
{
	STACK_OF(X509) *chain = SSL_get_peer_cert_chain(ssl); /* there before it is accepted */
	X509 *x = chain ? sk_X509_value(chain, 0) : NULL;
	char text[256] = "?";
	switch (verdict) {
	case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
		km_errtext_set(
		    err, 0,
		    "the target's certificate is self-signed: give it as tlsCa, or set tlsVerify "
		    "to false");
		return UP_TLS_SELF_SIGNED;
	case X509_V_ERR_HOSTNAME_MISMATCH:
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		if (x)
			names_text(x, text, sizeof(text));
		km_errtext_set(
		    err, 0, "the target's certificate is for another name (%s): set tlsServerName",
		    text);
		return UP_TLS_NAME;
	case X509_V_ERR_CERT_HAS_EXPIRED:
	case X509_V_ERR_CERT_NOT_YET_VALID:
		if (x)
			time_text(verdict == X509_V_ERR_CERT_HAS_EXPIRED ? X509_get0_notAfter(x)
									 : X509_get0_notBefore(x),
				  text, sizeof(text));
		km_errtext_set(err, 0, "the target's certificate %s (%s)",
			       verdict == X509_V_ERR_CERT_HAS_EXPIRED ? "has expired"
								      : "is not yet valid",
			       text);
		return UP_TLS_TIME;
	case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
	case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
	case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
	case X509_V_ERR_CERT_UNTRUSTED:
		if (x)
			X509_NAME_oneline(X509_get_issuer_name(x), text, sizeof(text));
		km_errtext_set(
		    err, 0,
		    "the target's certificate is by a CA that is not trusted (%s): give that CA "
		    "as tlsCa",
		    text);
		return UP_TLS_UNTRUSTED;
	default:
		km_errtext_set(err, 0, "the target's certificate is not accepted: %s",
			       X509_verify_cert_error_string(verdict));
		return UP_TLS_OTHER_CERTIFICATE;
	}
}

enum up_tls_reason up_tls_why(SSL *ssl, struct km_errtext *err)
{
	unsigned long e = ERR_peek_last_error();
	long verdict = SSL_get_verify_result(ssl);
	const char *text = e ? ERR_reason_error_string(e) : NULL;
	if (SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE && verdict != X509_V_OK)
		return certificate_why(ssl, verdict, err);
	if (!e || ERR_GET_REASON(e) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
		km_errtext_set(
		    err, 0,
		    "closed in the TLS handshake: is the target there, and does it speak "
		    "TLS?");
		return UP_TLS_CLOSED;
	}
	if (ERR_GET_REASON(e) == SSL_R_WRONG_VERSION_NUMBER ||
	    ERR_GET_REASON(e) == SSL_R_HTTP_REQUEST)
		text = "the target does not speak TLS";
	km_errtext_set(err, 0, "TLS handshake with the target: %s", text ? text : "failed");
	return UP_TLS_PROTOCOL;
}

void up_tls_count(enum up_tls_reason reason)
{
	static const char *const labels[UP_TLS_REASONS] = {
	    [UP_TLS_SELF_SIGNED] = "reason=\"self_signed\"",
	    [UP_TLS_UNTRUSTED] = "reason=\"untrusted\"",
	    [UP_TLS_NAME] = "reason=\"name\"",
	    [UP_TLS_TIME] = "reason=\"time\"",
	    [UP_TLS_OTHER_CERTIFICATE] = "reason=\"certificate\"",
	    [UP_TLS_PROTOCOL] = "reason=\"protocol\"",
	    [UP_TLS_CLOSED] = "reason=\"closed\"",
	};
	km_metric_add(km_metric(KM_METRIC_COUNTER, "kakuremichi_upstream_tls_failures_total",
				labels[reason], "TLS handshakes with https targets that failed."),
		      1);
}
