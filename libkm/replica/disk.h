/* SPDX-License-Identifier: MIT */
/* The two files of a replica: a snapshot (config.json) and the journal of changes since
 * (config.journal). Only for files of this folder.
 *
 * The snapshot is one JSON object, a `config` message's data with a "snapshot" id besides. Each
 * line of the journal is 16 hex digits of the SHA-256 of what follows them, a space, JSON, and a
 * newline. The first line names the snapshot that the journal belongs to: a journal of another one
 * is a leftover of a crash between the two writes, and its content is in the newer snapshot. Each
 * line is synced before the next is written, so only the last can be torn.
 *
 * Snapshot and changes bear the "form" of who wrote them: what he understands of a message. He has
 * left out what he does not. */
#ifndef KM_REPLICA_DISK_H
#define KM_REPLICA_DISK_H

#include "libkm/base/buf.h"
#include "libkm/base/util.h"
#include <jansson.h>

#define REPLICA_SNAPSHOT_MAX (512u << 20) /* bytes */
#define REPLICA_JOURNAL_MAX (4u << 20)    /* bytes; then a new snapshot is due */
#define REPLICA_JOURNAL_LINES_MAX 1000    /* likewise */
#define REPLICA_LINE_MAX (2u << 20)       /* bytes of one change */

#define DISK_FORM_LEN 16 /* characters */

struct disk {
	char *snapshot, *journal;     /* paths */
	char id[KM_UUID_STRLEN];      /* of the snapshot on disk; "" when there is none */
	size_t size, lines;           /* of the good part of the journal */
	bool bad;                     /* the journal cannot be appended to: write a snapshot */
	char form[DISK_FORM_LEN + 1]; /* ours */
	bool foreign;                 /* something of what was read has another form, or none */
};

/* What is found: first the snapshot, then each change in order. An error ends the reading; the
 * file is then one that cannot be understood. Except KM_ENOMEM, which is given back as it is. */
typedef int disk_snapshot_cb(void *arg, const json_t *config, struct km_errtext *err);
typedef int disk_change_cb(void *arg, const char *type, const json_t *data, struct km_errtext *err);

/* Reads both; form is ours (of DISK_FORM_LEN characters). A file that cannot be understood is set
 * aside as *.broken with a warning; of the journal what comes before its first bad line counts all
 * the same. KM_EIO (a file is there but cannot be read, or dir is not), KM_ENOMEM. */
int km_disk_open(struct disk *d, const char *dir, const char *form, disk_snapshot_cb *snapshot,
		 disk_change_cb *change, void *arg, struct km_errtext *err)
    __attribute__((warn_unused_result));
void km_disk_close(struct disk *d);

/* Adds a line and syncs it. KM_EIO (errno), KM_ETOOBIG, KM_ENOMEM; then bad is set. */
int km_disk_append(struct disk *d, const char *type, const json_t *data)
    __attribute__((warn_unused_result));
/* Whether the journal has become long enough for a new snapshot. */
bool km_disk_is_long(const struct disk *d);
/* Begins a snapshot's text in out: {"snapshot": ID, "form": …, with the comma; *id gets the new id.
 * While d is foreign it has no form: what was left out is not in this snapshot either. */
int km_disk_snapshot_begin(const struct disk *d, struct km_buf *out, char id[static KM_UUID_STRLEN])
    __attribute__((warn_unused_result));
/* Replaces the snapshot and empties the journal. KM_EIO (errno): the old files stand and bad is
 * set. (Where only the emptying fails the journal is a leftover: all is well on disk, but bad is
 * set.) */
int km_disk_snapshot_write(struct disk *d, const struct km_buf *text, const char *id)
    __attribute__((warn_unused_result));

#endif
