/* SPDX-License-Identifier: MIT */
#include "agentd/health/path.h"

void path_init(struct path *p, int64_t interval_ms, int64_t now_ms)
{
	*p = (struct path){.interval_ms = interval_ms, .due_ms = now_ms};
}

static bool miss(struct path *p)
{
	bool went_down;

	if (p->misses < UINT32_MAX)
		p->misses++;
	if (p->misses < PATH_MISSES)
		return false;
	went_down = p->up || !p->known;
	p->up = false;
	p->known = true;
	return went_down;
}

enum path_act path_tick(struct path *p, int64_t now_ms, uint32_t jitter, bool *went_down)
{
	*went_down = false;
	if (now_ms < p->due_ms)
		return PATH_NOTHING;
	if (p->waiting)
		*went_down = miss(p);
	p->waiting = true;
	p->sent_ms = now_ms;
	p->due_ms = now_ms + PATH_REPLY_MS;
	if (p->misses < PATH_MISSES || now_ms < p->kick_ms)
		return PATH_SEND;
	p->kick_ms = now_ms + PATH_KICK_MS + jitter;
	p->kicks++;
	return PATH_KICK;
}

bool path_reply(struct path *p, int64_t now_ms)
{
	bool came_up = !p->up;

	(void)now_ms;
	p->up = p->known = true;
	p->waiting = false;
	p->misses = p->kicks = 0;
	p->kick_ms = 0;
	p->due_ms = p->sent_ms + p->interval_ms;
	return came_up;
}

void path_spare(struct path *p, int64_t now_ms)
{
	p->kick_ms = now_ms;
	p->kicks--;
}
