/* SPDX-License-Identifier: MIT */
/* The folders of the embedded database, and what can be told from the files in them. */
#ifndef CONTROLD_STORE_DATADIR_H
#define CONTROLD_STORE_DATADIR_H

#include "controld/store/child.h"
#include "libkm/base/err.h"
#include <stdbool.h>

struct datadir {
	char *top;   /* STATE/postgres */
	char *data;  /* STATE/postgres/data */
	char *fresh; /* STATE/postgres/data.new: not complete yet */
	char *run;   /* STATE/postgres/run */
};

/* Names the folders and makes top and run. KM_EINVAL: too long for a socket's address; KM_EIO. */
int datadir_open(struct datadir *d, const char *state_dir, const struct child_user *u,
		 struct km_errtext *err) __attribute__((warn_unused_result));
void datadir_close(struct datadir *d);
/* Whether there is a database. */
bool datadir_made(const struct datadir *d);
/* Removes what an interrupted attempt left and makes the empty folder d->fresh. KM_EIO. */
int datadir_make_fresh(const struct datadir *d, const struct child_user *u, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Compares PG_VERSION with what the program `postgres -V` says. No database: 0. KM_EUNSUPPORTED:
 * they differ; the log has the commands that convert it. KM_EIO: the program does not answer. */
int datadir_check_version(const struct datadir *d, const struct child_user *u, const char *postgres,
			  struct km_errtext *err) __attribute__((warn_unused_result));
/* The server that runs on these data, as postmaster.pid says and /proc confirms, with a pidfd that
 * the caller closes; 0: none. A file that names anything else is removed. */
pid_t datadir_leftover(const struct datadir *d, int *pidfd);
/* Whether the server `pid` says in postmaster.pid that it accepts connections. */
bool datadir_server_ready(const struct datadir *d, pid_t pid);

#endif
