/* SPDX-License-Identifier: MIT */
/* The schema: numbered SQL files, built into the program. Blocking; for the start only. */
#ifndef CONTROLD_STORE_MIGRATE_H
#define CONTROLD_STORE_MIGRATE_H

#include "libkm/base/err.h"
#include <libpq-fe.h>

/* The version of the newest migration that this program knows. */
int migrate_known(void);

/* Brings the schema to migrate_known(), each step in a transaction, all under an advisory lock, so
 * that several controld may start at once. *from and *to (may be NULL) get the versions before and
 * after. KM_EUNSUPPORTED: the schema is newer than this program, or the server is older than
 * PostgreSQL 14 (err says what to do). KM_ECLOSED: the connection ended. KM_ETIMEOUT: another
 * controld holds the lock for more than 60 s. KM_EIO: a statement failed. Nothing of a failed step
 * stays. */
int migrate_run(PGconn *db, int *from, int *to, struct km_errtext *err)
    __attribute__((warn_unused_result));

#endif
