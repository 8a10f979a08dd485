/* SPDX-License-Identifier: MIT */
/* A non-blocking byte stream in a worker's loop, plain or TLS. Its event is edge-triggered and
 * added once; what the kernel said last is remembered, so that holding back a sender is simply not
 * reading from it. */
#ifndef GATEWAYD_EDGE_IO_H
#define GATEWAYD_EDGE_IO_H

#include "libkm/base/buf.h"
#include <event2/event.h>
#include <event2/event_struct.h>
#include <openssl/ssl.h>
#include <stdbool.h>

struct io {
	int fd; /* -1: none */
	SSL *ssl;
	bool can_read, can_write; /* not known to block */
	bool eof;                 /* nothing more can be read */
	bool broken;              /* an error: neither reading nor writing makes sense */
	struct event ev;
	void (*woken)(struct io *io);
};

enum io_got {
	IO_BYTES,
	IO_WAIT, /* nothing now */
	IO_END,  /* the other side has ended it properly */
	IO_BROKEN,
};

/* Takes over fd (and ssl, which may be NULL). `woken` is called when something may have become
 * possible. -1: no memory; fd and ssl then stay the caller's. */
int io_open(struct io *io, struct event_base *base, int fd, SSL *ssl, void (*woken)(struct io *));
/* Closes what is open. Says goodbye (close_notify) only with `politely`; without it a TCP reset
 * tells the other side that something is missing. */
void io_close(struct io *io, bool politely);
/* Reads once, at most `want` bytes (and what the buffer may hold: IO_WAIT when it is full). */
enum io_got io_read(struct io *io, struct km_buf *b, size_t want);
/* After the end: whether the other side is gone altogether (a reset), as far as can be known without
 * sending. Looks once after each event. */
bool io_gone(struct io *io);
/* Writes as much of b as goes; *n counts it. IO_BYTES (something went), IO_WAIT, IO_BROKEN. */
enum io_got io_write(struct io *io, struct km_buf *b, size_t *n);

#endif
