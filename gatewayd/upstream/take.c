/* SPDX-License-Identifier: MIT */
/* An exchange gets a connection, or waits for one. */
#include "gatewayd/upstream/internal.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stddef.h>
#include <unistd.h>

static struct up *unused(struct pool *p, const struct route *r, int64_t max_idle_ms, int64_t now,
			 struct exchange *owner)
{
	struct pool_set *s;
	struct up *u = NULL;
	if (r->rules && r->rules->proto == ROUTE_PROTO_H2C) {
		if ((s = pool_set_find(p, r->serial)))
			u = link_stream(p, s, owner);
	} else if (max_idle_ms >= 0 && (u = unused_take(p, r, max_idle_ms, now))) {
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
			if (up_h2_streams(u->h2)) {
				if (up_h2_room(u->h2))
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
		up_h2_drain(least->h2); /* its turn comes when its last stream has ended */
	return n != before;
}

/* With a slot in hand, which is the connection's or goes back. */
static int open_with_slot(struct pool *p, const struct route *r, struct exchange *owner,
			  struct up **out)
{
	struct slots *s = r->state->slots;
	bool h2 = r->rules && r->rules->proto == ROUTE_PROTO_H2C;
	int rc = h2 ? link_open(p, r, owner, out) : dial(p, r, NULL, pool_woken, out);
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
	int rc = bounded ? slots_take(r->state->slots, most_of(p, r)) : 0;
	if (rc)
		return rc;
	if ((rc = dial(p, r, client, pool_woken, out))) {
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
