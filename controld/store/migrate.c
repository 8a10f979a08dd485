/* SPDX-License-Identifier: MIT */
#include "controld/store/migrate.h"
#include "controld/store/store.h"
#include "libkm/base/util.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOCK_KEY "4710101" /* any number that nobody else in this database uses */
#define OLDEST_SERVER 140000

/* All of controld/migrations, each file after a line "--@ PATH"; made by the Makefile. */
extern const char _binary_migrations_sql_start[], _binary_migrations_sql_end[];
static const char mark[] = "--@ ";

struct step {
	int version;
	char name[64];
	const char *sql;
	size_t len;
};

static const char *find_mark(const char *p, const char *end)
{
	while (p < end) {
		const char *nl;

		if ((size_t)(end - p) >= strlen(mark) && !memcmp(p, mark, strlen(mark)))
			return p;
		nl = memchr(p, '\n', (size_t)(end - p));
		p = nl ? nl + 1 : end;
	}
	return NULL;
}

/* The step that begins at or after *at, which moves behind it. The files are ours and numbered from
 * 1 without gaps, so anything odd is a defect of the build. */
static bool next_step(const char **at, struct step *s)
{
	const char *end = _binary_migrations_sql_end;
	const char *head = find_mark(*at, end), *nl, *next, *name;

	if (!head)
		return false;
	nl = memchr(head, '\n', (size_t)(end - head));
	if (!nl)
		return false;
	name = memrchr(head, '/', (size_t)(nl - head));
	name = name ? name + 1 : head + strlen(mark);
	snprintf(s->name, sizeof(s->name), "%.*s", (int)(nl - name), name);
	s->version = atoi(s->name);
	s->sql = nl + 1;
	next = find_mark(s->sql, end);
	s->len = (size_t)((next ? next : end) - s->sql);
	*at = s->sql + s->len;
	return true;
}

int migrate_known(void)
{
	static int known;
	const char *at = _binary_migrations_sql_start;
	struct step s;

	while (!known && next_step(&at, &s)) {
		int v = s.version;

		if (!find_mark(at, _binary_migrations_sql_end))
			known = v;
	}
	return known;
}

static int failed(PGconn *db, const PGresult *r, const char *what, struct km_errtext *err)
{
	struct store_error e;

	if (PQstatus(db) == CONNECTION_BAD)
		return km_errtext_set(err, KM_ECLOSED, "%s: %s", what, PQerrorMessage(db));
	store_error_from(&e, r, db);
	if (!strcmp(e.sqlstate, "55P03"))
		return km_errtext_set(err, KM_ETIMEOUT,
				      "another controld is changing the schema for more than 60 s");
	return km_errtext_set(err, e.err == KM_ECLOSED ? KM_ECLOSED : KM_EIO, "%s: %s (%s)", what,
			      e.message, e.sqlstate);
}

/* Runs SQL text of one or more statements. */
static int exec(PGconn *db, const char *sql, const char *what, struct km_errtext *err)
{
	PGresult *r = PQexec(db, sql);
	ExecStatusType st = PQresultStatus(r);
	int rc = 0;

	if (st != PGRES_COMMAND_OK && st != PGRES_TUPLES_OK)
		rc = failed(db, r, what, err);
	PQclear(r);
	return rc;
}

/* 0 for a database without a schema. */
static int read_version(PGconn *db, int *version, struct km_errtext *err)
{
	PGresult *r = PQexec(db, "SELECT coalesce(max(version), 0) FROM schema_migrations");
	int rc = 0;

	if (PQresultStatus(r) == PGRES_TUPLES_OK)
		*version = atoi(PQgetvalue(r, 0, 0));
	else
		rc = failed(db, r, "reading the schema's version", err);
	PQclear(r);
	return rc;
}

static int apply(PGconn *db, const struct step *s, struct km_errtext *err)
{
	char version[12];
	const char *params[] = {version, s->name};
	char *sql = km_xasprintf("BEGIN;\n%.*s", (int)s->len, s->sql);
	PGresult *r = NULL;
	int rc = exec(db, sql, s->name, err);

	if (rc)
		goto out;
	snprintf(version, sizeof(version), "%d", s->version);
	r = PQexecParams(db, "INSERT INTO schema_migrations (version, name) VALUES ($1, $2)", 2,
			 NULL, params, NULL, NULL, 0);
	if (PQresultStatus(r) != PGRES_COMMAND_OK)
		rc = failed(db, r, s->name, err);
	else
		rc = exec(db, "COMMIT", s->name, err);
out:
	if (rc)
		PQclear(PQexec(db, "ROLLBACK")); /* the first error is the one to tell */
	PQclear(r);
	free(sql);
	return rc;
}

static int apply_from(PGconn *db, int version, int *to, struct km_errtext *err)
{
	const char *at = _binary_migrations_sql_start;
	struct step s;
	int rc = 0;

	while (!rc && next_step(&at, &s)) {
		if (s.version <= version)
			continue;
		rc = apply(db, &s, err);
		if (!rc)
			*to = s.version;
	}
	return rc;
}

int migrate_run(PGconn *db, int *from, int *to, struct km_errtext *err)
{
	static const char table[] =
	    "CREATE TABLE IF NOT EXISTS schema_migrations (version integer PRIMARY KEY,"
	    " name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())";
	int version = 0, now = 0, rc;

	if (PQserverVersion(db) && PQserverVersion(db) < OLDEST_SERVER)
		return km_errtext_set(err, KM_EUNSUPPORTED,
				      "the database server is PostgreSQL %d, at least %d is needed",
				      PQserverVersion(db) / 10000, OLDEST_SERVER / 10000);
	rc = exec(db, "SET client_min_messages = warning; SET lock_timeout = '60s'", "setting up",
		  err);
	if (!rc)
		rc = exec(db, "SELECT pg_advisory_lock(" LOCK_KEY ")", "locking the schema", err);
	if (rc)
		return rc;
	rc = exec(db, table, "making schema_migrations", err);
	if (!rc)
		rc = read_version(db, &version, err);
	now = version;
	if (!rc && version > migrate_known())
		rc = km_errtext_set(
		    err, KM_EUNSUPPORTED,
		    "the schema of the database has version %d, but this program knows "
		    "versions up to %d: install a newer kakuremichi, or restore a backup "
		    "of the database from before it was upgraded",
		    version, migrate_known());
	if (!rc)
		rc = apply_from(db, version, &now, err);
	PQclear(
	    PQexec(db, "SELECT pg_advisory_unlock(" LOCK_KEY ")")); /* ends with the session too */
	if (from)
		*from = version;
	if (to)
		*to = now;
	return rc;
}
