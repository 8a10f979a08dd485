/* SPDX-License-Identifier: MIT */
#include "controld/store/dbconn.h"
#include "controld/store/migrate.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BACKOFF_FIRST_MS 100
#define BACKOFF_MOST_MS 5000
#define MAX_KEYWORDS 64

enum phase { WAITING, CONNECTING, SETTING_UP, UP, DROPPING };

struct dbconn {
	struct event_base *base;
	char *conninfo;
	struct dbconn_opts opts;
	const struct dbconn_cbs *cbs;
	void *arg;

	enum phase phase;
	PGconn *db;
	struct event *io;    /* reading, or whatever PQconnectPoll wants */
	struct event *write; /* pending while libpq has something left to write */
	struct event *timer; /* what the phase waits for: backoff, time limit, the drop */
	int64_t backoff_ms;
	char why[256];
};

static void start_connecting(struct dbconn *c);
static void on_connecting(evutil_socket_t fd, short what, void *arg);
static void on_setup_input(evutil_socket_t fd, short what, void *arg);
static void on_input(evutil_socket_t fd, short what, void *arg);
static void on_writable(evutil_socket_t fd, short what, void *arg);

static void arm(struct dbconn *c, int64_t ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	evtimer_add(c->timer, &tv);
}

static void release(struct dbconn *c)
{
	if (c->io)
		event_free(c->io);
	if (c->write)
		event_free(c->write);
	c->io = c->write = NULL;
	PQfinish(c->db);
	c->db = NULL;
}

void dbconn_drop(struct dbconn *c, const char *why)
{
	if (c->phase == DROPPING || c->phase == WAITING)
		return;
	snprintf(c->why, sizeof(c->why), "%s", why && *why ? why : "unknown");
	c->why[strcspn(c->why, "\n")] = '\0';
	/* The connection itself lives until the timer: a caller may be in the midst of using it. */
	c->phase = DROPPING;
	if (c->io)
		event_del(c->io);
	if (c->write)
		event_del(c->write);
	arm(c, 0);
}

static void finish_drop(struct dbconn *c)
{
	release(c);
	c->phase = WAITING;
	c->backoff_ms = c->backoff_ms ? c->backoff_ms * 2 : BACKOFF_FIRST_MS;
	if (c->backoff_ms > BACKOFF_MOST_MS)
		c->backoff_ms = BACKOFF_MOST_MS;
	arm(c, c->backoff_ms / 2 + km_random_below((uint32_t)c->backoff_ms / 2 + 1));
	c->cbs->down(c->arg, c->why);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct dbconn *c = arg;

	(void)fd;
	(void)what;
	if (c->phase == WAITING)
		start_connecting(c);
	else if (c->phase == DROPPING)
		finish_drop(c);
	else if (c->phase != UP)
		dbconn_drop(c, "timed out while connecting");
}

/* Listens anew for what the present phase wants; libpq may have changed the socket. */
static bool wait_for(struct dbconn *c, short what, event_callback_fn cb)
{
	if (c->io)
		event_free(c->io);
	c->io = event_new(c->base, PQsocket(c->db), what, cb, c);
	return c->io && event_add(c->io, NULL) == 0;
}

/* ---- connecting ---- */

static void add(const char **k, const char **v, size_t *n, const char *key, const char *value)
{
	if (*n < MAX_KEYWORDS) {
		k[*n] = key;
		v[(*n)++] = value;
	}
}

/* Warnings of the server, which libpq would print. */
static void on_notice(void *arg, const char *message)
{
	(void)arg;
	km_debug("database says", km_ks("line", message));
}

/* Ours first, so that what the operator wrote wins. */
static PGconn *begin(const char *conninfo, const char *name)
{
	const char *k[MAX_KEYWORDS + 1] = {0}, *v[MAX_KEYWORDS + 1] = {0};
	PQconninfoOption *given = PQconninfoParse(conninfo, NULL);
	PGconn *db;
	size_t n = 0;

	add(k, v, &n, "fallback_application_name", name);
	add(k, v, &n, "client_encoding", "UTF8");
	add(k, v, &n, "keepalives_idle", "20");
	add(k, v, &n, "keepalives_interval", "5");
	add(k, v, &n, "keepalives_count", "3");
	for (PQconninfoOption *o = given; o && o->keyword; o++)
		if (o->val)
			add(k, v, &n, o->keyword, o->val);
	db = PQconnectStartParams(k, v, 0);
	PQsetNoticeProcessor(db, on_notice, NULL);
	PQconninfoFree(given);
	return db;
}

static void start_connecting(struct dbconn *c)
{
	c->phase = CONNECTING;
	arm(c, c->opts.connect_timeout_ms);
	c->db = begin(c->conninfo, c->opts.name);
	if (!c->db || PQstatus(c->db) == CONNECTION_BAD)
		dbconn_drop(c, c->db ? PQerrorMessage(c->db) : "no memory");
	else if (!wait_for(c, EV_WRITE, on_connecting))
		dbconn_drop(c, "cannot wait for the connection");
}

static void send_setup(struct dbconn *c)
{
	static const char sql[] =
	    "SELECT set_config('TimeZone', 'UTC', false), set_config('DateStyle', 'ISO', false),"
	    " set_config('statement_timeout', $1, false), set_config('bytea_output', 'hex', false),"
	    " (SELECT max(version) FROM schema_migrations)";
	char timeout[24];
	const char *params[] = {timeout};

	snprintf(timeout, sizeof(timeout), "%lld", (long long)c->opts.statement_timeout_ms);
	c->phase = SETTING_UP;
	if (PQsetnonblocking(c->db, 1) != 0 ||
	    PQsendQueryParams(c->db, sql, 1, NULL, params, NULL, NULL, 0) != 1 ||
	    PQflush(c->db) < 0)
		dbconn_drop(c, PQerrorMessage(c->db));
	else if (!wait_for(c, EV_READ | EV_PERSIST, on_setup_input))
		dbconn_drop(c, "cannot wait for the connection");
}

static void on_connecting(evutil_socket_t fd, short what, void *arg)
{
	struct dbconn *c = arg;
	bool ok = true;

	(void)fd;
	(void)what;
	switch (PQconnectPoll(c->db)) {
	case PGRES_POLLING_READING:
		ok = wait_for(c, EV_READ, on_connecting);
		break;
	case PGRES_POLLING_WRITING:
		ok = wait_for(c, EV_WRITE, on_connecting);
		break;
	case PGRES_POLLING_OK:
		send_setup(c);
		break;
	default:
		dbconn_drop(c, PQerrorMessage(c->db));
	}
	if (!ok)
		dbconn_drop(c, "cannot wait for the connection");
}

static void come_up(struct dbconn *c)
{
	evtimer_del(c->timer);
	if (c->opts.pipeline && PQenterPipelineMode(c->db) != 1) {
		dbconn_drop(c, PQerrorMessage(c->db));
		return;
	}
	event_free(c->io);
	c->io = event_new(c->base, PQsocket(c->db), EV_READ | EV_PERSIST, on_input, c);
	c->write = event_new(c->base, PQsocket(c->db), EV_WRITE, on_writable, c);
	if (!c->io || !c->write || event_add(c->io, NULL) != 0) {
		dbconn_drop(c, "no memory");
		return;
	}
	c->phase = UP;
	c->backoff_ms = 0;
	c->cbs->up(c->arg);
}

static void on_setup_input(evutil_socket_t fd, short what, void *arg)
{
	struct dbconn *c = arg;
	PGresult *r;
	char why[160] = "";

	(void)fd;
	(void)what;
	if (PQconsumeInput(c->db) != 1) {
		dbconn_drop(c, PQerrorMessage(c->db));
		return;
	}
	while (!PQisBusy(c->db)) {
		r = PQgetResult(c->db);
		if (!r) {
			come_up(c);
			return;
		}
		if (PQresultStatus(r) != PGRES_TUPLES_OK)
			snprintf(why, sizeof(why), "%s", PQresultErrorMessage(r));
		else if (atoi(PQgetvalue(r, 0, 4)) != migrate_known())
			snprintf(why, sizeof(why),
				 "the schema has version %s, this program needs version %d",
				 PQgetvalue(r, 0, 4), migrate_known());
		PQclear(r);
		if (*why) {
			dbconn_drop(c, why);
			return;
		}
	}
}

/* ---- up ---- */

static void on_input(evutil_socket_t fd, short what, void *arg)
{
	struct dbconn *c = arg;

	(void)fd;
	(void)what;
	if (PQconsumeInput(c->db) != 1) {
		dbconn_drop(c, PQerrorMessage(c->db));
		return;
	}
	if (c->write)
		dbconn_flush(c); /* reading may be what writing waited for */
	if (c->phase == UP)
		c->cbs->input(c->arg);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	dbconn_flush(arg);
}

void dbconn_flush(struct dbconn *c)
{
	int rc;

	if (c->phase != UP)
		return;
	rc = PQflush(c->db);
	if (rc < 0 || (rc > 0 && event_add(c->write, NULL) != 0))
		dbconn_drop(c, PQerrorMessage(c->db));
}

bool dbconn_is_up(const struct dbconn *c)
{
	return c->phase == UP;
}

PGconn *dbconn_db(const struct dbconn *c)
{
	return c->db;
}

int dbconn_new(struct dbconn **out, struct event_base *base, const struct dbconn_opts *opts,
	       const struct dbconn_cbs *cbs, void *arg, struct km_errtext *err)
{
	char *msg = NULL;
	PQconninfoOption *parsed = PQconninfoParse(opts->conninfo, &msg);
	struct dbconn *c;

	if (!parsed) {
		km_errtext_set(err, KM_EINVAL, "database address: %s", msg ? msg : "no memory");
		PQfreemem(msg);
		return KM_EINVAL;
	}
	PQconninfoFree(parsed);
	c = calloc(1, sizeof(*c));
	if (!c)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	*c = (struct dbconn){.base = base, .opts = *opts, .cbs = cbs, .arg = arg, .phase = WAITING};
	c->conninfo = strdup(opts->conninfo);
	c->timer = evtimer_new(base, on_timer, c);
	if (!c->conninfo || !c->timer) {
		dbconn_free(c);
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	}
	c->opts.conninfo = c->conninfo;
	arm(c, 0);
	*out = c;
	return 0;
}

void dbconn_free(struct dbconn *c)
{
	if (!c)
		return;
	release(c);
	if (c->timer)
		event_free(c->timer);
	free(c->conninfo);
	free(c);
}
