/* SPDX-License-Identifier: MIT */
#include "libkm/host/resolver.h"
#include "libkm/base/util.h"
#include <netdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <uthash.h>
#include <utlist.h>

#define THREADS 3

enum name_state { NAME_KNOWN, NAME_WAITING, NAME_RUNNING };

/* What is known about one name, and who waits for it. */
struct name {
	char *host;
	enum name_state state;
	int64_t until_ms; /* the answer counts so long */
	struct km_resolver_answer answer;
	struct km_resolver_query *queries;
	struct name *next; /* in the work queue, while NAME_WAITING */
	UT_hash_handle hh;
};

struct km_resolver_query {
	struct km_resolver_port *port;
	struct name *name; /* on its list; NULL: answered, on the port's list */
	struct km_resolver_answer answer;
	void (*done)(void *arg, const struct km_resolver_answer *a);
	void *arg;
	struct km_resolver_query *prev, *next;
	struct km_resolver_query *all_prev, *all_next; /* of the port */
};

struct km_resolver_port {
	struct km_resolver *r;
	int fd;
	struct event *event;
	struct km_resolver_query *answered;
	struct km_resolver_query *all; /* touched by the port's own thread only */
};

struct km_resolver {
	pthread_mutex_t lock; /* guards all below, and each port's `answered` */
	pthread_cond_t work;
	struct name *names;
	struct name *queue; /* singly linked, oldest first */
	bool stop;
	size_t n_threads;
	pthread_t threads[THREADS];
};

static void ring(const struct km_resolver_port *p)
{
	uint64_t one = 1;

	/* It can only fail when the counter is full: then the loop is awake anyway. */
	if (write(p->fd, &one, sizeof(one)) < 0)
		return;
}

/* ---- the threads ---- */

static void collect(struct km_resolver_answer *a, const struct addrinfo *list)
{
	for (const struct addrinfo *ai = list; ai && a->n < KM_RESOLVER_ADDRS_MAX;
	     ai = ai->ai_next) {
		if (km_addr_from_sa(&a->addrs[a->n], NULL, ai->ai_addr) == 0)
			a->n++;
	}
	if (!a->n)
		a->why = "no usable address";
}

static struct km_resolver_answer look_up(const char *host)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
	struct km_resolver_answer a = {0};
	int rc = getaddrinfo(host, NULL, &hints, &list);

	if (rc)
		a.why = gai_strerror(rc);
	else
		collect(&a, list);
	if (list)
		freeaddrinfo(list);
	return a;
}

static void hand_out(struct km_resolver_query *q, const struct km_resolver_answer *a)
{
	q->name = NULL;
	q->answer = *a;
	DL_APPEND(q->port->answered, q);
	ring(q->port);
}

static void answered(struct name *n, const struct km_resolver_answer *a)
{
	struct km_resolver_query *q, *tmp;

	n->answer = *a;
	n->state = NAME_KNOWN;
	n->until_ms = km_now_ms() + (a->n ? KM_RESOLVER_KEEP_MS : KM_RESOLVER_KEEP_NO_MS);
	DL_FOREACH_SAFE (n->queries, q, tmp) {
		DL_DELETE(n->queries, q);
		hand_out(q, a);
	}
}

static void *run(void *arg)
{
	struct km_resolver *r = arg;

	pthread_mutex_lock(&r->lock);
	while (!r->stop) {
		struct name *n = r->queue;

		if (!n) {
			pthread_cond_wait(&r->work, &r->lock);
			continue;
		}
		r->queue = n->next;
		n->state = NAME_RUNNING;
		pthread_mutex_unlock(&r->lock);
		struct km_resolver_answer a = look_up(n->host);

		pthread_mutex_lock(&r->lock);
		answered(n, &a);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

int km_resolver_start(struct km_resolver **out)
{
	struct km_resolver *r = calloc(1, sizeof(*r));

	*out = NULL;
	if (!r)
		return KM_ENOMEM;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->work, NULL);
	for (; r->n_threads < THREADS; r->n_threads++) {
		if (pthread_create(&r->threads[r->n_threads], NULL, run, r) != 0) {
			km_resolver_free(r);
			return KM_EIO;
		}
	}
	*out = r;
	return 0;
}

static void name_free(struct km_resolver *r, struct name *n)
{
	HASH_DEL(r->names, n);
	free(n->host);
	free(n);
}

void km_resolver_free(struct km_resolver *r)
{
	struct name *n, *tmp;

	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	pthread_cond_broadcast(&r->work);
	pthread_mutex_unlock(&r->lock);
	for (size_t i = 0; i < r->n_threads; i++)
		pthread_join(r->threads[i], NULL);
	HASH_ITER (hh, r->names, n, tmp) {
		name_free(r, n);
	}
	pthread_cond_destroy(&r->work);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

/* ---- the loops ---- */

static struct km_resolver_query *next_answered(struct km_resolver_port *p)
{
	struct km_resolver_query *q;

	pthread_mutex_lock(&p->r->lock);
	q = p->answered;
	if (q)
		DL_DELETE(p->answered, q);
	pthread_mutex_unlock(&p->r->lock);
	return q;
}

static void on_rung(evutil_socket_t fd, short what, void *arg)
{
	struct km_resolver_port *p = arg;
	struct km_resolver_query *q;
	uint64_t n;

	(void)what;
	if (read(fd, &n, sizeof(n)) < 0)
		return;
	while ((q = next_answered(p))) {
		DL_DELETE2(p->all, q, all_prev, all_next);
		q->done(q->arg, &q->answer);
		free(q);
	}
}

struct km_resolver_port *km_resolver_port_new(struct km_resolver *r, struct event_base *base)
{
	struct km_resolver_port *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->r = r;
	p->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (p->fd >= 0)
		p->event = event_new(base, p->fd, EV_READ | EV_PERSIST, on_rung, p);
	if (!p->event || event_add(p->event, NULL) != 0) {
		km_resolver_port_free(p);
		return NULL;
	}
	return p;
}

void km_resolver_port_free(struct km_resolver_port *p)
{
	if (!p)
		return;
	while (p->all)
		/* It takes it off the list. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
		km_resolver_cancel(p->all);
	if (p->event)
		event_free(p->event);
	if (p->fd >= 0)
		close(p->fd);
	free(p);
}

static void forget_old(struct km_resolver *r, int64_t now)
{
	struct name *n, *tmp;

	HASH_ITER (hh, r->names, n, tmp) {
		if (n->state == NAME_KNOWN && now >= n->until_ms)
			name_free(r, n);
	}
}

static struct name *name_get(struct km_resolver *r, const char *host, int *err)
{
	struct name *n;

	HASH_FIND_STR(r->names, host, n);
	if (n)
		return n;
	if (HASH_COUNT(r->names) >= KM_RESOLVER_NAMES_MAX)
		forget_old(r, km_now_ms());
	*err = KM_EFULL;
	if (HASH_COUNT(r->names) >= KM_RESOLVER_NAMES_MAX)
		return NULL;
	*err = KM_ENOMEM;
	n = calloc(1, sizeof(*n));
	if (n)
		n->host = strdup(host);
	if (!n || !n->host) {
		free(n);
		return NULL;
	}
	HASH_ADD_KEYPTR(hh, r->names, n->host, strlen(n->host), n);
	return n;
}

static void want(struct km_resolver *r, struct name *n)
{
	if (n->state != NAME_KNOWN)
		return;
	n->state = NAME_WAITING;
	LL_APPEND(r->queue, n);
	pthread_cond_signal(&r->work);
}

struct km_resolver_query *
km_resolver_ask(struct km_resolver_port *p, const char *host, bool fresh,
		void (*done)(void *arg, const struct km_resolver_answer *a), void *arg, int *err)
{
	struct km_resolver_query *q = calloc(1, sizeof(*q));
	struct name *n;

	*err = KM_ENOMEM;
	if (!q)
		return NULL;
	q->port = p;
	q->done = done;
	q->arg = arg;
	pthread_mutex_lock(&p->r->lock);
	n = name_get(p->r, host, err);
	if (n && n->state == NAME_KNOWN && !fresh && km_now_ms() < n->until_ms) {
		hand_out(q, &n->answer);
	} else if (n) {
		q->name = n;
		DL_APPEND(n->queries, q);
		want(p->r, n);
	}
	pthread_mutex_unlock(&p->r->lock);
	if (!n) {
		free(q);
		return NULL;
	}
	DL_APPEND2(p->all, q, all_prev, all_next);
	return q;
}

void km_resolver_cancel(struct km_resolver_query *q)
{
	struct km_resolver_port *p;

	if (!q)
		return;
	p = q->port;
	pthread_mutex_lock(&p->r->lock);
	if (q->name)
		DL_DELETE(q->name->queries, q);
	else
		DL_DELETE(p->answered, q);
	pthread_mutex_unlock(&p->r->lock);
	DL_DELETE2(p->all, q, all_prev, all_next);
	free(q);
}
