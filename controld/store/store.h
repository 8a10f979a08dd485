/* SPDX-License-Identifier: MIT */
/* Asynchronous PostgreSQL on a libevent loop: a small pool of pipelined connections and one that
 * LISTENs. Everything is called, and calls back, on that loop's thread.
 *
 * Connections come back by themselves (100 ms doubling to 5 s). Each one is set to UTC, given an
 * application_name and a statement_timeout, and refused when the schema is of another version. */
#ifndef CONTROLD_STORE_STORE_H
#define CONTROLD_STORE_STORE_H

#include "libkm/base/err.h"
#include <event2/event.h>
#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct store;
struct store_req;

#define STORE_PARAMS 16 /* per statement */
#define STORE_STMTS 64  /* per request */

/* One statement with its parameters in text form ($1 is params[0]; NULL is SQL's NULL). A bytea is
 * given as "\x" and hex, an array as "{a,b}", a boolean as "true" or "false". */
struct store_stmt {
	const char *sql;
	int n; /* number of parameters */
	const char *params[STORE_PARAMS];
};

/* What went wrong with a request.
 *   err            when
 *   KM_EEXIST      a unique constraint (23505): constraint names it
 *   KM_ENOTFOUND   KM404 (km_before, km_must_find), or a foreign key (23503): constraint names it
 *   KM_EINVAL      a check, not-null or value error (class 22, 23502, 23514): constraint may name
 *                  it
 *   KM_EFULL       KM507: no number or address left
 *   KM_ETIMEOUT    took longer than the bound. sqlstate "57014": rolled back; "": it may or may not
 *                  have happened
 *   KM_ECLOSED     the database went away; a request that had been sent may or may not have happened
 *   KM_EAGAIN      the database cannot do it now: its disk is full or fails, its memory or
 *                  connections are short (class 53, 58030), it only reads (25006), or others were in
 *                  the way (class 40); rolled back
 *   KM_EIO         any other error of the database: message says which
 */
struct store_error {
	int err;
	char sqlstate[6];    /* "" when the database did not say */
	char constraint[64]; /* "" when none */
	char message[512];   /* the database's primary message; for logs */
};

/* Whether the same request may succeed later: KM_ECLOSED, KM_ETIMEOUT, KM_EAGAIN. */
bool store_error_passes(const struct store_error *e);

/* A request ended. Success: error is NULL and res[0..n) are the results, one per statement, in
 * order. Failure: res is NULL and nothing was changed (but see KM_ETIMEOUT, KM_ECLOSED). Results
 * belong to the store and are gone after the callback, as is the request's handle. */
typedef void store_cb(void *arg, const struct store_error *error, PGresult *const *res, size_t n);

struct store_opts {
	const char *conninfo; /* URL or key=value string of libpq */
	unsigned connections; /* in the pool; 0: 4; at most 64 */
	size_t max_queue;     /* requests that wait for a connection; 0: 1,024 */
	int64_t timeout_ms;   /* from store_run to the callback; 0: 5,000 */
	int64_t poll_ms;      /* of the listening connection; 0: 5,000 */
};

/* Begins to connect. The schema must already be there (store/migrate.h). KM_EINVAL: conninfo is
 * malformed (err says how), KM_ENOMEM. */
int store_open(struct store **out, struct event_base *base, const struct store_opts *opts,
	       struct km_errtext *err) __attribute__((warn_unused_result));
/* Ends all connections. Callbacks of pending requests are not called. Accepts NULL. */
void store_free(struct store *s);

/* Sends all n statements (1 to STORE_STMTS) in one pipeline: one transaction, all or nothing. Every
 * text is copied. cb is called exactly once, never from within this call, unless the request is
 * cancelled. Requests on different connections run at the same time; a caller that needs an order
 * waits for the callback. *req (may be NULL) gets a handle for store_cancel.
 * KM_EFULL: max_queue requests wait. KM_ECLOSED: the database is away. KM_EINVAL: n is 0 or too
 * large, or a statement has too many parameters. KM_ENOMEM. Then cb is not called.
 * Do not send BEGIN or COMMIT. */
int store_run(struct store *s, const struct store_stmt *stmts, size_t n, store_cb *cb, void *arg,
	      struct store_req **req) __attribute__((warn_unused_result));
/* The same for reading: all statements see one and the same state of the database (a read-only
 * REPEATABLE READ transaction, made by the store). For whole configurations. */
int store_read(struct store *s, const struct store_stmt *stmts, size_t n, store_cb *cb, void *arg,
	       struct store_req **req) __attribute__((warn_unused_result));
/* The callback will not be called; what has been sent may still take effect. Accepts NULL. */
void store_cancel(struct store_req *req);

/* Whether at least one pooled connection is up. */
bool store_ready(const struct store *s);

/* Wakes the callback after a change: with the newest revision known, and the epoch. It is called
 * when the listening connection has come up (again), for each NOTIFY km_changes, and every poll_ms;
 * so often nothing is new, and several revisions may have come at once. epoch is valid during the
 * call. */
typedef void store_wake_cb(void *arg, const char *epoch, int64_t revision);
struct store_watch;
/* At once also when the state is already known (from the loop, not from within this call). NULL: no
 * memory. */
struct store_watch *store_listen(struct store *s, store_wake_cb *cb, void *arg);
/* Ends it; also from within its callback. Accepts NULL. Before store_free. */
void store_unlisten(struct store_watch *w);

/* What controlds on one database tell one another: the text of each NOTIFY km_links, our own ones
 * included, and NULL when the listening connection has come up (again), for some may have been
 * missed. One callback for a store; NULL ends it. */
typedef void store_note_cb(void *arg, const char *text);
void store_notes(struct store *s, store_note_cb *cb, void *arg);

/* The epoch of the database; "" until the listening connection first came up. */
const char *store_epoch(const struct store *s);

/* Fills error from a failed result (NULL: from the connection). For blocking code at start. */
void store_error_from(struct store_error *error, const PGresult *res, const PGconn *db);
/* One statement on a connection of the caller's, blocking, for the start; n parameters in text form
 * (n of 0: sql may be several). The result, to be cleared by the caller, with *rc 0; or NULL with
 * KM_ECLOSED or KM_EIO in *rc and "WHAT: the database's message" in err. */
PGresult *store_query(PGconn *db, const char *what, const char *sql, int n,
		      const char *const *params, int *rc, struct km_errtext *err);

#endif
