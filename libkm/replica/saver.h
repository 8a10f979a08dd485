/* SPDX-License-Identifier: MIT */
/* What a replica could not write (disk full …) is tried again by timer until it is on disk, so that
 * the config_ack which is owed for it does not wait for control's next message. */
#ifndef KM_REPLICA_SAVER_H
#define KM_REPLICA_SAVER_H

#include "libkm/replica/replica.h"
#include <event2/event.h>

#define KM_SAVER_MS 3000

struct km_saver;

/* Called once it is on disk, with the config_ack to send (its reference). */
typedef void km_saver_cb(void *arg, json_t *ack);

/* For the replica r, which must outlive it; every_ms between two attempts. It sets the gauge
 * kakuremichi_configuration_unsaved (1 while something is missing on disk) and logs the beginning
 * and the end of that. NULL: no memory. */
struct km_saver *km_saver_new(struct event_base *base, struct km_replica *r, int every_ms,
			      km_saver_cb *saved, void *arg);
/* To be told what each km_replica_take gave: KM_EIO starts the attempts, 0 ends them, all else says
 * nothing. err as it was filled. Whether this was the saver's business (rc is KM_EIO). */
bool km_saver_taken(struct km_saver *s, int rc, const struct km_errtext *err);
/* Accepts NULL. */
void km_saver_free(struct km_saver *s);

#endif
