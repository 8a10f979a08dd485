/* SPDX-License-Identifier: MIT */
#include "agentd/forward/pump.h"
#include "libkm/base/err.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RETRY_MS 1000

int pump_pool_init(struct pump_pool *pool, size_t max_out)
{
	*pool = (struct pump_pool){.max_out = max_out, .want = PUMP_PIPE_SIZE};
	pool->scratch = malloc(PUMP_COPY);
	return pool->scratch ? 0 : KM_ENOMEM;
}

static void pipe_close(const struct pump_pipe *pipe)
{
	close(pipe->rd);
	close(pipe->wr);
}

void pump_pool_free(struct pump_pool *pool)
{
	while (pool->n_idle)
		pipe_close(&pool->idle[--pool->n_idle]);
	free(pool->scratch);
	pool->scratch = NULL;
}

/* ---- pipes ---- */

/* A full pipe-user-pages-soft budget makes the kernel hand out pipes of two pages that cannot grow:
 * such a one is closed again, and the next attempt waits a while. */
static bool pipe_make(struct pump_pipe *pipe, struct pump_pool *pool, int64_t now_ms)
{
	int fds[2], size;

	if (pool->n_out >= pool->max_out || now_ms < pool->retry_ms)
		return false;
	if (pipe2(fds, O_NONBLOCK | O_CLOEXEC) != 0) {
		pool->retry_ms = now_ms + RETRY_MS;
		return false;
	}
	size = fcntl(fds[1], F_SETPIPE_SZ, (int)pool->want);
	if (size < 0)
		size = fcntl(fds[1], F_GETPIPE_SZ);
	*pipe = (struct pump_pipe){fds[0], fds[1], size > 0 ? (size_t)size : 0};
	if (pipe->size >= PUMP_PIPE_LEAST)
		return true;
	pipe_close(pipe);
	pipe->size = 0;
	pool->retry_ms = now_ms + RETRY_MS;
	return false;
}

static bool pipe_borrow(struct pump *p, struct pump_pool *pool, int64_t now_ms)
{
	if (p->pipe.size)
		return true;
	if (pool->n_idle)
		p->pipe = pool->idle[--pool->n_idle];
	else if (!pipe_make(&p->pipe, pool, now_ms))
		return false;
	pool->n_out++;
	return true;
}

void pump_drop(struct pump *p, struct pump_pool *pool)
{
	if (!p->pipe.size)
		return;
	if (p->held || pool->n_idle == PUMP_POOL_KEEP)
		pipe_close(&p->pipe);
	else
		pool->idle[pool->n_idle++] = p->pipe;
	p->pipe.size = 0;
	p->held = 0;
	pool->n_out--;
}

/* ---- moving ---- */

void pump_init(struct pump *p, int from, int to)
{
	*p = (struct pump){.from = from, .to = to};
}

static enum pump_verdict trouble(enum pump_verdict wait)
{
	return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? wait : PUMP_BROKEN;
}

/* Below, PUMP_MORE means: it went on, come again. */

static enum pump_verdict fill(struct pump *p)
{
	/* The pipe is empty here, so EAGAIN can only come from the socket. */
	ssize_t n = splice(p->from, NULL, p->pipe.wr, NULL, p->pipe.size,
			   SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

	if (n > 0) {
		p->held = (size_t)n;
		p->stream = n >= PUMP_PIECE;
		return PUMP_MORE;
	}
	if (n == 0) {
		p->eof = true;
		return PUMP_MORE;
	}
	if (errno == EINVAL) {
		p->no_splice = true;
		return PUMP_MORE;
	}
	return trouble(PUMP_WAIT_READ);
}

static enum pump_verdict drain(struct pump *p, uint64_t *moved)
{
	ssize_t n =
	    splice(p->pipe.rd, NULL, p->to, NULL, p->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

	if (n <= 0)
		return n == 0 ? PUMP_BROKEN : trouble(PUMP_WAIT_WRITE);
	p->held -= (size_t)n;
	*moved += (uint64_t)n;
	return PUMP_MORE;
}

/* What `to` does not take of a piece waits in the pipe, which is empty and has room for all of it.
 * A read that gives less than was asked for has emptied the socket (epoll(7); but for what follows
 * urgent data), unless its end is behind that. */
static enum pump_verdict piece(struct pump *p, struct pump_pool *pool, uint64_t *moved)
{
	ssize_t n = recv(p->from, pool->scratch, PUMP_PIECE, MSG_DONTWAIT), sent;

	if (n < 0)
		return trouble(PUMP_WAIT_READ);
	if (n == 0) {
		p->eof = true;
		return PUMP_MORE;
	}
	p->stream = n == PUMP_PIECE;
	sent = send(p->to, pool->scratch, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0 && trouble(PUMP_WAIT_WRITE) == PUMP_BROKEN)
		return PUMP_BROKEN;
	sent = sent < 0 ? 0 : sent;
	*moved += (uint64_t)sent;
	p->held = (size_t)(n - sent);
	if (p->held && write(p->pipe.wr, pool->scratch + sent, p->held) != (ssize_t)p->held)
		return PUMP_BROKEN;
	return p->held || p->stream || p->closing ? PUMP_MORE : PUMP_WAIT_READ;
}

/* What was only peeked at stays in the socket when the other side takes less. */
static enum pump_verdict copy(struct pump *p, struct pump_pool *pool, uint64_t *moved)
{
	ssize_t n = recv(p->from, pool->scratch, PUMP_COPY, MSG_PEEK | MSG_DONTWAIT), sent, taken;

	if (n < 0)
		return trouble(PUMP_WAIT_READ);
	if (n == 0) {
		p->eof = true;
		return PUMP_MORE;
	}
	sent = send(p->to, pool->scratch, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0)
		return trouble(PUMP_WAIT_WRITE);
	*moved += (uint64_t)sent;
	taken = recv(p->from, pool->scratch, (size_t)sent, MSG_TRUNC | MSG_DONTWAIT);
	return taken == sent ? PUMP_MORE : PUMP_BROKEN;
}

static enum pump_verdict pass_end(struct pump *p)
{
	if (!p->shut && shutdown(p->to, SHUT_WR) != 0 && errno != ENOTCONN)
		return PUMP_BROKEN;
	p->shut = true;
	return PUMP_DONE;
}

static enum pump_verdict step(struct pump *p, struct pump_pool *pool, int64_t now_ms,
			      uint64_t *moved)
{
	if (p->held)
		return drain(p, moved);
	if (p->eof)
		return pass_end(p);
	if (!p->no_splice && pipe_borrow(p, pool, now_ms))
		return p->stream ? fill(p) : piece(p, pool, moved);
	pool->fallbacks++;
	return copy(p, pool, moved);
}

enum pump_verdict pump_run(struct pump *p, struct pump_pool *pool, int64_t now_ms, size_t budget,
			   uint64_t *moved)
{
	enum pump_verdict v = PUMP_MORE;

	*moved = 0;
	while (v == PUMP_MORE && (*moved < budget || p->held))
		v = step(p, pool, now_ms, moved);
	if (!p->held)
		pump_drop(p, pool);
	return v;
}
