/* SPDX-License-Identifier: MIT */
/* An exchange gets a connection, or waits for one. */
#include "gatewayd/edge/exchange.h"
#include "gatewayd/upstream/internal.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stddef.h>
#include <unistd.h>

static enum route_proto proto_of(const struct route *r)
{
	return r->rules ? r->rules->proto : ROUTE_PROTO_HTTP;
}

/* What it is to be is the target's choice; but an upgrade needs HTTP/1.1. */
static bool any_version(const struct route *r, const struct exchange *owner)
{
	return proto_of(r) == ROUTE_PROTO_HTTPS && !owner->upgrade;
}

static bool may_share(const struct route *r, const struct exchange *owner)
{
	return proto_of(r) == ROUTE_PROTO_H2C || any_version(r, owner);
}

static struct up *unused(struct pool *p, const struct route *r, int64_t max_idle_ms, int64_t now,
			 struct exchange *owner)
{
	struct pool_set *s = pool_set_find(p, r->serial);
	struct up *u = NULL;
	if (s && s->links && may_share(r, owner))
		u = link_stream(p, s, owner);
	if (!u && s && s->idle && max_idle_ms >= 0 && (u = unused_take(p, r, max_idle_ms, now))) {
		u->owner = owner;
		u->reused = true;
	}
	if (u && u->reused)
		km_metric_add(p->reused, 1);
	return u;
}

static uint32_t most_of(const struct pool *p, const struct route *r)
{
	int64_t own = r->rules ? r->rules->max_connections : 0;
	return own > 0 && own <= UINT32_MAX ? (uint32_t)own : p->o.max_connections;
}

/* Closes unused connections that hold a slot of s, at most n; true if there was one. For others:
 * not what is of use here only. */
static bool yield(struct pool *p, struct slots *s, uint32_t n, bool others)
{
	struct pool_set *set, *tmp;
	struct up *u, *u_tmp, *least = NULL;
	uint32_t before = n;
	HASH_ITER (hh, p->sets, set, tmp) {
		struct up *all = set->idle, *links = set->links;
		DL_FOREACH_SAFE (links, u, u_tmp) {
			if (u->slots != s || !n || (others && slots_own(s, p->desk)))
				continue;
			if (up_h2_streams(u->h2)) {
				if (up_h2_room(u->h2))
					least = u;
				continue;
			}
			link_close(p, u);
			n--;
		}
		DL_FOREACH_SAFE (all, u, u_tmp) {
			if (u->slots != s || !n || (others && slots_own(s, p->desk)))
				continue;
			pool_drop(p, u, true);
			n--;
		}
	}
	if (n == before && least)
		up_h2_drain(least->h2); /* its turn comes when its last stream has ended */
	return n != before;
}

/* With a slot in hand, which is the connection's or goes back. KM_EAGAIN: w waits on, for what it
 * turns out to be. */
static int open_with_slot(struct pool *p, const struct route *r, struct exchange *owner,
			  struct pool_wait *w, struct up **out)
{
	struct slots *s = r->state->slots;
	bool waits = any_version(r, owner), h2 = proto_of(r) == ROUTE_PROTO_H2C;
	int rc = waits ? opening_begin(p, r, w)
		 : h2  ? link_open(p, r, owner, out)
		       : dial(p, r, NULL, pool_woken, out);
	if (rc) {
		int e = errno;
		slots_release(s, p->desk);
		errno = e;
		return rc;
	}
	struct up *u = waits ? w->opening : h2 ? (*out)->link : *out;
	u->slots = slots_ref(s);
	if (waits)
		w->owner = owner;
	else if (!h2)
		u->owner = owner;
	else if (slots_wanted(s))
		pool_offer(p, u, km_now_ms());
	return waits ? KM_EAGAIN : 0;
}

/* What is known before anything is opened: how a target's connections are counted. */
static void slots_told(struct slots *s, const struct route *r)
{
	bool h2 = proto_of(r) == ROUTE_PROTO_H2C;
	if (proto_of(r) != ROUTE_PROTO_HTTPS &&
	    slots_speaks(s, r->serial) != (h2 ? SLOTS_HTTP2 : SLOTS_HTTP1))
		slots_spoke(s, r->serial, h2);
}

int pool_take(struct pool *p, const struct route *r, int64_t max_idle_ms, int64_t now,
	      struct exchange *owner, struct pool_wait *w, struct up **out)
{
	struct slots *s = r->state->slots;
	uint32_t most = most_of(p, r);
	if ((*out = unused(p, r, max_idle_ms, now, owner)))
		return 0;
	*w = (struct pool_wait){
	    .serial = r->serial, .safe = max_idle_ms == INT64_MAX, .shares = may_share(r, owner)};
	if (any_version(r, owner) && opening_join(p, r, w)) {
		w->owner = owner;
		return KM_EAGAIN;
	}
	slots_told(s, r);
	int rc = slots_take(s, p->desk, most);
	if (rc && yield(p, s, 1, false))
		rc = slots_take(s, p->desk, most);
	if (!rc)
		return open_with_slot(p, r, owner, w, out);
	rc = slots_wait(s, p->desk, most, p->o.queue, now, &w->slot);
	if (!rc)
		return open_with_slot(p, r, owner, w, out);
	if (rc == KM_EAGAIN) {
		w->owner = owner;
		km_metric_add(p->waited, 1);
		km_metric_add(p->waiting, 1);
	} else if (rc == KM_EFULL) {
		km_metric_add(p->turned_away, 1);
	}
	return rc;
}

static int granted_opened(struct pool *p, const struct route *r, int64_t now,
			  struct exchange *owner, struct up *u, struct pool_wait *w,
			  struct up **out)
{
	w->opened = false;
	if (w->rc)
		return w->rc;
	if (!u)
		return pool_take(p, r, w->safe ? INT64_MAX : -1, now, owner, w, out);
	u->promised = false;
	u->owner = owner;
	*out = u;
	return 0;
}

int pool_granted(struct pool *p, const struct route *r, int64_t now, struct pool_wait *w,
		 struct up **out)
{
	struct exchange *owner = w->owner;
	struct up *u = w->up;
	w->owner = NULL;
	w->up = NULL;
	if (w->opened)
		return granted_opened(p, r, now, owner, u, w, out);
	km_metric_add(p->waiting, -1);
	if (!u)
		return open_with_slot(p, r, owner, w, out);
	u->promised = false;
	bool good = u->link ? !u->stream.ended : unused_reads_nothing(u) && unused_silent(u, true);
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

int pool_dial(struct pool *p, const struct route *r, const struct pool_client *client,
	      struct exchange *owner, struct up **out)
{
	bool bounded = r->rules && r->rules->max_connections > 0;
	if (bounded)
		slots_told(r->state->slots, r);
	int rc = bounded ? slots_take(r->state->slots, p->desk, most_of(p, r)) : 0;
	if (rc)
		return rc;
	if ((rc = dial(p, r, client, pool_woken, out))) {
		int e = errno;
		if (bounded)
			slots_release(r->state->slots, p->desk);
		errno = e;
		return rc;
	}
	(*out)->owner = owner;
	if (bounded)
		(*out)->slots = slots_ref(r->state->slots);
	return 0;
}

void pool_leave(struct pool *p, struct pool_wait *w, int64_t now)
{
	if (!w->owner)
		return;
	struct up *u = w->up;
	w->owner = NULL;
	w->up = NULL;
	if (w->opening || w->opened) {
		opening_leave(p, w);
		return;
	}
	bool had = slots_leave(&w->slot);
	km_metric_add(p->waiting, -1);
	if (u) {
		u->promised = false;
		pool_give(p, u, now);
	} else if (had) {
		slots_release(w->slot.s, p->desk);
	}
}

const char *pool_waits_for(const struct pool_wait *w)
{
	if (!w->opening)
		return NULL;
	return w->opening->tcp ? "the TLS handshake with the target took too long"
			       : "connection to the agent took too long";
}

bool pool_queued(const struct pool_wait *w)
{
	return w->owner && !w->opening && !w->opened;
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
		yield(arg, s, n, true);
}

void pool_bell(struct loop_fd *f, uint32_t events)
{
	struct pool *p = (struct pool *)((char *)f - offsetof(struct pool, bell));
	const struct slots_calls calls = {on_granted, on_asked, p};
	uint64_t n;
	(void)events;
	(void)!read(f->fd, &n, sizeof(n));
	slots_desk_run(p->desk, &calls);
	link_run(p);
}
