/* SPDX-License-Identifier: MIT */
#include "gatewayd/upstream/pool.h"
#include "gatewayd/upstream/back.h"
#include "gatewayd/upstream/internal.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* A connection that is open so long after its answer shows that the target keeps them; the end of
 * one that it closed has come through the tunnel by then. */
#define KEPT_MS 250

/* ---- life ---- */

void pool_ring(struct pool *p)
{
	uint64_t one = 1;
	(void)!write(p->bell.fd, &one, sizeof(one));
}

static void on_wake(void *arg)
{
	pool_ring(arg);
}

static void on_bell(struct loop_fd *f, uint32_t events);

static void metrics_make(struct pool *p)
{
	p->opened = km_metric(KM_METRIC_COUNTER, "kakuremichi_upstream_connections_total", "",
			      "Connections opened to agents.");
	p->reused = km_metric(KM_METRIC_COUNTER, "kakuremichi_upstream_reused_total", "",
			      "Requests that went out on a connection that was open already.");
	p->idle = km_metric(KM_METRIC_GAUGE, "kakuremichi_upstream_idle", "",
			    "Open connections to agents that no request uses.");
	p->waited =
	    km_metric(KM_METRIC_COUNTER, "kakuremichi_upstream_waited_total", "",
		      "Requests that waited because their target had as many connections as it "
		      "may have.");
	p->waiting = km_metric(KM_METRIC_GAUGE, "kakuremichi_upstream_waiting", "",
			       "Requests that wait for a connection to their target.");
	p->turned_away = km_metric(KM_METRIC_COUNTER, "kakuremichi_upstream_queue_full_total", "",
				   "Requests refused because too many waited for their target.");
}

struct pool *pool_new(const struct pool_opts *opts)
{
	struct pool *p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->o = *opts;
	metrics_make(p);
	p->bell = (struct loop_fd){eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), on_bell};
	if (p->bell.fd < 0 || loop_add(p->o.loop, &p->bell, EPOLLIN)) {
		if (p->bell.fd >= 0)
			close(p->bell.fd);
		free(p);
		return NULL;
	}
	p->desk = slots_desk(p->o.hub, p->o.worker, on_wake, p);
	return p;
}

void pool_free(struct pool *p)
{
	if (!p)
		return;
	slots_desk(p->o.hub, p->o.worker, NULL, NULL);
	pool_net(p, NULL);
	loop_remove(p->o.loop, &p->bell);
	close(p->bell.fd);
	free(p);
}

/* ---- sets ---- */

static struct pool_set *set_find(struct pool *p, uint64_t serial)
{
	struct pool_set *s;
	HASH_FIND(hh, p->sets, &serial, sizeof(serial), s);
	return s;
}

struct pool_set *pool_set_get(struct pool *p, uint64_t serial)
{
	struct pool_set *s = set_find(p, serial);
	if (s || !(s = calloc(1, sizeof(*s))))
		return s;
	s->serial = serial;
	HASH_ADD(hh, p->sets, serial, sizeof(s->serial), s);
	return s;
}

void pool_set_rest(struct pool *p, struct pool_set *s)
{
	if (s->idle || s->links)
		return;
	HASH_DEL(p->sets, s);
	free(s);
}

/* ---- ending a connection ---- */

void pool_up_free(struct pool *p, struct up *u, bool politely)
{
	timer_stop(p->o.timers, &u->timer);
	io_close(&u->io, politely);
	km_buf_free(&u->in);
	km_buf_free(&u->out);
	route_rules_put(u->rules);
	if (u->slots) {
		slots_release(u->slots);
		slots_put(u->slots);
	}
	free(u);
}

/* Takes an unused connection out of the pool. */
static void up_unlink(struct pool *p, struct up *u)
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

void pool_drop(struct pool *p, struct up *u, bool politely)
{
	if (!u)
		return;
	if (u->link) {
		link_stream_drop(p, u, km_now_ms());
		return;
	}
	if (u->set)
		up_unlink(p, u);
	pool_up_free(p, u, politely);
}

/* Drops what is unused; agent NULL: of all. Links go with their last stream. */
static void clear(struct pool *p, const struct km_addr *agent)
{
	struct pool_set *s, *tmp;
	struct up *u, *u_tmp;
	HASH_ITER (hh, p->sets, s, tmp) {
		struct up *all = s->idle, *links = s->links;
		/* The last one takes the set along. */
		DL_FOREACH_SAFE (links, u, u_tmp)
			if (!agent || km_addr_eq(&u->agent, agent))
				link_close(p, u);
		DL_FOREACH_SAFE (all, u, u_tmp)
			if (!agent || km_addr_eq(&u->agent, agent))
				pool_drop(p, u, true);
	}
}

void pool_clear(struct pool *p)
{
	clear(p, NULL);
}

void pool_agent_gone(struct pool *p, const struct km_addr *agent)
{
	clear(p, agent);
}

static struct refusal *refusal_of(struct pool *p, const struct km_addr *agent)
{
	for (size_t i = 0; i < REFUSALS; i++)
		if (p->refusals[i].until && km_addr_eq(&p->refusals[i].agent, agent))
			return &p->refusals[i];
	return NULL;
}

void pool_refused(struct pool *p, const struct up *u, int64_t now)
{
	struct km_addr agent = u->agent;
	struct refusal *r = refusal_of(p, &agent);
	if (!r)
		r = &p->refusals[p->next_refusal++ % REFUSALS];
	*r = (struct refusal){agent, now + POOL_REFUSED_MS};
	clear(p, &agent);
}

bool pool_refuses(struct pool *p, const struct up *u, int64_t now)
{
	const struct refusal *r = refusal_of(p, &u->agent);
	return r && now < r->until;
}

void pool_net(struct pool *p, struct km_privnet *net)
{
	pool_clear(p);
	dial_spares_close(p);
	km_privnet_close(p->net, false);
	p->net = net;
}

struct km_privnet *pool_net_release(struct pool *p)
{
	struct km_privnet *net = p->net;
	p->net = NULL;
	return net;
}

/* ---- unused connections ---- */

/* Nothing has come, as far as reading tells: with TLS a ticket may have, which is no answer. */
static bool reads_nothing(struct up *u)
{
	return !u->io.can_read ||
	       (io_read(&u->io, &u->in, 1) == IO_WAIT && !u->io.eof && !u->io.broken);
}

static void on_woken(struct io *io)
{
	struct up *u = (struct up *)((char *)io - offsetof(struct up, io));
	if (u->owner) {
		u->pool->o.woken(u);
		return;
	}
	/* Unused: a writable event is stale, anything else is its end or bytes nobody asked for.
	 * One that is promised is looked at by who gets it. */
	if (u->promised || reads_nothing(u))
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
static bool silent(struct up *u, bool sure)
{
	char byte;
	if (loop_pending(u->io.loop, &u->io.at))
		sure = true;
	if (!sure)
		return true;
	if (u->io.ssl) {
		u->io.can_read = true;
		u->io.dry = false;
		return reads_nothing(u);
	}
	return recv(io_fd(&u->io), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
	       (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* Some targets close after each answer without saying so beforehand. */
static bool target_keeps(struct pool_set *s, int64_t now)
{
	struct up *oldest = s->idle->prev;
	if (!s->keeps && now - oldest->idle_since >= KEPT_MS)
		s->keeps = silent(oldest, true);
	return s->keeps;
}

static struct up *up_reuse(struct pool *p, const struct route *r, int64_t max_idle_ms, int64_t now)
{
	bool safe = max_idle_ms == INT64_MAX;
	for (;;) {
		struct pool_set *s = set_find(p, r->serial);
		struct up *u = s ? s->idle : NULL;
		/* Dropping takes it off its set. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
		if (!u || now - u->idle_since > max_idle_ms || (!safe && !target_keeps(s, now)))
			return NULL;
		if (now - u->idle_since <= u->idle_ms && silent(u, !safe)) {
			up_unlink(p, u);
			return u;
		}
		pool_drop(p, u, true);
	}
}

static struct up *unused(struct pool *p, const struct route *r, int64_t max_idle_ms, int64_t now,
			 struct exchange *owner)
{
	struct pool_set *s;
	struct up *u = NULL;
	if (r->rules && r->rules->proto == ROUTE_PROTO_H2C) {
		if ((s = set_find(p, r->serial)))
			u = link_stream(p, s, owner);
	} else if (max_idle_ms >= 0 && (u = up_reuse(p, r, max_idle_ms, now))) {
		u->owner = owner;
		u->reused = true;
	}
	if (u && u->reused)
		km_metric_add(p->reused, 1);
	return u;
}

/* ---- taking and waiting ---- */

static uint32_t most_of(const struct pool *p, const struct route *r)
{
	int64_t own = r->rules ? r->rules->max_connections : 0;
	return own > 0 && own <= UINT32_MAX ? (uint32_t)own : p->o.max_connections;
}

/* Closes unused connections that hold a slot of s, at most n; true if there was one. */
static bool yield(struct pool *p, const struct slots *s, uint32_t n)
{
	struct pool_set *set, *tmp;
	struct up *u, *u_tmp, *least = NULL;
	uint32_t before = n;
	HASH_ITER (hh, p->sets, set, tmp) {
		struct up *all = set->idle, *links = set->links;
		DL_FOREACH_SAFE (links, u, u_tmp) {
			if (u->slots != s || !n)
				continue;
			if (h2c_streams(u->h2c)) {
				if (h2c_room(u->h2c))
					least = u;
				continue;
			}
			link_close(p, u);
			n--;
		}
		DL_FOREACH_SAFE (all, u, u_tmp) {
			if (u->slots != s || !n)
				continue;
			pool_drop(p, u, true);
			n--;
		}
	}
	if (n == before && least)
		h2c_drain(least->h2c); /* its turn comes when its last stream has ended */
	return n != before;
}

/* With a slot in hand, which is the connection's or goes back. */
static int open_with_slot(struct pool *p, const struct route *r, struct exchange *owner,
			  struct up **out)
{
	struct slots *s = r->state->slots;
	bool h2 = r->rules && r->rules->proto == ROUTE_PROTO_H2C;
	int rc = h2 ? link_open(p, r, owner, out) : dial(p, r, NULL, on_woken, out);
	if (rc) {
		int e = errno;
		slots_release(s);
		errno = e;
		return rc;
	}
	struct up *u = h2 ? (*out)->link : *out;
	u->slots = slots_ref(s);
	if (!h2) {
		u->owner = owner;
		u->timer.fired = on_idle_end;
	} else if (slots_wanted(s)) {
		pool_offer(p, u, km_now_ms());
	}
	return 0;
}

int pool_take(struct pool *p, const struct route *r, int64_t max_idle_ms, int64_t now,
	      struct exchange *owner, struct pool_wait *w, struct up **out)
{
	struct slots *s = r->state->slots;
	uint32_t most = most_of(p, r);
	if ((*out = unused(p, r, max_idle_ms, now, owner)))
		return 0;
	int rc = slots_take(s, most);
	if (rc && yield(p, s, 1))
		rc = slots_take(s, most);
	if (!rc)
		return open_with_slot(p, r, owner, out);
	*w = (struct pool_wait){.serial = r->serial, .safe = max_idle_ms == INT64_MAX};
	rc = slots_wait(s, p->desk, most, p->o.queue, now, &w->slot);
	if (!rc)
		return open_with_slot(p, r, owner, out);
	if (rc == KM_EAGAIN) {
		w->owner = owner;
		km_metric_add(p->waited, 1);
		km_metric_add(p->waiting, 1);
	} else if (rc == KM_EFULL) {
		km_metric_add(p->turned_away, 1);
	}
	return rc;
}

int pool_granted(struct pool *p, const struct route *r, int64_t now, struct pool_wait *w,
		 struct up **out)
{
	struct exchange *owner = w->owner;
	struct up *u = w->up;
	w->owner = NULL;
	w->up = NULL;
	km_metric_add(p->waiting, -1);
	if (!u)
		return open_with_slot(p, r, owner, out);
	u->promised = false;
	bool good = u->link ? !u->stream.ended : reads_nothing(u) && silent(u, true);
	if (!good) {
		pool_drop(p, u, true);
		return pool_take(p, r, -1, now, owner, w, out);
	}
	u->owner = owner;
	u->reused = true;
	km_metric_add(p->reused, 1);
	*out = u;
	return 0;
}

void pool_leave(struct pool *p, struct pool_wait *w, int64_t now)
{
	if (!w->owner)
		return;
	struct up *u = w->up;
	bool had = slots_leave(&w->slot);
	km_metric_add(p->waiting, -1);
	w->owner = NULL;
	w->up = NULL;
	if (u) {
		u->promised = false;
		pool_give(p, u, now);
	} else if (had) {
		slots_release(w->slot.s);
	}
}

static void on_granted(void *arg, struct slots_wait *slot)
{
	struct pool *p = arg;
	struct pool_wait *w = (struct pool_wait *)((char *)slot - offsetof(struct pool_wait, slot));
	p->o.granted(w->owner);
}

static void on_asked(void *arg, struct slots *s)
{
	uint32_t n = slots_waiting(s);
	if (n)
		yield(arg, s, n);
}

static void on_bell(struct loop_fd *f, uint32_t events)
{
	struct pool *p = (struct pool *)((char *)f - offsetof(struct pool, bell));
	const struct slots_calls calls = {on_granted, on_asked, p};
	uint64_t n;
	(void)events;
	(void)!read(f->fd, &n, sizeof(n));
	slots_desk_run(p->desk, &calls);
	link_run(p);
}

/* ---- opening ---- */

int pool_dial(struct pool *p, const struct route *r, const struct pool_client *client,
	      struct exchange *owner, struct up **out)
{
	bool bounded = r->rules && r->rules->max_connections > 0;
	int rc = bounded ? slots_take(r->state->slots, most_of(p, r)) : 0;
	if (rc)
		return rc;
	if ((rc = dial(p, r, client, on_woken, out))) {
		int e = errno;
		if (bounded)
			slots_release(r->state->slots);
		errno = e;
		return rc;
	}
	(*out)->owner = owner;
	if (bounded)
		(*out)->slots = slots_ref(r->state->slots);
	return 0;
}

int pool_connect_check(struct up *u, int64_t now, struct km_errtext *why)
{
	return u->link ? link_check(u, why) : dial_check(u, now, why);
}

/* ---- giving back ---- */

static bool fits(const struct slots_wait *slot, const void *arg)
{
	const struct pool_wait *w =
	    (const struct pool_wait *)((const char *)slot - offsetof(struct pool_wait, slot));
	const struct up *u = arg;
	return w->serial == u->serial && (w->safe || u->reused || u->h2c);
}

static void promise(struct slots_wait *slot, struct up *u)
{
	struct pool_wait *w = (struct pool_wait *)((char *)slot - offsetof(struct pool_wait, slot));
	u->promised = true;
	w->up = u;
}

void pool_offer(struct pool *p, struct up *link, int64_t now)
{
	struct slots_wait *w;
	while (link->slots && slots_wanted(link->slots) && h2c_room(link->h2c)) {
		struct up *u;
		switch (slots_turn(link->slots, p->desk, now, fits, link, &w)) {
		case SLOTS_HERE:
			u = link_stream(p, link->set, NULL);
			if (!u) { /* no memory: it asks again */
				slots_refuse(w);
				return;
			}
			promise(w, u);
			break;
		case SLOTS_YIELD:
			link_close(p, link);
			return;
		default:
			return;
		}
	}
}

/* Somebody waits for it, here or elsewhere. */
static bool pass_on(struct pool *p, struct up *u, int64_t now)
{
	struct slots_wait *w;
	switch (slots_turn(u->slots, p->desk, now, fits, u, &w)) {
	case SLOTS_HERE:
		promise(w, u);
		return true;
	case SLOTS_YIELD:
		pool_drop(p, u, true);
		return true;
	default:
		return false;
	}
}

static bool usable(struct pool *p, struct up *u, int64_t now)
{
	if (u->ended || u->io.eof || u->io.broken || u->in.len || u->out.len || u->no_write ||
	    !u->connected || pool_refuses(p, u, now))
		return false;
	/* Ended, or bytes nobody asked for: their edge will not come again. */
	return reads_nothing(u);
}

void pool_give(struct pool *p, struct up *u, int64_t now)
{
	struct pool_set *s = NULL;
	u->owner = NULL;
	if (u->link || !usable(p, u, now))
		goto drop;
	km_buf_free(&u->in);
	km_buf_free(&u->out);
	if (u->slots && slots_wanted(u->slots) && pass_on(p, u, now))
		return;
	if (p->n_idle >= POOL_IDLE_MAX || !p->o.per_target || !p->o.timers->ms[TIMER_POOL] ||
	    !u->idle_ms || !(s = pool_set_get(p, u->serial)) || s->n >= p->o.per_target)
		goto drop;
	DL_PREPEND(s->idle, u);
	s->n++;
	s->keeps |= u->reused;
	u->set = s;
	u->idle_since = now;
	p->n_idle++;
	km_metric_add(p->idle, 1);
	timer_set(p->o.timers, &u->timer, TIMER_POOL, now);
	return;
drop:
	pool_drop(p, u, true);
}
