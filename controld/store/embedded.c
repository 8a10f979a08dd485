/* SPDX-License-Identifier: MIT */
#include "controld/store/embedded.h"
#include "controld/store/child.h"
#include "controld/store/datadir.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK_MS 50        /* how often a starting server is looked at */
#define PATIENCE_MS 10000 /* for a leftover server, per signal */
#define STOP_MS 30000     /* for a fast shutdown of ours */
#define BACKOFF_FIRST_MS 200
#define BACKOFF_MOST_MS 10000
#define FIRST_TRIES 3 /* starts that may fail before the first success */

enum phase { LEFTOVER, MAKING, STARTING, RUNNING, BACKOFF, FAILED };

struct embedded {
	struct event_base *base;
	const struct embedded_cbs *cbs;
	void *arg;
	struct child_user user;
	char *user_name;
	struct datadir dir;
	char *initdb, *postgres, *conninfo;

	enum phase phase;
	pid_t pid; /* initdb, server or leftover; 0: none */
	int pidfd, out_fd;
	struct event *ended, *output, *timer;
	int64_t backoff_ms;
	int waited; /* looks at a starting server; signals sent to a leftover one */
	unsigned failures;
	bool was_ready;
	char line[1024], last[512]; /* of the child's output: being read; the last whole one */
	size_t line_len;
};

static void go_on(struct embedded *e);
static void on_ended(evutil_socket_t fd, short what, void *arg);

static void arm(struct embedded *e, int64_t ms)
{
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};

	evtimer_add(e->timer, &tv);
}

static void fail(struct embedded *e, const char *why)
{
	e->phase = FAILED;
	evtimer_del(e->timer);
	e->cbs->failed(e->arg, why);
}

/* ---- what the child says ---- */

/* The server's lines are "backend type: LEVEL:  text". What a backend tells its client comes to the
 * store too, and explains no end of the server. */
static void take_line(struct embedded *e)
{
	bool fatal, client;

	if (!e->line_len)
		return;
	e->line[e->line_len] = '\0';
	e->line_len = 0;
	client = strstr(e->line, "client backend: ") != NULL && !strstr(e->line, "PANIC:");
	fatal = strstr(e->line, "FATAL:") || strstr(e->line, "PANIC:");
	if (fatal && !client)
		km_warn("postgres says", km_ks("line", e->line));
	else
		km_debug("postgres says", km_ks("line", e->line));
	/* A LOG line after the FATAL one ("database system is shut down") explains nothing. */
	if (!client && !strstr(e->line, "LOG:"))
		snprintf(e->last, sizeof(e->last), "%.*s", (int)sizeof(e->last) - 1, e->line);
}

static void on_output(evutil_socket_t fd, short what, void *arg)
{
	struct embedded *e = arg;
	char buf[2048];
	ssize_t n;

	(void)what;
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++) {
			if (buf[i] == '\n')
				take_line(e);
			else if (e->line_len < sizeof(e->line) - 1)
				e->line[e->line_len++] = buf[i];
		}
	if (n == 0)
		event_del(e->output);
}

/* ---- one child at a time ---- */

static void child_gone(struct embedded *e)
{
	if (e->ended)
		event_free(e->ended);
	if (e->out_fd >= 0)
		on_output(e->out_fd, 0, e);
	if (e->output)
		event_free(e->output);
	if (e->out_fd >= 0)
		close(e->out_fd);
	if (e->pidfd >= 0)
		close(e->pidfd);
	take_line(e);
	e->ended = e->output = NULL;
	e->pidfd = e->out_fd = -1;
	e->pid = 0;
}

static bool watch_child(struct embedded *e)
{
	e->ended = event_new(e->base, e->pidfd, EV_READ, on_ended, e);
	return e->ended && event_add(e->ended, NULL) == 0;
}

static bool watch_output(struct embedded *e)
{
	e->output = event_new(e->base, e->out_fd, EV_READ | EV_PERSIST, on_output, e);
	return e->output && event_add(e->output, NULL) == 0;
}

static bool spawn(struct embedded *e, char *const *argv)
{
	int p[2];
	struct child_opts o = {.argv = argv, .dir = e->dir.run, .death_signal = SIGINT};
	bool ok;

	e->last[0] = '\0';
	if (pipe2(p, O_CLOEXEC | O_NONBLOCK) != 0)
		return false;
	/* The child writes as usual: if nobody reads, it waits. */
	fcntl(p[1], F_SETFL, 0);
	o.out_fd = p[1];
	e->out_fd = p[0];
	ok = child_start(&e->pid, &e->pidfd, &e->user, &o) == 0;
	close(p[1]);
	if (ok && watch_child(e) && watch_output(e))
		return true;
	if (ok) {
		pidfd_send_signal(e->pidfd, SIGQUIT, NULL, 0);
		child_ended(e->pidfd, -1);
		child_reap(e->pidfd);
	}
	child_gone(e);
	return false;
}

/* A sentence about how a child ended. */
static const char *ending(struct embedded *e, const char *what, int status, char out[static 640])
{
	if (status == CHILD_NO_DIR)
		snprintf(out, 640,
			 "the user %s cannot enter %s: make every folder on the way passable "
			 "(chmod o+x)",
			 e->user_name, e->dir.run);
	else if (status == CHILD_NO_EXEC)
		snprintf(out, 640,
			 "%s cannot be run as %s (settings database_program_dir, "
			 "database_user)",
			 what, e->user_name);
	else
		snprintf(out, 640, "%s ended with status %d: %s", what, status,
			 *e->last ? e->last : "it said nothing");
	return out;
}

/* ---- initdb ---- */

/* In a folder of another name until it is complete: being killed in the midst leaves no half. */
static void make_data(struct embedded *e)
{
	char *argv[] = {e->initdb,
			"-D",
			e->dir.fresh,
			"-U",
			"postgres",
			"--auth-local=trust",
			"--auth-host=reject",
			"--encoding=UTF8",
			"--locale=C",
			"--data-checksums",
			NULL};
	struct km_errtext err;

	e->phase = MAKING;
	if (datadir_make_fresh(&e->dir, &e->user, &err)) {
		fail(e, err.text);
		return;
	}
	km_info("making the database", km_ks("dir", e->dir.data), km_ks("user", e->user_name));
	if (!spawn(e, argv))
		fail(e, "initdb cannot be started: no process or descriptor left");
}

static void data_made(struct embedded *e, int status)
{
	char why[640];

	if (status != 0)
		fail(e, ending(e, e->initdb, status, why));
	else if (rename(e->dir.fresh, e->dir.data) != 0)
		fail(e, "the new database cannot be renamed to its place");
	else
		go_on(e);
}

/* ---- the server ---- */

static void start_server(struct embedded *e)
{
	char sockets[300];
	char *argv[] = {e->postgres, "-D", e->dir.data, "-c", sockets, "-c",
			"listen_addresses=", "-c", "unix_socket_permissions=0700", "-c",
			"logging_collector=off", "-c", "log_destination=stderr", "-c",
			"log_line_prefix=%b: ",
			/* Errors of statements go to who sent them. */
			"-c", "log_min_messages=log", "-c", "max_connections=50", NULL};

	snprintf(sockets, sizeof(sockets), "unix_socket_directories=%s", e->dir.run);
	e->phase = STARTING;
	e->waited = 0;
	if (!spawn(e, argv)) {
		fail(e, "the database server cannot be started: no process or descriptor left");
		return;
	}
	arm(e, LOOK_MS);
}

/* The database `kakuremichi` beside the standard ones. Blocks, for some 50 ms the first time. */
static bool make_database(const struct embedded *e)
{
	char *info =
	    km_xasprintf("host=%s user=postgres dbname=postgres connect_timeout=5", e->dir.run);
	PGconn *db = PQconnectdb(info);
	PGresult *r = PQexec(db, "SELECT FROM pg_database WHERE datname = 'kakuremichi'");
	bool ok = PQresultStatus(r) == PGRES_TUPLES_OK;

	if (ok && PQntuples(r) == 0) {
		PQclear(r);
		r = PQexec(db, "CREATE DATABASE kakuremichi");
		ok = PQresultStatus(r) == PGRES_COMMAND_OK;
	}
	if (!ok)
		km_warn("database kakuremichi cannot be made", km_ks("why", PQerrorMessage(db)));
	PQclear(r);
	PQfinish(db);
	free(info);
	return ok;
}

static void look_for_readiness(struct embedded *e)
{
	if (++e->waited % (10000 / LOOK_MS) == 0)
		km_info("the database is still starting",
			km_ki("seconds", e->waited * LOOK_MS / 1000));
	if (!datadir_server_ready(&e->dir, e->pid) || !make_database(e)) {
		arm(e, LOOK_MS);
		return;
	}
	e->phase = RUNNING;
	e->backoff_ms = 0;
	e->failures = 0;
	e->was_ready = true;
	km_info("database server runs", km_ki("pid", e->pid), km_ks("dir", e->dir.data));
	e->cbs->ready(e->arg);
}

static void server_ended(struct embedded *e, int status)
{
	char why[640];

	ending(e, e->postgres, status, why);
	if (!e->was_ready &&
	    (++e->failures >= FIRST_TRIES || status == CHILD_NO_DIR || status == CHILD_NO_EXEC)) {
		fail(e, why);
		return;
	}
	e->phase = BACKOFF;
	e->backoff_ms = e->backoff_ms ? e->backoff_ms * 2 : BACKOFF_FIRST_MS;
	if (e->backoff_ms > BACKOFF_MOST_MS)
		e->backoff_ms = BACKOFF_MOST_MS;
	km_error("database server ended, starting it again", km_ks("why", why),
		 km_ki("in_ms", e->backoff_ms));
	arm(e, e->backoff_ms);
}

/* ---- a server that a killed controld has left ---- */

static void stop_leftover(struct embedded *e, pid_t pid, int pidfd)
{
	e->phase = LEFTOVER;
	e->pid = pid;
	e->pidfd = pidfd;
	e->waited = 0;
	km_warn("stopping a database server that was left on our data", km_ki("pid", pid));
	if (!watch_child(e)) {
		child_gone(e);
		fail(e, "no memory");
		return;
	}
	arm(e, 0);
}

/* Fast, then immediate. Never SIGKILL: its children would live on over the shared memory. */
static void push_leftover(struct embedded *e)
{
	if (e->waited >= 2) {
		fail(e, "a database server left on our data does not end");
		return;
	}
	pidfd_send_signal(e->pidfd, e->waited++ ? SIGQUIT : SIGINT, NULL, 0);
	arm(e, PATIENCE_MS);
}

/* ---- what happened ---- */

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct embedded *e = arg;

	(void)fd;
	(void)what;
	if (e->phase == LEFTOVER)
		push_leftover(e);
	else if (e->phase == STARTING)
		look_for_readiness(e);
	else if (e->phase == BACKOFF)
		go_on(e);
}

static void on_ended(evutil_socket_t fd, short what, void *arg)
{
	struct embedded *e = arg;
	enum phase was = e->phase;
	int status = was == LEFTOVER ? 0 : child_reap(e->pidfd);

	(void)fd;
	(void)what;
	evtimer_del(e->timer);
	child_gone(e);
	if (was == MAKING)
		data_made(e, status);
	else if (was == LEFTOVER)
		go_on(e);
	else
		server_ended(e, status);
}

/* The next thing to do when no child runs. */
static void go_on(struct embedded *e)
{
	int pidfd;
	pid_t pid = datadir_leftover(&e->dir, &pidfd);

	if (pid)
		stop_leftover(e, pid, pidfd);
	else if (!datadir_made(&e->dir))
		make_data(e);
	else
		start_server(e);
}

/* ---- what others call ---- */

static int find_programs(struct embedded *e, const char *dir, struct km_errtext *err)
{
	e->initdb = km_xasprintf("%s/initdb", dir);
	e->postgres = km_xasprintf("%s/postgres", dir);
	if (access(e->postgres, X_OK) != 0)
		return km_errtext_set(
		    err, KM_ENOTFOUND,
		    "%s: %s; install postgresql, or set database_program_dir or database",
		    e->postgres, strerror(errno));
	if (access(e->initdb, X_OK) != 0)
		return km_errtext_set(err, KM_ENOTFOUND, "%s: %s", e->initdb, strerror(errno));
	return 0;
}

int embedded_start(struct embedded **out, struct event_base *base, const struct embedded_opts *opts,
		   const struct embedded_cbs *cbs, void *arg, struct km_errtext *err)
{
	struct embedded *e = km_xcalloc(1, sizeof(*e));
	struct timeval now = {0, 0};
	int rc;

	e->base = base;
	e->cbs = cbs;
	e->arg = arg;
	e->pidfd = e->out_fd = -1;
	e->phase = BACKOFF;
	rc = child_user_find(&e->user, opts->user, err);
	if (!rc)
		rc = find_programs(e, opts->program_dir, err);
	if (!rc)
		rc = datadir_open(&e->dir, opts->state_dir, &e->user, err);
	if (!rc)
		rc = datadir_check_version(&e->dir, &e->user, e->postgres, err);
	if (rc)
		goto out;
	e->user_name = km_xstrdup(e->user.change ? opts->user : "this user");
	e->conninfo = km_xasprintf("host=%s user=postgres dbname=kakuremichi", e->dir.run);
	e->timer = evtimer_new(base, on_timer, e);
	if (!e->timer || evtimer_add(e->timer, &now) != 0)
		rc = km_errtext_set(err, KM_ENOMEM, "no memory");
out:
	if (rc) {
		embedded_free(e);
		e = NULL;
	}
	*out = e;
	return rc;
}

const char *embedded_conninfo(const struct embedded *e)
{
	return e->conninfo;
}

pid_t embedded_pid(const struct embedded *e)
{
	return e->phase == LEFTOVER ? 0 : e->pid;
}

static void stop_child(struct embedded *e)
{
	static const int signals[] = {SIGINT, SIGQUIT, SIGKILL};
	static const int ms[] = {STOP_MS, PATIENCE_MS, -1};

	for (size_t i = 0; i < KM_ARRAY_LEN(signals); i++) {
		pidfd_send_signal(e->pidfd, signals[i], NULL, 0);
		if (child_ended(e->pidfd, ms[i]))
			break;
		km_warn("the database does not end", km_ki("pid", e->pid),
			km_ki("signal", signals[i]));
	}
	child_reap(e->pidfd);
	km_info(e->phase == MAKING ? "making the database was broken off" : "database server ended",
		km_ki("pid", e->pid));
}

void embedded_free(struct embedded *e)
{
	if (!e)
		return;
	if (e->pid && e->phase != LEFTOVER)
		stop_child(e);
	child_gone(e);
	if (e->timer)
		event_free(e->timer);
	datadir_close(&e->dir);
	free(e->user_name);
	free(e->initdb);
	free(e->postgres);
	free(e->conninfo);
	free(e);
}
