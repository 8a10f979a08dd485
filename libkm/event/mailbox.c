/* SPDX-License-Identifier: MIT */
#include "libkm/event/mailbox.h"
#include "libkm/base/err.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* The descriptor is readable exactly while n > 0: both change under the lock. */
struct km_mailbox {
	pthread_mutex_t lock;
	int fd;
	bool closed;
	size_t cap, head, n;
	void *items[]; /* a ring */
};

struct km_mailbox *km_mailbox_new(size_t cap)
{
	struct km_mailbox *m;

	if (!cap || cap > (SIZE_MAX - sizeof(*m)) / sizeof(void *))
		return NULL;
	m = calloc(1, sizeof(*m) + cap * sizeof(void *));
	if (!m)
		return NULL;
	m->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (m->fd < 0) {
		free(m);
		return NULL;
	}
	m->cap = cap;
	pthread_mutex_init(&m->lock, NULL);
	return m;
}

int km_mailbox_put(struct km_mailbox *m, void *item)
{
	uint64_t one = 1;
	int err = 0;

	pthread_mutex_lock(&m->lock);
	if (m->closed)
		err = KM_ECLOSED;
	else if (m->n == m->cap || (!m->n && write(m->fd, &one, sizeof(one)) < 0))
		err = KM_EFULL; /* the write cannot fail: the counter is 0 here */
	else
		m->items[(m->head + m->n++) % m->cap] = item;
	pthread_mutex_unlock(&m->lock);
	return err;
}

void *km_mailbox_take(struct km_mailbox *m)
{
	void *item = NULL;
	uint64_t count;

	pthread_mutex_lock(&m->lock);
	if (m->n) {
		item = m->items[m->head];
		m->head = (m->head + 1) % m->cap;
		m->n--;
		if (!m->n && read(m->fd, &count, sizeof(count)) < 0)
			abort(); /* the counter is 1 here */
	}
	pthread_mutex_unlock(&m->lock);
	return item;
}

int km_mailbox_fd(const struct km_mailbox *m)
{
	return m->fd;
}

void km_mailbox_close(struct km_mailbox *m)
{
	pthread_mutex_lock(&m->lock);
	m->closed = true;
	pthread_mutex_unlock(&m->lock);
}

void km_mailbox_free(struct km_mailbox *m, void (*drop)(void *item))
{
	void *item;

	if (!m)
		return;
	while ((item = km_mailbox_take(m)))
		if (drop)
			drop(item);
	close(m->fd);
	pthread_mutex_destroy(&m->lock);
	free(m);
}
