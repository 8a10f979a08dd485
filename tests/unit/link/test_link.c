/* SPDX-License-Identifier: MIT */
/* Client and server of the link in one process, over TLS on loopback. */
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/link/client.h"
#include "libkm/link/server.h"
#include "tests/unit/link/pki.h"
#include "tests/unit/link/raw.h"
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_MS 20000

static struct pki pki;
static struct event_base *base;

/* --- waiting --- */

static void on_time_up(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	*(bool *)arg = true;
}

/* Runs the loop until *counter reaches n; false when that takes too long. */
static bool reached(const int *counter, int n)
{
	bool up = false;
	struct event *t = evtimer_new(base, on_time_up, &up);
	struct timeval tv = {WAIT_MS / 1000, 0};

	evtimer_add(t, &tv);
	while (*counter < n && !up)
		event_base_loop(base, EVLOOP_ONCE);
	event_free(t);
	return *counter >= n;
}
#define wait_for(counter, n) assert_true(reached(&(counter), n))

/* --- a server that remembers --- */

struct server {
	struct km_link_server *s;
	int opened, messages, closed;
	uint64_t last_id;
	char type[16], msg_type[65], why[256];
	json_t *data;
	bool echo, authenticate;
};

static void server_open(void *arg, uint64_t id, const char *type, const struct km_addr *peer)
{
	struct server *s = arg;

	assert_true(km_addr_is_loopback(peer));
	s->opened++;
	s->last_id = id;
	snprintf(s->type, sizeof(s->type), "%s", type);
	if (s->authenticate)
		km_link_server_authenticated(s->s, id);
}

static void server_message(void *arg, uint64_t id, const char *type, json_t *data)
{
	struct server *s = arg;

	s->messages++;
	s->last_id = id;
	snprintf(s->msg_type, sizeof(s->msg_type), "%s", type);
	json_decref(s->data);
	s->data = json_incref(data);
	if (s->echo)
		assert_int_equal(km_link_server_send(s->s, id, type, json_incref(data)), 0);
}

static void server_closed(void *arg, uint64_t id, const char *why)
{
	struct server *s = arg;

	(void)id;
	s->closed++;
	snprintf(s->why, sizeof(s->why), "%s", why);
}

static const struct km_link_server_cbs server_cbs = {server_open, server_message, server_closed};

static void serve_with(struct server *s, struct km_link_server_opts o)
{
	struct km_errtext err;

	if (!o.listen)
		o.listen = "127.0.0.1:0";
	if (!o.cert_pem) {
		o.cert_pem = pki.chain_pem;
		o.key_pem = pki.key_pem;
	}
	if (km_link_server_start(&s->s, base, &o, &server_cbs, s, &err))
		fail_msg("%s", err.text);
	assert_int_not_equal(km_link_server_port(s->s), 0);
}

static void server_end(struct server *s)
{
	km_link_server_free(s->s);
	json_decref(s->data);
	*s = (struct server){0};
}

/* --- a client that remembers --- */

struct client {
	struct km_link_client *c;
	int opened, messages, closed;
	char url[64], msg_type[65], why[512];
	int64_t wait_ms;
	json_t *first, *data;
};

static void client_open(void *arg, const char *url)
{
	struct client *c = arg;

	c->opened++;
	snprintf(c->url, sizeof(c->url), "%s", url);
}

static void client_message(void *arg, const char *type, json_t *data)
{
	struct client *c = arg;

	c->messages++;
	snprintf(c->msg_type, sizeof(c->msg_type), "%s", type);
	json_decref(c->data);
	c->data = json_incref(data);
	if (!c->first)
		c->first = json_incref(data);
}

static void client_closed(void *arg, const char *why, int64_t wait_ms)
{
	struct client *c = arg;

	c->closed++;
	snprintf(c->why, sizeof(c->why), "%s", why);
	c->wait_ms = wait_ms;
}

static const struct km_link_client_cbs client_cbs = {client_open, client_message, client_closed};

static void dial_with(struct client *c, const char *url, const char *pin)
{
	struct km_link_client_opts o = {&url, 1, "agent", pin, 20, 80};
	struct km_errtext err;

	if (km_link_client_start(&c->c, base, &o, &client_cbs, c, &err))
		fail_msg("%s", err.text);
}

static void dial(struct client *c, const struct server *s)
{
	char url[64];

	snprintf(url, sizeof(url), "wss://127.0.0.1:%u", km_link_server_port(s->s));
	dial_with(c, url, pki.pin);
}

static void client_end(struct client *c)
{
	km_link_client_free(c->c);
	json_decref(c->first);
	json_decref(c->data);
	*c = (struct client){0};
}

/* --- tests --- */

static void messages_pass_both_ways(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(c.opened, 1);
	wait_for(s.opened, 1);
	assert_string_equal(s.type, "agent");
	assert_int_equal(km_link_client_send(c.c, "auth", json_pack("{s:s}", "apiKey", "agt_x")),
			 0);
	wait_for(s.messages, 1);
	assert_string_equal(s.msg_type, "auth");
	assert_string_equal(json_string_value(json_object_get(s.data, "apiKey")), "agt_x");
	assert_int_equal(km_link_server_send(s.s, s.last_id, "auth_success",
					     json_pack("{s:s}", "message", "隠れ道 \"quoted\"")),
			 0);
	wait_for(c.messages, 1);
	assert_string_equal(c.msg_type, "auth_success");
	assert_string_equal(json_string_value(json_object_get(c.data, "message")),
			    "隠れ道 \"quoted\"");
	client_end(&c);
	wait_for(s.closed, 1);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "config", json_null()), KM_ECLOSED);
	server_end(&s);
}

static void a_long_message_comes_in_parts(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};
	json_t *data = json_array();

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(s.opened, 1);
	for (int i = 0; i < 60000; i++)
		json_array_append_new(data, json_sprintf("%d \"隠れ道\" \\ %0*d", i, i % 60, 0));
	char *text = json_dumps(data, JSON_COMPACT);
	assert_true(strlen(text) > 3u << 20);
	free(text);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "config", json_incref(data)), 0);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "error", json_null()), 0);
	wait_for(c.messages, 2);
	assert_true(json_equal(c.first, data));
	assert_string_equal(c.msg_type, "error");
	json_decref(data);
	client_end(&c);
	server_end(&s);
}

static json_t *text_of_length(size_t n)
{
	char *text = calloc(1, n + 1);

	memset(text, 'x', n);
	json_t *s = json_string(text);
	free(text);
	return s;
}

static void a_huge_message_is_one_at_a_time(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};
	struct raw r;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(s.opened, 1);
	json_t *huge = text_of_length(20u << 20);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "config", json_incref(huge)), 0);
	wait_for(c.messages, 1);
	assert_int_equal(json_string_length(c.data), 20u << 20);
	/* one who does not read */
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	wait_for(s.opened, 2);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "config", json_incref(huge)), 0);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "tunnel_create", json_null()), 0);
	assert_int_equal(km_link_server_send(s.s, s.last_id, "config", huge), KM_EFULL);
	wait_for(s.closed, 1);
	assert_non_null(strstr(s.why, "too slow"));
	raw_close(&r);
	client_end(&c);
	server_end(&s);
}

static void another_root_is_refused(void **state)
{
	struct pki other = pki_make((struct pki_opts){0});
	struct server s = {0};
	struct client c = {0};
	char url[64];

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	snprintf(url, sizeof(url), "wss://127.0.0.1:%u", km_link_server_port(s.s));
	dial_with(&c, url, other.pin);
	wait_for(c.closed, 3); /* it goes on trying */
	assert_non_null(strstr(c.why, "wrong pin"));
	assert_non_null(strstr(c.why, pki.pin));
	assert_true(c.wait_ms >= 1 && c.wait_ms <= 80);
	assert_int_equal(c.opened, 0);
	assert_int_equal(s.opened, 0);
	client_end(&c);
	server_end(&s);
	pki_free(&other);
}

static void an_expired_certificate_is_refused(void **state)
{
	struct pki old = pki_make((struct pki_opts){.leaf_expired = true});
	struct server s = {0};
	struct client c = {0};
	char url[64];

	(void)state;
	serve_with(&s,
		   (struct km_link_server_opts){.cert_pem = old.chain_pem, .key_pem = old.key_pem});
	snprintf(url, sizeof(url), "wss://127.0.0.1:%u", km_link_server_port(s.s));
	dial_with(&c, url, old.pin);
	wait_for(c.closed, 1);
	assert_non_null(strstr(c.why, "expired"));
	client_end(&c);
	server_end(&s);
	pki_free(&old);
}

static void a_new_certificate_is_for_new_connections(void **state)
{
	struct pki next = pki_make((struct pki_opts){0});
	struct server s = {.authenticate = true};
	struct client a = {0}, b = {0};
	struct km_errtext err;
	char url[64];

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&a, &s);
	wait_for(s.opened, 1);
	assert_int_equal(km_link_server_set_certificate(s.s, next.chain_pem, pki.key_pem, &err),
			 KM_EINVAL);
	assert_non_null(strstr(err.text, "does not belong"));
	assert_int_equal(km_link_server_set_certificate(s.s, "x", "y", &err), KM_EINVAL);
	assert_int_equal(km_link_server_set_certificate(s.s, next.chain_pem, next.key_pem, &err),
			 0);
	snprintf(url, sizeof(url), "wss://127.0.0.1:%u", km_link_server_port(s.s));
	dial_with(&b, url, next.pin);
	wait_for(b.opened, 1);
	assert_int_equal(km_link_client_send(a.c, "heartbeat", json_null()), 0);
	wait_for(s.messages, 1);
	assert_int_equal(a.closed, 0);
	client_end(&a);
	client_end(&b);
	server_end(&s);
	pki_free(&next);
}

static void plain_on_loopback_and_names_that_resolve(void **state)
{
	struct km_link_server_opts o = {.listen = "[::]:0"};
	struct server s = {.authenticate = true};
	struct client c = {0}, d = {0};
	struct km_errtext err;
	char url[64];

	(void)state;
	assert_int_equal(km_link_server_start(&s.s, base, &o, &server_cbs, &s, &err), 0);
	snprintf(url, sizeof(url), "ws://127.0.0.1:%u", km_link_server_port(s.s));
	dial_with(&c, url, NULL);
	snprintf(url, sizeof(url), "ws://localhost:%u/ws", km_link_server_port(s.s));
	dial_with(&d, url, NULL);
	wait_for(s.opened, 2);
	wait_for(d.opened, 1);
	assert_string_equal(d.url, url);
	client_end(&c);
	client_end(&d);
	server_end(&s);
}

static void both_ends_know_the_bounds(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	assert_int_equal(km_link_client_send(c.c, "auth", json_null()), KM_ECLOSED);
	wait_for(c.opened, 1);
	wait_for(s.opened, 1);
	assert_int_equal(km_link_client_send(c.c, "auth", text_of_length(65536)), KM_ETOOBIG);
	assert_int_equal(km_link_client_send(c.c, "no good", json_null()), KM_EINVAL);
	assert_int_equal(km_link_client_send(c.c, "auth", text_of_length(65000)), 0);
	wait_for(s.messages, 1);
	assert_int_equal(json_string_length(s.data), 65000);
	assert_int_equal(km_link_server_send(s.s, 999, "config", json_null()), KM_ECLOSED);
	km_link_server_close(s.s, 999, "nobody", 0);
	km_link_server_authenticated(s.s, 999);
	client_end(&c);
	server_end(&s);
}

static void a_flood_from_the_main_loop_ends_in_full(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};
	int r = 0, sent = 0;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(c.opened, 1);
	/* The server's main loop does not run meanwhile, so it stops reading. */
	while (r == 0 && sent < 100000)
		if ((r = km_link_client_send(c.c, "status", text_of_length(60000))) == 0)
			sent++;
	assert_int_equal(r, KM_EFULL);
	wait_for(s.messages, sent);
	r = km_link_client_send(c.c, "status", json_null());
	assert_int_equal(r, 0);
	wait_for(s.messages, sent + 1);
	assert_int_equal(c.closed, 0);
	client_end(&c);
	server_end(&s);
}

/* --- closing --- */

static void closing_says_why_after_what_was_sent(void **state)
{
	struct server s = {0};
	struct client c = {0};

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(s.opened, 1);
	uint64_t id = s.last_id;
	assert_int_equal(km_link_server_send(s.s, id, "auth_error", text_of_length(300000)), 0);
	km_link_server_close(s.s, id, "bad API key", 0);
	assert_int_equal(km_link_server_send(s.s, id, "config", json_null()), KM_ECLOSED);
	wait_for(c.closed, 1);
	assert_int_equal(c.messages, 1);
	assert_string_equal(c.msg_type, "auth_error");
	assert_non_null(strstr(c.why, "1008 bad API key"));
	wait_for(s.closed, 1);
	assert_string_equal(s.why, "bad API key");
	/* and it comes back */
	wait_for(s.opened, 2);
	assert_int_not_equal(s.last_id, id);
	km_link_server_close(s.s, s.last_id, "quietly", 1);
	wait_for(c.closed, 2);
	wait_for(s.opened, 3);
	wait_for(c.opened, 3);
	assert_int_equal(s.closed, 1);
	client_end(&c);
	wait_for(s.closed, 2);
	assert_string_equal(s.why, "closed by the client: 1001 stopping");
	server_end(&s);
}

static void a_client_may_drop_and_come_back(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(c.opened, 1);
	km_link_client_settled(c.c);
	km_link_client_reconnect(c.c, "a revision is missing");
	assert_int_equal(km_link_client_send(c.c, "auth", json_null()), KM_ECLOSED);
	wait_for(c.closed, 1);
	assert_string_equal(c.why, "a revision is missing");
	wait_for(c.opened, 2);
	wait_for(s.closed, 1);
	assert_non_null(strstr(s.why, "a revision is missing"));
	client_end(&c);
	server_end(&s);
}

static void it_follows_a_server_that_restarts(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};
	char listen[32], url[64];

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	uint16_t port = km_link_server_port(s.s);
	dial(&c, &s);
	wait_for(c.opened, 1);
	km_link_client_settled(c.c);
	server_end(&s);
	wait_for(c.closed, 3);
	assert_non_null(strstr(c.why, "127.0.0.1"));
	s.authenticate = true;
	snprintf(listen, sizeof(listen), "127.0.0.1:%u", port);
	serve_with(&s, (struct km_link_server_opts){.listen = listen});
	wait_for(c.opened, 2);
	snprintf(url, sizeof(url), "wss://127.0.0.1:%u", port);
	assert_string_equal(c.url, url);
	assert_int_equal(km_link_client_send(c.c, "auth", json_null()), 0);
	wait_for(s.messages, 1);
	client_end(&c);
	server_end(&s);
}

static void urls_are_tried_in_turn(void **state)
{
	struct server s = {.authenticate = true};
	struct client c = {0};
	struct km_errtext err;
	char good[64];

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	snprintf(good, sizeof(good), "wss://localhost:%u", km_link_server_port(s.s));
	const char *urls[] = {"wss://127.0.0.1:1", "wss://name.invalid:3001", good};
	struct km_link_client_opts o = {urls, 3, "gateway", pki.pin, 1, 20};
	assert_int_equal(km_link_client_start(&c.c, base, &o, &client_cbs, &c, &err), 0);
	wait_for(c.closed, 1);
	wait_for(c.closed, 2);
	assert_non_null(strstr(c.why, "name.invalid"));
	wait_for(c.opened, 1);
	assert_string_equal(c.url, good);
	wait_for(s.opened, 1);
	assert_string_equal(s.type, "gateway");
	client_end(&c);
	server_end(&s);
}

static void a_client_can_be_freed_at_any_time(void **state)
{
	static const char *const urls[] = {
	    "wss://127.0.0.1:1", "wss://name.invalid:3001",
	    "wss://192.0.2.1:3001", /* RFC 5737: nobody answers */
	};
	struct server s = {0};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(urls); i++) {
		struct client c = {0};
		dial_with(&c, urls[i], pki.pin);
		client_end(&c);
	}
	serve_with(&s, (struct km_link_server_opts){0});
	for (int i = 0; i < 20; i++) {
		struct client c = {0};
		dial(&c, &s);
		if (i % 2)
			wait_for(c.opened, 1);
		client_end(&c);
	}
	server_end(&s);
}

static void two_hundred_clients(void **state)
{
	enum { N = 200 };
	struct server s = {.authenticate = true, .echo = true};
	struct client *c = calloc(N, sizeof(*c));

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	for (int i = 0; i < N; i++)
		dial(&c[i], &s);
	for (int i = 0; i < N; i++) {
		wait_for(c[i].opened, 1);
		assert_int_equal(km_link_client_send(c[i].c, "status", json_integer(i)), 0);
	}
	for (int i = 0; i < N; i++) {
		wait_for(c[i].messages, 1);
		assert_int_equal(json_integer_value(c[i].data), i);
	}
	assert_int_equal(s.messages, N);
	for (int i = 0; i < N; i++)
		client_end(&c[i]);
	wait_for(s.closed, s.opened);
	server_end(&s);
	free(c);
}

/* --- strangers --- */

static void what_is_no_link_is_answered_with_a_status(void **state)
{
	static const struct {
		const char *path;
		int status;
	} table[] = {
	    {"/ws?type=agent", 101},
	    {"/ws?type=gateway", 101},
	    {"/ws", 400},
	    {"/ws?type=", 400},
	    {"/ws?type=other", 400},
	    {"/ws?type=agentx", 400},
	    {"/", 404},
	    {"/wsx?type=agent", 404},
	    {"/ws/?type=agent", 404},
	    {"/%77s/../x?type=agent", 404},
	};
	struct server s = {0};
	struct raw r;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){.auth_timeout_ms = 1000});
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		assert_true(raw_connect(&r, km_link_server_port(s.s), 0));
		int status = raw_upgrade(&r, table[i].path);
		if (status != table[i].status)
			fail_msg("%s gave %d", table[i].path, status);
		assert_null(strstr(r.answer, "permessage-deflate"));
		raw_close(&r);
	}
	static const char *const plain[] = {
	    "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
	    "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
	    "GET /ws?type=agent HTTP/1.1\r\nHost: x\r\n\r\n",
	};
	for (size_t i = 0; i < KM_ARRAY_LEN(plain); i++) {
		assert_true(raw_connect(&r, km_link_server_port(s.s), 0));
		assert_int_equal(raw_http(&r, plain[i]), i == 2 ? 400 : 404);
		raw_close(&r);
	}
	static const char *const odd[] = {
	    "GET /ws?type=agent HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
	    "GET /ws?type=agent HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n",
	    "GET /ws?type=agent HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "
	    "websocket\r\n\r\n",
	    "\r\n\r\n\r\n",
	    "CONNECT x:1 HTTP/1.1\r\n\r\n",
	    "\x01\x02\x03\x04\r\n\r\n",
	};
	for (size_t i = 0; i < KM_ARRAY_LEN(odd); i++) {
		assert_true(raw_connect(&r, km_link_server_port(s.s), 0));
		assert_int_not_equal(raw_http(&r, odd[i]), 101);
		raw_close(&r);
	}
	wait_for(s.opened, 2);
	wait_for(s.closed, 2);
	server_end(&s);
}

static void old_tls_is_refused(void **state)
{
	struct server s = {0};
	struct raw r;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	assert_false(raw_connect(&r, km_link_server_port(s.s), TLS1_1_VERSION));
	raw_close(&r);
	assert_true(raw_connect(&r, km_link_server_port(s.s), TLS1_2_VERSION));
	raw_close(&r);
	server_end(&s);
}

static void assert_invalid(struct raw *r, const char *says)
{
	char buf[1024];

	assert_int_equal(raw_recv(r, buf, sizeof(buf)), RAW_FIN | RAW_TEXT);
	json_t *m = json_loads(buf, 0, NULL);
	assert_non_null(m);
	assert_string_equal(json_string_value(json_object_get(m, "type")), "error");
	json_t *d = json_object_get(m, "data");
	assert_string_equal(json_string_value(json_object_get(d, "code")), "INVALID_MESSAGE");
	const char *text = json_string_value(json_object_get(d, "message"));
	if (!strstr(text, says))
		fail_msg("'%s' does not say '%s'", text, says);
	json_decref(m);
}

#define GOOD "{\"type\":\"heartbeat\",\"data\":{\"timestamp\":1}}"

static void invalid_messages_are_answered_and_nothing_else(void **state)
{
	struct server s = {.authenticate = true};
	struct raw r;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	raw_text(&r, "{");
	assert_invalid(&r, "not JSON");
	raw_text(&r, "");
	assert_invalid(&r, "not JSON");
	raw_text(&r, "{\"data\":{}}");
	assert_invalid(&r, "type: missing");
	raw_text(&r, "{\"type\":\"a\",\"data\":{\"x\":1,\"x\":2}}");
	assert_invalid(&r, "duplicate");
	raw_text(&r, "{\"type\":\"a\",\"part\":1,\"parts\":2,\"data\":\"x\"}");
	assert_invalid(&r, "only control sends messages in parts");
	raw_text(&r, "{\"type\":\"\xff\xfe\"}");
	assert_invalid(&r, "not JSON");
	raw_send(&r, RAW_FIN | RAW_BINARY, GOOD, strlen(GOOD));
	assert_invalid(&r, "binary");
	char *deep = malloc(60001);
	memset(deep, '[', 60000);
	deep[60000] = '\0';
	raw_text(&r, deep);
	assert_invalid(&r, "depth");
	free(deep);
	raw_text(&r, GOOD);
	wait_for(s.messages, 1);
	assert_string_equal(s.msg_type, "heartbeat");
	assert_int_equal(s.closed, 0);
	/* who never says anything else is shown out */
	for (int i = 0; i < 40; i++)
		if (!raw_text(&r, "["))
			break;
	assert_int_equal(raw_close_status(&r), 1008);
	raw_close(&r);
	wait_for(s.closed, 1);
	assert_int_equal(s.messages, 1);
	server_end(&s);
}

static void fragments_are_joined(void **state)
{
	struct server s = {.authenticate = true};
	struct raw r;
	char buf[256];

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	/* every byte of the message a frame, every byte of the frames a record */
	for (size_t i = 0; i < strlen(GOOD); i++) {
		uint8_t head[14];
		uint8_t first =
		    (uint8_t)((i ? RAW_CONT : RAW_TEXT) | (i + 1 == strlen(GOOD) ? RAW_FIN : 0));
		size_t n = raw_head(head, first, 1);
		for (size_t k = 0; k < n; k++)
			assert_true(raw_write(&r, head + k, 1));
		assert_true(raw_write(&r, GOOD + i, 1));
		if (i == 5) /* a control frame in between */
			assert_true(raw_send(&r, RAW_FIN | RAW_PING, "ping", 4));
	}
	assert_int_equal(raw_recv(&r, buf, sizeof(buf)), RAW_FIN | RAW_PONG);
	assert_string_equal(buf, "ping");
	wait_for(s.messages, 1);
	assert_int_equal(json_integer_value(json_object_get(s.data, "timestamp")), 1);
	/* a message whose fragments exceed the bound only together */
	char *part = malloc(30000);
	memset(part, ' ', 30000);
	for (int i = 0; i < 3; i++)
		raw_send(&r, i ? RAW_CONT : RAW_TEXT, part, 30000);
	free(part);
	assert_int_equal(raw_close_status(&r), 1009);
	raw_close(&r);
	wait_for(s.closed, 1);
	server_end(&s);
}

static void broken_framing_ends_that_connection_only(void **state)
{
	static const struct {
		uint8_t bytes[16];
		size_t n;
		int status; /* 0: any end will do */
	} bad[] = {
	    {{0x83, 0x80, 0, 0, 0, 0}, 6, 1002},      /* reserved opcode */
	    {{0xc1, 0x80, 0, 0, 0, 0}, 6, 1002},      /* reserved bit */
	    {{0x80, 0x80, 0, 0, 0, 0}, 6, 1002},      /* continues nothing */
	    {{0x09, 0x80, 0, 0, 0, 0}, 6, 1002},      /* fragmented ping */
	    {{0x89, 0xfe, 0, 200, 0, 0, 0, 0}, 8, 0}, /* long ping */
	    {{0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 10, 0}, /* 2^64 */
	};
	struct server s = {.authenticate = true, .echo = true};
	struct client c = {0};
	struct raw r;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(c.opened, 1);
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		assert_true(raw_open(&r, km_link_server_port(s.s)));
		assert_true(raw_write(&r, bad[i].bytes, bad[i].n));
		int status = raw_close_status(&r);
		if (bad[i].status && status != bad[i].status)
			fail_msg("case %zu gave %d", i, status);
		raw_close(&r);
	}
	/* truncated: half a header, half a message, then gone */
	for (size_t n = 1; n < 20; n++) {
		uint8_t head[14];
		assert_true(raw_open(&r, km_link_server_port(s.s)));
		size_t h = raw_head(head, RAW_FIN | RAW_TEXT, strlen(GOOD));
		raw_write(&r, head, n < h ? n : h);
		if (n > h)
			raw_write(&r, GOOD, n - h);
		raw_close(&r);
	}
	wait_for(s.closed, (int)KM_ARRAY_LEN(bad) + 19);
	assert_int_equal(km_link_client_send(c.c, "status", json_null()), 0);
	wait_for(c.messages, 1);
	assert_int_equal(s.messages, 1);
	client_end(&c);
	server_end(&s);
}

static void ten_mebibytes_are_refused_unread(void **state)
{
	struct server s = {.authenticate = true};
	struct raw r;
	uint8_t head[14];

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	/* told by the header alone */
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	raw_write(&r, head, raw_head(head, RAW_FIN | RAW_TEXT, 10u << 20));
	raw_write(&r, "{", 1);
	assert_int_equal(raw_close_status(&r), 1009);
	raw_close(&r);
	/* and to one who sends it all first */
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	char *all = malloc(10u << 20);
	memset(all, 'x', 10u << 20);
	raw_send(&r, RAW_FIN | RAW_TEXT, all, 10u << 20);
	free(all);
	assert_int_equal(raw_close_status(&r), 1009);
	raw_close(&r);
	wait_for(s.closed, 2);
	assert_non_null(strstr(s.why, "64 KiB"));
	assert_int_equal(s.messages, 0);
	server_end(&s);
}

static void who_does_not_authenticate_is_shown_out(void **state)
{
	struct server s = {0};
	struct raw silent, half, r;
	char b;

	(void)state;
	serve_with(&s,
		   (struct km_link_server_opts){.auth_timeout_ms = 1200, .max_unauthenticated = 3});
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	assert_true(raw_connect(&silent, km_link_server_port(s.s), 0));
	assert_true(raw_connect(&half, km_link_server_port(s.s), 0));
	raw_write(&half, "GET /ws?type=agent HT", 21);
	/* a fourth is not let in */
	struct raw fourth;
	assert_false(raw_connect(&fourth, km_link_server_port(s.s), 0));
	raw_close(&fourth);
	assert_int_equal(raw_close_status(&r), 1008);
	assert_false(raw_read(&silent, &b, 1));
	assert_false(raw_read(&half, &b, 1));
	raw_close(&r);
	raw_close(&silent);
	raw_close(&half);
	wait_for(s.closed, 1);
	assert_non_null(strstr(s.why, "not authenticated in time"));
	/* there is room again, and who authenticates takes none of it and may stay */
	struct client c[5] = {0};
	s.authenticate = true;
	for (int i = 0; i < 5; i++) {
		dial(&c[i], &s);
		wait_for(c[i].opened, 1);
		wait_for(s.opened, 2 + i);
	}
	assert_true(raw_connect(&r, km_link_server_port(s.s), 0));
	assert_false(raw_read(&r, &b, 1)); /* longer than the time limit */
	raw_close(&r);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(c[i].closed, 0);
		client_end(&c[i]);
	}
	server_end(&s);
}

static void there_is_a_most_of_connections(void **state)
{
	struct server s = {.authenticate = true};
	struct raw a, b, c;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){.max_connections = 2});
	assert_true(raw_open(&a, km_link_server_port(s.s)));
	assert_true(raw_open(&b, km_link_server_port(s.s)));
	wait_for(s.opened, 2);
	assert_false(raw_connect(&c, km_link_server_port(s.s), 0));
	raw_close(&c);
	raw_close(&a);
	wait_for(s.closed, 1);
	bool in = false;
	for (int i = 0; i < 100 && !in; i++) { /* its descriptor is closed a little later */
		in = raw_open(&c, km_link_server_port(s.s));
		if (!in)
			raw_close(&c);
	}
	assert_true(in);
	raw_close(&b);
	raw_close(&c);
	server_end(&s);
}

static void a_slow_client_is_bounded(void **state)
{
	struct server s = {.authenticate = true};
	struct raw r;
	size_t sent = 0;
	int e = 0;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	wait_for(s.opened, 1);
	json_t *data = text_of_length(250000);
	while (e == 0 && sent < 64u << 20)
		if ((e = km_link_server_send(s.s, s.last_id, "config", json_incref(data))) == 0)
			sent += 250000;
	json_decref(data);
	assert_int_equal(e, KM_EFULL);
	assert_true(sent >= 15u << 20 && sent < 40u << 20); /* and what the kernel holds */
	wait_for(s.closed, 1);
	assert_non_null(strstr(s.why, "too slow"));
	raw_close(&r);
	server_end(&s);
}

static void a_slow_main_loop_stops_the_readers(void **state)
{
	struct server s = {.authenticate = true};
	struct raw r;
	char text[1024];
	int sent = 0;

	(void)state;
	serve_with(&s, (struct km_link_server_opts){0});
	assert_true(raw_open(&r, km_link_server_port(s.s)));
	wait_for(s.opened, 1);
	snprintf(text, sizeof(text), "{\"type\":\"status\",\"data\":\"%0900d\"}", 1);
	fcntl(r.fd, F_SETFL, O_NONBLOCK);
	for (bool stuck = false; !stuck && sent < 200000;) {
		uint8_t frame[14 + sizeof(text)];
		size_t n = raw_head(frame, RAW_FIN | RAW_TEXT, strlen(text)), off = 0;
		memcpy(frame + n, text, strlen(text));
		n += strlen(text);
		while (off < n) {
			struct pollfd p = {r.fd, POLLOUT, 0};
			int w = SSL_write(r.ssl, frame + off, (int)(n - off));
			if (w > 0)
				off += (size_t)w;
			else if (poll(&p, 1, stuck ? WAIT_MS : 500) == 0) {
				assert_false(stuck);
				stuck = true; /* nobody reads: only now does our loop run */
				wait_for(s.messages, 1);
				while (event_base_loop(base, EVLOOP_NONBLOCK) == 0 &&
				       s.messages < sent)
					if (poll(&p, 1, 0) == 1)
						break;
			}
		}
		sent++;
		if (stuck)
			break;
	}
	assert_true(sent < 200000);
	wait_for(s.messages, sent);
	assert_int_equal(s.closed, 0);
	raw_close(&r);
	server_end(&s);
}

static void the_process_is_left_alone(void **state)
{
	struct sigaction before[NSIG], after;
	struct rlimit files, files_after;
	struct server s = {0};
	struct client c = {0};

	(void)state;
	getrlimit(RLIMIT_NOFILE, &files);
	for (int i = 1; i < NSIG; i++)
		if (sigaction(i, NULL, &before[i]))
			before[i].sa_handler = SIG_ERR;
	serve_with(&s, (struct km_link_server_opts){0});
	dial(&c, &s);
	wait_for(c.opened, 1);
	for (int i = 1; i < NSIG; i++)
		if (before[i].sa_handler != SIG_ERR && sigaction(i, NULL, &after) == 0)
			assert_ptr_equal(after.sa_handler, before[i].sa_handler);
	getrlimit(RLIMIT_NOFILE, &files_after);
	assert_int_equal(files.rlim_cur, files_after.rlim_cur);
	client_end(&c);
	server_end(&s);
}

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void nothing_stays_open(void **state)
{
	int before = 0;

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct server s = {.authenticate = true};
		struct client c = {0};
		struct raw r;
		serve_with(&s, (struct km_link_server_opts){0});
		assert_true(raw_open(&r, km_link_server_port(s.s)));
		dial(&c, &s);
		wait_for(s.opened, 2);
		server_end(&s); /* with both still there */
		raw_close(&r);
		client_end(&c);
		if (i == 0)
			before = count_fds();
	}
	assert_int_equal(count_fds(), before);
}

static void a_server_says_what_is_wrong_with_its_settings(void **state)
{
	static const char *const bad[] = {"",
					  "3001",
					  "127.0.0.1",
					  "127.0.0.1:",
					  "127.0.0.1:x",
					  "127.0.0.1:65536",
					  "localhost:3001",
					  "[::1:3001"};
	struct server s = {0}, t = {0};
	struct km_errtext err;
	char listen[32];

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++) {
		struct km_link_server_opts o = {.listen = bad[i]};
		if (km_link_server_start(&s.s, base, &o, &server_cbs, &s, &err) != KM_EINVAL)
			fail_msg("'%s' was taken", bad[i]);
		assert_null(s.s);
	}
	serve_with(&s, (struct km_link_server_opts){0});
	snprintf(listen, sizeof(listen), "127.0.0.1:%u", km_link_server_port(s.s));
	struct km_link_server_opts o = {.listen = listen};
	assert_int_equal(km_link_server_start(&t.s, base, &o, &server_cbs, &t, &err), KM_EIO);
	assert_non_null(strstr(err.text, "in use"));
	o = (struct km_link_server_opts){.listen = "127.0.0.1:0", .cert_pem = "x", .key_pem = "y"};
	assert_int_equal(km_link_server_start(&t.s, base, &o, &server_cbs, &t, &err), KM_EINVAL);
	server_end(&s);
}

static int setup(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	km_log_init("test", getenv("KM_TEST_DEBUG") ? KM_LOG_DEBUG : KM_LOG_ERROR, KM_LOG_TEXT);
	pki = pki_make((struct pki_opts){0});
	base = event_base_new();
	return base ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	event_base_free(base);
	pki_free(&pki);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(messages_pass_both_ways),
	    cmocka_unit_test(a_long_message_comes_in_parts),
	    cmocka_unit_test(a_huge_message_is_one_at_a_time),
	    cmocka_unit_test(another_root_is_refused),
	    cmocka_unit_test(an_expired_certificate_is_refused),
	    cmocka_unit_test(a_new_certificate_is_for_new_connections),
	    cmocka_unit_test(plain_on_loopback_and_names_that_resolve),
	    cmocka_unit_test(both_ends_know_the_bounds),
	    cmocka_unit_test(a_flood_from_the_main_loop_ends_in_full),
	    cmocka_unit_test(closing_says_why_after_what_was_sent),
	    cmocka_unit_test(a_client_may_drop_and_come_back),
	    cmocka_unit_test(it_follows_a_server_that_restarts),
	    cmocka_unit_test(urls_are_tried_in_turn),
	    cmocka_unit_test(a_client_can_be_freed_at_any_time),
	    cmocka_unit_test(two_hundred_clients),
	    cmocka_unit_test(what_is_no_link_is_answered_with_a_status),
	    cmocka_unit_test(old_tls_is_refused),
	    cmocka_unit_test(invalid_messages_are_answered_and_nothing_else),
	    cmocka_unit_test(fragments_are_joined),
	    cmocka_unit_test(broken_framing_ends_that_connection_only),
	    cmocka_unit_test(ten_mebibytes_are_refused_unread),
	    cmocka_unit_test(who_does_not_authenticate_is_shown_out),
	    cmocka_unit_test(there_is_a_most_of_connections),
	    cmocka_unit_test(a_slow_client_is_bounded),
	    cmocka_unit_test(a_slow_main_loop_stops_the_readers),
	    cmocka_unit_test(the_process_is_left_alone),
	    cmocka_unit_test(nothing_stays_open),
	    cmocka_unit_test(a_server_says_what_is_wrong_with_its_settings),
	};
	cmocka_set_test_filter(getenv("KM_TEST")); /* a pattern of names */
	return cmocka_run_group_tests_name("link", tests, setup, teardown);
}
