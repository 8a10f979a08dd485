/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/io.h"
#include <errno.h>
#include <openssl/err.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void on_event(evutil_socket_t fd, short what, void *arg)
{
	struct io *io = arg;
	(void)fd;
	if (what & (EV_READ | EV_CLOSED))
		io->can_read = true;
	if (what & EV_WRITE)
		io->can_write = true;
	io->woken(io);
}

int io_open(struct io *io, struct event_base *base, int fd, SSL *ssl, void (*woken)(struct io *))
{
	memset(io, 0, sizeof(*io));
	io->fd = -1;
	if (event_assign(&io->ev, base, fd, EV_READ | EV_WRITE | EV_CLOSED | EV_ET | EV_PERSIST,
			 on_event, io) ||
	    event_add(&io->ev, NULL))
		return -1;
	io->fd = fd;
	io->ssl = ssl;
	io->woken = woken;
	return 0;
}

void io_close(struct io *io, bool politely)
{
	if (io->fd < 0)
		return;
	event_del(&io->ev);
	if (io->ssl) {
		if (politely && !io->broken && SSL_is_init_finished(io->ssl)) {
			ERR_clear_error();
			SSL_shutdown(io->ssl);
		}
		SSL_free(io->ssl);
	}
	if (!politely) {
		struct linger l = {.l_onoff = 1, .l_linger = 0};
		(void)setsockopt(io->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	}
	close(io->fd);
	io->fd = -1;
	io->ssl = NULL;
}

static enum io_got tls_failed(struct io *io, int rc, bool reading)
{
	switch (SSL_get_error(io->ssl, rc)) {
	case SSL_ERROR_WANT_READ:
		io->can_read = false;
		return IO_WAIT;
	case SSL_ERROR_WANT_WRITE:
		io->can_write = false;
		if (reading) /* rare (key update): the write event wakes us as well */
			io->can_read = true;
		return IO_WAIT;
	case SSL_ERROR_ZERO_RETURN:
		io->eof = true;
		return reading ? IO_END : IO_BROKEN;
	default:
		io->eof = io->broken = true;
		return IO_BROKEN;
	}
}

static enum io_got tls_read(struct io *io, void *p, size_t want, size_t *n)
{
	ERR_clear_error();
	int rc = SSL_read_ex(io->ssl, p, want, n);
	return rc == 1 ? IO_BYTES : tls_failed(io, rc, true);
}

static enum io_got plain_read(struct io *io, void *p, size_t want, size_t *n)
{
	ssize_t got;
	do
		got = read(io->fd, p, want);
	while (got < 0 && errno == EINTR);
	if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
		io->can_read = false;
		return IO_WAIT;
	}
	if (got <= 0) {
		io->eof = true;
		io->broken = got < 0;
		return got < 0 ? IO_BROKEN : IO_END;
	}
	/* A short read does not end the turn: a reset that came together with these bytes has no
	 * edge of its own, and only the next read tells of it. */
	*n = (size_t)got;
	return IO_BYTES;
}

enum io_got io_read(struct io *io, struct km_buf *b, size_t want)
{
	uint8_t *p;
	size_t n = 0;
	if (io->broken)
		return IO_BROKEN;
	if (io->eof)
		return IO_END;
	if (want > b->max - b->len)
		want = b->max - b->len;
	if (!io->can_read || !want)
		return IO_WAIT;
	if (km_buf_reserve(b, want, &p)) {
		io->eof = io->broken = true;
		return IO_BROKEN;
	}
	enum io_got got = io->ssl ? tls_read(io, p, want, &n) : plain_read(io, p, want, &n);
	if (got == IO_BYTES)
		km_buf_commit(b, n);
	return got;
}

bool io_gone(struct io *io)
{
	struct pollfd p = {.fd = io->fd};
	if (!io->can_read)
		return io->broken;
	io->can_read = false;
	if (poll(&p, 1, 0) > 0) /* POLLERR, POLLHUP; not the end that is known */
		io->broken = true;
	return io->broken;
}

static enum io_got tls_write(struct io *io, struct km_buf *b, size_t *n)
{
	size_t now = 0;
	ERR_clear_error();
	int rc = SSL_write_ex(io->ssl, km_buf_head(b), b->len, &now);
	if (rc != 1)
		return tls_failed(io, rc, false);
	*n = now;
	return IO_BYTES;
}

static enum io_got plain_write(struct io *io, struct km_buf *b, size_t *n)
{
	ssize_t put;
	do
		put = send(io->fd, km_buf_head(b), b->len, MSG_NOSIGNAL);
	while (put < 0 && errno == EINTR);
	if (put < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
		io->can_write = false;
		return IO_WAIT;
	}
	if (put < 0)
		return IO_BROKEN;
	if ((size_t)put < b->len)
		io->can_write = false;
	*n = (size_t)put;
	return IO_BYTES;
}

enum io_got io_write(struct io *io, struct km_buf *b, size_t *n)
{
	enum io_got last = IO_WAIT;
	*n = 0;
	while (b->len && io->can_write) {
		size_t now = 0;
		enum io_got got = io->ssl ? tls_write(io, b, &now) : plain_write(io, b, &now);
		if (got == IO_BROKEN)
			return IO_BROKEN;
		if (got != IO_BYTES)
			break;
		km_buf_consume(b, now);
		*n += now;
		last = IO_BYTES;
	}
	return last;
}
