/* SPDX-License-Identifier: MIT */
#include "controld/store/pool.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

struct store_watch {
	struct listener *l;
	store_wake_cb *cb;
	void *arg;
	bool gone, fresh; /* ended while the list was walked; not called yet */
	struct store_watch *prev, *next;
};

/* LISTEN comes first and the state is read after it, so that no change falls between. */
enum step { AWAY, LISTENING, READING, IDLE };

struct listener {
	struct dbconn *conn;
	enum step step;
	struct event *poll, *first;
	struct store_watch *watches;
	bool waking;
	store_note_cb *note; /* may be NULL */
	void *note_arg;
	char epoch[KM_UUID_STRLEN];
	int64_t revision;
};

static const char sql_listen[] = "LISTEN km_changes; LISTEN km_links";
static const char sql_state[] = "SELECT km_epoch()::text, value FROM revision";

static void sweep(struct listener *l)
{
	struct store_watch *w, *tmp;

	DL_FOREACH_SAFE (l->watches, w, tmp)
		if (w->gone) {
			DL_DELETE(l->watches, w);
			free(w);
		}
}

static void wake(struct listener *l, bool only_fresh)
{
	struct store_watch *w;

	if (!*l->epoch)
		return;
	l->waking = true;
	DL_FOREACH (l->watches, w) {
		if (w->gone || (only_fresh && !w->fresh))
			continue;
		w->fresh = false;
		w->cb(w->arg, l->epoch, l->revision);
	}
	l->waking = false;
	sweep(l);
}

static void send_step(struct listener *l, enum step step)
{
	l->step = step;
	if (PQsendQuery(dbconn_db(l->conn), step == LISTENING ? sql_listen : sql_state) != 1)
		dbconn_drop(l->conn, PQerrorMessage(dbconn_db(l->conn)));
	else
		dbconn_flush(l->conn);
}

static void on_up(void *arg)
{
	struct listener *l = arg;

	send_step(l, LISTENING);
}

/* 1: a new state is known; 0: not yet; -1: the connection was given up. */
static int take_results(struct listener *l)
{
	PGconn *db = dbconn_db(l->conn);
	int news = 0;
	PGresult *r;

	while (l->step != IDLE && !PQisBusy(db)) {
		r = PQgetResult(db);
		if (!r && l->step == LISTENING) {
			send_step(l, READING);
			if (l->note)
				l->note(l->note_arg, NULL);
			return 0;
		}
		if (!r) {
			l->step = IDLE;
			break;
		}
		if (PQresultStatus(r) == PGRES_TUPLES_OK && PQntuples(r) == 1) {
			memcpy(l->epoch, PQgetvalue(r, 0, 0), sizeof(l->epoch) - 1);
			l->revision = strtoll(PQgetvalue(r, 0, 1), NULL, 10);
			news = 1;
		} else if (PQresultStatus(r) != PGRES_COMMAND_OK) {
			dbconn_drop(l->conn, PQresultErrorMessage(r));
			news = -1;
		}
		PQclear(r);
		if (news < 0)
			return news;
	}
	return news;
}

static void on_input(void *arg)
{
	struct listener *l = arg;
	int news = take_results(l);
	PGnotify *n;

	if (news < 0)
		return;
	while ((n = PQnotifies(dbconn_db(l->conn)))) {
		if (strcmp(n->relname, "km_changes") == 0) {
			l->revision = strtoll(n->extra, NULL, 10);
			news = 1;
		} else if (l->note) {
			l->note(l->note_arg, n->extra);
		}
		PQfreemem(n);
	}
	if (news)
		wake(l, false);
}

static void on_down(void *arg, const char *why)
{
	struct listener *l = arg;

	l->step = AWAY;
	km_debug("database listener is away", km_ks("why", why));
}

static void on_poll(evutil_socket_t fd, short what, void *arg)
{
	struct listener *l = arg;

	(void)fd;
	(void)what;
	if (!dbconn_is_up(l->conn))
		return;
	if (l->step == IDLE)
		send_step(l, READING);
	else
		dbconn_drop(l->conn, "no answer");
}

static void on_first(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	wake(arg, true);
}

int listener_new(struct listener **out, struct event_base *base, const char *conninfo,
		 int64_t timeout_ms, int64_t poll_ms, struct km_errtext *err)
{
	static const struct dbconn_cbs cbs = {on_up, on_input, on_down};
	struct dbconn_opts opts = {.conninfo = conninfo,
				   .name = "controld listener",
				   .connect_timeout_ms = timeout_ms,
				   .statement_timeout_ms = timeout_ms};
	struct timeval tv = {poll_ms / 1000, poll_ms % 1000 * 1000};
	struct listener *l = calloc(1, sizeof(*l));
	int rc = KM_ENOMEM;

	if (!l)
		goto out;
	l->poll = event_new(base, -1, EV_PERSIST, on_poll, l);
	l->first = evtimer_new(base, on_first, l);
	if (!l->poll || !l->first || event_add(l->poll, &tv) != 0)
		goto out;
	rc = dbconn_new(&l->conn, base, &opts, &cbs, l, err);
out:
	if (rc) {
		listener_free(l);
		l = NULL;
	}
	*out = l;
	return rc;
}

void listener_free(struct listener *l)
{
	struct store_watch *w, *tmp;

	if (!l)
		return;
	dbconn_free(l->conn);
	if (l->poll)
		event_free(l->poll);
	if (l->first)
		event_free(l->first);
	DL_FOREACH_SAFE (l->watches, w, tmp) {
		DL_DELETE(l->watches, w);
		free(w);
	}
	free(l);
}

void listener_notes(struct listener *l, store_note_cb *cb, void *arg)
{
	l->note = cb;
	l->note_arg = arg;
}

const char *listener_epoch(const struct listener *l)
{
	return l->epoch;
}

struct store_watch *listener_watch(struct listener *l, store_wake_cb *cb, void *arg)
{
	struct timeval now = {0, 0};
	struct store_watch *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	*w = (struct store_watch){.l = l, .cb = cb, .arg = arg, .fresh = true};
	DL_APPEND(l->watches, w);
	evtimer_add(l->first, &now);
	return w;
}

void store_unlisten(struct store_watch *w)
{
	if (!w)
		return;
	w->gone = true;
	if (!w->l->waking)
		sweep(w->l);
}
