/* SPDX-License-Identifier: MIT */
#include <urcu/urcu-memb.h>

#include "gatewayd/edge/access_log.h"
#include "gatewayd/edge/conn.h"
#include "gatewayd/edge/worker.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

#define ACCEPT_BATCH 32 /* per wakeup, so that other workers and connections have their turn */
#define SPARE_PART 16
#define TICK_MS 100
#define PRESS_TICKS 10
#define SHAKE_US 400
#define COMMANDS 64
#define KEEP_BLOCKS 16 /* buffers for the next request or answer, of each size */
#define PING_MS 310000 /* servers of gRPC bear a ping of an idle client in 5 minutes */

enum command_kind {
	COMMAND_NET,
	COMMAND_DRAIN,
	COMMAND_UNLISTEN,
	COMMAND_CUT,
	COMMAND_STOP,
	COMMAND_AGENT_GONE,
	COMMAND_WAKE,
};
struct command {
	enum command_kind kind;
	struct km_privnet *net;
	struct km_addr agent;
};

struct accepting {
	struct worker_thread *t;
	const struct listener *l;
	struct loop_fd at;
};

struct worker_thread {
	struct worker w;
	pthread_t thread;
	struct km_mailbox *box;
	struct loop_fd box_at;
	struct accepting *accepting;
	size_t n_accepting;
	bool paused, unlistened, drained, stopped;
	uint32_t ticks;
	struct worker_note note_unlistened, note_drained;
};

/* ---- accepting ---- */

static void accept_pause(struct worker_thread *t)
{
	if (t->paused)
		return;
	t->paused = true;
	for (size_t i = 0; i < t->n_accepting; i++)
		loop_remove(t->w.loop, &t->accepting[i].at);
}

/* A stranger wakes one worker, not all. */
static bool accept_from(struct worker_thread *t, struct accepting *a)
{
	return !loop_add(t->w.loop, &a->at, EPOLLIN | EPOLLEXCLUSIVE);
}

static void accept_resume(struct worker_thread *t)
{
	if (t->unlistened)
		return;
	t->paused = false;
	for (size_t i = 0; i < t->n_accepting; i++)
		(void)accept_from(t, &t->accepting[i]);
}

static int64_t room(const struct worker_thread *t)
{
	const struct edge_shared *sh = t->w.sh;
	return sh->max_conns - atomic_load_explicit(&sh->conns, memory_order_relaxed);
}

void worker_conn_gone(struct worker *w)
{
	struct worker_thread *t = (struct worker_thread *)((char *)w - offsetof(struct worker_thread, w));
	atomic_fetch_sub_explicit(&w->sh->conns, 1, memory_order_relaxed);
	if (t->paused && room(t) > 0)
		accept_resume(t);
}

/* When the last sixteenth of the room is being taken, connections that wait for a next request go, those that
 * have waited longest first: strangers that do nothing must not keep others out. Those that have said goodbye
 * already leave room too. */
static void shed(struct worker_thread *t)
{
	struct edge_shared *sh = t->w.sh;
	int64_t spare = sh->max_conns / SPARE_PART;
	while (room(t) + t->w.lingering < spare && timers_hurry(&t->w.timers, TIMER_IDLE))
		km_metric_add(sh->m_shed, 1);
}

/* Whether accept's failure concerns one connection only (accept(2): treat them like EAGAIN, go on).
 */
static bool passing(int error)
{
	switch (error) {
	case EINTR:
	case ECONNABORTED:
	case EPROTO:
	case ENETDOWN:
	case ENOPROTOOPT:
	case EHOSTDOWN:
	case ENONET:
	case EHOSTUNREACH:
	case EOPNOTSUPP:
	case ENETUNREACH:
	case EPERM:
		return true;
	default:
		return false;
	}
}

static void accept_failed(struct worker_thread *t, int error)
{
	struct edge_shared *sh = t->w.sh;
	uint32_t held;
	km_metric_add(sh->m_paused, 1);
	if (km_log_allow(&sh->accept_log, t->w.now, 1, 10000, &held))
		km_error("accepting paused", km_ks("why", strerror(error)), km_ki("held", held));
	accept_pause(t);
	/* What idles gives its descriptor back, and accepting goes on. */
	for (int i = 0; i < ACCEPT_BATCH && timers_hurry(&t->w.timers, TIMER_IDLE); i++)
		km_metric_add(sh->m_shed, 1);
}

/* Takes one connection; false: there is none for now. */
static bool accept_one(struct worker_thread *t, const struct listener *l)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	int fd = accept4(l->fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		int error = errno;
		if (passing(error))
			return true;
		if (error != EAGAIN && error != EWOULDBLOCK)
			accept_failed(t, error);
		return false;
	}
	atomic_fetch_add_explicit(&t->w.sh->conns, 1, memory_order_relaxed);
	conn_new(&t->w, fd, (struct sockaddr *)&ss, l);
	return true;
}

static void on_accept(struct loop_fd *f, uint32_t events)
{
	struct accepting *a = (struct accepting *)((char *)f - offsetof(struct accepting, at));
	struct worker_thread *t = a->t;
	(void)events;
	t->w.now = km_now_ms();
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		shed(t);
		if (room(t) <= 0) { /* strangers wait in the kernel's queue until one has gone */
			km_metric_add(t->w.sh->m_paused, 1);
			accept_pause(t);
			return;
		}
		if (!accept_one(t, a->l))
			return;
	}
}

/* ---- the thread ---- */

static void tell(struct worker_thread *t, struct worker_note *note, enum worker_event event)
{
	note->event = event;
	if (km_mailbox_put(t->w.sh->to_main, note))
		km_error("worker cannot tell the main loop");
}

static void drained_check(struct worker_thread *t)
{
	if (!t->unlistened || t->drained || t->w.conns)
		return;
	t->drained = true;
	pool_clear(t->w.pool);
	tell(t, &t->note_drained, WORKER_DRAINED);
}

/* Set by worker_wake; the tick looks too, should the command not have got through. */
static void waiting_wake(struct worker_thread *t)
{
	if (atomic_exchange(&t->w.wake, false))
		conn_wake_waiting(&t->w);
}

/* Who holds a connection for which others wait, and sends nearly nothing. */
static void press(struct worker *w)
{
	struct exchange *x;
	DL_FOREACH (w->running, x) {
		if (!exchange_lags(x))
			continue;
		x->lags = true;
		x->front->wake(x);
	}
}

static void on_tick(struct worker_thread *t)
{
	if (!(t->ticks++ % PRESS_TICKS))
		press(&t->w);
	t->w.wall_ahead = km_wall_ms() - t->w.now;
	access_flush(t->w.lane);
	waiting_wake(t);
	shed(t); /* for the others, too, which may have none */
	if (t->paused && room(t) > 0)
		accept_resume(t);
	drained_check(t);
}

static void later_run(struct worker *w)
{
	struct conn *c, *list = w->later;
	w->later = NULL;
	w->closing = true;
	LL_FOREACH2(list, c, later_next)
	c->later_on = false;
	while ((c = list)) {
		list = c->later_next;
		conn_drive(c);
	}
	w->closing = false;
}

static int64_t now_us(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* One at least, and more for SHAKE_US, or as long as everything else has taken since `began` (0: not known). */
static void shake_run(struct worker *w, int64_t began)
{
	if (!w->shaking)
		return;
	int64_t mine = now_us();
	int64_t share = began && mine - began > SHAKE_US ? mine - began : SHAKE_US;
	while (conn_shake(w) && now_us() - mine < share)
		;
}

static void drain(struct worker_thread *t)
{
	struct conn *c;
	t->w.draining = true;
	DL_FOREACH (t->w.conns, c)
		conn_drain(c);
}

static void unlisten(struct worker_thread *t)
{
	accept_pause(t);
	t->unlistened = true;
	for (size_t i = 0; i < t->n_accepting; i++)
		while (accept_one(t, t->accepting[i].l))
			;
	tell(t, &t->note_unlistened, WORKER_UNLISTENED);
	drained_check(t);
}

static void cut(struct worker_thread *t)
{
	t->w.cutting = true;
	while (t->w.conns)
		conn_cut(t->w.conns);
	drained_check(t);
}

static void net_take(struct worker_thread *t, struct km_privnet *net)
{
	struct exchange *x;
	pool_net(t->w.pool, net);
	DL_FOREACH (t->w.running, x) {
		x->lost = LOST_NET;
		x->front->wake(x);
	}
}

static void agent_gone(struct worker_thread *t, const struct km_addr *agent)
{
	struct exchange *x;
	pool_agent_gone(t->w.pool, agent, t->w.now);
	DL_FOREACH (t->w.running, x) {
		bool waits = !x->up && x->wait.owner;
		if (!(x->up || waits) ||
		    !km_addr_eq(waits ? &x->route.agent : &x->up->agent, agent))
			continue;
		x->lost = LOST_AGENT;
		x->front->wake(x);
	}
}

static void on_command(struct loop_fd *f, uint32_t events)
{
	struct worker_thread *t =
	    (struct worker_thread *)((char *)f - offsetof(struct worker_thread, box_at));
	struct command *k;
	(void)events;
	t->w.now = km_now_ms();
	while ((k = km_mailbox_take(t->box))) {
		switch (k->kind) {
		case COMMAND_NET:
			net_take(t, k->net);
			break;
		case COMMAND_DRAIN:
			drain(t);
			break;
		case COMMAND_UNLISTEN:
			unlisten(t);
			break;
		case COMMAND_CUT:
			cut(t);
			break;
		case COMMAND_AGENT_GONE:
			agent_gone(t, &k->agent);
			break;
		case COMMAND_WAKE:
			waiting_wake(t);
			break;
		case COMMAND_STOP:
			cut(t);
			t->stopped = true;
			break;
		}
		free(k);
	}
}

static void on_up_woken(struct up *u)
{
	u->owner->front->drive(u->owner);
}

static void on_up_granted(struct exchange *x)
{
	x->c->w->now = km_now_ms();
	exchange_granted(x);
}

static void *run(void *arg)
{
	struct worker_thread *t = arg;
	urcu_memb_register_thread();
	km_buf_keep(KEEP_BLOCKS);
	int64_t tick = km_now_ms() + TICK_MS;
	bool late = false; /* timers have ended that have not been told */
	while (!t->stopped) {
		int64_t left = tick - km_now_ms();
		bool more = t->w.later || t->w.shaking || late;
		int64_t began = t->w.shaking ? now_us() : 0;
		loop_turn(t->w.loop, more || left < 0 ? 0 : (int)left);
		t->w.now = km_now_ms();
		later_run(&t->w);
		shake_run(&t->w, began);
		if (t->w.now >= tick) {
			late = true;
			on_tick(t);
			tick = t->w.now + TICK_MS;
		}
		/* A thousand that began at once end at once, too: others have their turn in between. */
		late = late && timers_run(&t->w.timers, t->w.now);
	}
	cut(t);
	pool_free(t->w.pool);
	t->w.pool = NULL;
	km_buf_free(&t->w.head);
	km_buf_keep(0);
	io_thread_end();
	urcu_memb_unregister_thread();
	return NULL;
}

/* ---- from the main loop ---- */

static void command_drop(void *item)
{
	struct command *k = item;
	km_privnet_close(k->net, false);
	free(k);
}

static int command_put(struct worker_thread *t, const struct command *wanted)
{
	struct command *k = calloc(1, sizeof(*k));
	if (!k)
		return KM_ENOMEM;
	*k = *wanted;
	int rc = km_mailbox_put(t->box, k);
	if (rc)
		free(k);
	return rc;
}

static int command(struct worker_thread *t, enum command_kind kind, struct km_privnet *net)
{
	const struct command k = {.kind = kind, .net = net};
	return command_put(t, &k);
}

static void must(struct worker_thread *t, enum command_kind kind)
{
	int rc = command(t, kind, NULL);
	if (rc)
		km_error("worker cannot be told", km_ki("command", kind), km_ke(rc));
}

static void thread_free(struct worker_thread *t)
{
	free(t->accepting);
	pool_free(t->w.pool);
	km_buf_free(&t->w.head);
	loop_free(t->w.loop);
	km_mailbox_free(t->box, command_drop);
	free(t);
}

static void timers_fill(struct timers *ts, const struct gw_settings *s)
{
	ts->ms[TIMER_HEADER] = s->header_timeout;
	ts->ms[TIMER_WAIT] = s->acme_wait;
	ts->ms[TIMER_IDLE] = s->idle_timeout;
	ts->ms[TIMER_BODY] = s->body_timeout;
	ts->ms[TIMER_CONNECT] = s->connect_timeout;
	ts->ms[TIMER_UPSTREAM] = s->upstream_timeout;
	ts->ms[TIMER_UPGRADE] = s->upgrade_timeout;
	ts->ms[TIMER_REQUEST] = s->request_timeout;
	ts->ms[TIMER_LINGER] = 2000;
	ts->ms[TIMER_POOL] = s->pool_idle_timeout;
	ts->ms[TIMER_PING] = PING_MS;
}

static bool accepting_make(struct worker_thread *t, const struct listener *l, size_t n)
{
	if (!(t->accepting = calloc(n ? n : 1, sizeof(*t->accepting))))
		return false;
	t->n_accepting = n;
	for (size_t i = 0; i < n; i++) {
		struct accepting *a = &t->accepting[i];
		a->t = t;
		a->l = &l[i];
		a->at = (struct loop_fd){l[i].fd, on_accept};
		if (!accept_from(t, a))
			return false;
	}
	return true;
}

static bool commands_take(struct worker_thread *t)
{
	t->box_at = (struct loop_fd){km_mailbox_fd(t->box), on_command};
	return !loop_add(t->w.loop, &t->box_at, EPOLLIN);
}

int worker_start(struct worker_thread **out, struct edge_shared *sh, const struct listener *l,
		 size_t n, struct km_privnet *net)
{
	struct worker_thread *t = calloc(1, sizeof(*t));
	if (!t)
		return KM_ENOMEM;
	struct worker *w = &t->w;
	w->sh = sh;
	w->now = km_now_ms();
	w->wall_ahead = km_wall_ms() - w->now;
	w->stats = &sh->stats[sh->stats_taken++];
	w->lane = sh->access ? access_log_lane(sh->access, (size_t)(w->stats - sh->stats)) : NULL;
	km_buf_init(&w->head, sh->buf_max);
	timers_fill(&w->timers, sh->settings);
	t->box = km_mailbox_new(COMMANDS);
	w->loop = loop_new();
	if (!t->box || !w->loop || !commands_take(t) || !accepting_make(t, l, n))
		goto fail;
	w->pool = pool_new(&(struct pool_opts){.loop = w->loop,
					       .timers = &w->timers,
					       .per_target = (size_t)sh->settings->pool_size,
					       .buf_max = sh->buf_max,
					       .limits = sh->limits,
					       .max_connections =
						   (uint32_t)sh->settings->max_target_connections,
					       .queue = (uint32_t)sh->settings->target_queue,
					       .tls = sh->up_tls,
					       .hub = sh->slots,
					       .worker = (size_t)(w->stats - sh->stats),
					       .woken = on_up_woken,
					       .granted = on_up_granted});
	if (!w->pool)
		goto fail;
	pool_net(w->pool, net);
	if (pthread_create(&t->thread, NULL, run, t)) {
		pool_net_release(w->pool);
		goto fail;
	}
	*out = t;
	return 0;
fail:
	thread_free(t);
	return KM_ENOMEM;
}

int worker_net(struct worker_thread *t, struct km_privnet *net)
{
	return command(t, COMMAND_NET, net);
}

void worker_drain(struct worker_thread *t)
{
	must(t, COMMAND_DRAIN);
}

void worker_unlisten(struct worker_thread *t)
{
	must(t, COMMAND_UNLISTEN);
}

void worker_agent_gone(struct worker_thread *t, const struct km_addr *agent)
{
	const struct command k = {.kind = COMMAND_AGENT_GONE, .agent = *agent};
	int rc = command_put(t, &k);
	if (rc)
		km_error("worker not told that an agent is gone", km_ke(rc));
}

void worker_wake(struct worker_thread *t)
{
	/* One command at a time: a thousand names may be settled in one turn of the main loop. */
	if (!atomic_exchange(&t->w.wake, true))
		(void)command(t, COMMAND_WAKE, NULL);
}

void worker_cut(struct worker_thread *t)
{
	must(t, COMMAND_CUT);
}

void worker_free(struct worker_thread *t)
{
	if (!t)
		return;
	must(t, COMMAND_STOP);
	pthread_join(t->thread, NULL);
	thread_free(t);
}
