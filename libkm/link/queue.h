/* SPDX-License-Identifier: MIT */
/* The two queues between the link thread and the main loop. Commands go in without a bound of
 * their own (each kind has one at its source); events come out through a km_mailbox, and what does
 * not fit waits at the writer, who is told to stop reading from the network meanwhile. */
#ifndef KM_LINK_QUEUE_H
#define KM_LINK_QUEUE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* First member of whatever is queued. */
struct km_qitem {
	struct km_qitem *next;
	size_t bytes; /* what it holds on the heap, roughly */
};

/* Commands: any number of writers, one reader. */
struct km_cmdq {
	pthread_mutex_t lock;
	struct km_qitem *head, *tail;
};
void km_cmdq_init(struct km_cmdq *q);
void km_cmdq_push(struct km_cmdq *q, struct km_qitem *item);
/* All that is queued, oldest first, or NULL. */
struct km_qitem *km_cmdq_steal(struct km_cmdq *q);
/* Destroys the lock; what is inside is given to drop. */
void km_cmdq_destroy(struct km_cmdq *q, void (*drop)(struct km_qitem *item));

/* Events: the link thread writes, the main loop reads. */
struct km_outbox {
	struct km_mailbox *mail;
	size_t max_bytes;
	_Atomic size_t bytes;         /* in the mailbox, taken off by the reader */
	_Atomic bool blocked;         /* the writer waits for the reader */
	struct km_qitem *head, *tail; /* did not fit; the writer's */
};
/* At most cap items or max_bytes in the mailbox. KM_ENOMEM. */
int km_outbox_init(struct km_outbox *o, size_t cap, size_t max_bytes)
    __attribute__((warn_unused_result));
/* Writer: hands item over, or keeps it behind those that wait already. */
void km_outbox_post(struct km_outbox *o, struct km_qitem *item);
/* Writer: hands over what waits. True when nothing waits any more; otherwise the reader will ask
 * for a wake-up. */
bool km_outbox_flush(struct km_outbox *o);
/* Whether the writer should stop making events. */
static inline bool km_outbox_behind(const struct km_outbox *o)
{
	return o->head != NULL;
}
/* Reader: the oldest item or NULL; *wake becomes true when the writer must be woken. */
struct km_qitem *km_outbox_take(struct km_outbox *o, bool *wake);
/* After both threads are done with it. */
void km_outbox_free(struct km_outbox *o, void (*drop)(struct km_qitem *item));

#endif
