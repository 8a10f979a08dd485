/* SPDX-License-Identifier: MIT */
#include "libkm/wg/engine/engine.h"
#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include "libkm/wg/engine/engine_priv.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <urcu/urcu-memb.h>

#define MTU 1420
#define TURN 64 /* handshake messages in one hold of the lock */
#define CONTROL_NICE 5
#define CLOCK CLOCK_BOOTTIME /* sessions age while the machine sleeps */

/* ---- small things ---- */

void wg_ring(int fd)
{
	const uint64_t one = 1;
	ssize_t n;

	do
		n = write(fd, &one, sizeof(one));
	while (n < 0 && errno == EINTR);
}

void wg_silence(int fd)
{
	uint64_t n;

	while (read(fd, &n, sizeof(n)) < 0 && errno == EINTR)
		;
}

static struct wg_clock now(void)
{
	struct timespec mono, wall;

	clock_gettime(CLOCK, &mono);
	clock_gettime(CLOCK_REALTIME, &wall);
	return (struct wg_clock){mono.tv_sec * 1000 + mono.tv_nsec / 1000000 + 1,
				 wall.tv_sec * 1000000000LL + wall.tv_nsec};
}

int64_t wg_now_ms(void)
{
	struct timespec mono;

	clock_gettime(CLOCK, &mono);
	return mono.tv_sec * 1000 + mono.tv_nsec / 1000000 + 1;
}

int64_t wg_now_us(void)
{
	struct timespec mono;

	clock_gettime(CLOCK_MONOTONIC, &mono);
	return mono.tv_sec * 1000000 + mono.tv_nsec / 1000;
}

/* Takes the core's lock in the order of arrival. */
static void enter(struct wg_engine *e)
{
	pthread_mutex_lock(&e->gate);
	pthread_mutex_lock(&e->lock);
	pthread_mutex_unlock(&e->gate);
}

/* ---- what the core asks for ---- */

static void on_send(void *arg, const struct wg_endpoint *to, const uint8_t *msg, size_t n)
{
	struct wg_engine *e = arg;

	wg_udp_send(e->udp, e->v4_only, to, msg, n);
}

static void on_flush(void *arg, struct wg_peer *p, enum wg_flush what)
{
	struct wg_engine *e = arg;

	pthread_mutex_lock(&e->flush_lock);
	p->flush |= what;
	if (!p->flush_queued) {
		p->flush_next = e->flush;
		e->flush = p;
		p->flush_queued = true;
	}
	pthread_mutex_unlock(&e->flush_lock);
	if (!atomic_exchange(&e->flush_wanted, true))
		wg_ring(e->wake_send);
}

static void on_wake(void *arg)
{
	wg_ring(((struct wg_engine *)arg)->wake_control);
}

static void on_quiesce(void *arg)
{
	urcu_memb_synchronize_rcu();
	WG_READERS_DONE(arg); /* the engine */
}

static uint32_t on_link_mtu(void *arg, const struct wg_endpoint *to)
{
	struct wg_engine *e = arg;

	return wg_udp_link_mtu(to, e->v4_only, atomic_load(&e->mark));
}

static void on_width(void *arg)
{
	wg_ring(((struct wg_engine *)arg)->width);
}

static void on_forget(void *arg, struct wg_peer *p)
{
	struct wg_engine *e = arg;
	struct wg_peer **at;

	pthread_mutex_lock(&e->flush_lock);
	if (p->flush_queued) {
		for (at = &e->flush; *at != p; at = &(*at)->flush_next)
			;
		*at = p->flush_next;
	}
	pthread_mutex_unlock(&e->flush_lock);
	wg_sender_forget(p);
}

/* ---- the control thread ---- */

static enum wg_load load_of(unsigned waiting)
{
	return waiting >= WG_QUEUE_CROWDED  ? WG_CROWDED
	       : waiting >= WG_QUEUE_LOADED ? WG_LOADED
					    : WG_CALM;
}

/* Some handshake messages; whether there were any. */
static bool serve_queue(struct wg_engine *e, const struct wg_clock *t)
{
	unsigned head = atomic_load_explicit(&e->queue_head, memory_order_relaxed), n;
	unsigned waiting = atomic_load(&e->queue_tail) - head;
	const struct wg_queued *q;

	for (n = 0; n < TURN && n < waiting; n++, head++) {
		q = &e->queue[head % WG_QUEUE];
		wg_core_message(e->core, &q->from, q->msg, q->n, load_of(waiting - n), t);
		atomic_store(&e->queue_head, head + 1);
	}
	return n > 0;
}

static int64_t earlier(int64_t due_ms, int64_t ms)
{
	return due_ms < 0 || due_ms > ms ? ms : due_ms;
}

/* News of packets that were too large, as many as there may be now; more are forgotten. */
static void serve_news(struct wg_engine *e, const struct wg_clock *t)
{
	unsigned head = atomic_load_explicit(&e->news_head, memory_order_relaxed);
	unsigned tail = atomic_load_explicit(&e->news_tail, memory_order_acquire);

	if (t->ms - e->news_ms >= WG_TICK_MS) {
		e->news_ms = t->ms;
		e->news_left = WG_NEWS_AT_ONCE;
	}
	for (; head != tail; head++)
		if (e->news_left > 0) {
			e->news_left--;
			wg_core_too_big(e->core, &e->news[head % WG_NEWS], t);
		}
	atomic_store_explicit(&e->news_head, head, memory_order_release);
}

static void *control_run(void *arg)
{
	struct wg_engine *e = arg;
	struct pollfd p = {.fd = e->wake_control, .events = POLLIN};
	int64_t tick_ms = 0, last_ms = 0; /* when it is due (-1: never), and was */
	struct wg_clock t;
	bool more = false;
	int wait, next;

	/* Where there is too little of the processor, as in a flood, data goes first. */
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), CONTROL_NICE);
	while (!atomic_load(&e->stop)) {
		t = now();
		wait = more ? 0 : tick_ms < 0 ? -1 : tick_ms > t.ms ? (int)(tick_ms - t.ms) : 0;
		if (poll(&p, 1, wait) > 0)
			wg_silence(e->wake_control);
		t = now();
		enter(e);
		more = serve_queue(e, &t);
		serve_news(e, &t);
		if (atomic_exchange(&e->moved, false))
			wg_core_announce(e->core, &t);
		if (wg_core_attend(e->core, &t))
			tick_ms = earlier(tick_ms, t.ms + WG_HURRY_MS);
		/* Whoever sets thousands of peers one by one does not get a look at all for each. */
		if (atomic_exchange(&e->tick_now, false))
			tick_ms = earlier(tick_ms, last_ms + WG_HURRY_MS);
		if (tick_ms >= 0 && t.ms >= tick_ms) {
			next = wg_core_tick(e->core, &t);
			last_ms = t.ms;
			tick_ms = next < 0 ? -1 : t.ms + next;
		}
		wg_core_reclaim(e->core);
		pthread_mutex_unlock(&e->lock);
	}
	return NULL;
}

/* ---- the engine ---- */

int wg_engine_gone_fd(const struct wg_engine *e)
{
	return e->gone;
}

void wg_engine_gone(struct wg_engine *e)
{
	wg_ring(e->gone);
}

int wg_engine_width_fd(const struct wg_engine *e)
{
	return e->width;
}

void wg_engine_set_mtu(struct wg_engine *e, unsigned mtu)
{
	atomic_store(&e->mtu, mtu);
}

unsigned wg_engine_mtu(const struct wg_engine *e)
{
	return atomic_load(&e->mtu);
}

struct wg_core *wg_engine_lock(struct wg_engine *e)
{
	enter(e);
	return e->core;
}

void wg_engine_give_way(struct wg_engine *e)
{
	pthread_mutex_unlock(&e->lock);
	enter(e);
}

void wg_engine_unlock(struct wg_engine *e)
{
	pthread_mutex_unlock(&e->lock);
	atomic_store(&e->tick_now, true);
	wg_ring(e->wake_control);
}

int64_t wg_engine_stamp(struct wg_engine *e, int64_t not_before_s)
{
	struct wg_core *c = wg_engine_lock(e);
	const struct wg_clock t = now();
	int64_t ns = wg_core_stamp(c, not_before_s * 1000000000LL, &t);

	wg_engine_unlock(e);
	return ns / 1000000000;
}

void wg_engine_set_key(struct wg_engine *e, const uint8_t priv[static WG_KEY])
{
	struct wg_core *c = wg_engine_lock(e);

	wg_core_set_key(c, priv);
	pthread_mutex_lock(&e->self_lock);
	memcpy(e->mac1_key, c->self.mac1_key, WG_HASH);
	pthread_mutex_unlock(&e->self_lock);
	wg_engine_unlock(e);
}

uint16_t wg_engine_port(struct wg_engine *e)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct wg_endpoint ep;

	if (getsockname(e->udp, (struct sockaddr *)&ss, &len))
		return 0;
	wg_endpoint_from_sa(&ep, &ss);
	return ntohs(ep.port);
}

uint32_t wg_engine_mark(const struct wg_engine *e)
{
	return atomic_load(&e->mark);
}

int wg_engine_set_mark(struct wg_engine *e, uint32_t mark)
{
	if (mark != atomic_load(&e->mark) &&
	    setsockopt(e->udp, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)))
		return errno == EPERM ? KM_EPERM : KM_EIO;
	atomic_store(&e->mark, mark);
	return 0;
}

static bool is_v4(int udp)
{
	int family = AF_INET6;
	socklen_t len = sizeof(family);

	return getsockopt(udp, SOL_SOCKET, SO_DOMAIN, &family, &len) == 0 && family == AF_INET;
}

int wg_engine_set_port(struct wg_engine *e, uint16_t port)
{
	const uint32_t mark = atomic_load(&e->mark);
	int fd, rc;

	if (port != 0 && port == wg_engine_port(e))
		return 0;
	rc = wg_udp_open(&fd, port);
	if (rc)
		return rc;
	if (mark != 0)
		(void)setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
	if (is_v4(fd) != e->v4_only)
		rc = KM_EIO; /* the host has changed under us */
	else if (dup3(fd, e->udp, O_CLOEXEC) < 0)
		rc = KM_EIO;
	close(fd);
	wg_ring(e->wake_recv); /* it may wait for the old one */
	if (rc == 0) {
		atomic_store(&e->moved, true);
		wg_ring(e->wake_control);
	}
	return rc;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

/* Without the threads; leaves the descriptors that came from outside open. */
static void engine_free(struct wg_engine *e)
{
	if (e == NULL)
		return;
	wg_core_free(e->core);
	wg_sender_free(e->sender);
	wg_receiver_free(e->receiver);
	close_fd(e->wake_control);
	close_fd(e->wake_send);
	close_fd(e->wake_recv);
	close_fd(e->gone);
	close_fd(e->width);
	pthread_mutex_destroy(&e->lock);
	pthread_mutex_destroy(&e->gate);
	pthread_mutex_destroy(&e->flush_lock);
	pthread_mutex_destroy(&e->self_lock);
	km_wipe(e->mac1_key, sizeof(e->mac1_key));
	free(e->queue);
	free(e);
}

static struct wg_engine *engine_new(int tun_fd, bool uso, int udp_fd)
{
	struct wg_engine *e = calloc(1, sizeof(*e));
	const struct wg_core_io io = {.arg = e,
				      .send = on_send,
				      .flush = on_flush,
				      .wake = on_wake,
				      .quiesce = on_quiesce,
				      .forget = on_forget,
				      .link_mtu = on_link_mtu,
				      .width = on_width};

	if (e == NULL)
		return NULL;
	pthread_mutex_init(&e->lock, NULL);
	pthread_mutex_init(&e->gate, NULL);
	pthread_mutex_init(&e->flush_lock, NULL);
	pthread_mutex_init(&e->self_lock, NULL);
	e->tun = tun_fd;
	e->udp = udp_fd;
	e->uso = uso;
	e->v4_only = is_v4(udp_fd);
	atomic_init(&e->gso, wg_udp_segments(udp_fd));
	atomic_init(&e->mtu, MTU);
	atomic_init(&e->parked, false);
	e->wake_control = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e->wake_send = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e->wake_recv = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e->gone = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e->width = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	e->queue = calloc(WG_QUEUE, sizeof(*e->queue));
	e->core = wg_core_new(&io);
	e->sender = wg_sender_new(e);
	e->receiver = wg_receiver_new(e);
	if (e->wake_control >= 0 && e->wake_send >= 0 && e->wake_recv >= 0 && e->gone >= 0 &&
	    e->width >= 0 && e->queue != NULL && e->core != NULL && e->sender != NULL && e->receiver != NULL)
		return e;
	engine_free(e);
	return NULL;
}

static void join(struct wg_engine *e)
{
	atomic_store(&e->stop, true);
	wg_ring(e->wake_control);
	wg_ring(e->wake_send);
	wg_ring(e->wake_recv);
	while (e->n_threads > 0)
		pthread_join(e->threads[--e->n_threads], NULL);
}

static bool spawn(struct wg_engine *e, const char *name, void *(*run)(void *), void *arg)
{
	if (pthread_create(&e->threads[e->n_threads], NULL, run, arg))
		return false;
	(void)pthread_setname_np(e->threads[e->n_threads++], name);
	return true;
}

int wg_engine_start(struct wg_engine **out, int tun_fd, bool uso, int udp_fd)
{
	struct wg_engine *e = engine_new(tun_fd, uso, udp_fd);

	*out = NULL;
	if (e == NULL)
		return KM_ENOMEM;
	if (spawn(e, "wg-control", control_run, e) &&
	    spawn(e, "wg-send", wg_sender_run, e) &&
	    spawn(e, "wg-receive", wg_receiver_run, e)) {
		*out = e;
		return 0;
	}
	join(e);
	engine_free(e);
	return KM_ENOMEM;
}

void wg_engine_stop(struct wg_engine *e)
{
	if (e == NULL)
		return;
	join(e);
	close(e->tun);
	close(e->udp);
	engine_free(e);
}
