/* SPDX-License-Identifier: MIT */
/* How threads talk: a bounded queue of pointers with an eventfd. Ownership of an item passes with
 * it. Any number of writers, one reader. */
#ifndef KM_EVENT_MAILBOX_H
#define KM_EVENT_MAILBOX_H

#include <stddef.h>

struct km_mailbox;

/* A mailbox for at most cap items; NULL when there is no memory or descriptor. */
struct km_mailbox *km_mailbox_new(size_t cap);
/* Hands item over. 0; KM_EFULL (item stays the caller's), KM_ECLOSED after km_mailbox_close. */
int km_mailbox_put(struct km_mailbox *m, void *item) __attribute__((warn_unused_result));
/* The oldest item, or NULL (and the descriptor is no longer readable until the next put). */
void *km_mailbox_take(struct km_mailbox *m);
/* Readable while items may be waiting. */
int km_mailbox_fd(const struct km_mailbox *m);
/* From now on every put fails; what is inside can still be taken. */
void km_mailbox_close(struct km_mailbox *m);
/* Frees it; drop (may be NULL) is called for each item still inside. Accepts NULL. */
void km_mailbox_free(struct km_mailbox *m, void (*drop)(void *item));

#endif
