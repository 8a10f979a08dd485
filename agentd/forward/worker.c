/* SPDX-License-Identifier: MIT */
#include "agentd/forward/worker.h"
#include "libkm/base/log.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ACCEPT_BATCH 32 /* per turn, so that the workers share a rush */
#define TICK_MS 250

void listener_unref(struct listener *l)
{
	if (!l || atomic_fetch_sub(&l->refs, 1) != 1)
		return;
	close(l->fd);
	free(l);
}

/* ---- accepting ---- */

static void refuse_stranger(struct worker *w, int fd, const struct km_addr *from)
{
	static const struct linger at_once = {1, 0};
	static struct km_log_limit limit;
	char addr[KM_ADDR_STRLEN];
	uint32_t held;

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
	close(fd);
	km_metric_add(w->f->refused_peer, 1);
	if (km_log_allow(&limit, km_now_ms(), 10, 1000, &held))
		km_warn("connection refused", km_ks("from", km_addr_str(from, addr)),
			km_ks("reason", "not a gateway's address"), km_ki("held_back", held));
}

static void pause_accepting(struct worker *w)
{
	if (w->accept_event)
		event_del(w->accept_event);
	w->paused = true;
}

void worker_room(struct worker *w)
{
	if (!w->paused || !w->accept_event ||
	    atomic_load(&w->f->active) >= w->f->opts.max_connections)
		return;
	w->paused = event_add(w->accept_event, NULL) != 0;
}

/* Takes a place among max_connections. */
static bool take_place(struct forward *f)
{
	if (atomic_fetch_add(&f->active, 1) < f->opts.max_connections)
		return true;
	atomic_fetch_sub(&f->active, 1);
	return false;
}

/* Whether another try makes sense. */
static bool accept_one(struct worker *w, int listen_fd)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct km_addr from = {0};
	int fd;

	if (!take_place(w->f)) {
		pause_accepting(w);
		return false;
	}
	fd = accept4(listen_fd, (struct sockaddr *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		atomic_fetch_sub(&w->f->active, 1);
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			pause_accepting(w);
		return errno == ECONNABORTED || errno == EINTR;
	}
	if (km_addr_from_sa(&from, NULL, (struct sockaddr *)&ss) != 0 ||
	    !forward_knows(w->f, &from)) {
		atomic_fetch_sub(&w->f->active, 1);
		refuse_stranger(w, fd, &from);
		return true;
	}
	conn_new(w, fd, &from);
	return true;
}

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
	(void)what;
	for (int i = 0; i < ACCEPT_BATCH && accept_one(arg, fd); i++)
		;
}

static void drop_listener(struct worker *w)
{
	if (w->accept_event)
		event_free(w->accept_event);
	w->accept_event = NULL;
	w->paused = false;
	listener_unref(w->listener);
	w->listener = NULL;
}

static void take_listener(struct worker *w)
{
	struct listener *l;
	bool has;

	pthread_mutex_lock(&w->lock);
	l = w->next;
	has = w->has_next;
	w->next = NULL;
	w->has_next = false;
	pthread_mutex_unlock(&w->lock);
	if (!has)
		return;
	drop_listener(w);
	w->listener = l;
	if (!l)
		return;
	w->accept_event = event_new(w->base, l->fd, EV_READ | EV_PERSIST, on_accept, w);
	w->paused = !w->accept_event || event_add(w->accept_event, NULL) != 0;
}

/* ---- the loop ---- */

static void reset_all(struct worker *w)
{
	while (w->conns)
		conn_reset(w->conns);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	struct worker *w = arg;
	unsigned resets = atomic_load(&w->f->resets), fewer = atomic_load(&w->f->fewer);
	uint64_t n;

	(void)what;
	if (read(fd, &n, sizeof(n)) < 0)
		return;
	if (resets != w->resets)
		reset_all(w);
	w->resets = resets;
	take_listener(w);
	if (atomic_load(&w->f->stopping)) {
		drop_listener(w);
		reset_all(w);
		event_base_loopbreak(w->base);
		return;
	}
	conn_sweep(w);
	if (fewer != w->fewer)
		conn_sweep_gateways(w);
	w->fewer = fewer;
}

static void on_tick(evutil_socket_t none, short what, void *arg)
{
	struct worker *w = arg;

	(void)none;
	(void)what;
	worker_room(w);
	if (w->pool.fallbacks) {
		km_metric_add(w->f->fallbacks, (int64_t)w->pool.fallbacks);
		w->pool.fallbacks = 0;
	}
}

static void on_again(evutil_socket_t none, short what, void *arg)
{
	(void)none;
	(void)what;
	conn_again(arg);
}

static void *run(void *arg)
{
	struct worker *w = arg;

	event_base_dispatch(w->base);
	return NULL;
}

int worker_start(struct worker *w, struct forward *f)
{
	struct timeval tick = {0, TICK_MS * 1000};
	size_t pipes = 512 / f->n_workers;

	w->f = f;
	pthread_mutex_init(&w->lock, NULL);
	w->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	w->base = event_base_new();
	if (w->wake_fd < 0 || !w->base || pump_pool_init(&w->pool, pipes < 32 ? 32 : pipes))
		return KM_ENOMEM;
	w->port = km_resolver_port_new(f->opts.resolver, w->base);
	w->env = (struct dial_env){w->base, w->port, f->opts.allow};
	w->wake_event = event_new(w->base, w->wake_fd, EV_READ | EV_PERSIST, on_wake, w);
	w->tick_event = event_new(w->base, -1, EV_PERSIST, on_tick, w);
	w->again_event = event_new(w->base, -1, 0, on_again, w);
	if (!w->port || !w->wake_event || !w->tick_event || !w->again_event ||
	    event_add(w->wake_event, NULL) != 0 || event_add(w->tick_event, &tick) != 0)
		return KM_ENOMEM;
	if (pthread_create(&w->thread, NULL, run, w) != 0)
		return KM_EIO;
	w->started = true;
	return 0;
}

void worker_wake(struct worker *w)
{
	uint64_t one = 1;

	/* It can only fail when the counter is full: then the loop is awake anyway. */
	if (write(w->wake_fd, &one, sizeof(one)) < 0)
		return;
}

void worker_listen(struct worker *w, struct listener *l)
{
	pthread_mutex_lock(&w->lock);
	listener_unref(w->next);
	w->next = l;
	w->has_next = true;
	pthread_mutex_unlock(&w->lock);
	worker_wake(w);
}

void worker_free(struct worker *w)
{
	if (!w->f)
		return;
	if (w->started)
		pthread_join(w->thread, NULL);
	listener_unref(w->next);
	km_resolver_port_free(w->port);
	if (w->wake_event)
		event_free(w->wake_event);
	if (w->tick_event)
		event_free(w->tick_event);
	if (w->again_event)
		event_free(w->again_event);
	pump_pool_free(&w->pool);
	if (w->base)
		event_base_free(w->base);
	if (w->wake_fd >= 0)
		close(w->wake_fd);
	pthread_mutex_destroy(&w->lock);
}
