/* SPDX-License-Identifier: MIT */
#include "gatewayd/upstream/slots.h"
#include "libkm/base/err.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <utlist.h>

enum { IDLE, QUEUED, GRANTED };

/* What one target has of one desk. */
struct corner {
	struct slots *s;
	uint32_t used;
	struct slots_wait *queue; /* in the order of their tickets */
	bool asked;               /* on the desk's list; under the desk's mutex, as is next */
	struct corner *next;
};

/* Locks are taken in the order slots, desk. */
struct slots {
	pthread_mutex_t mutex;
	_Atomic uint32_t refs;
	_Atomic uint32_t waiting; /* changed under the mutex, read without */
	uint32_t used;
	_Atomic uint64_t spoke; /* twice the version, and one more with HTTP/2; 0: nothing yet */
	bool shared;            /* HTTP/2 */
	uint64_t ticket;
	size_t n;
	struct corner *corners; /* n, by desk; made when the first slot is taken */
};

struct slots_desk {
	pthread_mutex_t mutex;
	struct slots_hub *hub;
	size_t i;
	struct slots_wait *granted;
	struct corner *asked;
	void (*wake)(void *arg);
	void *arg;
};

struct slots_hub {
	size_t n;
	struct slots_desk desks[];
};

struct slots *slots_new(void)
{
	struct slots *s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	pthread_mutex_init(&s->mutex, NULL);
	atomic_store(&s->refs, 1);
	return s;
}

struct slots *slots_ref(struct slots *s)
{
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	return s;
}

void slots_put(struct slots *s)
{
	if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	pthread_mutex_destroy(&s->mutex);
	free(s->corners);
	free(s);
}

/* ---- desks ---- */

struct slots_hub *slots_hub_new(size_t n)
{
	struct slots_hub *h = calloc(1, sizeof(*h) + n * sizeof(h->desks[0]));
	if (!h)
		return NULL;
	h->n = n;
	for (size_t i = 0; i < n; i++) {
		h->desks[i].hub = h;
		h->desks[i].i = i;
		pthread_mutex_init(&h->desks[i].mutex, NULL);
	}
	return h;
}

void slots_hub_free(struct slots_hub *h)
{
	for (size_t i = 0; h && i < h->n; i++) {
		struct slots_desk *d = &h->desks[i];
		struct corner *c;
		while ((c = d->asked)) {
			d->asked = c->next;
			slots_put(c->s);
		}
		pthread_mutex_destroy(&d->mutex);
	}
	free(h);
}

struct slots_desk *slots_desk(struct slots_hub *h, size_t i, void (*wake)(void *arg), void *arg)
{
	struct slots_desk *d = &h->desks[i];
	pthread_mutex_lock(&d->mutex);
	d->wake = wake;
	d->arg = arg;
	pthread_mutex_unlock(&d->mutex);
	return d;
}

static struct slots_wait *granted_take(struct slots_desk *d)
{
	pthread_mutex_lock(&d->mutex);
	struct slots_wait *w = d->granted;
	if (w) {
		DL_DELETE(d->granted, w);
		w->state = IDLE;
	}
	pthread_mutex_unlock(&d->mutex);
	return w;
}

static struct slots *asked_take(struct slots_desk *d)
{
	struct slots *s = NULL;
	pthread_mutex_lock(&d->mutex);
	struct corner *c = d->asked;
	if (c) {
		d->asked = c->next;
		c->asked = false;
		s = c->s;
	}
	pthread_mutex_unlock(&d->mutex);
	return s;
}

void slots_desk_run(struct slots_desk *d, const struct slots_calls *calls)
{
	struct slots_wait *w;
	struct slots *s;
	while ((s = asked_take(d))) {
		calls->asked(calls->arg, s);
		slots_put(s);
	}
	while ((w = granted_take(d)))
		calls->granted(calls->arg, w);
}

/* ---- under the mutex of s ---- */

static void unqueue(struct slots *s, struct slots_wait *w)
{
	DL_DELETE(s->corners[w->desk->i].queue, w);
	atomic_fetch_sub_explicit(&s->waiting, 1, memory_order_relaxed);
}

static void grant(struct slots *s, struct slots_wait *w)
{
	struct slots_desk *d = w->desk;
	unqueue(s, w);
	pthread_mutex_lock(&d->mutex);
	if (!d->granted)
		d->wake(d->arg);
	w->state = GRANTED;
	DL_APPEND(d->granted, w);
	pthread_mutex_unlock(&d->mutex);
}

/* Whether this desk's worker may have one more. */
static bool admits(const struct slots *s, const struct slots_desk *d, uint32_t max)
{
	size_t without = 0;
	if (!s->shared)
		return s->used < max;
	if (!s->corners[d->i].used)
		return true;
	for (size_t i = 0; i < s->n; i++)
		without += !s->corners[i].used;
	return s->used + without < (max > s->n ? max : s->n);
}

/* Who has waited longest; with `now` of those that may have one now. */
static struct slots_wait *first_of_all(const struct slots *s, bool now)
{
	struct slots_wait *first = NULL;
	for (size_t i = 0; i < s->n; i++) {
		struct slots_wait *w = s->corners[i].queue;
		if (w && (!first || w->ticket < first->ticket) &&
		    (!now || admits(s, w->desk, w->max)))
			first = w;
	}
	return first;
}

static void use(struct slots *s, const struct slots_desk *d)
{
	s->used++;
	s->corners[d->i].used++;
}

static void grant_what_goes(struct slots *s)
{
	struct slots_wait *w;
	while (atomic_load_explicit(&s->waiting, memory_order_relaxed) &&
	       (w = first_of_all(s, true))) {
		use(s, w->desk);
		grant(s, w);
	}
}

static int corners_make(struct slots *s, size_t n)
{
	if (s->corners)
		return 0;
	if (!(s->corners = calloc(n, sizeof(*s->corners))))
		return KM_ENOMEM;
	s->n = n;
	for (size_t i = 0; i < n; i++)
		s->corners[i].s = s;
	return 0;
}

/* The other workers may have unused connections. */
static void ask_others(struct slots *s, const struct slots_desk *me)
{
	for (size_t i = 0; i < s->n; i++) {
		struct slots_desk *d = &me->hub->desks[i];
		struct corner *c = &s->corners[i];
		if (d == me)
			continue;
		pthread_mutex_lock(&d->mutex);
		bool news = !c->asked && d->wake;
		if (news) {
			c->asked = true;
			c->next = d->asked;
			d->asked = c;
			slots_ref(s);
			d->wake(d->arg);
		}
		pthread_mutex_unlock(&d->mutex);
	}
}

/* ---- ---- */

void slots_spoke(struct slots *s, uint64_t version, bool h2)
{
	uint64_t spoke = version << 1 | h2;
	if (atomic_exchange_explicit(&s->spoke, spoke, memory_order_relaxed) == spoke)
		return;
	pthread_mutex_lock(&s->mutex);
	s->shared = atomic_load_explicit(&s->spoke, memory_order_relaxed) & 1;
	if (s->corners)
		grant_what_goes(s);
	pthread_mutex_unlock(&s->mutex);
}

enum slots_speaks slots_speaks(struct slots *s, uint64_t version)
{
	uint64_t spoke = atomic_load_explicit(&s->spoke, memory_order_relaxed);
	return spoke >> 1 != version ? SLOTS_UNKNOWN : spoke & 1 ? SLOTS_HTTP2 : SLOTS_HTTP1;
}

static int take_locked(struct slots *s, const struct slots_desk *d, uint32_t max)
{
	uint32_t waiting = atomic_load_explicit(&s->waiting, memory_order_relaxed);
	if (corners_make(s, d->hub->n))
		return KM_ENOMEM;
	/* A place that is kept is nobody else's to wait for. */
	if ((waiting && !(s->shared && !s->corners[d->i].used)) || !admits(s, d, max))
		return KM_EFULL;
	use(s, d);
	return 0;
}

int slots_take(struct slots *s, struct slots_desk *d, uint32_t max)
{
	pthread_mutex_lock(&s->mutex);
	int rc = take_locked(s, d, max);
	pthread_mutex_unlock(&s->mutex);
	return rc;
}

static int wait_locked(struct slots *s, struct slots_wait *w, uint32_t queue)
{
	uint32_t waiting = atomic_load_explicit(&s->waiting, memory_order_relaxed);
	int rc = take_locked(s, w->desk, w->max);
	if (rc != KM_EFULL)
		return rc;
	if (waiting >= queue)
		return KM_EFULL;
	w->ticket = ++s->ticket;
	w->state = QUEUED;
	DL_APPEND(s->corners[w->desk->i].queue, w);
	atomic_fetch_add_explicit(&s->waiting, 1, memory_order_relaxed);
	grant_what_goes(s); /* the maximum may have grown since the others began to wait */
	ask_others(s, w->desk);
	return KM_EAGAIN;
}

int slots_wait(struct slots *s, struct slots_desk *d, uint32_t max, uint32_t queue, int64_t now,
	       struct slots_wait *w)
{
	*w = (struct slots_wait){.s = s, .desk = d, .max = max ? max : 1, .since = now};
	pthread_mutex_lock(&s->mutex);
	int rc = wait_locked(s, w, queue);
	pthread_mutex_unlock(&s->mutex);
	return rc;
}

bool slots_leave(struct slots_wait *w)
{
	bool had = false;
	if (!w->s)
		return false;
	pthread_mutex_lock(&w->s->mutex);
	if (w->state == QUEUED) {
		unqueue(w->s, w);
	} else if (w->state == GRANTED) {
		pthread_mutex_lock(&w->desk->mutex);
		DL_DELETE(w->desk->granted, w);
		pthread_mutex_unlock(&w->desk->mutex);
		had = true;
	}
	w->state = IDLE;
	pthread_mutex_unlock(&w->s->mutex);
	return had;
}

void slots_release(struct slots *s, struct slots_desk *d)
{
	pthread_mutex_lock(&s->mutex);
	s->used--;
	s->corners[d->i].used--;
	grant_what_goes(s);
	pthread_mutex_unlock(&s->mutex);
}

static bool own_locked(const struct slots *s, const struct slots_desk *d)
{
	return s->shared && s->corners && s->corners[d->i].used <= 1;
}

bool slots_own(struct slots *s, const struct slots_desk *d)
{
	pthread_mutex_lock(&s->mutex);
	bool own = own_locked(s, d);
	pthread_mutex_unlock(&s->mutex);
	return own;
}

bool slots_wanted(struct slots *s)
{
	return atomic_load_explicit(&s->waiting, memory_order_relaxed) != 0;
}

uint32_t slots_waiting(struct slots *s)
{
	return atomic_load_explicit(&s->waiting, memory_order_relaxed);
}

enum slots_turn slots_turn(struct slots *s, struct slots_desk *d, int64_t now,
			   bool (*fits)(const struct slots_wait *w, const void *arg),
			   const void *arg, struct slots_wait **w)
{
	enum slots_turn turn = SLOTS_NOBODY;
	*w = NULL;
	pthread_mutex_lock(&s->mutex);
	struct slots_wait *first = first_of_all(s, false);
	struct slots_wait *here = first ? s->corners[d->i].queue : NULL;
	bool own = own_locked(s, d);
	if (here && (own || here == first || now - first->since < SLOTS_UNFAIR_MS) &&
	    fits(here, arg)) {
		turn = SLOTS_HERE;
		*w = here;
		grant(s, here); /* the connection's own slot: the number stays */
	} else if (here || (first && !own)) {
		turn = SLOTS_YIELD;
	}
	pthread_mutex_unlock(&s->mutex);
	return turn;
}

void slots_refuse(struct slots_wait *w)
{
	struct slots *s = w->s;
	pthread_mutex_lock(&s->mutex);
	if (w->state == GRANTED) {
		pthread_mutex_lock(&w->desk->mutex);
		DL_DELETE(w->desk->granted, w);
		pthread_mutex_unlock(&w->desk->mutex);
		w->state = QUEUED;
		DL_PREPEND(s->corners[w->desk->i].queue, w);
		atomic_fetch_add_explicit(&s->waiting, 1, memory_order_relaxed);
	}
	pthread_mutex_unlock(&s->mutex);
}
