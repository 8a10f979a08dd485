/* SPDX-License-Identifier: MIT */
#include "controld/store/store.h"
#include "controld/store/pool.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define MAX_CONNECTIONS 64

struct member;

struct store_req {
	struct store *s;
	struct member *member; /* on which it runs; NULL: waits */
	store_cb *cb;          /* NULL: cancelled */
	void *arg;
	struct event *timer;
	bool snapshot;
	size_t n, n_res; /* statements; results so far */
	char *text;      /* everything that stmts points to */
	struct store_stmt *stmts;
	PGresult **res;
	struct store_error error; /* error.err 0: none so far */
	struct store_req *prev, *next;
};

/* One connection of the pool: idle, running `req`, or cleaning up after a failed reader. */
struct member {
	struct store *s;
	struct dbconn *conn;
	struct store_req *req;
	bool cleaning;
};

struct store {
	struct event_base *base;
	struct member *members;
	unsigned n_members, n_up;
	struct store_req *queue; /* waiting, oldest first */
	size_t n_queue, max_queue;
	int64_t timeout_ms;
	struct event *dispatch;
	struct listener *listener;
	bool told_away;
	struct km_log_limit away_limit;
};

static void dispatch(struct store *s);

/* ---- requests ---- */

static void req_free(struct store_req *q)
{
	for (size_t i = 0; q->res && i < q->n_res; i++)
		PQclear(q->res[i]);
	if (q->timer)
		event_free(q->timer);
	free(q->res);
	free(q->stmts);
	free(q->text);
	free(q);
}

/* Calls back and frees; q is in no list and on no connection any more. */
static void req_end(struct store_req *q)
{
	bool ok = !q->error.err;

	event_del(q->timer);
	if (q->cb)
		q->cb(q->arg, ok ? NULL : &q->error, ok ? (PGresult *const *)q->res : NULL,
		      ok ? q->n_res : 0);
	req_free(q);
}

static void req_fail(struct store_req *q, int err, const char *why)
{
	if (!q->error.err) {
		q->error.err = err;
		snprintf(q->error.message, sizeof(q->error.message), "%s", why);
	}
	req_end(q);
}

static void on_req_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct store_req *q = arg;
	struct store *s = q->s;

	(void)fd;
	(void)what;
	if (q->member) {
		/* Its answer may still come: the connection cannot be used for another. */
		q->member->req = NULL;
		dbconn_drop(q->member->conn, "a request took too long");
	} else {
		DL_DELETE(s->queue, q);
		s->n_queue--;
	}
	req_fail(q, KM_ETIMEOUT, "no answer from the database in time");
}

/* ---- errors ---- */

static int err_of(const char *state)
{
	static const struct {
		const char *prefix;
		int err;
	} table[] = {
	    {"23505", KM_EEXIST}, {"KM404", KM_ENOTFOUND}, {"23503", KM_ENOTFOUND},
	    {"KM507", KM_EFULL},  {"23502", KM_EINVAL},    {"23514", KM_EINVAL},
	    {"22", KM_EINVAL},    {"57014", KM_ETIMEOUT},  {"55P03", KM_ETIMEOUT},
	    {"57P", KM_ECLOSED},  {"08", KM_ECLOSED},      {"53", KM_EAGAIN},
	    {"40", KM_EAGAIN},    {"25006", KM_EAGAIN},    {"58030", KM_EAGAIN},
	};

	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++)
		if (!strncmp(state, table[i].prefix, strlen(table[i].prefix)))
			return table[i].err;
	return *state ? KM_EIO : KM_ECLOSED;
}

bool store_error_passes(const struct store_error *e)
{
	return e->err == KM_ECLOSED || e->err == KM_ETIMEOUT || e->err == KM_EAGAIN;
}

void store_error_from(struct store_error *e, const PGresult *r, const PGconn *db)
{
	const char *state = r ? PQresultErrorField(r, PG_DIAG_SQLSTATE) : NULL;
	const char *constraint = r ? PQresultErrorField(r, PG_DIAG_CONSTRAINT_NAME) : NULL;
	const char *message = r ? PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY) : NULL;

	if (!message)
		message =
		    r && *PQresultErrorMessage(r) ? PQresultErrorMessage(r) : PQerrorMessage(db);
	snprintf(e->sqlstate, sizeof(e->sqlstate), "%s", state ? state : "");
	snprintf(e->constraint, sizeof(e->constraint), "%s", constraint ? constraint : "");
	snprintf(e->message, sizeof(e->message), "%s", message);
	e->message[strcspn(e->message, "\n")] = '\0';
	e->err = err_of(e->sqlstate);
}

PGresult *store_query(PGconn *db, const char *what, const char *sql, int n,
		      const char *const *params, int *rc, struct km_errtext *err)
{
	PGresult *r = n ? PQexecParams(db, sql, n, NULL, params, NULL, NULL, 0) : PQexec(db, sql);
	ExecStatusType st = PQresultStatus(r);
	struct store_error e;

	*rc = 0;
	if (st == PGRES_TUPLES_OK || st == PGRES_COMMAND_OK)
		return r;
	store_error_from(&e, r, db);
	*rc = km_errtext_set(err, e.err == KM_ECLOSED ? KM_ECLOSED : KM_EIO, "%s: %s", what,
			     e.message);
	PQclear(r);
	return NULL;
}

/* ---- a connection of the pool ---- */

static bool send_all(PGconn *db, const struct store_req *q)
{
	static const char begin[] = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
	bool ok = true;

	if (q->snapshot)
		ok = PQsendQueryParams(db, begin, 0, NULL, NULL, NULL, NULL, 0) == 1;
	for (size_t i = 0; ok && i < q->n; i++)
		ok = PQsendQueryParams(db, q->stmts[i].sql, q->stmts[i].n, NULL, q->stmts[i].params,
				       NULL, NULL, 0) == 1;
	if (ok && q->snapshot)
		ok = PQsendQueryParams(db, "COMMIT", 0, NULL, NULL, NULL, NULL, 0) == 1;
	return ok && PQpipelineSync(db) == 1;
}

static void member_send(struct member *m, struct store_req *q)
{
	m->req = q;
	q->member = m;
	if (send_all(dbconn_db(m->conn), q))
		dbconn_flush(m->conn);
	else
		dbconn_drop(m->conn, PQerrorMessage(dbconn_db(m->conn)));
}

/* A reader that failed has left its transaction open. */
static void member_clean(struct member *m)
{
	PGconn *db = dbconn_db(m->conn);

	m->cleaning = true;
	if (PQsendQueryParams(db, "ROLLBACK", 0, NULL, NULL, NULL, NULL, 0) == 1 &&
	    PQpipelineSync(db) == 1)
		dbconn_flush(m->conn);
	else
		dbconn_drop(m->conn, PQerrorMessage(db));
}

/* Takes r over. */
static void member_result(struct member *m, PGresult *r)
{
	struct store_req *q = m->req;
	ExecStatusType st = PQresultStatus(r);

	if (!q || m->cleaning || st == PGRES_PIPELINE_ABORTED) {
		PQclear(r);
	} else if (st == PGRES_FATAL_ERROR || st == PGRES_BAD_RESPONSE) {
		if (!q->error.err)
			store_error_from(&q->error, r, dbconn_db(m->conn));
		PQclear(r);
	} else {
		q->res[q->n_res++] = r; /* bounded: one per statement was sent */
	}
}

/* Leaves only the results of the caller's statements. */
static void strip_snapshot(struct store_req *q)
{
	if (!q->snapshot || q->n_res != q->n + 2)
		return;
	PQclear(q->res[0]);
	PQclear(q->res[q->n + 1]);
	memmove(q->res, q->res + 1, q->n * sizeof(*q->res));
	q->n_res = q->n;
}

static void member_synced(struct member *m)
{
	struct store_req *q = m->req;

	m->cleaning = false;
	m->req = NULL;
	if (PQtransactionStatus(dbconn_db(m->conn)) != PQTRANS_IDLE)
		member_clean(m);
	if (q) {
		q->member = NULL;
		strip_snapshot(q);
		if (!q->error.err && q->n_res != q->n)
			req_fail(q, KM_EIO, "the database answered another number of results");
		else
			req_end(q);
	}
}

static void on_member_input(void *arg)
{
	struct member *m = arg;
	PGconn *db = dbconn_db(m->conn);
	PGresult *r;
	int ends =
	    0; /* NULLs in a row: one ends a statement's results, two mean nothing is there */

	while (ends < 2 && (m->req || m->cleaning) && dbconn_is_up(m->conn) && !PQisBusy(db)) {
		if (PQstatus(db) == CONNECTION_BAD) {
			dbconn_drop(m->conn, PQerrorMessage(db));
			return;
		}
		r = PQgetResult(db);
		ends = r ? 0 : ends + 1;
		if (!r)
			continue;
		if (PQresultStatus(r) == PGRES_PIPELINE_SYNC) {
			PQclear(r);
			member_synced(m);
		} else {
			member_result(m, r);
		}
	}
	dispatch(m->s);
}

static void on_member_up(void *arg)
{
	struct member *m = arg;
	struct store *s = m->s;

	if (s->n_up++ == 0) {
		km_info("database connected");
		s->told_away = false;
	}
	dispatch(s);
}

static void tell_away(struct store *s, const char *why)
{
	uint32_t held;
	bool due = km_log_allow(&s->away_limit, km_now_ms(), 1, 60000, &held);

	if (due || !s->told_away)
		km_warn("database is away", km_ks("why", why));
	s->told_away = true;
}

static void on_member_down(void *arg, const char *why)
{
	struct member *m = arg;
	struct store *s = m->s;
	struct store_req *q = m->req;

	m->req = NULL;
	m->cleaning = false;
	s->n_up = 0;
	for (unsigned i = 0; i < s->n_members; i++)
		s->n_up += dbconn_is_up(s->members[i].conn);
	if (!s->n_up)
		tell_away(s, why);
	if (q) {
		q->member = NULL;
		req_fail(q, KM_ECLOSED, why);
	}
}

static void dispatch(struct store *s)
{
	struct store_req *q;

	for (unsigned i = 0; i < s->n_members && s->queue; i++) {
		struct member *m = &s->members[i];

		if (m->req || m->cleaning || !dbconn_is_up(m->conn))
			continue;
		q = s->queue;
		DL_DELETE(s->queue, q);
		s->n_queue--;
		member_send(m, q);
	}
}

static void on_dispatch(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	dispatch(arg);
}

/* ---- what others call ---- */

/* One block for all texts of the statements. */
static bool copy_stmts(struct store_req *q, const struct store_stmt *in)
{
	size_t len = 0;
	char *p;

	for (size_t i = 0; i < q->n; i++) {
		len += strlen(in[i].sql) + 1;
		for (int k = 0; k < in[i].n; k++)
			len += in[i].params[k] ? strlen(in[i].params[k]) + 1 : 0;
	}
	q->text = p = malloc(len + 1);
	q->stmts = calloc(q->n + 1, sizeof(*q->stmts));
	q->res = calloc(q->n + 2, sizeof(PGresult *));
	if (!q->text || !q->stmts || !q->res)
		return false;
	for (size_t i = 0; i < q->n; i++) {
		q->stmts[i].n = in[i].n;
		q->stmts[i].sql = p;
		p = stpcpy(p, in[i].sql) + 1;
		for (int k = 0; k < in[i].n; k++) {
			if (!in[i].params[k])
				continue;
			q->stmts[i].params[k] = p;
			p = stpcpy(p, in[i].params[k]) + 1;
		}
	}
	return true;
}

static bool stmts_ok(const struct store_stmt *stmts, size_t n)
{
	if (n < 1 || n > STORE_STMTS)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!stmts[i].sql || stmts[i].n < 0 || stmts[i].n > STORE_PARAMS)
			return false;
	return true;
}

static int run(struct store *s, const struct store_stmt *stmts, size_t n, bool snapshot,
	       store_cb *cb, void *arg, struct store_req **out)
{
	struct timeval tv = {s->timeout_ms / 1000, s->timeout_ms % 1000 * 1000};
	struct store_req *q;

	if (!stmts_ok(stmts, n))
		return KM_EINVAL;
	if (!s->n_up)
		return KM_ECLOSED;
	if (s->n_queue >= s->max_queue)
		return KM_EFULL;
	q = calloc(1, sizeof(*q));
	if (!q)
		return KM_ENOMEM;
	*q = (struct store_req){.s = s, .cb = cb, .arg = arg, .snapshot = snapshot, .n = n};
	q->timer = evtimer_new(s->base, on_req_timeout, q);
	if (!q->timer || !copy_stmts(q, stmts) || evtimer_add(q->timer, &tv) != 0) {
		req_free(q);
		return KM_ENOMEM;
	}
	DL_APPEND(s->queue, q);
	s->n_queue++;
	event_active(s->dispatch, EV_TIMEOUT, 0);
	if (out)
		*out = q;
	return 0;
}

int store_run(struct store *s, const struct store_stmt *stmts, size_t n, store_cb *cb, void *arg,
	      struct store_req **req)
{
	return run(s, stmts, n, false, cb, arg, req);
}

int store_read(struct store *s, const struct store_stmt *stmts, size_t n, store_cb *cb, void *arg,
	       struct store_req **req)
{
	return run(s, stmts, n, true, cb, arg, req);
}

void store_cancel(struct store_req *q)
{
	if (!q)
		return;
	q->cb = NULL;
	if (q->member)
		return; /* ends when the database answers */
	DL_DELETE(q->s->queue, q);
	q->s->n_queue--;
	req_free(q);
}

bool store_ready(const struct store *s)
{
	return s->n_up > 0;
}

struct store_watch *store_listen(struct store *s, store_wake_cb *cb, void *arg)
{
	return listener_watch(s->listener, cb, arg);
}

void store_notes(struct store *s, store_note_cb *cb, void *arg)
{
	listener_notes(s->listener, cb, arg);
}

const char *store_epoch(const struct store *s)
{
	return listener_epoch(s->listener);
}

static int open_members(struct store *s, const char *conninfo, struct km_errtext *err)
{
	static const struct dbconn_cbs cbs = {on_member_up, on_member_input, on_member_down};
	struct dbconn_opts opts = {
	    .conninfo = conninfo,
	    .name = "controld",
	    .connect_timeout_ms = 5000,
	    /* The server gives up first, so that a late statement is known to be undone. */
	    .statement_timeout_ms = s->timeout_ms - s->timeout_ms / 5,
	    .pipeline = true,
	};
	int rc;

	s->members = calloc(s->n_members, sizeof(*s->members));
	if (!s->members)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	for (unsigned i = 0; i < s->n_members; i++) {
		s->members[i].s = s;
		rc = dbconn_new(&s->members[i].conn, s->base, &opts, &cbs, &s->members[i], err);
		if (rc)
			return rc;
	}
	return 0;
}

int store_open(struct store **out, struct event_base *base, const struct store_opts *opts,
	       struct km_errtext *err)
{
	struct store *s = calloc(1, sizeof(*s));
	int rc = KM_ENOMEM;

	if (!s)
		goto out;
	s->base = base;
	s->n_members = opts->connections ? opts->connections : 4;
	if (s->n_members > MAX_CONNECTIONS)
		s->n_members = MAX_CONNECTIONS;
	s->max_queue = opts->max_queue ? opts->max_queue : 1024;
	s->timeout_ms = opts->timeout_ms ? opts->timeout_ms : 5000;
	s->dispatch = event_new(base, -1, 0, on_dispatch, s);
	if (!s->dispatch)
		goto out;
	rc = open_members(s, opts->conninfo, err);
	if (rc)
		goto out;
	rc = listener_new(&s->listener, base, opts->conninfo, 5000,
			  opts->poll_ms ? opts->poll_ms : 5000, err);
out:
	if (rc == KM_ENOMEM)
		km_errtext_set(err, rc, "no memory");
	if (rc) {
		store_free(s);
		s = NULL;
	}
	*out = s;
	return rc;
}

void store_free(struct store *s)
{
	struct store_req *q, *tmp;

	if (!s)
		return;
	listener_free(s->listener);
	for (unsigned i = 0; s->members && i < s->n_members; i++) {
		dbconn_free(s->members[i].conn);
		if (s->members[i].req)
			req_free(s->members[i].req);
	}
	DL_FOREACH_SAFE (s->queue, q, tmp) {
		DL_DELETE(s->queue, q);
		req_free(q);
	}
	if (s->dispatch)
		event_free(s->dispatch);
	free(s->members);
	free(s);
}
