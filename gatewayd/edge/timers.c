/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/timers.h"
#include <stddef.h>
#include <utlist.h>

void timer_stop(struct timers *ts, struct timer *t)
{
	if (!t->on)
		return;
	DL_DELETE(ts->list[t->kind], t);
	t->on = false;
}

void timer_set(struct timers *ts, struct timer *t, enum timer_kind kind, int64_t now)
{
	if (t->on && t->kind == kind && t->deadline == now + ts->ms[kind])
		return;
	timer_stop(ts, t);
	t->kind = (uint8_t)kind;
	t->deadline = now + ts->ms[kind];
	t->on = true;
	DL_APPEND(ts->list[kind], t);
}

bool timers_hurry(struct timers *ts, enum timer_kind kind)
{
	struct timer *t = ts->list[kind];
	if (!t)
		return false;
	timer_stop(ts, t);
	t->fired(t);
	return true;
}

bool timers_run(struct timers *ts, int64_t now)
{
	int left = TIMERS_BATCH;
	for (int k = 0; k < TIMER_KINDS; k++) {
		struct timer *t;
		while ((t = ts->list[k]) && t->deadline <= now) {
			if (!left--)
				return true;
			timer_stop(ts, t);
			t->fired(t);
		}
	}
	return false;
}
