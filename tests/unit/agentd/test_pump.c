/* SPDX-License-Identifier: MIT */
/* One direction by itself: pieces, streams, and what does not fit. */
#include "agentd/forward/pump.h"
#include "libkm/base/util.h"
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define BUDGET (1 << 20)

/* A connection over loopback: end[0] and end[1]; small: with little room from 0 to 1. */
static void connection(int end[2], bool small)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int little = 4096, l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	end[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(l >= 0 && end[0] >= 0);
	if (small) {
		assert_int_equal(setsockopt(l, SOL_SOCKET, SO_RCVBUF, &little, sizeof(little)), 0);
		assert_int_equal(setsockopt(end[0], SOL_SOCKET, SO_SNDBUF, &little, sizeof(little)), 0);
	}
	assert_int_equal(bind(l, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&sa, &len), 0);
	assert_int_equal(connect(end[0], (struct sockaddr *)&sa, sizeof(sa)), 0);
	end[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_true(end[1] >= 0);
	close(l);
}

struct way {
	int in[2], out[2]; /* in[0] -> in[1], the pump, out[0] -> out[1] */
	struct pump pump;
	struct pump_pool pool;
	size_t sent, got;
};

static void way_make(struct way *w, bool small)
{
	*w = (struct way){0};
	connection(w->in, false);
	connection(w->out, small);
	assert_int_equal(fcntl(w->in[1], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(fcntl(w->out[0], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(pump_pool_init(&w->pool, 8), 0);
	pump_init(&w->pump, w->in[1], w->out[0]);
}

static void way_free(struct way *w)
{
	pump_drop(&w->pump, &w->pool);
	pump_pool_free(&w->pool);
	for (int i = 0; i < 2; i++) {
		close(w->in[i]);
		close(w->out[i]);
	}
}

static uint8_t byte_at(size_t i)
{
	return (uint8_t)(i * 2654435761u >> 13);
}

static void say(struct way *w, size_t n)
{
	uint8_t buf[65536];

	for (size_t i = 0; i < n; i++)
		buf[i] = byte_at(w->sent + i);
	assert_int_equal(send(w->in[0], buf, n, MSG_NOSIGNAL), n);
	w->sent += n;
}

static void hear(struct way *w, size_t most)
{
	uint8_t buf[65536];
	ssize_t n = recv(w->out[1], buf, most, MSG_DONTWAIT);

	for (ssize_t i = 0; i < n; i++)
		assert_int_equal(buf[i], byte_at(w->got + (size_t)i));
	w->got += n > 0 ? (size_t)n : 0;
}

static enum pump_verdict run(struct way *w)
{
	struct pollfd p = {w->in[1], POLLIN, 0};
	uint64_t moved;

	poll(&p, 1, w->got < w->sent ? 1 : 0);
	return pump_run(&w->pump, &w->pool, km_now_ms(), BUDGET, &moved);
}

/* A piece needs no second read to know that it was all, and no pipe stays out. */
static void pieces(void **state)
{
	struct way w;

	(void)state;
	way_make(&w, false);
	for (int i = 0; i < 100; i++) {
		say(&w, 1 + (size_t)i * 100);
		while (w.got < w.sent) {
			assert_int_equal(run(&w), PUMP_WAIT_READ);
			assert_false(w.pump.stream);
			hear(&w, 65536);
		}
		assert_int_equal(w.pool.n_out, 0);
	}
	way_free(&w);
}

/* The rest waits in the pipe, in its order, and what comes behind it waits in the socket. */
static void what_does_not_fit(void **state)
{
	struct way w;
	bool waited = false;
	int64_t end = km_now_ms() + 60000;

	(void)state;
	way_make(&w, true);
	while (w.sent < 256 << 10 || w.got < w.sent) {
		assert_true(km_now_ms() < end);
		if (w.sent < 256 << 10 && w.sent - w.got < 100000)
			say(&w, 1 + w.sent % 7919);
		enum pump_verdict v = run(&w);
		assert_true(v == PUMP_WAIT_READ || v == PUMP_WAIT_WRITE);
		waited |= v == PUMP_WAIT_WRITE && w.pump.held && !w.pump.stream;
		hear(&w, 1 + w.got % 3001);
	}
	assert_true(waited);
	way_free(&w);
}

/* The end that stands behind a piece is passed on where the caller has heard of it. */
static void end_behind_a_piece(void **state)
{
	struct way w;

	(void)state;
	way_make(&w, false);
	say(&w, 100);
	assert_int_equal(shutdown(w.in[0], SHUT_WR), 0);
	struct pollfd p = {w.in[1], POLLRDHUP, 0};
	assert_int_equal(poll(&p, 1, 10000), 1);
	w.pump.closing = true;
	assert_int_equal(run(&w), PUMP_DONE);
	p = (struct pollfd){w.out[1], POLLRDHUP, 0};
	assert_int_equal(poll(&p, 1, 10000), 1);
	hear(&w, 65536);
	assert_int_equal(w.got, 100);
	way_free(&w);
}

/* A stream goes by splice, and what comes in pieces after it does not. */
static void stream_and_pieces(void **state)
{
	struct way w;

	(void)state;
	way_make(&w, false);
	say(&w, 65536);
	say(&w, 65536);
	bool stream = false;
	while (w.got < w.sent) {
		(void)run(&w);
		stream |= w.pump.stream;
		hear(&w, 65536);
	}
	assert_true(stream);
	for (int i = 0; i < 2; i++) {
		say(&w, 100);
		while (w.got < w.sent) {
			assert_int_equal(run(&w), PUMP_WAIT_READ);
			hear(&w, 65536);
		}
	}
	assert_false(w.pump.stream);
	assert_int_equal(w.pool.fallbacks, 0);
	way_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(pieces),
	    cmocka_unit_test(what_does_not_fit),
	    cmocka_unit_test(end_behind_a_piece),
	    cmocka_unit_test(stream_and_pieces),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
