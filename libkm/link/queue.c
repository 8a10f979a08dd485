/* SPDX-License-Identifier: MIT */
#include "libkm/link/queue.h"
#include "libkm/base/err.h"
#include "libkm/event/mailbox.h"

void km_cmdq_init(struct km_cmdq *q)
{
	*q = (struct km_cmdq){0};
	pthread_mutex_init(&q->lock, NULL);
}

static void append(struct km_qitem **head, struct km_qitem **tail, struct km_qitem *item)
{
	item->next = NULL;
	if (*head)
		(*tail)->next = item;
	else
		*head = item;
	*tail = item;
}

void km_cmdq_push(struct km_cmdq *q, struct km_qitem *item)
{
	pthread_mutex_lock(&q->lock);
	append(&q->head, &q->tail, item);
	pthread_mutex_unlock(&q->lock);
}

struct km_qitem *km_cmdq_steal(struct km_cmdq *q)
{
	pthread_mutex_lock(&q->lock);
	struct km_qitem *all = q->head;
	q->head = q->tail = NULL;
	pthread_mutex_unlock(&q->lock);
	return all;
}

static void drop_list(struct km_qitem *item, void (*drop)(struct km_qitem *))
{
	while (item) {
		struct km_qitem *next = item->next;
		drop(item);
		item = next;
	}
}

void km_cmdq_destroy(struct km_cmdq *q, void (*drop)(struct km_qitem *))
{
	drop_list(km_cmdq_steal(q), drop);
	pthread_mutex_destroy(&q->lock);
}

int km_outbox_init(struct km_outbox *o, size_t cap, size_t max_bytes)
{
	*o = (struct km_outbox){.max_bytes = max_bytes};
	o->mail = km_mailbox_new(cap);
	return o->mail ? 0 : KM_ENOMEM;
}

/* One item alone may be larger than the bound, or it would never arrive. */
static bool put(struct km_outbox *o, struct km_qitem *item)
{
	size_t now = atomic_load(&o->bytes), n = item->bytes;

	if (now && now + n > o->max_bytes)
		return false;
	atomic_fetch_add(&o->bytes, n);
	if (km_mailbox_put(o->mail, item) == 0)
		return true; /* the reader may have freed it by now */
	atomic_fetch_sub(&o->bytes, n);
	return false;
}

bool km_outbox_flush(struct km_outbox *o)
{
	bool announced = false;

	while (o->head) {
		struct km_qitem *item = o->head, *next = item->next;

		if (put(o, item)) {
			o->head = next;
			announced = false;
		} else if (!announced) {
			/* The reader looks at this after each take, so what it took since the
			 * failed put is seen by one more try, and what it takes later wakes us. */
			atomic_store(&o->blocked, true);
			announced = true;
		} else {
			return false;
		}
	}
	o->tail = NULL;
	return true;
}

void km_outbox_post(struct km_outbox *o, struct km_qitem *item)
{
	append(&o->head, &o->tail, item);
	km_outbox_flush(o);
}

struct km_qitem *km_outbox_take(struct km_outbox *o, bool *wake)
{
	struct km_qitem *item = km_mailbox_take(o->mail);

	if (item)
		atomic_fetch_sub(&o->bytes, item->bytes);
	if (atomic_exchange(&o->blocked, false))
		*wake = true;
	return item;
}

void km_outbox_free(struct km_outbox *o, void (*drop)(struct km_qitem *))
{
	bool wake;

	if (o->mail)
		for (struct km_qitem *i; (i = km_outbox_take(o, &wake));)
			drop(i);
	drop_list(o->head, drop);
	km_mailbox_free(o->mail, NULL);
	*o = (struct km_outbox){0};
}
