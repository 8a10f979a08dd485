/* SPDX-License-Identifier: MIT */
#include "gatewayd/upstream/tls.h"
#include "libkm/base/addr.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

static const unsigned char alpn[] = "\x08http/1.1";

/* What a context is for. */
struct trust {
	uint8_t ca[32]; /* SHA-256 of the PEM; all zero: the system's */
	bool verify;
};
struct context {
	struct trust trust;
	SSL_CTX *ctx;
	UT_hash_handle hh; /* in the order of use, the oldest first */
};
struct session {
	uint64_t serial;
	SSL_SESSION *s;
	int64_t since;
	UT_hash_handle hh; /* the same */
};

struct up_tls {
	pthread_mutex_t mutex;
	struct context *contexts;
	struct session *sessions;
};

struct up_tls *up_tls_new(void)
{
	struct up_tls *t = calloc(1, sizeof(*t));
	if (t)
		pthread_mutex_init(&t->mutex, NULL);
	return t;
}

static void context_drop(struct up_tls *t, struct context *c)
{
	HASH_DEL(t->contexts, c);
	SSL_CTX_free(c->ctx);
	free(c);
}

static void session_drop(struct up_tls *t, struct session *s)
{
	HASH_DEL(t->sessions, s);
	SSL_SESSION_free(s->s);
	free(s);
}

void up_tls_free(struct up_tls *t)
{
	if (!t)
		return;
	while (t->contexts)
		context_drop(t, t->contexts);
	while (t->sessions)
		session_drop(t, t->sessions);
	pthread_mutex_destroy(&t->mutex);
	free(t);
}

/* ---- sessions ---- */

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

/* Every certificate in the PEM is an anchor, a target's own too. */
static bool ca_load(SSL_CTX *ctx, const char *pem)
{
	BIO *in = BIO_new_mem_buf(pem, -1);
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);
	size_t n = 0;
	X509 *x;
	while (in && (x = PEM_read_bio_X509(in, NULL, NULL, NULL))) {
		n += X509_STORE_add_cert(store, x) == 1;
		X509_free(x);
	}
	BIO_free(in);
	ERR_clear_error();
	X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN);
	return n > 0;
}

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
	       SSL_CTX_set_alpn_protos(c, alpn, sizeof(alpn) - 1) == 0;
}

static SSL_CTX *context_make(struct up_tls *t, bool verify, const char *ca, struct km_errtext *err,
			     int *rc)
{
	SSL_CTX *c = SSL_CTX_new(TLS_client_method());
	*rc = KM_ENOMEM;
	if (!c || !context_set(c, verify))
		goto fail;
	SSL_CTX_set_app_data(c, t);
	if (!verify)
		return c;
	if (ca && !ca_load(c, ca)) {
		*rc = km_errtext_set(err, KM_EINVAL, "tlsCa holds no certificate in PEM");
		goto fail;
	}
	if (!ca && SSL_CTX_set_default_verify_paths(c) != 1)
		goto fail;
	return c;
fail:
	SSL_CTX_free(c);
	return NULL;
}

/* Gives a reference. Making one reads files at most, so that others wait for the mutex a moment
 * only. */
static int context_get(struct up_tls *t, const struct up_tls_want *want, SSL_CTX **out,
		       struct km_errtext *err)
{
	const char *ca = want->verify && want->ca && want->ca[0] ? want->ca : NULL;
	struct context *c;
	struct trust key;
	int rc = 0;
	memset(&key, 0, sizeof(key));
	key.verify = want->verify;
	if (ca)
		km_sha256(key.ca, ca, strlen(ca));
	pthread_mutex_lock(&t->mutex);
	HASH_FIND(hh, t->contexts, &key, sizeof(key), c);
	if (c) {
		HASH_DEL(t->contexts, c);
	} else if (!(c = calloc(1, sizeof(*c)))) {
		rc = KM_ENOMEM;
	} else if (!(c->ctx = context_make(t, want->verify, ca, err, &rc))) {
		free(c);
		c = NULL;
	}
	if (c) {
		rc = 0;
		c->trust = key;
		HASH_ADD(hh, t->contexts, trust, sizeof(c->trust), c);
		if (HASH_COUNT(t->contexts) > UP_TLS_CONTEXTS_MAX)
			context_drop(t, t->contexts);
		SSL_CTX_up_ref(c->ctx);
		*out = c->ctx;
	}
	pthread_mutex_unlock(&t->mutex);
	return rc;
}

/* ---- connections ---- */

static bool name_set(SSL *ssl, const struct up_tls_want *want)
{
	struct km_addr a;
	const char *name = want->name ? want->name : "";
	bool address = !km_addr_parse(&a, name);
	if (!name[0])
		return true;
	if (!address && SSL_set_tlsext_host_name(ssl, name) != 1)
		return false;
	if (!want->verify)
		return true;
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return address ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1
		       : SSL_set1_host(ssl, name) == 1;
}

int up_tls_connect(struct up_tls *t, const struct up_tls_want *want, int fd, int64_t now, SSL **out,
		   struct km_errtext *err)
{
	SSL_CTX *ctx = NULL;
	int rc = context_get(t, want, &ctx, err);
	if (rc)
		return rc;
	SSL *ssl = SSL_new(ctx);
	SSL_CTX_free(ctx);
	if (!ssl || SSL_set_fd(ssl, fd) != 1) {
		rc = KM_ENOMEM;
	} else if (!name_set(ssl, want)) {
		rc = km_errtext_set(err, KM_EINVAL, "%s: no name of a TLS server", want->name);
	} else {
		SSL_set_app_data(ssl, (void *)(uintptr_t)want->serial);
		SSL_set_connect_state(ssl);
		session_offer(t, ssl, want->serial, now);
		*out = ssl;
		return 0;
	}
	SSL_free(ssl);
	ERR_clear_error();
	return rc;
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
		km_errtext_set(err, 0, "closed in the TLS handshake");
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
