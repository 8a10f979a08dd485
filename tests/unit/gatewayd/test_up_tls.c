/* SPDX-License-Identifier: MIT */
/* TLS towards targets: what is accepted, what is said about what is not, and which sessions are
 * resumed; handshakes over socket pairs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/upstream/tls.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include <cmocka.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A certificate for san, by the CA `by` (NULL: by itself). */
struct made {
	EVP_PKEY *key;
	X509 *x;
	char pem[4096];
};

static void make(struct made *m, const char *cn, const char *san, const struct made *by, long to)
{
	static long serial;
	X509 *x = m->x = X509_new();
	m->key = EVP_EC_gen("P-256");
	assert_true(x && m->key);
	X509_set_version(x, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
	X509_gmtime_adj(X509_getm_notBefore(x), -86400);
	X509_gmtime_adj(X509_getm_notAfter(x), to);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
				   (const unsigned char *)cn, -1, -1, 0);
	X509_set_issuer_name(x, X509_get_subject_name(by ? by->x : x));
	X509_set_pubkey(x, m->key);
	X509_EXTENSION *e = X509V3_EXT_conf_nid(
	    NULL, NULL, san ? NID_subject_alt_name : NID_basic_constraints, san ? san : "CA:TRUE");
	assert_non_null(e);
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
	assert_true(X509_sign(x, by ? by->key : m->key, EVP_sha256()) > 0);
	BIO *b = BIO_new(BIO_s_mem());
	PEM_write_bio_X509(b, x);
	int n = BIO_read(b, m->pem, sizeof(m->pem) - 1);
	assert_true(n > 0);
	m->pem[n] = '\0';
	BIO_free(b);
}

static void made_free(struct made *m)
{
	X509_free(m->x);
	EVP_PKEY_free(m->key);
}

static SSL_CTX *server_ctx(const struct made *m)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	assert_int_equal(SSL_CTX_use_certificate(ctx, m->x), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(ctx, m->key), 1);
	SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"x", 1);
	return ctx;
}

static bool done(SSL *ssl, bool *failed)
{
	int rc = SSL_do_handshake(ssl);
	if (rc == 1)
		return true;
	int e = SSL_get_error(ssl, rc);
	*failed = e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE;
	return false;
}

/* What PEM text holds, as rules have it. */
static X509_STORE *store_of(const char *pem)
{
	BIO *b = pem ? BIO_new_mem_buf(pem, -1) : NULL;
	X509_STORE *s = pem ? X509_STORE_new() : NULL;
	X509 *x;
	while (b && (x = PEM_read_bio_X509(b, NULL, NULL, NULL))) {
		X509_STORE_add_cert(s, x);
		X509_free(x);
	}
	ERR_clear_error();
	BIO_free(b);
	return s;
}

struct wish {
	bool verify;
	const char *name, *ca;
	uint64_t serial;
	bool h2;
};

static SSL *client(struct up_tls *t, const struct wish *w)
{
	struct km_addr a;
	struct up_tls_want want = {.verify = w->verify,
				   .name = w->name,
				   .is_addr = w->name && !km_addr_parse(&a, w->name),
				   .store = store_of(w->ca),
				   .serial = w->serial,
				   .h2 = w->h2};
	SSL *ssl = up_tls_connect(t, &want, 0);
	X509_STORE_free(want.store);
	assert_non_null(ssl);
	return ssl;
}

struct result {
	bool ok, resumed, h2;
	char sni[256];
	enum up_tls_reason reason;
	struct km_errtext err;
};

static struct result attempt(struct up_tls *t, const struct wish *want, SSL_CTX *ctx)
{
	struct result r = {.reason = UP_TLS_REASONS};
	SSL *c = client(t, want), *s = SSL_new(ctx);
	bool failed = false, ignored = false, a = false, b = false;
	int fd[2];
	char byte = 'x';
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	SSL_set_fd(c, fd[0]);
	SSL_set_fd(s, fd[1]);
	SSL_set_accept_state(s);
	for (int i = 0; i < 20 && !failed && !(a && b); i++) {
		a = a || done(c, &failed);
		if (!failed)
			b = b || done(s, &ignored);
		ERR_clear_error();
		if (failed)
			break;
	}
	r.ok = a && b;
	if (r.ok) {
		const unsigned char *p;
		unsigned n;
		SSL_get0_alpn_selected(s, &p, &n);
		snprintf(r.sni, sizeof(r.sni), "%s",
			 SSL_get_servername(s, TLSEXT_NAMETYPE_host_name)
			     ? SSL_get_servername(s, TLSEXT_NAMETYPE_host_name)
			     : "");
		r.resumed = SSL_session_reused(c);
		r.h2 = up_tls_h2(c);
		assert_int_equal(SSL_write(s, &byte, 1), 1);
		assert_int_equal(SSL_read(c, &byte, 1), 1); /* with the tickets */
		SSL_shutdown(c);
	}
	SSL_free(c);
	SSL_free(s);
	close(fd[0]);
	close(fd[1]);
	return r;
}

/* The same, but the failure is looked at before anything else touches OpenSSL's queue. */
static struct result refused(struct up_tls *t, const struct wish *want, SSL_CTX *ctx,
			     const char *instead)
{
	struct result r = {.reason = UP_TLS_REASONS};
	SSL *c = client(t, want), *s = ctx ? SSL_new(ctx) : NULL;
	bool failed = false, ignored = false;
	int fd[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	SSL_set_fd(c, fd[0]);
	if (s) {
		SSL_set_fd(s, fd[1]);
		SSL_set_accept_state(s);
	}
	for (int i = 0; i < 20 && !failed; i++) {
		ERR_clear_error();
		if (done(c, &failed))
			break;
		if (failed)
			r.reason = up_tls_why(c, &r.err);
		else if (s)
			(void)done(s, &ignored);
		else if (instead[0])
			assert_true(write(fd[1], instead, strlen(instead)) > 0);
		else
			shutdown(fd[1], SHUT_WR);
	}
	assert_true(failed);
	ERR_clear_error();
	SSL_free(c);
	SSL_free(s);
	close(fd[0]);
	close(fd[1]);
	return r;
}

static void test_what_is_accepted(void **state)
{
	struct made ca, other, host, address, self;
	struct up_tls *t = up_tls_new();
	(void)state;
	make(&ca, "a CA", NULL, NULL, 86400);
	make(&other, "another CA", NULL, NULL, 86400);
	make(&host, "host", "DNS:nas.test,DNS:*.wild.test", &ca, 86400);
	make(&address, "address", "IP:192.168.1.5", &ca, 86400);
	make(&self, "self", "DNS:nas.test", NULL, 86400);
	const struct {
		const struct made *m;
		bool verify;
		const char *name, *ca, *sni;
	} cases[] = {
	    {&host, true, "nas.test", ca.pem, "nas.test"},
	    {&host, true, "a.wild.test", ca.pem, "a.wild.test"},
	    {&host, true, "", ca.pem, ""},
	    {&address, true, "192.168.1.5", ca.pem, ""},
	    {&self, true, "nas.test", self.pem, "nas.test"},
	    {&host, true, "nas.test", host.pem,
	     "nas.test"}, /* its own certificate is anchor enough */
	    {&self, false, "nas.test", NULL, "nas.test"},
	    {&self, false, "192.168.1.9", NULL, ""},
	    {&self, false, NULL, "rubbish", ""},
	};
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		SSL_CTX *ctx = server_ctx(cases[i].m);
		const struct wish w = {cases[i].verify, cases[i].name, cases[i].ca, 1 + i, false};
		struct result r = attempt(t, &w, ctx);
		if (!r.ok)
			print_message("case %zu: %s\n", i, r.err.text);
		assert_true(r.ok);
		assert_string_equal(r.sni, cases[i].sni);
		SSL_CTX_free(ctx);
	}
	made_free(&ca);
	made_free(&other);
	made_free(&host);
	made_free(&address);
	made_free(&self);
	up_tls_free(t);
}

static void test_what_is_refused_and_why(void **state)
{
	struct made ca, other, host, address, self, old;
	struct up_tls *t = up_tls_new();
	(void)state;
	make(&ca, "a CA", NULL, NULL, 86400);
	make(&other, "another CA", NULL, NULL, 86400);
	make(&host, "host", "DNS:nas.test,IP:192.168.1.7,DNS:*.wild.test", &ca, 86400);
	make(&address, "192.168.1.6", "IP:192.168.1.5", &ca, 86400);
	make(&self, "self", "DNS:nas.test", NULL, 86400);
	make(&old, "old", "DNS:nas.test", &ca, -60);
	const struct {
		const struct made *m;
		const char *name, *ca;
		enum up_tls_reason reason;
		const char *says;
	} cases[] = {
	    {&self, "nas.test", NULL, UP_TLS_SELF_SIGNED, "self-signed"},
	    {&self, "nas.test", ca.pem, UP_TLS_SELF_SIGNED, "tlsCa"},
	    {&host, "nas.test", NULL, UP_TLS_UNTRUSTED, "a CA"},
	    {&host, "nas.test", other.pem, UP_TLS_UNTRUSTED, "a CA"},
	    {&host, "nas2.test", ca.pem, UP_TLS_NAME, "nas.test, 192.168.1.7, *.wild.test"},
	    {&host, "a.b.wild.test", ca.pem, UP_TLS_NAME, "tlsServerName"},
	    {&address, "192.168.1.6", ca.pem, UP_TLS_NAME, "192.168.1.5"},
	    {&old, "nas.test", ca.pem, UP_TLS_TIME, "has expired (2"},
	};
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		SSL_CTX *ctx = server_ctx(cases[i].m);
		const struct wish w = {true, cases[i].name, cases[i].ca, 1, false};
		struct result r = refused(t, &w, ctx, NULL);
		assert_int_equal(r.reason, cases[i].reason);
		if (!strstr(r.err.text, cases[i].says))
			fail_msg("case %zu says: %s", i, r.err.text);
		SSL_CTX_free(ctx);
	}
	const struct wish plain = {.serial = 1};
	struct result r = refused(t, &plain, NULL, "HTTP/1.1 400 Bad Request\r\n\r\n");
	assert_int_equal(r.reason, UP_TLS_PROTOCOL);
	assert_non_null(strstr(r.err.text, "does not speak TLS"));
	r = refused(t, &plain, NULL, "");
	assert_int_equal(r.reason, UP_TLS_CLOSED);
	SSL_CTX *ctx = server_ctx(&host); /* an old server */
	SSL_CTX_set_security_level(ctx, 0);
	SSL_CTX_set_min_proto_version(ctx, TLS1_VERSION);
	SSL_CTX_set_max_proto_version(ctx, TLS1_1_VERSION);
	r = refused(t, &plain, ctx, NULL);
	assert_int_equal(r.reason, UP_TLS_PROTOCOL);
	SSL_CTX_free(ctx);
	for (int i = 0; i < UP_TLS_REASONS; i++)
		up_tls_count((enum up_tls_reason)i);
	made_free(&ca);
	made_free(&other);
	made_free(&host);
	made_free(&address);
	made_free(&self);
	made_free(&old);
	up_tls_free(t);
}

/* A session spares the look at the certificate, so it never serves another version of the tunnel.
 */
static void test_sessions(void **state)
{
	static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
	struct made host;
	(void)state;
	make(&host, "host", "DNS:nas.test", NULL, 86400);
	for (size_t i = 0; i < 2; i++) {
		struct up_tls *t = up_tls_new();
		SSL_CTX *ctx = server_ctx(&host);
		SSL_CTX_set_max_proto_version(ctx, versions[i]);
		struct wish w = {true, "nas.test", host.pem, 7, false};
		assert_false(attempt(t, &w, ctx).resumed);
		assert_true(attempt(t, &w, ctx).resumed);
		assert_true(attempt(t, &w, ctx).resumed);
		w.serial = 8;
		assert_false(attempt(t, &w, ctx).resumed);
		SSL_CTX_free(ctx);
		up_tls_free(t);
	}
	made_free(&host);
}

/* The server's choice; `arg` is what it speaks. */
static int choose(SSL *ssl, const unsigned char **out, unsigned char *n, const unsigned char *in,
		  unsigned int in_n, void *arg)
{
	const char *mine = arg;
	(void)ssl;
	return SSL_select_next_proto((unsigned char **)(uintptr_t)out, n,
				     (const unsigned char *)mine, (unsigned int)strlen(mine), in,
				     in_n) == OPENSSL_NPN_NEGOTIATED
		   ? SSL_TLSEXT_ERR_OK
		   : SSL_TLSEXT_ERR_NOACK;
}

static void test_what_the_target_chooses(void **state)
{
	static const struct {
		const char *speaks; /* NULL: it has never heard of ALPN */
		bool offered, h2;
	} cases[] = {
	    {NULL, true, false},
	    {"\x08http/1.1", true, false},
	    {"\x02h2", true, true},
	    {"\x02h2\x08http/1.1", true, true},
	    {"\x08http/1.1\x02h2", true, false},
	    {"\x02h2\x08http/1.1", false, false},
	    {"\x02h2", false, false},
	    {"\x06spdy/3", true, false},
	};
	struct made host;
	(void)state;
	make(&host, "host", "DNS:nas.test", NULL, 86400);
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		struct up_tls *t = up_tls_new();
		SSL_CTX *ctx = server_ctx(&host);
		struct wish w = {false, "nas.test", NULL, 7, cases[i].offered};
		if (cases[i].speaks)
			SSL_CTX_set_alpn_select_cb(ctx, choose,
						   (void *)(uintptr_t)cases[i].speaks);
		struct result r = attempt(t, &w, ctx);
		assert_true(r.ok);
		assert_int_equal(r.h2, cases[i].h2);
		r = attempt(t, &w, ctx); /* a resumed one chooses anew */
		assert_true(r.resumed);
		assert_int_equal(r.h2, cases[i].h2);
		SSL_CTX_set_alpn_select_cb(ctx, NULL, NULL);
		assert_false(attempt(t, &w, ctx).h2);
		SSL_CTX_free(ctx);
		up_tls_free(t);
	}
	made_free(&host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_what_is_accepted),
	    cmocka_unit_test(test_what_is_refused_and_why),
	    cmocka_unit_test(test_sessions),
	    cmocka_unit_test(test_what_the_target_chooses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
