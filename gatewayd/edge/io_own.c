/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/io_own.h"
#include "gatewayd/edge/records.h"

#define BURST (4 * RECORDS_PLAIN) /* sealed for one write */

/* ---- reading ---- */

static enum io_got broken(struct io *io)
{
	io->eof = io->broken = true;
	return IO_BROKEN;
}

static enum io_got wait(struct io *io)
{
	io->can_read = false;
	if (!io->raw.len)
		km_buf_free(&io->raw);
	return IO_WAIT;
}

/* An end without close_notify is one, but not in the middle of a record. */
static enum io_got raw_read(struct io *io)
{
	uint8_t *p;
	size_t want = records_want(io->records, &io->raw, IO_RAW_MOST);
	if (km_buf_reserve(&io->raw, want, &p))
		return broken(io);
	ssize_t n = io_socket_read(io, p, want);
	if (n > 0) {
		km_buf_commit(&io->raw, (size_t)n);
		return IO_BYTES;
	}
	if (io_would_block(n))
		return wait(io);
	if (n < 0 || io->raw.len)
		return broken(io);
	io->eof = true;
	km_buf_free(&io->raw);
	return IO_END;
}

enum io_got io_own_read(struct io *io, uint8_t *p, size_t want, size_t *n)
{
	for (;;) {
		switch (records_open(io->records, &io->raw, p, want, n)) {
		case RECORDS_DATA:
			if (io->dry && !records_ready(io->records, &io->raw))
				(void)wait(io);
			else if (!io->raw.len)
				km_buf_free(&io->raw);
			return IO_BYTES;
		case RECORDS_END:
			io->eof = true;
			return IO_END;
		case RECORDS_BROKEN:
			io_own_goodbye(io);
			return broken(io);
		default:
			break;
		}
		if (io->dry)
			return wait(io);
		enum io_got got = raw_read(io);
		if (got != IO_BYTES)
			return got;
	}
}

/* ---- writing ---- */

static bool seal(struct io *io, const struct km_buf *b)
{
	uint8_t *room;
	size_t now = b->len < BURST ? b->len : BURST;
	/* One of the thread's blocks. */
	if (!io->sealed.cap && km_buf_reserve(&io->sealed, RECORDS_PLAIN, &room))
		return false;
	if (records_seal(io->records, &io->sealed, km_buf_head(b), now))
		return false;
	io->sealed_n = now;
	return true;
}

/* What has been sealed is not sealed again, whatever the socket takes of it. */
enum io_got io_own_write(struct io *io, const struct km_buf *b, size_t *n)
{
	if ((!io->sealed.len && !seal(io, b)) || b->len < io->sealed_n)
		return broken(io);
	ssize_t put = 0;
	io->more = b->len > io->sealed_n;
	while (put >= 0 && io->sealed.len) {
		put = io_socket_write(io, km_buf_head(&io->sealed), io->sealed.len);
		if (put > 0)
			km_buf_consume(&io->sealed, (size_t)put);
	}
	io->more = false;
	if (put < 0 && !io_would_block(put))
		return broken(io);
	size_t unsent = records_unsent(io->sealed_n, io->sealed.len);
	*n = io->sealed_n - unsent;
	io->sealed_n = unsent;
	if (put < 0)
		io->can_write = false;
	else
		km_buf_free(&io->sealed);
	return *n ? IO_BYTES : IO_WAIT;
}

void io_own_goodbye(struct io *io)
{
	if (!records_close(io->records, &io->sealed) && io->sealed.len)
		(void)io_socket_write(io, km_buf_head(&io->sealed), io->sealed.len);
	km_buf_free(&io->sealed);
	io->sealed_n = 0;
}
