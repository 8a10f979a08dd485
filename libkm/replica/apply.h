/* SPDX-License-Identifier: MIT */
/* How a message becomes what is wanted, and how the hooks hear of it; no disk. Only for files of
 * this folder. */
#ifndef KM_REPLICA_APPLY_H
#define KM_REPLICA_APPLY_H

#include "libkm/replica/disk.h"
#include "libkm/replica/item.h"

#define REPLICA_EPOCH_MAX 64 /* bytes, as in messages.def */

#define REPLICA_MALFORMED_MAX 32 /* of which the text is remembered */

/* A thing that control named and we did not understand, so that there is no item for it, or an
 * older one. It stands until a message names the thing anew. */
struct malformed {
	char id[KM_UUID_STRLEN]; /* "": not known */
	char text[256];
	struct malformed *next;
};

struct km_replica {
	struct km_replica_hooks hooks;
	void *arg;
	bool loading; /* from disk: the hooks get everything together at the end */
	char epoch[REPLICA_EPOCH_MAX + 1];
	int64_t revision;
	struct item *maps[N_KINDS];
	bool refused; /* an item may stand refused; false: none does */
	struct malformed *malformed;
	size_t n_malformed; /* in the list, oldest first */
	struct km_errtext unsettled;
	int unsettled_error; /* of the hook `settled`; 0: it went well */
	bool ack_owed;       /* for what is applied but not on disk */
	struct disk disk;
};

/* What has been refused: for config_ack. */
struct refusals {
	char text[2049];     /* one more than `error` in messages.def may have */
	size_t len, n, held; /* held: how many of them there was no room for */
	int first;           /* its error */
};

/* A `config`. *differ: how much was new in it, the epoch and the revision included. KM_EINVAL,
 * KM_ENOMEM: nothing has changed. */
int km_apply_config(struct km_replica *r, const json_t *data, size_t *differ,
		    struct km_errtext *err) __attribute__((warn_unused_result));

/* One of the nine changes. *clean: the change as it goes into the journal, the caller's reference;
 * NULL: it was applied already, or refused as a whole, and then *differ is set: a new snapshot must
 * tell of it. KM_ENOTFOUND (no such type), KM_EGAP, KM_EINVAL, KM_EFULL, KM_ENOMEM: nothing has
 * changed. */
int km_apply_change(struct km_replica *r, const char *type, const json_t *data, json_t **clean,
		    size_t *differ, struct km_errtext *err) __attribute__((warn_unused_result));

/* Everything to the hooks, as new. */
void km_apply_all(struct km_replica *r);

/* All that stands refused now, from whichever message it came. */
void km_apply_refusals(struct km_replica *r, struct refusals *f);
/* Forgets what was malformed. */
void km_apply_forget_malformed(struct km_replica *r);

#endif
