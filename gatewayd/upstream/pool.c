/* SPDX-License-Identifier: MIT */
#include "gatewayd/upstream/pool.h"
#include "gatewayd/upstream/back.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/proxy2.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uthash.h>
#include <utlist.h>

#define UNACKNOWLEDGED_MS 20000
/* A connection that is open so long after its answer shows that the target keeps them; the end of
 * one that it closed has come through the tunnel by then. */
#define KEPT_MS 250

/* The unused connections of one version of one tunnel, the latest first. */
struct pool_set {
	uint64_t serial;
	struct up *idle;
	size_t n;
	bool keeps; /* the target is known to keep connections open after an answer */
	UT_hash_handle hh;
};

/* An agent that refused a connection of late. */
struct refusal {
	struct km_addr agent;
	int64_t until;
};
#define REFUSALS 32 /* more at once, and some are forgotten */

/* Sockets made in advance, of one address family. */
struct spares {
	int fds[KM_PRIVNET_SOCKETS_MAX];
	size_t n;
};

struct pool {
	struct pool_opts o;
	struct km_privnet *net;
	struct spares v4, v6;
	struct pool_set *sets;
	size_t n_idle;
	struct refusal refusals[REFUSALS];
	size_t next_refusal;
	struct km_metric *opened, *reused, *idle;
	struct km_log_limit log;
};

struct pool *pool_new(const struct pool_opts *opts)
{
	struct pool *p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->o = *opts;
	p->opened = km_metric(KM_METRIC_COUNTER, "kakuremichi_upstream_connections_total", "",
			      "Connections opened to agents.");
	p->reused = km_metric(KM_METRIC_COUNTER, "kakuremichi_upstream_reused_total", "",
			      "Requests that went out on a connection that was open already.");
	p->idle = km_metric(KM_METRIC_GAUGE, "kakuremichi_upstream_idle", "",
			    "Open connections to agents that no request uses.");
	return p;
}

static void spares_close(struct spares *s)
{
	while (s->n)
		close(s->fds[--s->n]);
}

/* ---- ending a connection ---- */

static void up_free(struct pool *p, struct up *u, bool politely)
{
	timer_stop(p->o.timers, &u->timer);
	io_close(&u->io, politely);
	km_buf_free(&u->in);
	km_buf_free(&u->out);
	free(u);
}

/* Takes an unused connection out of the pool. */
static void up_unlink(struct pool *p, struct up *u)
{
	struct pool_set *s = u->set;
	DL_DELETE(s->idle, u);
	u->set = NULL;
	p->n_idle--;
	km_metric_add(p->idle, -1);
	timer_stop(p->o.timers, &u->timer);
	if (!--s->n) {
		HASH_DEL(p->sets, s);
		free(s);
	}
}

void pool_drop(struct pool *p, struct up *u, bool politely)
{
	if (!u)
		return;
	if (u->set)
		up_unlink(p, u);
	up_free(p, u, politely);
}

/* Drops what is unused; agent NULL: of all. */
static void clear(struct pool *p, const struct km_addr *agent)
{
	struct pool_set *s, *tmp;
	struct up *u, *u_tmp;
	HASH_ITER (hh, p->sets, s, tmp) {
		struct up *all = s->idle;
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
	struct refusal *r = refusal_of(p, &u->agent);
	if (!r)
		r = &p->refusals[p->next_refusal++ % REFUSALS];
	*r = (struct refusal){u->agent, now + POOL_REFUSED_MS};
	clear(p, &u->agent);
}

static bool is_refusing(struct pool *p, const struct up *u, int64_t now)
{
	const struct refusal *r = refusal_of(p, &u->agent);
	return r && now < r->until;
}

void pool_net(struct pool *p, struct km_privnet *net)
{
	pool_clear(p);
	spares_close(&p->v4);
	spares_close(&p->v6);
	km_privnet_close(p->net, false);
	p->net = net;
}

struct km_privnet *pool_net_release(struct pool *p)
{
	struct km_privnet *net = p->net;
	p->net = NULL;
	return net;
}

void pool_free(struct pool *p)
{
	if (!p)
		return;
	pool_net(p, NULL);
	free(p);
}

/* ---- events ---- */

static void on_woken(struct io *io)
{
	struct up *u = (struct up *)((char *)io - offsetof(struct up, io));
	if (u->owner) {
		u->pool->o.woken(u);
		return;
	}
	/* Unused: a writable event is stale, anything else is its end or bytes nobody asked for. */
	if (!io->can_read)
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

/* ---- opening ---- */

static int socket_take(struct pool *p, int family, int *fd)
{
	struct spares *s = family == AF_INET ? &p->v4 : &p->v6;
	struct km_errtext err;
	uint32_t held;
	if (!p->net)
		return KM_ECLOSED;
	if (!s->n) {
		int rc = km_privnet_sockets(p->net, family, SOCK_STREAM, 0, s->fds,
					    KM_PRIVNET_SOCKETS_MAX, &err);
		if (rc) {
			if (km_log_allow(&p->log, km_now_ms(), 3, 10000, &held))
				km_error("no sockets from the private network",
					 km_ks("why", err.text), km_ki("held", held));
			return rc;
		}
		s->n = KM_PRIVNET_SOCKETS_MAX;
	}
	*fd = s->fds[--s->n];
	return 0;
}

/* An agent that is gone without a word is noticed: at once when it owes an acknowledgement, by
 * probes when an upgraded connection is silent. */
static void options_set(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
	    {IPPROTO_TCP, TCP_NODELAY, 1},
	    {IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS},
	    {SOL_SOCKET, SO_KEEPALIVE, 1},
	    {IPPROTO_TCP, TCP_KEEPIDLE, UNACKNOWLEDGED_MS / 1000},
	};
	for (size_t i = 0; i < KM_ARRAY_LEN(options); i++)
		(void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
				 sizeof(options[i].value));
}

static int header_write(struct up *u, const struct route *r, const struct pool_client *client)
{
	struct km_proxy2 h = {.has_tunnel = true, .has_target = true};
	uint8_t bytes[KM_PROXY2_WRITE_MAX];
	memcpy(h.tunnel, r->tunnel, sizeof(h.tunnel));
	memcpy(h.target, r->target, sizeof(h.target));
	if (client) {
		h.proxied = h.has_addrs = true;
		h.src = client->src;
		h.dst = client->dst;
		h.src_port = client->src_port;
		h.dst_port = client->dst_port;
	}
	return km_buf_add(&u->out, bytes, km_proxy2_write(bytes, &h));
}

static int up_open(struct pool *p, const struct route *r, const struct pool_client *client,
		   struct exchange *owner, struct up **out)
{
	struct sockaddr_storage ss;
	socklen_t len = km_addr_to_sa(&ss, &r->agent, UP_AGENT_PORT);
	int fd = -1, rc;
	struct up *u = calloc(1, sizeof(*u));
	if (!u)
		return KM_ENOMEM;
	u->back = &back_h1;
	io_none(&u->io);
	u->pool = p;
	u->owner = owner;
	u->serial = r->serial;
	u->agent = r->agent;
	u->timer.fired = on_idle_end;
	km_buf_init(&u->in, p->o.buf_max);
	km_buf_init(&u->out, p->o.buf_max);
	if ((rc = header_write(u, r, client)) || (rc = socket_take(p, r->agent.family, &fd)))
		goto out;
	options_set(fd);
	if (connect(fd, (struct sockaddr *)&ss, len) && errno != EINPROGRESS) {
		rc = KM_EIO;
		goto out;
	}
	if (io_open(&u->io, p->o.loop, fd, NULL, on_woken)) {
		rc = KM_ENOMEM;
		goto out;
	}
	km_metric_add(p->opened, 1);
	*out = u;
	return 0;
out:;
	int e = errno;
	if (fd >= 0)
		close(fd);
	up_free(p, u, true);
	errno = e;
	return rc;
}

/* Neither ended nor with bytes that nobody asked for, which would be taken for an answer; their
 * event may stand behind the one that is being handled. */
static bool silent(const struct up *u)
{
	char byte;
	return recv(io_fd(&u->io), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 &&
	       (errno == EAGAIN || errno == EWOULDBLOCK);
}

/* Some targets close after each answer without saying so beforehand. */
static bool target_keeps(struct pool_set *s, int64_t now)
{
	const struct up *oldest = s->idle->prev;
	if (!s->keeps && now - oldest->idle_since >= KEPT_MS)
		s->keeps = silent(oldest);
	return s->keeps;
}

static struct up *up_reuse(struct pool *p, const struct route *r, int64_t max_idle_ms, int64_t now)
{
	struct pool_set *s;
	struct up *u;
	for (;;) {
		HASH_FIND(hh, p->sets, &r->serial, sizeof(r->serial), s);
		u = s ? s->idle : NULL;
		/* Dropping takes it off its set. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
		if (!u || now - u->idle_since > max_idle_ms ||
		    (max_idle_ms != INT64_MAX && !target_keeps(s, now)))
			return NULL;
		if (silent(u)) {
			up_unlink(p, u);
			return u;
		}
		pool_drop(p, u, true);
	}
}

int pool_take(struct pool *p, const struct route *r, int64_t max_idle_ms, int64_t now,
	      struct exchange *owner, struct up **out)
{
	struct up *u = max_idle_ms < 0 ? NULL : up_reuse(p, r, max_idle_ms, now);
	if (!u)
		return up_open(p, r, NULL, owner, out);
	u->owner = owner;
	u->reused = true;
	km_metric_add(p->reused, 1);
	*out = u;
	return 0;
}

int pool_dial(struct pool *p, const struct route *r, const struct pool_client *client,
	      struct exchange *owner, struct up **out)
{
	return up_open(p, r, client, owner, out);
}

int pool_connect_check(struct up *u, int64_t now)
{
	int error = 0;
	socklen_t len = sizeof(error);
	if (u->connected || !u->io.can_write)
		return 0;
	if (getsockopt(io_fd(&u->io), SOL_SOCKET, SO_ERROR, &error, &len))
		return errno;
	if (error == ECONNREFUSED)
		pool_refused(u->pool, u, now);
	u->connected = !error;
	return error;
}

void pool_give(struct pool *p, struct up *u, int64_t now)
{
	struct pool_set *s;
	u->owner = NULL;
	if (u->ended || u->io.eof || u->io.broken || u->in.len || u->out.len || u->no_write ||
	    is_refusing(p, u, now) || p->n_idle >= POOL_IDLE_MAX || !p->o.per_target ||
	    !p->o.timers->ms[TIMER_POOL])
		goto drop;
	if (u->io.can_read && io_read(&u->io, &u->in, 1) != IO_WAIT)
		goto drop; /* ended, or bytes nobody asked for; their edge will not come again */
	HASH_FIND(hh, p->sets, &u->serial, sizeof(u->serial), s);
	if (!s) {
		if (!(s = calloc(1, sizeof(*s))))
			goto drop;
		s->serial = u->serial;
		HASH_ADD(hh, p->sets, serial, sizeof(s->serial), s);
	} else if (s->n >= p->o.per_target) {
		goto drop;
	}
	km_buf_free(&u->in);
	km_buf_free(&u->out);
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
