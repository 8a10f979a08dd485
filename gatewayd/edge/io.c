/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/handover.h"
#include "gatewayd/edge/io_own.h"
#include "gatewayd/edge/records.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BULK_READ IO_RAW_MOST
#define AHEAD_READ 16384

static void on_ready(struct loop_fd *f, uint32_t events)
{
	struct io *io = (struct io *)f; /* its first member */
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		io->ending = true;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
		io->can_read = true;
		io->dry = false;
	}
	if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		io->can_write = true;
	io->woken(io);
}

/* ---- the socket ---- */

/* A read that got less than it asked for has emptied the socket, and what comes later has an event
 * of its own: the next read, which would say only that, is spared. Not once an end or a reset is
 * known: it may have come with the bytes, and only reading tells of it. What comes between the
 * event and the read has its event still before it. */
ssize_t io_socket_read(struct io *io, void *p, size_t want)
{
	ssize_t n;
	if (io->dry) {
		errno = EAGAIN;
		return -1;
	}
	do
		n = recv(io_fd(io), p, want, 0);
	while (n < 0 && errno == EINTR);
	io->dry = n > 0 && (size_t)n < want && !io->ending;
	return n;
}

/* The continuation does not follow at once, if at all: what was held back for it goes now. */
static void socket_push(struct io *io)
{
	int one = 1;
	(void)setsockopt(io_fd(io), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	io->held = false;
}

ssize_t io_socket_write(struct io *io, const void *p, size_t n)
{
	ssize_t put;
	do
		put = send(io_fd(io), p, n, MSG_NOSIGNAL | (io->more ? MSG_MORE : 0));
	while (put < 0 && errno == EINTR);
	if (put < 0 && io->held && (errno == EAGAIN || errno == EWOULDBLOCK)) {
		socket_push(io);
		errno = EAGAIN;
	} else if (put >= 0) {
		io->held = io->more;
	}
	return put;
}

/* ---- below TLS ---- */

/* One BIO of a thread serves all of its connections: it stands for the one in `now`. A connection
 * of its own would cost 200 bytes, and the kernel's answers would not be known outside. */
static _Thread_local struct {
	BIO *bio;
	struct io *now;
} below;
static BIO_METHOD *method;
static pthread_once_t method_once = PTHREAD_ONCE_INIT;

bool io_would_block(ssize_t n)
{
	return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* What is left over when OpenSSL has read one record: it asks for no more bytes than it needs, until the
 * handshake has shown who is to have the next. */
static ssize_t ahead_read(struct io *io)
{
	uint8_t *p;
	if (km_buf_reserve(&io->raw, AHEAD_READ, &p)) {
		errno = ENOMEM;
		return -1;
	}
	ssize_t n = io_socket_read(io, p, AHEAD_READ);
	if (n > 0)
		km_buf_commit(&io->raw, (size_t)n);
	else
		km_buf_free(&io->raw);
	return n;
}

static size_t ahead_take(struct io *io, char *p, size_t want)
{
	size_t n = want < io->raw.len ? want : io->raw.len;
	memcpy(p, km_buf_head(&io->raw), n);
	km_buf_consume(&io->raw, n);
	if (!io->raw.len)
		km_buf_free(&io->raw);
	return n;
}

static int below_read(BIO *b, char *p, size_t want, size_t *got)
{
	struct io *io = below.now;
	ssize_t n = 1;
	BIO_clear_retry_flags(b);
	bool ahead = !SSL_get_read_ahead(io->ssl);
	if (!io->raw.len)
		n = ahead ? ahead_read(io) : io_socket_read(io, p, want);
	if (io_would_block(n))
		BIO_set_retry_read(b);
	else if (n == 0)
		io->eof = true;
	if (n > 0)
		*got = io->raw.len ? ahead_take(io, p, want) : (size_t)n;
	return n > 0 ? 1 : (int)n;
}

static int below_write(BIO *b, const char *p, size_t n, size_t *put)
{
	BIO_clear_retry_flags(b);
	ssize_t rc = io_socket_write(below.now, p, n);
	if (io_would_block(rc))
		BIO_set_retry_write(b);
	if (rc > 0)
		*put = (size_t)rc;
	return rc > 0 ? 1 : -1;
}

static long below_ctrl(BIO *b, int cmd, long num, void *ptr)
{
	(void)b, (void)num, (void)ptr;
	switch (cmd) {
	case BIO_CTRL_EOF:
		return below.now && below.now->eof;
	case BIO_CTRL_FLUSH:
		return 1;
	default:
		return 0;
	}
}

static void method_make(void)
{
	BIO_METHOD *m =
	    BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "gatewayd's socket");
	if (m && BIO_meth_set_read_ex(m, below_read) && BIO_meth_set_write_ex(m, below_write) &&
	    BIO_meth_set_ctrl(m, below_ctrl))
		method = m;
	else
		BIO_meth_free(m);
}

static BIO *below_bio(void)
{
	if (below.bio)
		return below.bio;
	pthread_once(&method_once, method_make);
	if (method && (below.bio = BIO_new(method)))
		BIO_set_init(below.bio, 1);
	return below.bio;
}

void io_thread_end(void)
{
	BIO_free(below.bio);
	below.bio = NULL;
	records_thread_end();
}

static void below_enter(struct io *io)
{
	below.now = io;
	if (ERR_peek_error()) /* a quarter of the instructions of clearing nothing */
		ERR_clear_error();
}

/* ---- open and close ---- */

int io_secure(struct io *io, SSL *ssl)
{
	BIO *bio = below_bio();
	if (!bio || BIO_up_ref(bio) != 1)
		return -1;
	SSL_set_bio(ssl, bio, bio);
	io->ssl = ssl;
	return 0;
}

int io_open(struct io *io, struct loop *loop, int fd, SSL *ssl, void (*woken)(struct io *))
{
	io_none(io);
	io->at = (struct loop_fd){fd, on_ready};
	io->loop = loop;
	io->woken = woken;
	km_buf_init(&io->raw, IO_RAW_MOST);
	km_buf_init(&io->sealed, IO_RAW_MOST);
	if (loop_add(loop, &io->at, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET))
		goto fail;
	if (!ssl || !io_secure(io, ssl))
		return 0;
	loop_remove(loop, &io->at);
fail:
	io_none(io);
	return -1;
}

static void goodbye(struct io *io)
{
	if (io->broken || (!io->records && (!io->ssl || !SSL_is_init_finished(io->ssl))))
		return;
	below_enter(io);
	io->more = true; /* the FIN */
	if (io->records)
		io_own_goodbye(io);
	else
		SSL_shutdown(io->ssl);
	io->more = false;
}

void io_shut(struct io *io)
{
	goodbye(io);
	(void)shutdown(io_fd(io), SHUT_WR);
}

void io_close(struct io *io, bool politely)
{
	if (io_fd(io) < 0)
		return;
	if (politely)
		goodbye(io);
	below_enter(io);
	SSL_free(io->ssl);
	records_free(io->records);
	km_buf_free(&io->raw);
	km_buf_free(&io->sealed);
	loop_remove(io->loop, &io->at);
	if (!politely) {
		struct linger l = {.l_onoff = 1, .l_linger = 0};
		(void)setsockopt(io_fd(io), SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	}
	close(io_fd(io));
	io->at.fd = -1;
	io->ssl = NULL;
	io->records = NULL;
	below.now = NULL;
}

void io_handover(struct io *io, struct records *r)
{
	io->records = r;
	if (!r) {
		SSL_set_read_ahead(io->ssl, 1);
		return;
	}
	below_enter(io);
	SSL_free(io->ssl);
	io->ssl = NULL;
	below.now = NULL;
}

const char *io_version(const struct io *io)
{
	if (io->records)
		return "TLSv1.3";
	return io->ssl ? SSL_get_version(io->ssl) : NULL;
}

int io_handshake(struct io *io, int *error)
{
	below_enter(io);
	/* A server that waits for the client's Finished has but tickets to send after it: they go
	 * with the first answer, or by the kernel's own timer. */
	io->more = SSL_get_state(io->ssl) == TLS_ST_EARLY_DATA;
	handover_watch(io->ssl);
	int rc = SSL_do_handshake(io->ssl);
	handover_watched();
	io->more = false;
	*error = SSL_get_error(io->ssl, rc);
	if (*error == SSL_ERROR_WANT_READ)
		io->can_read = false;
	else if (*error == SSL_ERROR_WANT_WRITE)
		io->can_write = false;
	else if (rc == 1)
		io->can_read = true;
	else if (io->held) /* an alert: a reset, if the client still sends, would overtake it */
		socket_push(io);
	return rc;
}

/* ---- reading ---- */

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

/* Whoever sends full records sends many: they are read from the socket several at once. */
static void bulk_begin(struct io *io, size_t record)
{
	if (io->bulk || record < SSL3_RT_MAX_PLAIN_LENGTH)
		return;
	io->bulk = true;
	SSL_set_default_read_buffer_len(io->ssl, BULK_READ);
}

static enum io_got tls_read(struct io *io, void *p, size_t want, size_t *n)
{
	size_t now;
	int rc;
	below_enter(io);
	/* As many records as came at once; what ends it is met again by the next read. */
	while ((rc = SSL_read_ex(io->ssl, (char *)p + *n, want - *n, &now)) == 1) {
		*n += now;
		bulk_begin(io, now);
		bool more = SSL_has_pending(io->ssl) || io->raw.len;
		if (io->dry && !more)
			io->can_read = false;
		if (*n == want || !more)
			return IO_BYTES;
	}
	enum io_got got = tls_failed(io, rc, true);
	return *n ? IO_BYTES : got;
}

static enum io_got plain_read(struct io *io, void *p, size_t want, size_t *n)
{
	ssize_t got = io_socket_read(io, p, want);
	if (got <= 0 && !io_would_block(got)) {
		io->eof = true;
		io->broken = got < 0;
		return got < 0 ? IO_BROKEN : IO_END;
	}
	if (got < 0 || io->dry)
		io->can_read = false;
	*n = got > 0 ? (size_t)got : 0;
	return got > 0 ? IO_BYTES : IO_WAIT;
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
	enum io_got got = io->records ? io_own_read(io, p, want, &n)
			  : io->ssl   ? tls_read(io, p, want, &n)
				      : plain_read(io, p, want, &n);
	if (got == IO_BYTES)
		km_buf_commit(b, n);
	return got;
}

bool io_gone(struct io *io)
{
	struct pollfd p = {.fd = io_fd(io)};
	if (!io->can_read)
		return io->broken;
	io->can_read = false;
	if (poll(&p, 1, 0) > 0) /* POLLERR, POLLHUP; not the end that is known */
		io->broken = true;
	return io->broken;
}

bool io_hung_up(const struct io *io)
{
	struct pollfd p = {.fd = io_fd(io), .events = POLLRDHUP};
	return poll(&p, 1, 0) > 0;
}

/* ---- writing ---- */

static enum io_got tls_write(struct io *io, struct km_buf *b, size_t *n)
{
	size_t now = 0;
	below_enter(io);
	/* One record goes out at a time (SSL_MODE_ENABLE_PARTIAL_WRITE). */
	io->more = b->len > SSL3_RT_MAX_PLAIN_LENGTH;
	int rc = SSL_write_ex(io->ssl, km_buf_head(b), b->len, &now);
	io->more = false;
	if (rc != 1)
		return tls_failed(io, rc, false);
	*n = now;
	return IO_BYTES;
}

static enum io_got plain_write(struct io *io, struct km_buf *b, size_t *n)
{
	ssize_t put = io_socket_write(io, km_buf_head(b), b->len);
	if (io_would_block(put)) {
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
		enum io_got got = io->records ? io_own_write(io, b, &now)
				  : io->ssl   ? tls_write(io, b, &now)
					      : plain_write(io, b, &now);
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
