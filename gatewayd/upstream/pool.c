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
	p->bell = (struct loop_fd){eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), pool_bell};
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

/* ---- ending a connection ---- */

void pool_up_free(struct pool *p, struct up *u, bool politely)
{
	timer_stop(p->o.timers, &u->timer);
	io_close(&u->io, politely);
	km_buf_free(&u->in);
	km_buf_free(&u->out);
	route_rules_put(u->rules);
	if (u->slots) {
		slots_release(u->slots, p->desk);
		slots_put(u->slots);
	}
	free(u);
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
		unused_unlink(p, u);
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

const char *pool_why(const struct pool *p)
{
	return p->why.text;
}

static struct refusal *refusal_of(struct pool *p, const struct km_addr *agent)
{
	for (size_t i = 0; i < REFUSALS; i++)
		if (p->refusals[i].until && km_addr_eq(&p->refusals[i].agent, agent))
			return &p->refusals[i];
	return NULL;
}

static void refuse(struct pool *p, struct km_addr agent, int64_t now)
{
	struct refusal *r = refusal_of(p, &agent);
	if (!r)
		r = &p->refusals[p->next_refusal++ % REFUSALS];
	*r = (struct refusal){agent, now + POOL_REFUSED_MS};
	clear(p, &agent);
}

void pool_refused(struct pool *p, const struct up *u, int64_t now)
{
	refuse(p, u->agent, now);
}

void pool_agent_gone(struct pool *p, const struct km_addr *agent, int64_t now)
{
	refuse(p, *agent, now); /* what who waits has been promised is given back, and kept by nobody */
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
	openings_end(p);
}

struct km_privnet *pool_net_release(struct pool *p)
{
	struct km_privnet *net = p->net;
	p->net = NULL;
	return net;
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
	return w->serial == u->serial && (u->h2 ? w->shares : w->safe || u->reused);
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
	while (link->slots && slots_wanted(link->slots) && up_h2_room(link->h2)) {
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
	return unused_reads_nothing(u);
}

void pool_give(struct pool *p, struct up *u, int64_t now)
{
	u->owner = NULL;
	if (u->link || !usable(p, u, now))
		goto drop;
	km_buf_free(&u->in);
	km_buf_free(&u->out);
	if (u->slots && slots_wanted(u->slots) && pass_on(p, u, now))
		return;
	if (unused_put(p, u, now))
		return;
drop:
	pool_drop(p, u, true);
}
