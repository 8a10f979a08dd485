/* SPDX-License-Identifier: MIT */
/* A stranger's bytes over HTTP/2, through a socket, to a session without any route: all frames, heads,
 * answers of the gateway's own, floods and ends. The first byte says whether the preface and SETTINGS are
 * sent before ('s') or are in the rest ('r'), the second how the rest is cut. What comes back must be
 * whole frames of a size that the client has allowed, and nothing may be left over. */
#include <urcu/urcu-memb.h>

#include "gatewayd/edge/account.h"
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/front_h2.h"
#include "gatewayd/edge/h2_session.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static struct gw_settings settings;
static struct edge_shared shared;
static struct worker w;
static struct account_stats stats;

static void must(bool ok)
{
	if (!ok)
		abort();
}

static void begin(void)
{
	static struct km_metric any;
	struct route_table *routes = route_table_new();
	urcu_memb_register_thread();
	km_log_init("fuzz", KM_LOG_ERROR, KM_LOG_TEXT);
	settings = (struct gw_settings){.h2_max_streams = 8,
					.h2_stream_window = 65536,
					.h2_connection_window = 131072,
					.h2_resets = "20/10s"};
	shared.settings = &settings;
	shared.routes = routes;
	shared.limits = (struct http_limits){4096, 32};
	shared.buf_max = 2 * 4096 + 2 * CONN_HIGH;
	shared.https_port = 443;
	shared.m_requests = shared.m_bad = shared.m_bytes_in = shared.m_bytes_out = &any;
	shared.m_challenged = shared.m_limited = shared.m_looped = &any;
	for (int i = 0; i < UP_FAILURES; i++)
		shared.m_upstream_errors[i] = &any;
	must(routes && (shared.h2 = h2_shared_new(&settings)));
	w.sh = &shared;
	w.stats = &stats;
	w.now = 1000000;
	w.closing = true;
	for (int i = 0; i < TIMER_KINDS; i++)
		w.timers.ms[i] = 10000;
	km_buf_init(&w.head, shared.buf_max);
	must((w.loop = loop_new()) != NULL);
}

static void on_woken(struct io *io)
{
	(void)io;
}

static void on_late(struct timer *t)
{
	(void)t;
}

static struct conn *conn_open(int fd)
{
	struct conn *c = calloc(1, sizeof(*c));
	must(c && !io_open(&c->io, w.loop, fd, NULL, on_woken));
	c->w = &w;
	c->addr = (struct km_addr){.family = AF_INET, .ip = {192, 0, 2, 1}};
	c->timer.fired = on_late;
	km_buf_init(&c->in, shared.buf_max);
	km_buf_init(&c->out, shared.buf_max);
	h2_begin(c);
	return c;
}

static void conn_close(struct conn *c)
{
	h2_free(c, false);
	timer_stop(&w.timers, &c->timer);
	io_close(&c->io, false);
	km_buf_free(&c->in);
	km_buf_free(&c->out);
	w.later = NULL;
	free(c);
}

/* Reads what has come back and looks at its frames. */
static void answers_read(int fd, struct km_buf *b)
{
	uint8_t *to;
	for (;;) {
		must(!km_buf_reserve(b, 65536, &to));
		ssize_t n = recv(fd, to, 65536, MSG_DONTWAIT);
		if (n <= 0)
			break;
		km_buf_commit(b, (size_t)n);
		while (b->len >= 9) {
			const uint8_t *p = km_buf_head(b);
			size_t len = (size_t)p[0] << 16 | (size_t)p[1] << 8 | p[2];
			must(len <= 16384 && p[3] <= NGHTTP2_CONTINUATION);
			if (b->len < 9 + len)
				break;
			km_buf_consume(b, 9 + len);
		}
	}
}

static void drive(struct conn *c, int fd, struct km_buf *back)
{
	c->io.can_read = c->io.can_write = true;
	c->io.dry = false;
	while (c->state == CONN_H2 && h2_step(c)) {
		must(c->out.len <= CONN_HIGH + 2 * 16384 + 4096);
		must(!c->h2 || c->h2->n_streams <= 8 + 1);
	}
	answers_read(fd, back);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const char preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";
	int pair[2];
	struct km_buf back;
	if (!w.loop)
		begin();
	if (n < 2 || n > 60000)
		return 0;
	must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
	km_buf_init(&back, 1 << 20);
	struct conn *c = conn_open(pair[0]);
	if (p[0] == 's')
		must(send(pair[1], preface, sizeof(preface) - 1, 0) == sizeof(preface) - 1);
	size_t step = p[1] ? p[1] : n;
	for (size_t at = 2; at < n && c->state == CONN_H2; at += step) {
		size_t k = n - at < step ? n - at : step;
		if (send(pair[1], p + at, k, MSG_NOSIGNAL) != (ssize_t)k)
			break;
		drive(c, pair[1], &back);
		w.now++;
	}
	(void)shutdown(pair[1], SHUT_WR);
	drive(c, pair[1], &back);
	if (c->state == CONN_H2) {
		h2_late(c);
		drive(c, pair[1], &back);
	}
	must(!back.len); /* whole frames */
	conn_close(c);
	must(!w.running && !shared.h2->m_streams->value);
	close(pair[1]);
	km_buf_free(&back);
	w.now += 60000; /* the next connection's buckets are full again anyway */
	return 0;
}
