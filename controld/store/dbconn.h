/* SPDX-License-Identifier: MIT */
/* One asynchronous connection to PostgreSQL that keeps itself up: connects, sets the session up,
 * checks the schema's version, and after a loss does it again (100 ms doubling to 5 s). For the
 * store; nobody else needs it. A host name in the address is resolved by libpq, which blocks. */
#ifndef CONTROLD_STORE_DBCONN_H
#define CONTROLD_STORE_DBCONN_H

#include "libkm/base/err.h"
#include <event2/event.h>
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

struct dbconn;

struct dbconn_opts {
	const char *conninfo;
	const char *name;             /* shown in pg_stat_activity; static storage */
	int64_t connect_timeout_ms;   /* for connecting and setting up */
	int64_t statement_timeout_ms; /* at the server */
	bool pipeline;                /* in pipeline mode when it is up */
};
/* Called from the loop only. */
struct dbconn_cbs {
	void (*up)(void *arg);
	void (*input)(void *arg); /* something was read: look for results and notifications */
	void (*down)(void *arg, const char *why); /* was up, or did not come up */
};

/* Begins to connect, from the loop. KM_EINVAL: conninfo is malformed; KM_ENOMEM. cbs must outlive
 * the connection. */
int dbconn_new(struct dbconn **out, struct event_base *base, const struct dbconn_opts *opts,
	       const struct dbconn_cbs *cbs, void *arg, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* No callback follows. Accepts NULL. */
void dbconn_free(struct dbconn *c);
bool dbconn_is_up(const struct dbconn *c);
/* The connection for PQsend… and PQgetResult; only between up and down. */
PGconn *dbconn_db(const struct dbconn *c);
/* After PQsend…: writes what it can and the rest when the socket is writable. A failure is told by
 * down, from the loop. */
void dbconn_flush(struct dbconn *c);
/* Gives this connection up and connects anew; down is called, from the loop. */
void dbconn_drop(struct dbconn *c, const char *why);

#endif
