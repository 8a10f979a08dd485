/* SPDX-License-Identifier: MIT */
/* A real PostgreSQL in a temporary folder, and an event loop that runs until something happened. */
#ifndef TESTS_UNIT_CONTROLD_FIXTURE_H
#define TESTS_UNIT_CONTROLD_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "controld/store/embedded.h"
#include "controld/store/migrate.h"
#include "libkm/base/util.h"
#include <event2/event.h>
#include <ftw.h>
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIX_PROGRAMS "/usr/lib/postgresql/15/bin"
#define FIX_PATIENCE_MS 60000

struct fix {
	char dir[32];
	struct event_base *base;
	struct embedded *db;
	unsigned ready; /* how often it said so */
	char failed[640];
};

static void fix_on_ready(void *arg)
{
	struct fix *f = arg;

	f->ready++;
}

static void fix_on_failed(void *arg, const char *why)
{
	struct fix *f = arg;

	snprintf(f->failed, sizeof(f->failed), "%s", why);
}

static inline void fix_wake(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	(void)arg;
}

/* Runs the loop until cond holds; fails the test when it takes too long. */
#define fix_until(base, cond)                                                                      \
	do {                                                                                       \
		struct event *tick_ = event_new((base), -1, EV_PERSIST, fix_wake, NULL);           \
		int64_t end_ = km_now_ms() + FIX_PATIENCE_MS;                                      \
		bool ok_;                                                                          \
		event_add(tick_, &(struct timeval){0, 20000});                                     \
		while (!(ok_ = (cond)) && km_now_ms() < end_)                                      \
			event_base_loop((base), EVLOOP_ONCE);                                      \
		event_free(tick_);                                                                 \
		if (!ok_)                                                                          \
			fail_msg("did not happen: %s", #cond);                                     \
	} while (0)

static inline int fix_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static inline void fix_dir(struct fix *f)
{
	*f = (struct fix){.dir = "/tmp/kmc-XXXXXX"};
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(chmod(f->dir, 0711), 0);
	f->base = event_base_new();
	assert_non_null(f->base);
}

static inline int fix_embedded(struct fix *f, struct km_errtext *err)
{
	static const struct embedded_cbs cbs = {fix_on_ready, fix_on_failed};
	struct embedded_opts o = {
	    .state_dir = f->dir, .user = "postgres", .program_dir = FIX_PROGRAMS};

	return embedded_start(&f->db, f->base, &o, &cbs, f, err);
}

static inline void fix_start(struct fix *f)
{
	struct km_errtext err = {""};
	unsigned before = f->ready;

	if (fix_embedded(f, &err))
		fail_msg("%s", err.text);
	fix_until(f->base, f->ready > before || *f->failed);
	assert_string_equal(f->failed, "");
}

static inline void fix_stop(struct fix *f)
{
	embedded_free(f->db);
	if (f->base)
		event_base_free(f->base);
	if (*f->dir)
		nftw(f->dir, fix_remove_one, 16, FTW_DEPTH | FTW_PHYS);
	*f = (struct fix){0};
}

static inline PGconn *fix_connect(struct fix *f)
{
	PGconn *db = PQconnectdb(embedded_conninfo(f->db));

	assert_int_equal(PQstatus(db), CONNECTION_OK);
	return db;
}

static inline PGconn *fix_schema(struct fix *f)
{
	PGconn *db = fix_connect(f);
	struct km_errtext err = {""};

	if (migrate_run(db, NULL, NULL, &err))
		fail_msg("%s", err.text);
	return db;
}

/* Of a whole group: the server, and *db, a connection to it with the schema. 0, as cmocka wants it. */
static inline int fix_group_begin(struct fix *f, PGconn **db)
{
	fix_dir(f);
	fix_start(f);
	*db = fix_schema(f);
	return 0;
}

static inline int fix_group_end(struct fix *f, PGconn *db)
{
	PQfinish(db);
	fix_stop(f);
	return 0;
}

/* One value, in a buffer that the next call reuses; fails the test on an error. */
static inline const char *fix_value(PGconn *db, const char *sql)
{
	static char out[4096];
	PGresult *r = PQexec(db, sql);
	ExecStatusType st = PQresultStatus(r);

	if (st != PGRES_TUPLES_OK && st != PGRES_COMMAND_OK)
		fail_msg("%s: %s", sql, PQresultErrorMessage(r));
	snprintf(out, sizeof(out), "%s",
		 st == PGRES_TUPLES_OK && PQntuples(r) ? PQgetvalue(r, 0, 0) : "");
	PQclear(r);
	return out;
}

#endif
