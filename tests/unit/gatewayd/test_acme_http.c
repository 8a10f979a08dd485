/* SPDX-License-Identifier: MIT */
/* The transport against an HTTPS server on the loopback, on the same loop. */
#include "gatewayd/acme/http.h"
#include "libkm/base/util.h"
#include "tests/unit/gatewayd/pki.h"
#include <arpa/inet.h>
#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <event2/http.h>
#include <openssl/ssl.h>

#define PATIENCE_S 60 /* a test that waits longer is broken */

struct bench {
	struct event_base *base;
	struct evhttp *https, *http;
	SSL_CTX *tls;
	struct acme_http *client;
	int tls_port, plain_port, served;
	char url[100], plain[100];
	/* the last request */
	char method[16], body[200], type[100], agent[100], accept[100], extra[100];
	/* the last answer */
	struct acme_answer a;
	char got[5][300], *answer, failed[300];
	int n_done;
	struct acme_http_call *other; /* cancelled by the first that is done */
};

/* ---- the server ---- */

static void keep(char *to, size_t size, struct evhttp_request *r, const char *name)
{
	const char *v = evhttp_find_header(evhttp_request_get_input_headers(r), name);

	snprintf(to, size, "%s", v ? v : "");
}

static const char *method_of(struct evhttp_request *r)
{
	switch (evhttp_request_get_command(r)) {
	case EVHTTP_REQ_GET:
		return "GET";
	case EVHTTP_REQ_HEAD:
		return "HEAD";
	case EVHTTP_REQ_POST:
		return "POST";
	case EVHTTP_REQ_PUT:
		return "PUT";
	default:
		return "?";
	}
}

static void serve(struct evhttp_request *r, void *arg)
{
	struct bench *b = arg;
	struct evkeyvalq *h = evhttp_request_get_output_headers(r);
	const char *path = evhttp_request_get_uri(r);
	struct evbuffer *in = evhttp_request_get_input_buffer(r), *out = evbuffer_new();
	size_t n = evbuffer_get_length(in);

	b->served++;
	strcpy(b->method, method_of(r));
	n = n < sizeof(b->body) ? n : sizeof(b->body) - 1;
	evbuffer_remove(in, b->body, n);
	b->body[n] = '\0';
	keep(b->type, sizeof(b->type), r, "Content-Type");
	keep(b->agent, sizeof(b->agent), r, "User-Agent");
	keep(b->accept, sizeof(b->accept), r, "Accept");
	keep(b->extra, sizeof(b->extra), r, "X-Extra");
	if (!strcmp(path, "/silent")) {
		evbuffer_free(out);
		return; /* never answered; freed with the server */
	}
	evhttp_add_header(h, "Replay-Nonce", "nonce-1");
	evhttp_add_header(h, "LOCATION", "  https://ca.test/1 ");
	evhttp_add_header(h, "Retry-After", "7");
	evhttp_add_header(h, "Content-Type", "application/problem+json");
	evhttp_add_header(h, "Link", "<a>;rel=\"index\"");
	evhttp_add_header(h, "Link", "<b>;rel=\"alternate\"");
	if (!strncmp(path, "/large", 6)) {
		char *much = calloc(1, ACME_BODY_MAX + 1);

		memset(much, 'x', ACME_BODY_MAX + 1);
		evbuffer_add(out, much, path[6] == '1' ? ACME_BODY_MAX + 1 : ACME_BODY_MAX);
		free(much);
	} else if (!strcmp(path, "/heads")) {
		for (int i = 0; i < 700; i++)
			evhttp_add_header(h, "X-Filling",
					  "a hundred bytes of nothing in particular, which stand "
					  "here to make the head of this answer large.......");
	} else if (strcmp(b->method, "HEAD") != 0) { /* evhttp would send it */
		evbuffer_add_printf(out, "hello");
	}
	evhttp_send_reply(r,
			  !strcmp(path, "/elsewhere") ? 302
			  : !strcmp(path, "/bad")     ? 400
						      : 200,
			  "said", out);
	evbuffer_free(out);
}

static struct bufferevent *on_connection(struct event_base *base, void *arg)
{
	struct bench *b = arg;

	return bufferevent_openssl_socket_new(base, -1, SSL_new(b->tls), BUFFEREVENT_SSL_ACCEPTING,
					      BEV_OPT_CLOSE_ON_FREE);
}

static struct evhttp *listen_on(struct bench *b, int *port)
{
	struct evhttp *s = evhttp_new(b->base);
	struct evhttp_bound_socket *h = evhttp_bind_socket_with_handle(s, "127.0.0.1", 0);
	struct sockaddr_in sa;
	socklen_t n = sizeof(sa);

	assert_non_null(h);
	assert_int_equal(getsockname(evhttp_bound_socket_get_fd(h), (struct sockaddr *)&sa, &n), 0);
	*port = ntohs(sa.sin_port);
	evhttp_set_allowed_methods(s, EVHTTP_REQ_GET | EVHTTP_REQ_HEAD | EVHTTP_REQ_POST |
					  EVHTTP_REQ_PUT);
	evhttp_set_gencb(s, serve, b);
	return s;
}

/* A certificate that is its own CA, in DIR/ca.pem. */
static void certify(struct bench *b)
{
	EVP_PKEY *key = pki_key(false);
	X509 *x = pki_cert(key, &(struct pki){.san = "IP:127.0.0.1", .issuer = "self"});
	char *pem = NULL;
	size_t n;
	FILE *f = open_memstream(&pem, &n);

	X509_set_subject_name(x, X509_get_issuer_name(x));
	assert_true(X509_sign(x, key, EVP_sha256()) > 0);
	PEM_write_X509(f, x);
	fclose(f);
	pki_write("ca.pem", pem);
	free(pem);
	b->tls = SSL_CTX_new(TLS_server_method());
	assert_int_equal(SSL_CTX_use_certificate(b->tls, x), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(b->tls, key), 1);
	X509_free(x);
	EVP_PKEY_free(key);
}

static int begin(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));
	char path[600];

	unsetenv("https_proxy");
	unsetenv("HTTPS_PROXY");
	unsetenv("http_proxy");
	unsetenv("ALL_PROXY");
	unsetenv("all_proxy");
	if (folder_make(NULL))
		return -1;
	*state = b;
	b->base = event_base_new();
	certify(b);
	b->https = listen_on(b, &b->tls_port);
	evhttp_set_bevcb(b->https, on_connection, b);
	b->http = listen_on(b, &b->plain_port);
	snprintf(path, sizeof(path), "%s/ca.pem", dir);
	assert_int_equal(acme_http_new(&b->client, b->base, path, NULL), 0);
	return 0;
}

static int end(void **state)
{
	struct bench *b = *state;

	acme_http_free(b->client);
	evhttp_free(b->https);
	evhttp_free(b->http);
	SSL_CTX_free(b->tls);
	event_base_free(b->base);
	free(b->answer);
	free(b);
	return folder_remove(NULL);
}

/* ---- the client ---- */

static void on_done(void *arg, const struct acme_answer *a)
{
	struct bench *b = arg;
	const char *from[] = {a->content_type, a->location, a->replay_nonce, a->retry_after,
			      a->link};

	b->n_done++;
	b->a = *a;
	for (size_t i = 0; i < KM_ARRAY_LEN(from); i++)
		snprintf(b->got[i], sizeof(b->got[i]), "%s", from[i] ? from[i] : "-");
	snprintf(b->failed, sizeof(b->failed), "%s", a->failed ? a->failed : "");
	free(b->answer);
	b->answer = a->n ? malloc(a->n) : NULL;
	if (a->n)
		memcpy(b->answer, a->body, a->n);
	acme_http_cancel(b->other);
	b->other = NULL;
	event_base_loopbreak(b->base);
}

static void wait_done(struct bench *b)
{
	int before = b->n_done;

	event_base_loopexit(b->base, &(struct timeval){.tv_sec = PATIENCE_S});
	event_base_dispatch(b->base);
	assert_int_equal(b->n_done, before + 1);
}

static struct acme_http_call *ask(struct bench *b, int method, const char *path, const char *body)
{
	struct acme_request r = {.method = method, .body = (char *)body, .accept = "application/x"};
	struct acme_http_call *c;

	r.url = km_xasprintf("https://127.0.0.1:%d%s", b->tls_port, path);
	c = acme_http_send(b->client, &r, on_done, b);
	assert_non_null(c);
	free(r.url);
	return c;
}

static void methods(void **state)
{
	struct bench *b = *state;

	ask(b, ACME_GET, "/", NULL);
	assert_int_equal(b->n_done, 0);
	wait_done(b);
	assert_int_equal(b->a.status, 200);
	assert_int_equal(b->a.n, 5);
	assert_memory_equal(b->answer, "hello", 5);
	assert_string_equal(b->method, "GET");
	assert_string_equal(b->agent, "kakuremichi/" KM_VERSION);
	assert_string_equal(b->accept, "application/x");
	assert_string_equal(b->got[0], "application/problem+json");
	assert_string_equal(b->got[1], "https://ca.test/1");
	assert_string_equal(b->got[2], "nonce-1");
	assert_string_equal(b->got[3], "7");
	assert_string_equal(b->got[4], "<a>;rel=\"index\"\n<b>;rel=\"alternate\"");
	ask(b, ACME_HEAD, "/", NULL);
	wait_done(b);
	assert_string_equal(b->method, "HEAD");
	assert_int_equal(b->a.n, 0);
	assert_string_equal(b->got[2], "nonce-1");
	ask(b, ACME_POST, "/bad", "{}");
	wait_done(b);
	assert_string_equal(b->method, "POST");
	assert_string_equal(b->body, "{}");
	assert_string_equal(b->type, "application/jose+json");
	assert_int_equal(b->a.status, 400);
}

static void not_followed(void **state)
{
	struct bench *b = *state;

	ask(b, ACME_GET, "/elsewhere", NULL);
	wait_done(b);
	assert_int_equal(b->a.status, 302);
	assert_int_equal(b->served, 1);
}

static void bounds(void **state)
{
	struct bench *b = *state;

	ask(b, ACME_GET, "/large", NULL);
	wait_done(b);
	assert_int_equal(b->a.status, 200);
	assert_int_equal(b->a.n, ACME_BODY_MAX);
	ask(b, ACME_GET, "/large1", NULL);
	wait_done(b);
	assert_int_equal(b->a.status, 0);
	assert_string_equal(b->failed, "the answer is larger than a MiB");
	ask(b, ACME_GET, "/heads", NULL);
	wait_done(b);
	assert_int_equal(b->a.status, 0);
	assert_string_equal(b->failed, "the answer's headers are larger than 64 KiB");
}

static void only_https(void **state)
{
	struct bench *b = *state;
	struct acme_request r = {.method = ACME_GET};
	const char *const headers[] = {"X-Extra: 1", "Content-Type: text/x", NULL};

	r.url = km_xasprintf("http://127.0.0.1:%d/", b->plain_port);
	assert_non_null(acme_http_send(b->client, &r, on_done, b));
	wait_done(b);
	assert_int_equal(b->a.status, 0);
	assert_int_equal(b->served, 0);
	/* What is not ACME may be asked so. */
	assert_non_null(acme_http_custom(b->client, "PUT", r.url, headers, "text", on_done, b));
	wait_done(b);
	assert_int_equal(b->a.status, 200);
	assert_string_equal(b->method, "PUT");
	assert_string_equal(b->extra, "1");
	assert_string_equal(b->type, "text/x");
	assert_string_equal(b->body, "text");
	assert_non_null(acme_http_custom(b->client, "GET", r.url, NULL, NULL, on_done, b));
	wait_done(b);
	assert_string_equal(b->method, "GET");
	assert_non_null(
	    acme_http_custom(b->client, "GET", "file:///etc/passwd", NULL, NULL, on_done, b));
	wait_done(b);
	assert_int_equal(b->a.status, 0);
	free(r.url);
}

/* Another CA's server, another host's name, nobody there. */
static void not_trusted(void **state)
{
	struct bench *b = *state;
	struct acme_request r = {.method = ACME_GET};
	struct acme_http *other;
	struct km_errtext err = {""};
	char path[600];

	pki_put("other.pem", &(struct pki){.san = "IP:127.0.0.1"}, false, "c");
	snprintf(path, sizeof(path), "%s/other.pem", dir);
	assert_int_equal(acme_http_new(&other, b->base, path, NULL), 0);
	r.url = km_xasprintf("https://127.0.0.1:%d/", b->tls_port);
	assert_non_null(acme_http_send(other, &r, on_done, b));
	wait_done(b);
	assert_int_equal(b->a.status, 0);
	assert_true(*b->failed);
	free(r.url);
	acme_http_free(other);
	r.url = km_xasprintf("https://localhost:%d/", b->tls_port);
	assert_non_null(acme_http_send(b->client, &r, on_done, b));
	wait_done(b);
	assert_int_equal(b->a.status, 0);
	assert_int_equal(b->served, 0);
	free(r.url);
	snprintf(path, sizeof(path), "%s/none.pem", dir);
	assert_int_equal(acme_http_new(&other, b->base, path, &err), KM_EIO);
	assert_non_null(strstr(err.text, "none.pem"));
	assert_null(other);
}

static void cancelled(void **state)
{
	struct bench *b = *state;
	struct acme_http_call *silent = ask(b, ACME_GET, "/silent", NULL);

	ask(b, ACME_GET, "/", NULL);
	wait_done(b);
	acme_http_cancel(silent);
	/* From within another's callback; and the rest with the transport. */
	b->other = ask(b, ACME_GET, "/silent", NULL);
	ask(b, ACME_GET, "/", NULL);
	wait_done(b);
	assert_null(b->other);
	ask(b, ACME_GET, "/silent", NULL);
	ask(b, ACME_GET, "/", NULL);
	wait_done(b);
	acme_http_cancel(NULL);
	assert_int_equal(b->n_done, 3);
}

static void many(void **state)
{
	struct bench *b = *state;

	for (int i = 0; i < 40; i++)
		ask(b, ACME_GET, "/", NULL);
	for (int i = 0; i < 40; i++)
		wait_done(b);
	assert_int_equal(b->served, 40);
}

#define WITH(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {WITH(methods),    WITH(not_followed), WITH(bounds),
					   WITH(only_https), WITH(not_trusted),  WITH(cancelled),
					   WITH(many)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
