/* SPDX-License-Identifier: MIT */
/* What the two halves of the store share: the pool (store.c) and the listener (listen.c). */
#ifndef CONTROLD_STORE_POOL_H
#define CONTROLD_STORE_POOL_H

#include "controld/store/dbconn.h"
#include "controld/store/store.h"

struct listener;

/* The connection that LISTENs, polls, and wakes the watches. */
int listener_new(struct listener **out, struct event_base *base, const char *conninfo,
		 int64_t timeout_ms, int64_t poll_ms, struct km_errtext *err)
    __attribute__((warn_unused_result));
void listener_free(struct listener *l);
const char *listener_epoch(const struct listener *l);
void listener_notes(struct listener *l, store_note_cb *cb, void *arg);
struct store_watch *listener_watch(struct listener *l, store_wake_cb *cb, void *arg);

#endif
