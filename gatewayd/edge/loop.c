/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/loop.h"
#include "libkm/base/err.h"
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define BATCH 128

struct loop {
	int fd;
	int at, n; /* the events at hand: those from `at` on have not been told yet */
	struct epoll_event events[BATCH];
};

struct loop *loop_new(void)
{
	struct loop *l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	l->fd = epoll_create1(EPOLL_CLOEXEC);
	if (l->fd >= 0)
		return l;
	free(l);
	return NULL;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	close(l->fd);
	free(l);
}

int loop_add(struct loop *l, struct loop_fd *f, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = f};
	return epoll_ctl(l->fd, EPOLL_CTL_ADD, f->fd, &ev) ? KM_ENOMEM : 0;
}

/* Closing alone would not do: another process may hold the same open file for a moment (the warden,
 * which made it; a child between fork and exec), and f would go on being told of it. */
void loop_remove(struct loop *l, struct loop_fd *f)
{
	(void)epoll_ctl(l->fd, EPOLL_CTL_DEL, f->fd, NULL);
	for (int i = l->at; i < l->n; i++)
		if (l->events[i].data.ptr == f)
			l->events[i].data.ptr = NULL;
}

bool loop_pending(const struct loop *l, const struct loop_fd *f)
{
	if (l->n == BATCH)
		return true;
	for (int i = l->at; i < l->n; i++)
		if (l->events[i].data.ptr == f)
			return true;
	return false;
}

void loop_turn(struct loop *l, int timeout_ms)
{
	l->n = epoll_wait(l->fd, l->events, BATCH, timeout_ms);
	for (l->at = 0; l->at < l->n;) {
		struct epoll_event *ev = &l->events[l->at++];
		struct loop_fd *f = ev->data.ptr;
		if (f)
			f->ready(f, ev->events);
	}
	l->at = l->n = 0;
}
