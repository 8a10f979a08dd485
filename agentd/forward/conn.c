/* SPDX-License-Identifier: MIT */
/* One connection of a gateway's: header, dial, splice. Events are edge-triggered: every callback
 * works until nothing more can be done, or asks for another turn. */
#include "agentd/forward/worker.h"
#include "libkm/base/log.h"
#include "libkm/base/proxy2.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#define BUDGET (1 << 20) /* bytes per direction and turn */
#define EVENTS (EV_READ | EV_WRITE | EV_CLOSED | EV_ET | EV_PERSIST)
#define UNKNOWN_MS 500   /* a gateway may hear of a tunnel sooner than we do */

enum conn_state { CONN_HEADER, CONN_UNKNOWN, CONN_DIALING, CONN_OPEN };

struct conn {
	struct worker *w;
	struct conn *prev, *next;
	struct conn *again_prev, *again_next;
	bool in_again;
	enum conn_state state;
	struct km_addr gateway;
	uint8_t tunnel_id[16], target_id[16]; /* as the header names them */
	struct tunnel *tunnel;
	struct dial *dial;
	int64_t active_ms; /* when bytes last moved */
	int gw, target;
	bool gw_closing; /* the gateway has ended its side */
	struct event gw_event, target_event, timer;
	struct pump in, out; /* to the target, and from it */
	enum pump_verdict in_waits, out_waits; /* what they said last; PUMP_MORE: try */
};

static void flow(struct conn *c, bool gw_event, bool target_event);

static void set_timer(struct conn *c, int64_t ms)
{
	struct timeval tv = {ms / 1000, (ms % 1000) * 1000};

	event_add(&c->timer, &tv);
}

static void tune(int fd)
{
	int on = 1, idle = 60, interval = 15, count = 4;

	/* A Unix socket has none of these; nothing is lost then. */
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static void close_fd(struct event *ev, int *fd, bool reset)
{
	static const struct linger at_once = {1, 0};

	if (*fd < 0)
		return;
	event_del(ev);
	if (reset)
		setsockopt(*fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(*fd);
	*fd = -1;
}

static void conn_end(struct conn *c, bool reset)
{
	struct worker *w = c->w;

	dial_cancel(c->dial);
	event_del(&c->timer);
	if (c->state == CONN_OPEN) {
		pump_drop(&c->in, &w->pool);
		pump_drop(&c->out, &w->pool);
	}
	close_fd(&c->target_event, &c->target, reset);
	close_fd(&c->gw_event, &c->gw, reset);
	if (c->in_again)
		DL_DELETE2(w->again, c, again_prev, again_next);
	DL_DELETE(w->conns, c);
	tunnel_unref(c->tunnel);
	free(c);
	atomic_fetch_sub(&w->f->active, 1);
	km_metric_add(w->f->active_gauge, -1);
	worker_room(w);
}

void conn_reset(struct conn *c)
{
	conn_end(c, true);
}

/* ---- the header ---- */

static void log_refusal(struct conn *c, struct km_metric *m, const char *why)
{
	static struct km_log_limit limit;
	char addr[KM_ADDR_STRLEN];
	uint32_t held;

	km_metric_add(m, 1);
	if (km_log_allow(&limit, km_now_ms(), 10, 1000, &held))
		km_warn("connection refused", km_ks("from", km_addr_str(&c->gateway, addr)),
			km_ks("reason", why), km_ks("domain", c->tunnel ? c->tunnel->domain : NULL),
			km_ks("target", c->tunnel ? c->tunnel->target_text : NULL),
			km_ki("held_back", held));
}

static void refuse(struct conn *c, struct km_metric *m, const char *why)
{
	log_refusal(c, m, why);
	if (c->tunnel)
		km_metric_add(c->tunnel->errors, 1);
	conn_reset(c);
}

static void on_dialled(void *arg, int fd, int err, const char *why);

static void dial(struct conn *c)
{
	struct forward *f = c->w->f;

	if (!c->tunnel->enabled || c->tunnel->datagram) {
		refuse(c, f->refused_tunnel,
		       c->tunnel->enabled ? "the tunnel is for UDP" : "the tunnel is disabled");
		return;
	}
	if (c->tunnel->refused) {
		refuse(c, f->refused_target, "the target is not in allow_targets");
		return;
	}
	c->state = CONN_DIALING;
	event_del(&c->timer);
	c->dial =
	    dial_start(&c->w->env, &c->tunnel->target, f->opts.connect_timeout_ms, on_dialled, c);
	if (!c->dial)
		conn_reset(c);
}

/* An unknown tunnel is waited for a little while: conn_sweep looks again when there are new ones.
 */
static void look_up(struct conn *c)
{
	c->tunnel = tunnel_table_find(&c->w->f->tunnels, c->tunnel_id, c->target_id);
	if (c->tunnel) {
		dial(c);
	} else if (c->state == CONN_HEADER) {
		c->state = CONN_UNKNOWN;
		set_timer(c, UNKNOWN_MS);
	}
}

static void take_header(struct conn *c, const struct km_proxy2 *h)
{
	if (!h->has_tunnel || !h->has_target) {
		refuse(c, c->w->f->refused_header, "the header names no tunnel and target");
		return;
	}
	memcpy(c->tunnel_id, h->tunnel, sizeof(c->tunnel_id));
	memcpy(c->target_id, h->target, sizeof(c->target_id));
	look_up(c);
}

static bool ended(int fd, short what)
{
	struct pollfd p = {fd, what, 0};

	return poll(&p, 1, 0) > 0;
}

/* The header is looked at in the socket, and taken out of it when it is whole, so that what follows
 * it stays there for the pump. */
static void read_header(struct conn *c)
{
	uint8_t buf[KM_PROXY2_PARSE_MAX];
	ssize_t n = recv(c->gw, buf, sizeof(buf), MSG_PEEK | MSG_DONTWAIT);
	struct km_proxy2 h;
	size_t used;
	int rc;

	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			conn_reset(c);
		return;
	}
	rc = n ? km_proxy2_parse(&h, buf, (size_t)n, &used) : KM_ETRUNC;
	if (rc == KM_ETRUNC) {
		if (ended(c->gw, POLLRDHUP))
			refuse(c, c->w->f->refused_header, "closed before the header was whole");
		return;
	}
	if (rc || recv(c->gw, buf, used, MSG_DONTWAIT) != (ssize_t)used) {
		refuse(c, c->w->f->refused_header, "no PROXY v2 header");
		return;
	}
	take_header(c, &h);
}

/* ---- the target ---- */

static void log_unreachable(struct conn *c, const char *why)
{
	static struct km_log_limit limit;
	uint32_t held;

	if (km_log_allow(&limit, km_now_ms(), 10, 1000, &held))
		km_warn("target unreachable", km_ks("domain", c->tunnel->domain),
			km_ks("target", c->tunnel->target_text), km_ks("error", why),
			km_ki("held_back", held));
}

static void on_target(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;

	(void)fd;
	c->out.closing |= (what & EV_CLOSED) != 0;
	flow(c, false, true);
}

static void on_dialled(void *arg, int fd, int err, const char *why)
{
	struct conn *c = arg;
	struct forward *f = c->w->f;

	c->dial = NULL;
	forward_seen(f, c->tunnel, err == 0, why);
	if (err) {
		km_metric_add(c->tunnel->errors, 1);
		if (err == KM_EPERM)
			log_refusal(c, f->refused_target, why);
		else
			log_unreachable(c, why);
		conn_reset(c);
		return;
	}
	tune(fd);
	c->target = fd;
	c->state = CONN_OPEN;
	c->active_ms = km_now_ms();
	pump_init(&c->in, c->gw, fd);
	c->in.closing = c->gw_closing;
	pump_init(&c->out, fd, c->gw);
	c->in_waits = c->out_waits = PUMP_MORE;
	km_metric_add(c->tunnel->connections, 1);
	set_timer(c, f->opts.idle_timeout_ms);
	event_assign(&c->target_event, c->w->base, fd, EVENTS, on_target, c);
	if (event_add(&c->target_event, NULL) != 0) {
		conn_reset(c);
		return;
	}
	flow(c, false, false);
}

/* ---- both ways ---- */

static void ask_again(struct conn *c)
{
	static const struct timeval now;

	if (c->in_again)
		return;
	c->in_again = true;
	if (!c->w->again)
		event_add(c->w->again_event, &now);
	DL_APPEND2(c->w->again, c, again_prev, again_next);
}

/* A side whose bytes nobody reads at the moment can still have been reset. */
static bool broken_unread(int fd, bool woken, enum pump_verdict reading)
{
	return woken && (reading == PUMP_WAIT_WRITE || reading == PUMP_DONE) && ended(fd, 0);
}

static enum pump_verdict move(struct conn *c, struct pump *p, struct km_metric *bytes, int64_t now)
{
	uint64_t moved;
	enum pump_verdict v = pump_run(p, &c->w->pool, now, BUDGET, &moved);

	if (moved) {
		km_metric_add(bytes, (int64_t)moved);
		c->active_ms = now;
	}
	return v;
}

/* Whether an event of the side that it reads, or of the one that it writes to, may let it go on. */
static bool may_move(enum pump_verdict waits, bool from_event, bool to_event)
{
	return waits == PUMP_MORE || (waits == PUMP_WAIT_READ && from_event) ||
	       (waits == PUMP_WAIT_WRITE && to_event);
}

static void flow(struct conn *c, bool gw_event, bool target_event)
{
	int64_t now = km_now_ms();

	if (may_move(c->in_waits, gw_event, target_event))
		c->in_waits = move(c, &c->in, c->tunnel->bytes_in, now);
	if (may_move(c->out_waits, target_event, gw_event))
		c->out_waits = move(c, &c->out, c->tunnel->bytes_out, now);
	enum pump_verdict in = c->in_waits, out = c->out_waits;
	if (in == PUMP_DONE && out == PUMP_DONE) {
		conn_end(c, false);
		return;
	}
	if (in == PUMP_BROKEN || out == PUMP_BROKEN || broken_unread(c->gw, gw_event, in) ||
	    broken_unread(c->target, target_event, out)) {
		km_metric_add(c->tunnel->errors, 1);
		conn_reset(c);
		return;
	}
	if (in == PUMP_MORE || out == PUMP_MORE)
		ask_again(c);
}

void conn_again(struct worker *w)
{
	struct conn *turn = w->again, *c;

	/* Whoever asks again meanwhile waits for the next round of the loop. */
	w->again = NULL;
	while ((c = turn)) {
		DL_DELETE2(turn, c, again_prev, again_next);
		c->in_again = false;
		flow(c, false, false);
	}
}

static void on_gateway(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;

	c->gw_closing |= (what & EV_CLOSED) != 0;
	c->in.closing = c->gw_closing;
	switch (c->state) {
	case CONN_HEADER:
		read_header(c);
		break;
	case CONN_UNKNOWN:
	case CONN_DIALING:
		if (ended(fd, 0))
			conn_reset(c); /* the gateway has given up */
		break;
	case CONN_OPEN:
		flow(c, true, false);
		break;
	}
}

static void on_timer(evutil_socket_t none, short what, void *arg)
{
	struct conn *c = arg;
	int64_t left;

	(void)none;
	(void)what;
	if (c->state == CONN_HEADER) {
		refuse(c, c->w->f->refused_header, "no header in time");
		return;
	}
	if (c->state == CONN_UNKNOWN) {
		refuse(c, c->w->f->refused_tunnel, "unknown tunnel");
		return;
	}
	left = c->active_ms + c->w->f->opts.idle_timeout_ms - km_now_ms();
	if (left > 0)
		set_timer(c, left);
	else
		conn_reset(c);
}

void conn_new(struct worker *w, int fd, const struct km_addr *gateway)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (!c) {
		close(fd);
		atomic_fetch_sub(&w->f->active, 1);
		return;
	}
	tune(fd);
	c->w = w;
	c->gateway = *gateway;
	c->gw = fd;
	c->target = -1;
	km_metric_add(w->f->active_gauge, 1);
	DL_APPEND(w->conns, c);
	event_assign(&c->timer, w->base, -1, EV_TIMEOUT, on_timer, c);
	event_assign(&c->gw_event, w->base, fd, EVENTS, on_gateway, c);
	if (event_add(&c->gw_event, NULL) != 0) {
		conn_reset(c);
		return;
	}
	set_timer(c, w->f->opts.header_timeout_ms);
}

/* ---- all at once ---- */

void conn_sweep(struct worker *w)
{
	struct conn *c, *tmp;

	DL_FOREACH_SAFE (w->conns, c, tmp) {
		if (c->state == CONN_UNKNOWN)
			look_up(c);
		else if (c->tunnel && !tunnel_table_serves(&w->f->tunnels, c->tunnel->id))
			conn_reset(c);
	}
}

void conn_sweep_gateways(struct worker *w)
{
	struct conn *c, *tmp;

	DL_FOREACH_SAFE (w->conns, c, tmp) {
		if (!forward_knows(w->f, &c->gateway))
			conn_reset(c);
	}
}
