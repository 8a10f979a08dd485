/* SPDX-License-Identifier: MIT */
/* Session tickets: whole handshakes in memory, while the clock goes on by hours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/edge/tickets.h"
#include "libkm/base/util.h"
#include <cmocka.h>
#include "tests/unit/gatewayd/certify.h"
#include <openssl/evp.h>
#include <openssl/ssl.h>

#define HOUR (3600 * 1000LL)

static int64_t clock_ms;

static int64_t now(void)
{
	return clock_ms;
}

static SSL_CTX *server(struct tickets *t)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

	certify(ctx);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"x", 1);
	SSL_CTX_set_timeout(ctx, 365 * 86400);
	assert_true(tickets_use(t, ctx));
	return ctx;
}

/* A handshake, and a byte each way; *session is offered, and becomes the newest one. Whether it was
 * taken. */
static bool connect_with(SSL_CTX *srv, SSL_CTX *cli, SSL_SESSION **session)
{
	SSL *s = SSL_new(srv), *c = SSL_new(cli);
	BIO *a, *b;
	char byte = 'x';
	bool reused;

	assert_int_equal(BIO_new_bio_pair(&a, 0, &b, 0), 1);
	SSL_set_bio(s, a, a);
	SSL_set_bio(c, b, b);
	SSL_set_accept_state(s);
	SSL_set_connect_state(c);
	if (*session)
		assert_int_equal(SSL_set_session(c, *session), 1);
	for (int i = 0; i < 10 && !(SSL_is_init_finished(s) && SSL_is_init_finished(c)); i++) {
		SSL_do_handshake(c);
		SSL_do_handshake(s);
	}
	assert_int_equal(SSL_write(c, &byte, 1), 1);
	assert_int_equal(SSL_read(s, &byte, 1), 1);
	assert_int_equal(SSL_write(s, &byte, 1), 1);
	assert_int_equal(SSL_read(c, &byte, 1), 1); /* takes TLS 1.3's tickets on its way */
	reused = SSL_session_reused(s);
	assert_int_equal(SSL_session_reused(c), reused);
	SSL_SESSION_free(*session);
	*session = SSL_get1_session(c);
	SSL_shutdown(c);
	SSL_shutdown(s);
	SSL_free(s);
	SSL_free(c);
	return reused;
}

static void lifetimes(int version)
{
	struct tickets *t;
	SSL_CTX *srv, *cli = SSL_CTX_new(TLS_client_method());
	SSL_SESSION *session = NULL, *kept;

	clock_ms = 1000;
	t = tickets_new(12 * HOUR, now);
	srv = server(t);
	SSL_CTX_set_max_proto_version(cli, version);
	SSL_CTX_set_timeout(cli, 365 * 86400);
	assert_false(connect_with(srv, cli, &session));
	assert_true(connect_with(srv, cli, &session));
	kept = session;
	SSL_SESSION_up_ref(kept);
	/* Whoever comes often is given a newer ticket each time that a key has changed. */
	for (int i = 0; i < 8; i++) {
		clock_ms += 11 * HOUR;
		assert_true(connect_with(srv, cli, &session));
	}
	/* The one of the first day is opened no more. */
	assert_false(connect_with(srv, cli, &kept));
	SSL_SESSION_free(kept);

	/* Two changes of the key are survived, the third is not. */
	kept = session;
	SSL_SESSION_up_ref(kept);
	clock_ms += 24 * HOUR;
	assert_true(connect_with(srv, cli, &session));
	clock_ms += 12 * HOUR;
	assert_false(connect_with(srv, cli, &kept));
	SSL_SESSION_free(kept);

	/* A quiet week does not keep a key alive. */
	clock_ms += 7 * 24 * HOUR;
	assert_false(connect_with(srv, cli, &session));
	assert_true(connect_with(srv, cli, &session));
	SSL_SESSION_free(session);
	SSL_CTX_free(srv);
	SSL_CTX_free(cli);
	tickets_free(t);
}

static void tls_1_2(void **state)
{
	(void)state;
	lifetimes(TLS1_2_VERSION);
}

static void tls_1_3(void **state)
{
	(void)state;
	lifetimes(TLS1_3_VERSION);
}

/* All workers use one context; but two contexts may share the keys, and others do not open them. */
static void shared(void **state)
{
	struct tickets *t, *other;
	SSL_CTX *one, *two, *alien, *cli = SSL_CTX_new(TLS_client_method());
	SSL_SESSION *session = NULL;

	(void)state;
	clock_ms = 1000;
	t = tickets_new(12 * HOUR, now);
	other = tickets_new(12 * HOUR, now);
	one = server(t);
	two = server(t);
	alien = server(other);
	assert_false(connect_with(one, cli, &session));
	assert_true(connect_with(two, cli, &session));
	assert_false(connect_with(alien, cli, &session));
	SSL_SESSION_free(session);
	SSL_CTX_free(one);
	SSL_CTX_free(two);
	SSL_CTX_free(alien);
	SSL_CTX_free(cli);
	tickets_free(t);
	tickets_free(other);
	tickets_free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(tls_1_2),
	    cmocka_unit_test(tls_1_3),
	    cmocka_unit_test(shared),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
