/* SPDX-License-Identifier: MIT */
/* A private PostgreSQL under the state directory: made by initdb when there is none, run as a
 * child, reached by a Unix socket only, gone when this process is gone.
 *
 *   STATE/postgres        root's, 0711
 *   STATE/postgres/data   the database, 0700, the user's
 *   STATE/postgres/run    its socket, 0700, the user's: whoever can enter is trusted
 *
 * The parent-death signal makes the server end by itself (fast shutdown) when this process is
 * killed. Linux sends it when the thread that started the server ends, so embedded_start must be
 * called, and the loop be run, by the main thread. */
#ifndef CONTROLD_STORE_EMBEDDED_H
#define CONTROLD_STORE_EMBEDDED_H

#include "libkm/base/err.h"
#include <event2/event.h>
#include <sys/types.h>

struct embedded;

struct embedded_opts {
	const char *state_dir;   /* exists; every folder on the way must be passable for the user */
	const char *user;        /* whom the server runs as when this process is root */
	const char *program_dir; /* of initdb and postgres */
};
/* Called from the loop; embedded_free is not allowed within them. */
struct embedded_cbs {
	/* The server answers; also after each restart. */
	void (*ready)(void *arg);
	/* It cannot be started (not called once it was ready: then it is restarted for ever). The
	 * caller then ends with embedded_free. */
	void (*failed)(void *arg, const char *why);
};

/* Checks, stops a server that a killed controld has left on the same data, and starts initdb or the
 * server. cbs must outlive it. KM_EUNSUPPORTED: the data are of another major version (the log has
 * the commands to convert them); KM_EINVAL: the path is too long for a socket; KM_ENOTFOUND: no
 * such user or program; KM_EPERM: the user cannot reach the folder; KM_EIO, KM_ENOMEM. */
int embedded_start(struct embedded **out, struct event_base *base, const struct embedded_opts *opts,
		   const struct embedded_cbs *cbs, void *arg, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* How libpq reaches it; lives as long as e. */
const char *embedded_conninfo(const struct embedded *e);
/* The process id of the server (or of initdb), 0 when none runs. For tests and logs. */
pid_t embedded_pid(const struct embedded *e);
/* Stops the server (fast; after 30 s immediate) and waits for its end. Accepts NULL. */
void embedded_free(struct embedded *e);

#endif
