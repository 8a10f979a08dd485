/* SPDX-License-Identifier: MIT */
#include "agentd/forward/forward.h"
#include "agentd/forward/worker.h"
#include "libkm/event/mailbox.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REPORTS_MAX 1024
#define WORKERS_MAX 64

#define REFUSED "kakuremichi_agent_refused_total"
#define REFUSED_HELP "Connections to the agent that were cut, by reason."

static void make_metrics(struct forward *f)
{
	f->active_gauge = km_metric(KM_METRIC_GAUGE, "kakuremichi_agent_connections", "",
				    "Connections from gateways now.");
	f->fallbacks = km_metric(KM_METRIC_COUNTER, "kakuremichi_agent_copies_total", "",
				 "Steps that copied bytes because no useful pipe was to be had.");
	f->refused_peer = km_metric(KM_METRIC_COUNTER, REFUSED, "reason=\"address\"", REFUSED_HELP);
	f->refused_header =
	    km_metric(KM_METRIC_COUNTER, REFUSED, "reason=\"header\"", REFUSED_HELP);
	f->refused_tunnel =
	    km_metric(KM_METRIC_COUNTER, REFUSED, "reason=\"tunnel\"", REFUSED_HELP);
	f->refused_target =
	    km_metric(KM_METRIC_COUNTER, REFUSED, "reason=\"target\"", REFUSED_HELP);
}

/* ---- reports ---- */

static void report_free(void *item)
{
	struct forward_report *r = item;

	tunnel_unref(r->tunnel);
	free(r);
}

static void on_reports(evutil_socket_t fd, short what, void *arg)
{
	struct forward *f = arg;
	struct forward_report *r;

	(void)fd;
	(void)what;
	while ((r = km_mailbox_take(f->reports))) {
		f->report(f->report_arg, r);
		report_free(r);
	}
}

void forward_seen(struct forward *f, struct tunnel *t, bool healthy, const char *why)
{
	int is = healthy ? TUNNEL_HEALTHY : TUNNEL_UNHEALTHY;
	struct forward_report *r;

	if (!f->reports || atomic_exchange(&t->health, is) == is)
		return;
	r = calloc(1, sizeof(*r));
	if (!r)
		return; /* the next probe tells it */
	r->tunnel = tunnel_ref(t);
	r->healthy = healthy;
	snprintf(r->why, sizeof(r->why), "%s", healthy ? "" : why);
	if (km_mailbox_put(f->reports, r) != 0)
		report_free(r);
}

static int reports_start(struct forward *f, struct event_base *base)
{
	f->reports = km_mailbox_new(REPORTS_MAX);
	if (!f->reports)
		return KM_ENOMEM;
	f->reports_event =
	    event_new(base, km_mailbox_fd(f->reports), EV_READ | EV_PERSIST, on_reports, f);
	if (!f->reports_event || event_add(f->reports_event, NULL) != 0)
		return KM_ENOMEM;
	return 0;
}

/* ---- life ---- */

static size_t worker_count(const struct forward_opts *opts)
{
	long n = opts->workers ? (long)opts->workers : sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > WORKERS_MAX ? WORKERS_MAX : (size_t)n;
}

int forward_start(struct forward **out, struct event_base *base, const struct forward_opts *opts,
		  void (*report)(void *arg, const struct forward_report *r), void *arg)
{
	struct forward *f = calloc(1, sizeof(*f));
	int rc = 0;

	*out = NULL;
	if (!f)
		return KM_ENOMEM;
	f->opts = *opts;
	f->report = report;
	f->report_arg = arg;
	tunnel_table_init(&f->tunnels);
	pthread_rwlock_init(&f->gateways_lock, NULL);
	make_metrics(f);
	if (report)
		rc = reports_start(f, base);
	f->n_workers = worker_count(opts);
	f->workers = calloc(f->n_workers, sizeof(f->workers[0]));
	if (!f->workers)
		rc = KM_ENOMEM;
	for (size_t i = 0; rc == 0 && i < f->n_workers; i++)
		rc = worker_start(&f->workers[i], f);
	if (rc) {
		forward_free(f);
		return rc;
	}
	*out = f;
	return 0;
}

static void wake_all(struct forward *f)
{
	for (size_t i = 0; i < f->n_workers; i++)
		worker_wake(&f->workers[i]);
}

void forward_free(struct forward *f)
{
	if (!f)
		return;
	atomic_store(&f->stopping, true);
	for (size_t i = 0; f->workers && i < f->n_workers; i++) {
		if (f->workers[i].started)
			worker_wake(&f->workers[i]);
	}
	for (size_t i = 0; f->workers && i < f->n_workers; i++)
		worker_free(&f->workers[i]);
	free(f->workers);
	if (f->reports_event)
		event_free(f->reports_event);
	km_mailbox_free(f->reports, report_free);
	tunnel_table_free(&f->tunnels);
	pthread_rwlock_destroy(&f->gateways_lock);
	free(f->gateways);
	free(f);
}

/* ---- from the main loop ---- */

int forward_listen(struct forward *f, int fd)
{
	struct listener *l = NULL;

	if (fd >= 0) {
		l = calloc(1, sizeof(*l));
		if (!l) {
			close(fd);
			return KM_ENOMEM;
		}
		l->fd = fd;
		atomic_init(&l->refs, (unsigned)f->n_workers);
	}
	for (size_t i = 0; i < f->n_workers; i++)
		worker_listen(&f->workers[i], l);
	return 0;
}

static bool has(const struct km_addr *addrs, size_t n, const struct km_addr *a)
{
	for (size_t i = 0; i < n; i++) {
		if (km_addr_eq(&addrs[i], a))
			return true;
	}
	return false;
}

bool forward_knows(struct forward *f, const struct km_addr *a)
{
	pthread_rwlock_rdlock(&f->gateways_lock);
	bool yes = has(f->gateways, f->n_gateways, a);
	pthread_rwlock_unlock(&f->gateways_lock);
	return yes;
}

int forward_gateways(struct forward *f, const struct km_addr *addrs, size_t n)
{
	struct km_addr *copy = NULL, *old;
	bool fewer = false;

	if (n) {
		copy = calloc(n, sizeof(*copy));
		if (!copy)
			return KM_ENOMEM;
		memcpy(copy, addrs, n * sizeof(*copy));
	}
	pthread_rwlock_wrlock(&f->gateways_lock);
	old = f->gateways;
	for (size_t i = 0; i < f->n_gateways && !fewer; i++)
		fewer = !has(addrs, n, &old[i]);
	f->gateways = copy;
	f->n_gateways = n;
	pthread_rwlock_unlock(&f->gateways_lock);
	free(old);
	if (fewer) {
		atomic_fetch_add(&f->fewer, 1);
		wake_all(f);
	}
	return 0;
}

struct tunnel_table *forward_tunnels(struct forward *f)
{
	return &f->tunnels;
}

void forward_sweep(struct forward *f)
{
	wake_all(f);
}

void forward_reset(struct forward *f)
{
	atomic_fetch_add(&f->resets, 1);
	wake_all(f);
}

void forward_drain(struct forward *f)
{
	for (size_t i = 0; i < f->n_workers; i++)
		worker_listen(&f->workers[i], NULL);
}

unsigned forward_active(const struct forward *f)
{
	return atomic_load(&f->active);
}
