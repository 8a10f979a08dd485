/* SPDX-License-Identifier: MIT */
/* A server and clients of the link that remember what happened to them, on one event loop. */
#ifndef TESTS_UNIT_LINK_HARNESS_H
#define TESTS_UNIT_LINK_HARNESS_H

#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "libkm/link/client.h"
#include "libkm/link/server.h"
#include "tests/unit/link/pki.h"
#include "tests/unit/link/raw.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_MS 20000

static struct pki pki;
static struct event_base *base;

/* --- waiting --- */

static inline void on_time_up(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	*(bool *)arg = true;
}

/* Runs the loop until *counter reaches n; false when that takes too long. */
static inline bool reached(const int *counter, int n)
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

static inline void server_open(void *arg, uint64_t id, const char *type, const struct km_addr *peer)
{
	struct server *s = arg;

	assert_true(km_addr_is_loopback(peer));
	s->opened++;
	s->last_id = id;
	snprintf(s->type, sizeof(s->type), "%s", type);
	if (s->authenticate)
		km_link_server_authenticated(s->s, id);
}

static inline void server_message(void *arg, uint64_t id, const char *type, json_t *data)
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

static inline void server_closed(void *arg, uint64_t id, const char *why)
{
	struct server *s = arg;

	(void)id;
	s->closed++;
	snprintf(s->why, sizeof(s->why), "%s", why);
}

static const struct km_link_server_cbs server_cbs = {server_open, server_message, server_closed};

static inline void serve_with(struct server *s, struct km_link_server_opts o)
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

static inline void server_end(struct server *s)
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

static inline void client_open(void *arg, const char *url)
{
	struct client *c = arg;

	c->opened++;
	snprintf(c->url, sizeof(c->url), "%s", url);
}

static inline void client_message(void *arg, const char *type, json_t *data)
{
	struct client *c = arg;

	c->messages++;
	snprintf(c->msg_type, sizeof(c->msg_type), "%s", type);
	json_decref(c->data);
	c->data = json_incref(data);
	if (!c->first)
		c->first = json_incref(data);
}

static inline void client_closed(void *arg, const char *why, int64_t wait_ms)
{
	struct client *c = arg;

	c->closed++;
	snprintf(c->why, sizeof(c->why), "%s", why);
	c->wait_ms = wait_ms;
}

static const struct km_link_client_cbs client_cbs = {client_open, client_message, client_closed};

static inline void dial_with(struct client *c, const char *url, const char *pin)
{
	struct km_link_client_opts o = {&url, 1, "agent", pin, 20, 80};
	struct km_errtext err;

	if (km_link_client_start(&c->c, base, &o, &client_cbs, c, &err))
		fail_msg("%s", err.text);
}

static inline void dial(struct client *c, const struct server *s)
{
	char url[64];

	snprintf(url, sizeof(url), "wss://127.0.0.1:%u", km_link_server_port(s->s));
	dial_with(c, url, pki.pin);
}

static inline void client_end(struct client *c)
{
	km_link_client_free(c->c);
	json_decref(c->first);
	json_decref(c->data);
	*c = (struct client){0};
}

static inline int setup(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	km_log_init("test", getenv("KM_TEST_DEBUG") ? KM_LOG_DEBUG : KM_LOG_ERROR, KM_LOG_TEXT);
	pki = pki_make((struct pki_opts){0});
	base = event_base_new();
	return base ? 0 : -1;
}

static inline int teardown(void **state)
{
	(void)state;
	event_base_free(base);
	pki_free(&pki);
	return 0;
}

static inline json_t *text_of_length(size_t n)
{
	char *text = calloc(1, n + 1);

	memset(text, 'x', n);
	json_t *s = json_string(text);
	free(text);
	return s;
}

#endif
