/* SPDX-License-Identifier: MIT */
/* The edge with its worker threads as strangers meet it, without a private network: the main loop runs
 * in a thread of its own, the test is the stranger. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/acme/client.h"
#include "gatewayd/edge/certs.h"
#include "gatewayd/edge/edge.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PATIENCE_S 30
#define THUMB "9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"

static struct {
	char dir[32], acme_dir[48];
	struct gw_settings settings;
	char https[32], http[32];
	uint16_t https_port, http_port;
	struct event_base *base;
	struct event *keep;
	pthread_t thread;
	struct km_privnet *net;
	struct route_table *routes;
	struct certs *certs;
	struct challenges *challenges;
	struct edge *edge;
	/* What the main loop answers when it is asked for a certificate, and what it was asked. */
	bool answer;
	char asked[256];
	_Atomic int asks;
} g;

/* ---- the main loop ---- */

struct job {
	void (*run)(void *arg);
	void *arg;
	sem_t done;
};

static void on_job(evutil_socket_t fd, short what, void *arg)
{
	struct job *j = arg;
	(void)fd, (void)what;
	j->run(j->arg);
	sem_post(&j->done);
}

/* Runs it on the main loop and waits for its end. */
static void on_main(void (*run)(void *arg), void *arg)
{
	struct job j = {.run = run, .arg = arg};
	sem_init(&j.done, 0, 0);
	assert_int_equal(event_base_once(g.base, -1, EV_TIMEOUT, on_job, &j, &(struct timeval){0, 0}),
			 0);
	while (sem_wait(&j.done) && errno == EINTR)
		;
	sem_destroy(&j.done);
}

static void *main_loop(void *arg)
{
	(void)arg;
	event_base_loop(g.base, EVLOOP_NO_EXIT_ON_EMPTY);
	return NULL;
}

static uint16_t free_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t len = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	close(fd);
	return ntohs(a.sin_port);
}

static char *listen_items[2];

static bool on_asked(void *arg, const char *domain)
{
	bool answer = g.answer;
	assert_null(arg);
	snprintf(g.asked, sizeof(g.asked), "%s", domain);
	atomic_fetch_add(&g.asks, 1);
	return answer;
}

static void edge_start_main(void *arg)
{
	struct km_errtext err;
	struct edge_opts o = {.settings = &g.settings,
			      .base = g.base,
			      .routes = g.routes,
			      .certs = g.certs,
			      .challenges = g.challenges,
			      .net = g.net,
			      .asked = on_asked};
	(void)arg;
	if (edge_start(&g.edge, &o, &err))
		fail_msg("%s", err.text);
}

static void edge_free_main(void *arg)
{
	edge_free(arg);
}

/* An edge at free ports of its own. */
static void edge_up(int64_t header_timeout, int64_t acme_wait)
{
	struct gw_settings *s = &g.settings;
	g.https_port = free_port();
	g.http_port = free_port();
	snprintf(g.https, sizeof(g.https), "127.0.0.1:%d", g.https_port);
	snprintf(g.http, sizeof(g.http), "127.0.0.1:%d", g.http_port);
	listen_items[0] = g.https;
	listen_items[1] = g.http;
	s->https_listen = (struct km_strlist){&listen_items[0], 1};
	s->http_listen = (struct km_strlist){&listen_items[1], 1};
	s->workers = 3;
	s->header_timeout = header_timeout;
	s->acme_wait = acme_wait;
	on_main(edge_start_main, NULL);
}

/* ---- what the edge serves ---- */

static X509 *make_x509(EVP_PKEY *key, const char *name)
{
	X509 *x = X509_new();
	char san[300];
	X509_set_version(x, X509_VERSION_3);
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 86400);
	X509_set_pubkey(x, key);
	snprintf(san, sizeof(san), "DNS:%s", name);
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, san);
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
	assert_true(X509_sign(x, key, EVP_sha256()) > 0);
	return x;
}

static void certificate_put_in(const char *folder, const char *name, bool rsa)
{
	char path[512], temp[128];
	EVP_PKEY *key = rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256");
	X509 *x = make_x509(key, name);
	snprintf(path, sizeof(path), "%s/%s%s", folder, name, rsa ? "+rsa" : "");
	snprintf(temp, sizeof(temp), "%s/.new", folder);
	FILE *f = fopen(temp, "w");
	assert_non_null(f);
	assert_int_equal(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL), 1);
	assert_int_equal(PEM_write_X509(f, x), 1);
	fclose(f);
	assert_int_equal(rename(temp, path), 0);
	X509_free(x);
	EVP_PKEY_free(key);
}

/* A certificate of the operator's. */
static void certificate_put(const char *name)
{
	certificate_put_in(g.dir, name, false);
}

static void certificate_put_rsa(const char *name)
{
	certificate_put_in(g.dir, name, true);
}

/* One that the gateway has obtained. */
static void obtained_put(const char *name)
{
	certificate_put_in(g.acme_dir, name, false);
}

static void tunnel_set_main(void *arg)
{
	assert_int_equal(route_set(g.routes, arg, NULL), 0);
	assert_int_equal(route_publish(g.routes), 0);
}

static struct route_entry tunnel_of(const char *domain)
{
	struct route_entry e = {.enabled = true};
	uint8_t digest[32];
	km_sha256(digest, domain, strlen(domain));
	memcpy(e.tunnel, digest, sizeof(e.tunnel));
	snprintf(e.domain, sizeof(e.domain), "%s", domain);
	assert_int_equal(km_addr_parse(&e.agent, "127.0.0.1"), 0);
	return e;
}

static void tunnel_set(const char *domain, enum route_tls tls)
{
	struct route_entry e = tunnel_of(domain);
	e.tls = tls;
	on_main(tunnel_set_main, &e);
}

static void tunnel_remove_main(void *arg)
{
	route_remove(g.routes, arg);
	assert_int_equal(route_publish(g.routes), 0);
}

static void tunnel_remove(const char *domain)
{
	struct route_entry e = tunnel_of(domain);
	on_main(tunnel_remove_main, e.tunnel);
}

static void challenge_open_main(void *arg)
{
	assert_int_equal(challenges_open(g.challenges, arg, km_now_ms() + 600000), 0);
}

static void challenge_open(enum challenge_type type, const char *name, const char *token)
{
	struct challenge ch = {.type = type};
	snprintf(ch.name, sizeof(ch.name), "%s", name);
	snprintf(ch.token, sizeof(ch.token), "%s", token);
	snprintf(ch.key_auth, sizeof(ch.key_auth), "%.128s." THUMB, token);
	on_main(challenge_open_main, &ch);
}

static void challenge_close_main(void *arg)
{
	challenges_close(g.challenges, arg);
}

/* ---- the stranger ---- */

static int dial(uint16_t port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct timeval patience = {PATIENCE_S, 0};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

struct stranger {
	SSL_CTX *ctx;
	SSL *ssl;
	int fd;
};

static struct stranger stranger(const char *sni)
{
	struct stranger s = {.ctx = SSL_CTX_new(TLS_client_method()), .fd = dial(g.https_port)};
	s.ssl = SSL_new(s.ctx);
	assert_int_equal(SSL_set_fd(s.ssl, s.fd), 1);
	if (sni)
		assert_int_equal(SSL_set_tlsext_host_name(s.ssl, sni), 1);
	return s;
}

static void leave(struct stranger *s)
{
	SSL_free(s->ssl);
	SSL_CTX_free(s->ctx);
	close(s->fd);
}

static bool shake(struct stranger *s)
{
	ERR_clear_error();
	return SSL_connect(s->ssl) == 1;
}

/* The alert that ended the last handshake; -1: none. */
static int alert_got(void)
{
	int reason = ERR_GET_REASON(ERR_peek_last_error());
	return reason >= SSL_AD_REASON_OFFSET ? reason - SSL_AD_REASON_OFFSET : -1;
}

static bool shown_is_for(struct stranger *s, const char *name)
{
	X509 *x = SSL_get1_peer_certificate(s->ssl);
	bool is = x && X509_check_host(x, name, 0, 0, NULL) == 1;
	X509_free(x);
	return is;
}

/* Whether a handshake with this name succeeds, with a certificate for it; *alert as alert_got. */
static bool served(const char *sni, int *alert)
{
	struct stranger s = stranger(sni);
	bool ok = shake(&s);
	*alert = ok ? -1 : alert_got();
	if (ok)
		assert_true(shown_is_for(&s, sni));
	leave(&s);
	return ok;
}

static void ask(const char *text, char *out, size_t size)
{
	int fd = dial(g.http_port);
	size_t n = 0;
	ssize_t got;
	assert_int_equal(send(fd, text, strlen(text), 0), (ssize_t)strlen(text));
	while (n < size - 1 && (got = recv(fd, out + n, size - 1 - n, 0)) > 0)
		n += (size_t)got;
	out[n] = '\0';
	close(fd);
}

/* ---- names ---- */

static void names(void **state)
{
	int alert;
	(void)state;
	certificate_put("hello.test");
	certificate_put("*.wild.test");
	tunnel_set("hello.test", ROUTE_TLS_AUTO);
	tunnel_set("*.wild.test", ROUTE_TLS_AUTO);
	assert_true(served("hello.test", &alert));
	assert_true(served("a.wild.test", &alert));
	assert_false(served("nobody.test", &alert));
	assert_int_equal(alert, SSL_AD_UNRECOGNIZED_NAME);
	tunnel_remove("hello.test");
	assert_false(served("hello.test", &alert));
	assert_int_equal(alert, SSL_AD_UNRECOGNIZED_NAME);
	tunnel_remove("*.wild.test");
}

/* ---- waiting for a certificate ---- */

static void set_answer(void *arg)
{
	g.answer = *(bool *)arg;
	atomic_store(&g.asks, 0);
}

static void main_answers(bool answer)
{
	on_main(set_answer, &answer);
}

struct settled {
	const char *domain;
	bool ok;
};

static void settle_main(void *arg)
{
	const struct settled *s = arg;
	if (s->ok)
		certs_changed(g.certs, s->domain);
	edge_certificate_settled(g.edge, s->domain, s->ok);
}

static void settle(const char *domain, bool ok)
{
	on_main(settle_main, &(struct settled){domain, ok});
}

/* A handshake in a thread of its own. */
struct waiter {
	const char *sni;
	pthread_t thread;
	bool ok;
	int alert;
};

static void *wait_main(void *arg)
{
	struct waiter *w = arg;
	w->ok = served(w->sni, &w->alert);
	return NULL;
}

static void waiters_begin(struct waiter *w, size_t n, const char *sni)
{
	for (size_t i = 0; i < n; i++) {
		w[i].sni = sni;
		assert_int_equal(pthread_create(&w[i].thread, NULL, wait_main, &w[i]), 0);
	}
}

static void waiters_end(struct waiter *w, size_t n)
{
	for (size_t i = 0; i < n; i++)
		pthread_join(w[i].thread, NULL);
}

static void until_waiting(int64_t n)
{
	struct km_metric *m = km_metric(KM_METRIC_GAUGE, "kakuremichi_tls_waiting", "",
					"Handshakes that wait for a certificate.");
	int64_t end = km_now_ms() + PATIENCE_S * 1000;
	while (atomic_load(&m->value) != n) {
		assert_true(km_now_ms() < end);
		usleep(1000);
	}
}

static void until_asked(int n)
{
	int64_t end = km_now_ms() + PATIENCE_S * 1000;
	while (atomic_load(&g.asks) < n) {
		assert_true(km_now_ms() < end);
		usleep(1000);
	}
	assert_int_equal(atomic_load(&g.asks), n);
}

static void wait_and_be_served(void **state)
{
	struct waiter w[20];
	(void)state;
	tunnel_set("late.test", ROUTE_TLS_AUTO);
	main_answers(true);
	waiters_begin(w, 20, "late.test");
	until_waiting(20);
	until_asked(1);
	settle("other.test", true);
	settle("other.test", false);
	obtained_put("late.test");
	settle("late.test", true);
	waiters_end(w, 20);
	until_waiting(0);
	for (int i = 0; i < 20; i++)
		assert_true(w[i].ok);
	assert_string_equal(g.asked, "late.test");
	assert_int_equal(atomic_load(&g.asks), 1);
	tunnel_remove("late.test");
}

static void wait_by_wildcard(void **state)
{
	struct waiter w[2];
	(void)state;
	tunnel_set("*.stars.test", ROUTE_TLS_AUTO);
	main_answers(true);
	waiters_begin(&w[0], 1, "a.stars.test");
	waiters_begin(&w[1], 1, "b.stars.test");
	until_waiting(2);
	until_asked(1);
	assert_string_equal(g.asked, "*.stars.test");
	obtained_put("*.stars.test");
	settle("*.stars.test", true);
	waiters_end(w, 2);
	assert_true(w[0].ok && w[1].ok);
	tunnel_remove("*.stars.test");
}

static void wait_in_vain(void **state)
{
	struct waiter w[5];
	int alert;
	(void)state;
	tunnel_set("never.test", ROUTE_TLS_AUTO);
	main_answers(true);
	waiters_begin(w, 5, "never.test");
	until_waiting(5);
	until_asked(1);
	settle("never.test", false);
	waiters_end(w, 5);
	for (int i = 0; i < 5; i++) {
		assert_false(w[i].ok);
		assert_int_equal(w[i].alert, SSL_AD_UNRECOGNIZED_NAME);
	}
	/* The next ones are refused at once for a second, and do not ask; which a slow machine may be too
	 * slow to see at the first try. */
	int tries = 0;
	do {
		assert_true(tries++ < 20);
		main_answers(false);
		settle("never.test", false);
		assert_false(served("never.test", &alert));
		assert_int_equal(alert, SSL_AD_UNRECOGNIZED_NAME);
	} while (atomic_load(&g.asks));
	main_answers(true);
	/* Unless there is good news. */
	settle("never.test", true);
	waiters_begin(w, 1, "never.test");
	until_waiting(1);
	until_asked(1);
	settle("never.test", false);
	waiters_end(w, 1);
	assert_false(w[0].ok);
	tunnel_remove("never.test");
}

/* The wait has a bound of its own, and is none of header_timeout's business. */
static void wait_ends(void **state)
{
	struct gw_settings was = g.settings;
	struct edge *edge = g.edge;
	uint16_t https_port = g.https_port, http_port = g.http_port;
	int alert;
	(void)state;
	edge_up(300, 1200);
	tunnel_set("slow.test", ROUTE_TLS_AUTO);
	main_answers(true);
	int64_t began = km_now_ms();
	assert_false(served("slow.test", &alert));
	assert_int_equal(alert, SSL_AD_UNRECOGNIZED_NAME);
	assert_true(km_now_ms() - began >= 1200);
	assert_int_equal(atomic_load(&g.asks), 1);
	tunnel_remove("slow.test");
	on_main(edge_free_main, g.edge);
	g.edge = edge;
	g.https_port = https_port;
	g.http_port = http_port;
	g.settings = was;
}

static void wait_not(void **state)
{
	int alert;
	(void)state;
	main_answers(false);
	tunnel_set("no.test", ROUTE_TLS_AUTO);
	assert_false(served("no.test", &alert));
	assert_int_equal(alert, SSL_AD_UNRECOGNIZED_NAME);
	assert_int_equal(atomic_load(&g.asks), 1);
	/* Other modes ask nobody. */
	main_answers(true);
	tunnel_set("own.test", ROUTE_TLS_OWN);
	tunnel_set("off.test", ROUTE_TLS_OFF);
	assert_false(served("own.test", &alert));
	assert_int_equal(alert, SSL_AD_UNRECOGNIZED_NAME);
	assert_false(served("off.test", &alert));
	assert_int_equal(alert, SSL_AD_UNRECOGNIZED_NAME);
	assert_int_equal(atomic_load(&g.asks), 0);
	/* An obtained one is not the operator's. */
	obtained_put("own2.test");
	tunnel_set("own2.test", ROUTE_TLS_OWN);
	assert_false(served("own2.test", &alert));
	certificate_put("own3.test");
	tunnel_set("own3.test", ROUTE_TLS_OWN);
	assert_true(served("own3.test", &alert));
	tunnel_remove("no.test");
	tunnel_remove("own.test");
	tunnel_remove("off.test");
	tunnel_remove("own2.test");
	tunnel_remove("own3.test");
}

static void wait_bounded(void **state)
{
	enum { N = 64 };
	struct waiter w[N];
	struct stranger gone;
	int alert;
	(void)state;
	tunnel_set("many.test", ROUTE_TLS_AUTO);
	main_answers(true);
	/* One that leaves while it waits makes room. */
	gone = stranger("many.test");
	struct timeval soon = {0, 1000};
	assert_int_equal(setsockopt(gone.fd, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof(soon)), 0);
	assert_false(shake(&gone));
	until_waiting(1);
	leave(&gone);
	until_waiting(0);
	waiters_begin(w, N, "many.test");
	until_waiting(N);
	assert_true(atomic_load(&g.asks) <= 2); /* it was asked moments ago */
	assert_false(served("many.test", &alert));
	assert_int_equal(alert, SSL_AD_UNRECOGNIZED_NAME);
	obtained_put("many.test");
	settle("many.test", true);
	waiters_end(w, N);
	for (int i = 0; i < N; i++)
		assert_true(w[i].ok);
	tunnel_remove("many.test");
}

/* ---- TLS ---- */

static SSL_SESSION *last_session;

static int on_session(SSL *ssl, SSL_SESSION *session)
{
	(void)ssl;
	SSL_SESSION_free(last_session);
	last_session = session;
	return 1;
}

/* A handshake by `session` (or none), after which last_session is a new one. Whether it was resumed; -1:
 * refused with unrecognized_name. */
static int resume(const char *sni, int version, SSL_SESSION *session)
{
	static const char text[] = "GET / HTTP/1.1\r\nHost: nobody.test\r\nConnection: close\r\n\r\n";
	struct stranger s = stranger(sni);
	char byte;
	int resumed = -1;
	SSL_CTX_set_session_cache_mode(s.ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(s.ctx, on_session);
	SSL_free(s.ssl);
	s.ssl = SSL_new(s.ctx);
	assert_int_equal(SSL_set_fd(s.ssl, s.fd), 1);
	assert_int_equal(SSL_set_tlsext_host_name(s.ssl, sni), 1);
	SSL_set_max_proto_version(s.ssl, version);
	if (session) {
		/* A refusal would make the session itself one that is offered no more. */
		SSL_SESSION *copy = SSL_SESSION_dup(session);
		assert_int_equal(SSL_set_session(s.ssl, copy), 1);
		SSL_SESSION_free(copy);
	}
	if (shake(&s)) {
		resumed = SSL_session_reused(s.ssl);
		assert_true(SSL_write(s.ssl, text, sizeof(text) - 1) > 0);
		assert_int_equal(SSL_read(s.ssl, &byte, 1), 1); /* TLS 1.3's ticket comes before it */
	} else {
		assert_int_equal(alert_got(), SSL_AD_UNRECOGNIZED_NAME);
	}
	SSL_set_quiet_shutdown(s.ssl, 1); /* or the session counts as broken */
	SSL_shutdown(s.ssl);
	leave(&s);
	return resumed;
}

static void tickets_are_for_one_tunnel(void **state)
{
	struct route_entry other = tunnel_of("hello.test");
	(void)state;
	certificate_put("hello.test");
	certificate_put("second.test");
	tunnel_set("second.test", ROUTE_TLS_AUTO);
	for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
		tunnel_set("hello.test", ROUTE_TLS_AUTO);
		assert_int_equal(resume("hello.test", version, NULL), 0);
		for (int i = 0; i < 10; i++) { /* whichever worker takes it */
			SSL_SESSION *session = last_session;
			last_session = NULL;
			assert_int_equal(resume("hello.test", version, session), 1);
			if (last_session) /* TLS 1.2 goes on with the one it has */
				SSL_SESSION_free(session);
			else
				last_session = session;
		}
		SSL_SESSION *session = last_session;
		last_session = NULL;
		assert_int_equal(resume("second.test", version, session), 0);
		/* Its tunnel has gone: refused like any unknown name. */
		tunnel_remove("hello.test");
		assert_int_equal(resume("hello.test", version, session), -1);
		/* Somebody else's tunnel has the name now: a whole handshake. */
		other.tunnel[0] ^= 1;
		on_main(tunnel_set_main, &other);
		assert_int_equal(resume("hello.test", version, session), 0);
		on_main(tunnel_remove_main, other.tunnel);
		other.tunnel[0] ^= 1;
		/* It ends no TLS here any more. */
		tunnel_set("hello.test", ROUTE_TLS_OFF);
		assert_int_equal(resume("hello.test", version, session), -1);
		SSL_SESSION_free(session);
		SSL_SESSION_free(last_session);
		last_session = NULL;
	}
	tunnel_remove("hello.test");
	tunnel_remove("second.test");
}

static int key_shown(const char *sigalgs, const char *ciphers, int version)
{
	struct stranger s = stranger("both.test");
	SSL_set_max_proto_version(s.ssl, version);
	if (sigalgs)
		assert_int_equal(SSL_set1_sigalgs_list(s.ssl, sigalgs), 1);
	if (ciphers)
		assert_int_equal(SSL_set_cipher_list(s.ssl, ciphers), 1);
	int kind = EVP_PKEY_NONE;
	if (shake(&s)) {
		X509 *x = SSL_get1_peer_certificate(s.ssl);
		kind = EVP_PKEY_get_base_id(X509_get0_pubkey(x));
		X509_free(x);
	}
	leave(&s);
	return kind;
}

static void key_by_what_the_client_can(void **state)
{
	(void)state;
	certificate_put("both.test");
	certificate_put_rsa("both.test");
	tunnel_set("both.test", ROUTE_TLS_OWN);
	for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
		assert_int_equal(key_shown(NULL, NULL, version), EVP_PKEY_EC);
		assert_int_equal(key_shown("rsa_pss_rsae_sha256:rsa_pkcs1_sha256", NULL, version),
				 EVP_PKEY_RSA);
		assert_int_equal(key_shown("ecdsa_secp256r1_sha256", NULL, version), EVP_PKEY_EC);
	}
	/* TLS 1.2 needs a suite for it, too. */
	assert_int_equal(key_shown(NULL, "ECDHE-RSA-AES128-GCM-SHA256", TLS1_2_VERSION), EVP_PKEY_RSA);
	assert_int_equal(key_shown(NULL, "ECDHE-ECDSA-AES128-GCM-SHA256", TLS1_2_VERSION), EVP_PKEY_EC);
	tunnel_remove("both.test");
}

/* ---- challenges ---- */

static void asks_alpn(struct stranger *s, const char *protos)
{
	assert_int_equal(SSL_set_alpn_protos(s->ssl, (const unsigned char *)protos,
					     (unsigned)strlen(protos)),
			 0);
}

static void tls_alpn_01(void **state)
{
	struct stranger s;
	char byte;
	(void)state;
	/* A name that nobody has a tunnel for: another gateway may be ordering for it. */
	challenge_open(CHALLENGE_ALPN_TLS, "order.test", "tok1");
	for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
		s = stranger("order.test");
		SSL_set_max_proto_version(s.ssl, version);
		asks_alpn(&s, "\x0a" CHALLENGE_ALPN);
		assert_true(shake(&s));
		const unsigned char *proto;
		unsigned n;
		SSL_get0_alpn_selected(s.ssl, &proto, &n);
		assert_true(n == 10 && !memcmp(proto, CHALLENGE_ALPN, 10));
		assert_true(shown_is_for(&s, "order.test"));
		X509 *x = SSL_get1_peer_certificate(s.ssl);
		assert_int_equal(X509_get_ext_count(x), 2);
		X509_free(x);
		/* The gateway ends it, properly and without a word. */
		assert_int_equal(SSL_read(s.ssl, &byte, 1), 0);
		assert_int_equal(SSL_get_error(s.ssl, 0), SSL_ERROR_ZERO_RETURN);
		leave(&s);
	}
	/* Only who offers that protocol alone; and only while it is open. */
	s = stranger("order.test");
	asks_alpn(&s, "\x0a" CHALLENGE_ALPN "\x08http/1.1");
	assert_false(shake(&s));
	assert_int_equal(alert_got(), SSL_AD_UNRECOGNIZED_NAME);
	leave(&s);
	s = stranger("order.test");
	assert_false(shake(&s));
	assert_int_equal(alert_got(), SSL_AD_UNRECOGNIZED_NAME);
	leave(&s);
	on_main(challenge_close_main, "tok1");
	s = stranger("order.test");
	asks_alpn(&s, "\x0a" CHALLENGE_ALPN);
	assert_false(shake(&s));
	assert_int_equal(alert_got(), SSL_AD_NO_APPLICATION_PROTOCOL);
	leave(&s);
	/* A served name is served beside its own challenge, and never with the challenge's certificate. */
	certificate_put("hello.test");
	tunnel_set("hello.test", ROUTE_TLS_AUTO);
	challenge_open(CHALLENGE_ALPN_TLS, "hello.test", "tok2");
	s = stranger("hello.test");
	asks_alpn(&s, "\x08http/1.1");
	assert_true(shake(&s));
	X509 *x = SSL_get1_peer_certificate(s.ssl);
	assert_int_equal(X509_get_ext_count(x), 1);
	X509_free(x);
	leave(&s);
	/* An address is asked for by its reverse name. */
	challenge_open(CHALLENGE_ALPN_TLS, "192.0.2.7", "tok3");
	s = stranger("7.2.0.192.in-addr.arpa");
	asks_alpn(&s, "\x0a" CHALLENGE_ALPN);
	assert_true(shake(&s));
	leave(&s);
	on_main(challenge_close_main, "tok2");
	on_main(challenge_close_main, "tok3");
	tunnel_remove("hello.test");
}

static void http_01(void **state)
{
	char answer[1024];
	(void)state;
#define PATH "/.well-known/acme-challenge/"
	challenge_open(CHALLENGE_HTTP, "order.test", "tok1");
	ask("GET " PATH "tok1 HTTP/1.1\r\nHost: order.test:80\r\n\r\n", answer, sizeof(answer));
	assert_memory_equal(answer, "HTTP/1.1 200 OK\r\nContent-Type: text/plain", 40);
	assert_non_null(strstr(answer, "Connection: close\r\n"));
	assert_string_equal(strstr(answer, "\r\n\r\n"), "\r\n\r\ntok1." THUMB);
	static const char *const none[] = {
	    "GET " PATH "tok1 HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n",
	    "GET " PATH "tok1?x HTTP/1.1\r\nHost: order.test\r\nConnection: close\r\n\r\n",
	    "GET " PATH "tok2 HTTP/1.1\r\nHost: order.test\r\nConnection: close\r\n\r\n",
	    "GET " PATH " HTTP/1.1\r\nHost: order.test\r\nConnection: close\r\n\r\n",
	    "POST " PATH "tok1 HTTP/1.1\r\nHost: order.test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
	};
	for (size_t i = 0; i < KM_ARRAY_LEN(none); i++) {
		ask(none[i], answer, sizeof(answer));
		assert_memory_equal(answer, "HTTP/1.1 404", 12);
	}
	on_main(challenge_close_main, "tok1");
	ask("GET " PATH "tok1 HTTP/1.1\r\nHost: order.test\r\nConnection: close\r\n\r\n", answer,
	    sizeof(answer));
	assert_memory_equal(answer, "HTTP/1.1 404", 12);
}

/* ---- */

static int setup(void **state)
{
	struct km_errtext err;
	(void)state;
	km_log_init("test", KM_LOG_ERROR, KM_LOG_TEXT);
	signal(SIGPIPE, SIG_IGN);
	evthread_use_pthreads();
	strcpy(g.dir, "/tmp/km-edge-XXXXXX");
	assert_non_null(mkdtemp(g.dir));
	snprintf(g.acme_dir, sizeof(g.acme_dir), "%s/acme", g.dir);
	assert_int_equal(mkdir(g.acme_dir, 0700), 0);
	assert_int_equal(km_conf_load(&gw_settings_spec, NULL, &g.settings, stderr), 0);
	km_strlist_free(&g.settings.https_listen);
	km_strlist_free(&g.settings.http_listen);
	struct km_privnet_opts net = {.wireguard = KM_WG_NONE};
	assert_int_equal(km_privnet_open(&g.net, &net, NULL, &err), 0);
	g.base = event_base_new();
	g.routes = route_table_new();
	g.certs = certs_new(&(struct certs_opts){.own_dir = g.dir, .acme_dir = g.acme_dir});
	g.challenges = challenges_new(NULL, NULL);
	if (pthread_create(&g.thread, NULL, main_loop, NULL))
		return -1;
	edge_up(20000, 60000);
	return 0;
}

static void end_main(void *arg)
{
	(void)arg;
	edge_free(g.edge);
	event_base_loopbreak(g.base);
}

static int teardown(void **state)
{
	char command[64];
	(void)state;
	on_main(end_main, NULL);
	pthread_join(g.thread, NULL);
	event_base_free(g.base);
	certs_free(g.certs);
	challenges_free(g.challenges);
	route_table_free(g.routes);
	km_privnet_close(g.net, true);
	g.settings.https_listen = g.settings.http_listen = (struct km_strlist){0};
	km_conf_free(&gw_settings_spec, &g.settings);
	snprintf(command, sizeof(command), "rm -rf %s", g.dir);
	libevent_global_shutdown();
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(names),
	    cmocka_unit_test(tickets_are_for_one_tunnel),
	    cmocka_unit_test(key_by_what_the_client_can),
	    cmocka_unit_test(wait_and_be_served),
	    cmocka_unit_test(wait_by_wildcard),
	    cmocka_unit_test(wait_in_vain),
	    cmocka_unit_test(wait_ends),
	    cmocka_unit_test(wait_not),
	    cmocka_unit_test(wait_bounded),
	    cmocka_unit_test(tls_alpn_01),
	    cmocka_unit_test(http_01),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
