/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/schedule.h"
#include <stdlib.h>

struct schedule {
	struct due **heap; /* heap[0] is not used */
	size_t n, cap;
};

struct schedule *schedule_new(void)
{
	return calloc(1, sizeof(struct schedule));
}

void schedule_free(struct schedule *s)
{
	if (!s)
		return;
	free(s->heap);
	free(s);
}

static void place(struct schedule *s, struct due *d, size_t pos)
{
	s->heap[pos] = d;
	d->pos = pos;
}

static void rise(struct schedule *s, struct due *d)
{
	size_t pos = d->pos;
	for (; pos > 1 && s->heap[pos / 2]->at_ms > d->at_ms; pos /= 2)
		place(s, s->heap[pos / 2], pos);
	place(s, d, pos);
}

static void sink(struct schedule *s, struct due *d)
{
	size_t pos = d->pos;
	for (size_t child; (child = 2 * pos) <= s->n; pos = child) {
		if (child < s->n && s->heap[child + 1]->at_ms < s->heap[child]->at_ms)
			child++;
		if (s->heap[child]->at_ms >= d->at_ms)
			break;
		place(s, s->heap[child], pos);
	}
	place(s, d, pos);
}

static int grow(struct schedule *s)
{
	size_t cap = s->cap ? 2 * s->cap : 64;
	struct due **more = realloc(s->heap, cap * sizeof(*more));
	if (!more)
		return KM_ENOMEM;
	s->heap = more;
	s->cap = cap;
	return 0;
}

int schedule_set(struct schedule *s, struct due *d, int64_t at_ms)
{
	if (!d->pos) {
		if (s->n + 2 > s->cap && grow(s))
			return KM_ENOMEM;
		d->at_ms = at_ms;
		place(s, d, ++s->n);
		rise(s, d);
		return 0;
	}
	bool sooner = at_ms < d->at_ms;
	d->at_ms = at_ms;
	if (sooner)
		rise(s, d);
	else
		sink(s, d);
	return 0;
}

void schedule_drop(struct schedule *s, struct due *d)
{
	struct due *last;
	size_t pos = d->pos;
	if (!pos)
		return;
	d->pos = 0;
	last = s->heap[s->n--];
	if (last == d)
		return;
	place(s, last, pos);
	rise(s, last);
	sink(s, last);
}

struct due *schedule_first(const struct schedule *s)
{
	return s->n ? s->heap[1] : NULL;
}

/* ---- renewal ---- */

static int64_t lifetime(const struct renewal *r)
{
	return r->not_after_ms > r->not_before_ms ? r->not_after_ms - r->not_before_ms : 0;
}

int64_t share_of(int64_t span_ms, uint32_t rnd)
{
	return (int64_t)((double)span_ms * ((double)rnd / 4294967296.0));
}

int64_t renewal_due(const struct renewal *r)
{
	int64_t life = lifetime(r);
	int64_t left = life < RENEWAL_SHORT_MS ? life / 2 : life / 3;
	int64_t jitter = left / 10 < 86400000 ? left / 10 : 86400000;
	int64_t last = r->not_after_ms - life / 20;
	int64_t due = r->ari_ms ? r->ari_ms : r->not_after_ms - left - share_of(jitter, r->salt);
	return due < last ? due : last;
}

bool renewal_urgent(const struct renewal *r, int64_t now_ms)
{
	return r->not_after_ms - now_ms < lifetime(r) / 20;
}

int64_t renewal_pick(int64_t start_ms, int64_t end_ms, int64_t was_start_ms, int64_t was_end_ms,
		     int64_t chosen_ms, uint32_t rnd)
{
	if (chosen_ms && start_ms == was_start_ms && end_ms == was_end_ms)
		return chosen_ms;
	return start_ms + share_of(end_ms > start_ms ? end_ms - start_ms : 0, rnd);
}

int64_t clock_jumped(struct clock_watch *w, int64_t mono_ms, int64_t wall_ms)
{
	int64_t offset = wall_ms - mono_ms, by = w->known ? offset - w->offset_ms : 0;
	bool jumped = by >= CLOCK_JUMP_MS || by <= -CLOCK_JUMP_MS;
	w->offset_ms = offset; /* small steps are followed, so that they do not add up */
	w->known = true;
	return jumped ? by : 0;
}
