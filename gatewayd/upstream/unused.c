/* SPDX-License-Identifier: MIT */
/* Connections of HTTP/1.1 that no request uses, and the sets that they and links stand in. */
#include "gatewayd/upstream/internal.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>

/* A connection that is open so long after its answer shows that the target keeps them; the end of
 * one that it closed has come through the tunnel by then. */
#define KEPT_MS 250

/* ---- sets ---- */

struct pool_set *pool_set_find(struct pool *p, uint64_t serial)
{
	struct pool_set *s;
	HASH_FIND(hh, p->sets, &serial, sizeof(serial), s);
	return s;
}

struct pool_set *pool_set_get(struct pool *p, uint64_t serial)
{
	struct pool_set *s = pool_set_find(p, serial);
	if (s || !(s = calloc(1, sizeof(*s))))
		return s;
	s->serial = serial;
	HASH_ADD(hh, p->sets, serial, sizeof(s->serial), s);
	return s;
}

void pool_set_rest(struct pool *p, struct pool_set *s)
{
	if (s->idle || s->links || s->openings)
		return;
	HASH_DEL(p->sets, s);
	free(s);
}

/* ---- unused connections ---- */

void unused_unlink(struct pool *p, struct up *u)
{
	struct pool_set *s = u->set;
	DL_DELETE(s->idle, u);
	u->set = NULL;
	s->n--;
	p->n_idle--;
	km_metric_add(p->idle, -1);
	timer_stop(p->o.timers, &u->timer);
	pool_set_rest(p, s);
}

bool unused_reads_nothing(struct up *u)
{
	return !u->io.can_read ||
	       (io_read(&u->io, &u->in, 1) == IO_WAIT && !u->io.eof && !u->io.broken);
}

void pool_woken(struct io *io)
{
	struct up *u = (struct up *)((char *)io - offsetof(struct up, io));
	if (u->owner) {
		u->pool->o.woken(u);
		return;
	}
	/* Unused: a writable event is stale, anything else is its end or bytes nobody asked for.
	 * One that is promised is looked at by who gets it. */
	if (u->promised || unused_reads_nothing(u))
		return;
	if (km_now_ms() - u->idle_since < KEPT_MS)
		u->set->keeps = false;
	pool_drop(u->pool, u, true);
}

static void on_idle_end(struct timer *t)
{
	struct up *u = (struct up *)((char *)t - offsetof(struct up, timer));
	pool_drop(u->pool, u, true);
}

/* Neither ended nor with bytes that nobody asked for, which would be taken for an answer. What the
 * loop was told when it last looked is known without a look at the socket: either the connection
 * has had its event, and was dropped, or that stands behind the one which is being handled. What
 * came later is as what is still under way: who sends twice what may be sent twice need not look
 * (`sure`). */
bool unused_silent(struct up *u, bool sure)
{
	char byte;
	if (loop_pending(u->io.loop, &u->io.at))
		sure = true;
	if (!sure)
		return true;
	if (u->io.ssl) {
		u->io.can_read = true;
		u->io.dry = false;
		return unused_reads_nothing(u);
	}
	return recv(io_fd(&u->io), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
	       (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* Some targets close after each answer without saying so beforehand. */
static bool target_keeps(struct pool_set *s, int64_t now)
{
	struct up *oldest = s->idle->prev;
	if (!s->keeps && now - oldest->idle_since >= KEPT_MS)
		s->keeps = unused_silent(oldest, true);
	return s->keeps;
}

struct up *unused_take(struct pool *p, const struct route *r, int64_t max_idle_ms, int64_t now)
{
	bool safe = max_idle_ms == INT64_MAX;
	for (;;) {
		struct pool_set *s = pool_set_find(p, r->serial);
		struct up *u = s ? s->idle : NULL;
		/* Dropping takes it off its set. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
		if (!u || now - u->idle_since > max_idle_ms || (!safe && !target_keeps(s, now)))
			return NULL;
		if (now - u->idle_since <= u->idle_ms && unused_silent(u, !safe)) {
			unused_unlink(p, u);
			return u;
		}
		pool_drop(p, u, true);
	}
}

bool unused_put(struct pool *p, struct up *u, int64_t now)
{
	struct pool_set *s = NULL;
	if (p->n_idle >= POOL_IDLE_MAX || !p->o.per_target || !p->o.timers->ms[TIMER_POOL] ||
	    !u->idle_ms || !(s = pool_set_get(p, u->serial)) || s->n >= p->o.per_target)
		return false;
	DL_PREPEND(s->idle, u);
	s->n++;
	s->keeps |= u->reused;
	u->set = s;
	u->idle_since = now;
	u->timer.fired = on_idle_end;
	p->n_idle++;
	km_metric_add(p->idle, 1);
	timer_set(p->o.timers, &u->timer, TIMER_POOL, now);
	return true;
}
