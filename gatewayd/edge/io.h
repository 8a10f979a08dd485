/* SPDX-License-Identifier: MIT */
/* A non-blocking byte stream in a worker's loop, plain or TLS. Its event is edge-triggered and
 * added once; what the kernel said last is remembered, so that holding back a sender is simply not
 * reading from it. */
#ifndef GATEWAYD_EDGE_IO_H
#define GATEWAYD_EDGE_IO_H

#include "gatewayd/edge/loop.h"
#include "libkm/base/buf.h"
#include <openssl/ssl.h>
#include <stdbool.h>

struct records;

struct io {
	struct loop_fd at; /* at.fd: see io_fd */
	struct loop *loop;
	SSL *ssl;                /* TLS by OpenSSL */
	struct records *records; /* TLS by ourselves; then ssl is NULL */
	struct km_buf raw;       /* TLS: has been read from the socket, and is not opened */
	struct km_buf sealed;    /* records: what the socket has not taken yet */
	size_t sealed_n;         /* of what is to be written: so much is in there */
	bool can_read, can_write; /* not known to block */
	bool eof;                 /* nothing more can be read */
	bool broken;              /* an error: neither reading nor writing makes sense */
	bool dry;                 /* the socket has been read empty since its last event */
	bool ending;              /* the kernel has told of an end or a reset */
	bool more;                /* what is written now has its continuation at hand */
	bool held;                /* the kernel may be holding back what was written so */
	bool bulk;                /* TLS: full records come */
	void (*woken)(struct io *io);
};

enum io_got {
	IO_BYTES,
	IO_WAIT, /* nothing now */
	IO_END,  /* the other side has ended it properly */
	IO_BROKEN,
};

/* The descriptor; -1: none. */
static inline int io_fd(const struct io *io)
{
	return io->at.fd;
}
/* Nothing is open. */
static inline void io_none(struct io *io)
{
	*io = (struct io){.at.fd = -1};
}
/* Takes over fd (and ssl, which may be NULL and has no BIO yet: io_secure). `woken` is called when
 * something may have become possible. -1: no memory; fd and ssl then stay the caller's. */
int io_open(struct io *io, struct loop *loop, int fd, SSL *ssl, void (*woken)(struct io *));
/* TLS from here on; before anything was read. -1: no memory; ssl then stays the caller's. From now
 * on it must not be used for anything that reads or writes but by these functions. */
int io_secure(struct io *io, SSL *ssl);
/* Goes on with the handshake, as SSL_do_handshake does; *error is SSL_get_error's word on it.
 * can_read and can_write are kept, and stay true after the last step: a request may have come with
 * it. */
int io_handshake(struct io *io, int *error);
/* After the handshake: TLS 1.3 goes on with these records, which become io's own, and the SSL object is freed;
 * NULL: it goes on with OpenSSL. */
void io_handover(struct io *io, struct records *r);
/* "TLSv1.3"; NULL: not TLS. */
const char *io_version(const struct io *io);
/* Ends our side: close_notify, then FIN. */
void io_shut(struct io *io);
/* Closes what is open. Says goodbye (close_notify) only with `politely`; without it a TCP reset
 * tells the other side that something is missing. */
void io_close(struct io *io, bool politely);
/* Reads what is there, at most `want` bytes (and what the buffer may hold: IO_WAIT when it is
 * full). */
enum io_got io_read(struct io *io, struct km_buf *b, size_t want);
/* After the end: whether the other side is gone altogether (a reset), as far as can be known
 * without sending. Looks once after each event. */
bool io_gone(struct io *io);
/* Whether the other side has ended its own, or is gone, whatever may be left to read. */
bool io_hung_up(const struct io *io);
/* Writes as much of b as goes; what stays in b must still be at its head the next time. *n counts it. IO_BYTES (something went), IO_WAIT, IO_BROKEN. */
enum io_got io_write(struct io *io, struct km_buf *b, size_t *n);
/* Before a thread that has used TLS ends. */
void io_thread_end(void);

#endif
