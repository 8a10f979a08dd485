/* SPDX-License-Identifier: MIT */
/* No end and no byte is lost, however they come together: over real TCP connections, plain and TLS,
 * with what the other side does put before the event, between the event and the read, and after the
 * read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka wants the four above first. */
#include "gatewayd/edge/handover.h"
#include "gatewayd/edge/io.h"
#include "gatewayd/edge/records.h"
#include "gatewayd/edge/secrets.h"
#include <arpa/inet.h>
#include <cmocka.h>
#include "tests/unit/gatewayd/certify.h"
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define WAIT_MS 10000 /* nothing within this: it was lost */

struct end {
	struct io io; /* the gateway's side; first */
	struct loop *loop;
	struct km_buf in;
	bool woken;
	int fd;   /* the other side */
	SSL *ssl; /* its TLS, or NULL */
	size_t want;
	enum io_got last;
};

static SSL_CTX *server, *client;

enum kind { PLAIN, OPENSSL, OWN, KINDS };

static void on_woken(struct io *io)
{
	((struct end *)io)->woken = true;
}

static void tcp_pair(int *a, int *b)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int one = 1, l = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(l, (struct sockaddr *)&sa, len), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(getsockname(l, (struct sockaddr *)&sa, &len), 0);
	*a = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(*a, (struct sockaddr *)&sa, len), 0);
	*b = accept4(l, NULL, NULL, SOCK_NONBLOCK);
	assert_true(*b >= 0);
	setsockopt(*a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(*b, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	assert_int_equal(fcntl(*a, F_SETFL, O_NONBLOCK), 0);
	close(l);
}

/* Waits for an event of ours. */
static void event_await(struct end *e)
{
	e->woken = false;
	loop_turn(e->loop, WAIT_MS);
	assert_true(e->woken);
}

static void handshake(struct end *e)
{
	int error, ours = 0, theirs = 0;
	while (ours != 1 || theirs != 1) {
		if (theirs != 1)
			theirs = SSL_do_handshake(e->ssl);
		if (ours != 1)
			ours = io_handshake(&e->io, &error);
		if (ours != 1 && !e->io.can_read)
			event_await(e);
	}
}

static void end_open(struct end *e, enum kind kind)
{
	bool tls = kind != PLAIN;
	int fd;
	memset(e, 0, sizeof(*e));
	e->loop = loop_new();
	km_buf_init(&e->in, 1 << 20);
	tcp_pair(&e->fd, &fd);
	SSL *ssl = tls ? SSL_new(server) : NULL;
	if (tls) {
		SSL_set_accept_state(ssl);
		e->ssl = SSL_new(client);
		SSL_set_connect_state(e->ssl);
		assert_int_equal(SSL_set_fd(e->ssl, e->fd), 1);
	}
	assert_int_equal(io_open(&e->io, e->loop, fd, ssl, on_woken), 0);
	event_await(e); /* writable */
	if (!tls)
		return;
	handshake(e);
	struct records *r = handover_records(e->io.ssl);
	assert_non_null(r);
	if (kind != OWN) {
		records_free(r);
		r = NULL;
	}
	io_handover(&e->io, r);
	assert_string_equal(io_version(&e->io), "TLSv1.3");
}

static void end_close(struct end *e)
{
	io_close(&e->io, false);
	SSL_free(e->ssl);
	if (e->fd >= 0)
		close(e->fd);
	km_buf_free(&e->in);
	loop_free(e->loop);
}

/* What the other side does. */
static void say(struct end *e, size_t n)
{
	static const char bytes[65536];
	if (e->ssl)
		assert_int_equal(SSL_write(e->ssl, bytes, (int)n), (int)n);
	else
		assert_int_equal(send(e->fd, bytes, n, 0), (ssize_t)n);
}

static void stop(struct end *e, bool reset)
{
	struct linger l = {.l_onoff = 1};
	if (reset)
		assert_int_equal(setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
	else if (e->ssl)
		SSL_shutdown(e->ssl);
	close(e->fd);
	e->fd = -1;
}

/* Reads until nothing is there; false at the end. */
static bool read_all(struct end *e)
{
	do {
		e->last = io_read(&e->io, &e->in, e->want);
	} while (e->last == IO_BYTES);
	return e->last == IO_WAIT;
}

static void read_to_end(struct end *e)
{
	while (read_all(e))
		event_await(e);
}

enum when { BEFORE_EVENT, BEFORE_READ, AFTER_READ, WHENS };

static void one_end(enum kind kind, bool reset, enum when when, size_t n, size_t want)
{
	struct end e;
	end_open(&e, kind);
	e.want = want;
	(void)read_all(&e);
	if (n)
		say(&e, n);
	if (when == BEFORE_EVENT)
		stop(&e, reset);
	if (n || when == BEFORE_EVENT)
		event_await(&e);
	if (when == BEFORE_READ)
		stop(&e, reset);
	if (when == AFTER_READ) {
		assert_true(read_all(&e));
		assert_int_equal(e.in.len, n);
		stop(&e, reset);
	}
	read_to_end(&e);
	assert_int_equal(e.last, reset ? IO_BROKEN : IO_END);
	if (!reset)
		assert_int_equal(e.in.len, n);
	end_close(&e);
}

static void ends(void **state)
{
	/* Less than is asked for; exactly that; more; nothing. With TLS the same about its buffer.
	 */
	static const struct {
		size_t n, want;
	} sizes[] = {{5, 100}, {100, 100}, {250, 100}, {0, 100}, {16384, 16384}, {40000, 65536}};
	(void)state;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (enum when w = BEFORE_EVENT; w < WHENS; w++)
			for (int k = 0; k < 2 * KINDS; k++)
				one_end(k / 2, k & 1, w, sizes[i].n, sizes[i].want);
}

/* Bytes that come between a short read and the next event, many times over. */
static void bytes_between(void **state)
{
	(void)state;
	for (enum kind kind = 0; kind < KINDS; kind++) {
		size_t said = 1, got = 0;
		struct end e;
		end_open(&e, kind);
		e.want = 4096;
		for (int i = 0; i < 3000; i++) {
			size_t n = (size_t)(rand() % 3 ? 1 + rand() % 200 : 4096);
			say(&e, n);
			said += n;
			if (rand() % 2)
				(void)read_all(&e); /* before its event */
			if (rand() % 2)
				loop_turn(e.loop, 0);
			if (rand() % 4)
				(void)read_all(&e);
			got += e.in.len;
			km_buf_clear(&e.in);
		}
		say(&e, 1);
		stop(&e, false);
		read_to_end(&e);
		assert_int_equal(e.last, IO_END);
		assert_int_equal(got + e.in.len, said);
		end_close(&e);
	}
}

/* What is not there is not read for. */
static void short_read_is_last(void **state)
{
	struct end e;
	(void)state;
	for (enum kind kind = 0; kind < KINDS; kind++) {
		end_open(&e, kind);
		e.want = 1000;
		(void)read_all(&e);
		say(&e, 10);
		event_await(&e);
		assert_int_equal(io_read(&e.io, &e.in, 1000), IO_BYTES);
		assert_false(e.io.can_read);
		end_close(&e);
	}
}

/* A long answer through small socket buffers: what MSG_MORE holds back comes out in the end. */
static void nothing_held_back(void **state)
{
	static char got[65536];
	struct end e;
	(void)state;
	for (int small = 2048, i = 0; small < 24000; small += 550, i++) {
		const size_t total = 150000;
		struct km_buf out;
		size_t n, in = 0;
		uint8_t *p;
		km_buf_init(&out, 1 << 20);
		end_open(&e, i % 2 ? OPENSSL : OWN);
		setsockopt(io_fd(&e.io), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
		assert_int_equal(km_buf_reserve(&out, total, &p), 0);
		memset(p, 7, total);
		km_buf_commit(&out, total);
		while (in < total) {
			assert_int_not_equal(io_write(&e.io, &out, &n), IO_BROKEN);
			int r = SSL_read(e.ssl, got, sizeof(got));
			if (r > 0)
				in += (size_t)r;
			else
				loop_turn(e.loop, out.len ? 20 : 0);
		}
		assert_int_equal(in, total);
		km_buf_free(&out);
		end_close(&e);
	}
}

/* An end in the middle of a record: something is missing. */
static void half_a_record(void **state)
{
	static const uint8_t half[] = {23, 3, 3, 0, 30, 1, 2, 3};
	(void)state;
	for (size_t n = 1; n <= sizeof(half); n++) {
		struct end e;
		end_open(&e, OWN);
		e.want = 100;
		(void)read_all(&e);
		say(&e, 5);
		assert_int_equal(send(e.fd, half, n, 0), n);
		assert_int_equal(shutdown(e.fd, SHUT_WR), 0);
		read_to_end(&e);
		assert_int_equal(e.last, IO_BROKEN);
		assert_int_equal(e.in.len, 5);
		end_close(&e);
	}
}

/* ---- from the handshake to what comes after it ---- */

#define SAID 3000

/* The client's bytes so far, in pieces; its request, with a KeyUpdate before it, follows its Finished at once. */
struct cut {
	struct end e;
	enum kind kind;
	BIO *in, *out;
	bool done, blocked;
	size_t said;
};

static void cut_step(struct cut *c)
{
	int error;
	if (!c->done && io_handshake(&c->e.io, &error) == 1) {
		c->done = true;
		io_handover(&c->e.io, c->kind == OWN ? handover_records(c->e.io.ssl) : NULL);
		assert_true(c->e.io.records || c->kind == OPENSSL);
	} else if (!c->done) {
		assert_true(error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE);
		c->blocked |= error == SSL_ERROR_WANT_WRITE;
	}
	if (c->done)
		(void)read_all(&c->e);
}

static void cut_client(struct cut *c)
{
	char bytes[4096] = {0};
	ssize_t n = recv(c->e.fd, bytes, sizeof(bytes), 0);
	if (n > 0)
		assert_int_equal(BIO_write(c->in, bytes, (int)n), (int)n);
	if (SSL_do_handshake(c->e.ssl) != 1 || c->said)
		return;
	memset(bytes, 'x', sizeof(bytes));
	assert_int_equal(SSL_key_update(c->e.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
	for (; c->said < SAID; c->said += 500)
		assert_int_equal(SSL_write(c->e.ssl, bytes, 500), 500);
}

static bool cut_handshake(enum kind kind, size_t step, size_t tickets)
{
	struct cut c = {.kind = kind, .in = BIO_new(BIO_s_mem()), .out = BIO_new(BIO_s_mem())};
	SSL *ssl = SSL_new(server);
	char bytes[8192];
	int fd, small = 2048;
	size_t n;
	c.e.loop = loop_new();
	c.e.want = 4096;
	km_buf_init(&c.e.in, 1 << 20);
	tcp_pair(&c.e.fd, &fd);
	if (tickets > 1) {
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
		setsockopt(c.e.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	}
	SSL_set_accept_state(ssl);
	SSL_set_num_tickets(ssl, tickets);
	c.e.ssl = SSL_new(client);
	SSL_set_connect_state(c.e.ssl);
	SSL_set_bio(c.e.ssl, c.in, c.out);
	assert_int_equal(io_open(&c.e.io, c.e.loop, fd, ssl, on_woken), 0);
	while (!c.done || c.e.in.len < SAID) {
		cut_client(&c);
		while (BIO_pending(c.out)) {
			int k = BIO_read(c.out, bytes, (int)(step < sizeof(bytes) ? step : sizeof(bytes)));
			assert_int_equal(send(c.e.fd, bytes, (size_t)k, 0), k);
			loop_turn(c.e.loop, 0);
			cut_step(&c);
		}
		loop_turn(c.e.loop, 1);
		cut_step(&c);
	}
	assert_int_equal(c.e.in.len, SAID);
	for (size_t i = 0; i < SAID; i++)
		assert_int_equal(km_buf_head(&c.e.in)[i], 'x');
	/* The client can read what comes behind the tickets. */
	for (size_t got = 0; got < SAID;) {
		assert_int_not_equal(io_write(&c.e.io, &c.e.in, &n), IO_BROKEN);
		cut_client(&c);
		if (c.e.in.len)
			loop_turn(c.e.loop, 1);
		int k = SSL_read(c.e.ssl, bytes, sizeof(bytes));
		assert_true(k > 0 || SSL_get_error(c.e.ssl, k) == SSL_ERROR_WANT_READ);
		got += k > 0 ? (size_t)k : 0;
	}
	end_close(&c.e);
	return c.blocked;
}

static void handshake_in_pieces(void **state)
{
	(void)state;
	for (enum kind kind = OPENSSL; kind < KINDS; kind++)
		for (size_t step = 1; step < 8192; step += step < 40 ? 1 : step < 200 ? 17 : step)
			for (size_t tickets = 0; tickets < 2; tickets++)
				(void)cut_handshake(kind, step, tickets);
}

static void tickets_that_do_not_go(void **state)
{
	(void)state;
	for (enum kind kind = OPENSSL; kind < KINDS; kind++) {
		assert_true(cut_handshake(kind, 8192, 1000));
		(void)cut_handshake(kind, 100, 200);
	}
}

/* One of the events at hand removes another: that one is not told. */
struct pair {
	struct loop_fd at;
	struct pair *other;
	struct loop *loop;
	int told;
};

static void on_pair(struct loop_fd *f, uint32_t events)
{
	struct pair *p = (struct pair *)f;
	(void)events;
	p->told++;
	loop_remove(p->loop, &p->other->at);
}

static void removed_is_not_told(void **state)
{
	struct pair p[2];
	int fds[2];
	(void)state;
	struct loop *l = loop_new();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	for (int i = 0; i < 2; i++) {
		p[i] = (struct pair){{fds[i], on_pair}, &p[!i], l, 0};
		assert_int_equal(loop_add(l, &p[i].at, EPOLLOUT), 0);
	}
	loop_turn(l, WAIT_MS);
	assert_int_equal(p[0].told + p[1].told, 1);
	close(fds[0]);
	close(fds[1]);
	loop_free(l);
}

struct watched {
	struct loop_fd at; /* first */
	struct loop *loop;
	struct watched *all;
	size_t n, told, pending; /* of all others when this one was told */
};

static void on_watched(struct loop_fd *f, uint32_t events)
{
	struct watched *w = (struct watched *)f;
	(void)events;
	w->told++;
	w->pending = 0;
	for (size_t i = 0; i < w->n; i++)
		w->pending += loop_pending(w->loop, &w->all[i].at);
}

/* Who takes a connection for silent because it has had no event asks this: what stands behind the
 * event that is being told is known; and when the loop may not have seen all, nothing is taken for
 * silent. */
static void pending_is_known(void **state)
{
	enum { FEW = 5, MANY = 130 };
	static struct watched w[MANY];
	static int fds[MANY][2];
	size_t behind = 0, sure = 0;
	(void)state;
	struct loop *l = loop_new();
	memset(w, 0, sizeof(w));
	for (size_t i = 0; i < MANY; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds[i]), 0);
		w[i] = (struct watched){{fds[i][0], on_watched}, l, w, MANY, 0, 0};
		assert_int_equal(loop_add(l, &w[i].at, EPOLLIN | EPOLLET), 0);
		assert_false(loop_pending(l, &w[i].at));
	}
	for (size_t i = 0; i < FEW; i++)
		assert_int_equal(write(fds[i][1], "x", 1), 1);
	loop_turn(l, WAIT_MS);
	for (size_t i = 0; i < FEW; i++) {
		assert_int_equal(w[i].told, 1);
		behind += w[i].pending;
	}
	assert_int_equal(behind,
			 FEW * (FEW - 1) / 2); /* 4 behind the first, none behind the last */
	for (size_t i = 0; i < MANY; i++)
		assert_int_equal(write(fds[i][1], "x", 1), 1);
	loop_turn(l, WAIT_MS); /* more than it looks at in one turn */
	for (size_t i = 0; i < MANY; i++)
		sure += w[i].told > (i < FEW) && w[i].pending != MANY;
	assert_int_equal(sure, 0);
	for (size_t i = 0; i < MANY; i++) {
		loop_remove(l, &w[i].at);
		close(fds[i][0]);
		close(fds[i][1]);
	}
	loop_free(l);
}

static int contexts_make(void **state)
{
	(void)state;
	server = SSL_CTX_new_ex(NULL, SECRETS_PROPERTIES, TLS_server_method());
	client = SSL_CTX_new(TLS_client_method());
	certify(server);
	if (!secrets_load() || !handover_use(server))
		return -1;
	SSL_CTX_set_mode(server, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
				     SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_options(server, SSL_OP_IGNORE_UNEXPECTED_EOF);
	return 0;
}

static int contexts_free(void **state)
{
	(void)state;
	SSL_CTX_free(server);
	SSL_CTX_free(client);
	io_thread_end();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(ends),
	    cmocka_unit_test(bytes_between),
	    cmocka_unit_test(short_read_is_last),
	    cmocka_unit_test(nothing_held_back),
	    cmocka_unit_test(half_a_record),
	    cmocka_unit_test(handshake_in_pieces),
	    cmocka_unit_test(tickets_that_do_not_go),
	    cmocka_unit_test(removed_is_not_told),
	    cmocka_unit_test(pending_is_known),
	};
	srand(1);
	return cmocka_run_group_tests(tests, contexts_make, contexts_free);
}
