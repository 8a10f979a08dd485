/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/waits.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

/* Lives while somebody waits, and a little longer in the table, to be remembered. Once settled with
 * success it is out of the table: who comes later begins anew. */
struct wait {
	char *domain;
	_Atomic enum wait_state state;
	unsigned n; /* who wait */
	bool in_table;
	int64_t asked_ms, failed_ms; /* failed_ms: with state WAIT_OVER */
	UT_hash_handle hh;
};

struct waits {
	pthread_mutex_t lock;
	struct wait *names;
	unsigned n;
	int64_t swept_ms;
};

struct waits *waits_new(void)
{
	struct waits *w = calloc(1, sizeof(*w));
	if (w)
		pthread_mutex_init(&w->lock, NULL);
	return w;
}

static void wait_free(struct wait *x)
{
	free(x->domain);
	free(x);
}

static void table_out(struct waits *w, struct wait *x)
{
	HASH_DEL(w->names, x);
	x->in_table = false;
	if (!x->n)
		wait_free(x);
}

void waits_free(struct waits *w)
{
	if (!w)
		return;
	struct wait *x, *tmp;
	HASH_ITER (hh, w->names, x, tmp)
		table_out(w, x);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

static bool forgotten(const struct wait *x, int64_t now_ms)
{
	if (atomic_load(&x->state) == WAIT_OVER)
		return now_ms - x->failed_ms >= WAITS_AGAIN_MS;
	return !x->n && now_ms - x->asked_ms >= WAITS_ASKED_MS;
}

/* Makes room in a full table; a flood must not make it look through all names each time. */
static void sweep(struct waits *w, int64_t now_ms)
{
	struct wait *x, *tmp;
	if (HASH_COUNT(w->names) < WAITS_MAX || now_ms - w->swept_ms < 100)
		return;
	w->swept_ms = now_ms;
	HASH_ITER (hh, w->names, x, tmp)
		if (forgotten(x, now_ms))
			table_out(w, x);
}

static struct wait *wait_new(struct waits *w, const char *domain, int64_t now_ms)
{
	struct wait *x;
	sweep(w, now_ms);
	if (HASH_COUNT(w->names) >= WAITS_MAX || !(x = calloc(1, sizeof(*x))))
		return NULL;
	if (!(x->domain = strdup(domain))) {
		free(x);
		return NULL;
	}
	x->in_table = true;
	x->asked_ms = now_ms;
	HASH_ADD_KEYPTR(hh, w->names, x->domain, strlen(x->domain), x);
	return x;
}

static enum waits_join join(struct waits *w, const char *domain, int64_t now_ms, struct wait **out)
{
	enum waits_join how = WAITS_JOINED;
	struct wait *x;
	HASH_FIND_STR(w->names, domain, x);
	if (x && forgotten(x, now_ms)) {
		table_out(w, x);
		x = NULL;
	}
	if (x && atomic_load(&x->state) == WAIT_OVER)
		return WAITS_IN_VAIN;
	if (w->n >= WAITS_MAX || (x && x->n >= WAITS_PER_NAME))
		return WAITS_FULL;
	if (!x) {
		if (!(x = wait_new(w, domain, now_ms)))
			return WAITS_FULL;
		how = WAITS_FIRST;
	}
	x->n++;
	w->n++;
	*out = x;
	return how;
}

enum waits_join waits_join(struct waits *w, const char *domain, int64_t now_ms, struct wait **out)
{
	*out = NULL;
	pthread_mutex_lock(&w->lock);
	enum waits_join how = join(w, domain, now_ms, out);
	pthread_mutex_unlock(&w->lock);
	return how;
}

void waits_leave(struct waits *w, struct wait *x)
{
	if (!x)
		return;
	pthread_mutex_lock(&w->lock);
	w->n--;
	if (!--x->n && !x->in_table)
		wait_free(x);
	pthread_mutex_unlock(&w->lock);
}

enum wait_state waits_state(const struct wait *x)
{
	return atomic_load(&x->state);
}

bool waits_settle(struct waits *w, const char *domain, bool ok, int64_t now_ms)
{
	struct wait *x;
	bool waiting = false;
	pthread_mutex_lock(&w->lock);
	HASH_FIND_STR(w->names, domain, x);
	if (x) {
		waiting = x->n > 0;
		x->failed_ms = now_ms;
		atomic_store(&x->state, WAIT_OVER);
		if (ok)
			table_out(w, x);
	}
	pthread_mutex_unlock(&w->lock);
	return waiting;
}
