/* SPDX-License-Identifier: MIT */
#include "libkm/host/reach.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/host/endpoints.h"
#include "libkm/host/kept.h"
#include <event2/event_struct.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utlist.h>

#define GATHER_MS 500 /* changes of so long are written together */
#define KEPT "gateways' addresses"

/* A host name that is being resolved. */
struct query {
	struct km_reach *reach;
	size_t entry;
	struct km_resolver_query *query; /* NULL: none */
};

struct km_reach {
	struct km_reaches *all;
	char id[KM_UUID_STRLEN], name[65];
	struct km_endpoints *endpoints;
	uint16_t port;
	char *entries; /* port and public addresses as they were given, one per line */
	bool loaded;
	struct query queries[KM_ENDPOINTS_ENTRIES];
	void (*moved)(void *arg);
	void *arg;
	struct km_metric *candidates, *moves, *failures;
	struct km_reach *prev, *next;
};

struct km_reaches {
	struct km_resolver_port *port;
	const char *type;
	char *file;
	json_t *kept; /* as the file was at the start: gateway -> km_endpoints_save */
	struct event timer;
	bool dirty;
	struct km_reach *list;
};

/* ---- on disk ---- */

static void write_all(struct km_reaches *all)
{
	json_t *object = json_object();
	struct km_reach *r;

	DL_FOREACH (all->list, r)
		json_object_set_new(object, r->id, km_endpoints_save(r->endpoints));
	all->dirty = !km_kept_write(all->file, object, KEPT);
	json_decref(object);
}

static void on_write_due(evutil_socket_t none, short what, void *arg)
{
	(void)none;
	(void)what;
	write_all(arg);
}

static void changed(struct km_reaches *all)
{
	static const struct timeval wait = {0, GATHER_MS * 1000};

	if (!all->dirty || !event_pending(&all->timer, EV_TIMEOUT, NULL))
		event_add(&all->timer, &wait);
	all->dirty = true;
}

void km_reaches_flush(struct km_reaches *all)
{
	if (all->dirty)
		write_all(all);
}

struct km_reaches *km_reaches_new(struct event_base *base, struct km_resolver_port *port,
				  const char *type, const char *file)
{
	struct km_reaches *all = calloc(1, sizeof(*all));

	if (!all)
		return NULL;
	all->port = port;
	all->type = type;
	all->file = km_xstrdup(file);
	all->kept = km_kept_read(all->file, KEPT);
	event_assign(&all->timer, base, -1, EV_TIMEOUT, on_write_due, all);
	return all;
}

void km_reaches_free(struct km_reaches *all)
{
	if (!all)
		return;
	/* What is due since the last of them went would be that there is none. */
	event_del(&all->timer);
	json_decref(all->kept);
	free(all->file);
	free(all);
}

/* ---- the address to use ---- */

/* Whether this host has a way to the address at all (an IPv6 address is of no use without). */
static bool routable(void *arg, const struct km_addr *a)
{
	const struct km_reach *r = arg;
	struct sockaddr_storage ss;
	socklen_t len = km_addr_to_sa(&ss, a, r->port);
	int fd = socket(ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool ok = fd >= 0 && connect(fd, (struct sockaddr *)&ss, len) == 0;

	if (fd >= 0)
		close(fd);
	return ok;
}

static bool choose(struct km_reach *r)
{
	const struct km_addr *before = km_endpoints_used(r->endpoints);
	char old[KM_ADDR_STRLEN] = "none", now[KM_ADDR_STRLEN];

	if (before)
		km_addr_str(before, old);
	if (!km_endpoints_choose(r->endpoints, routable, r))
		return false;
	km_info(before ? "gateway is tried at another address" : "gateway's address chosen",
		km_ks("gateway", r->name),
		km_ks("address", km_addr_str(km_endpoints_used(r->endpoints), now)),
		km_ks("before", old),
		km_ki("known", (int64_t)km_endpoints_candidates(r->endpoints)));
	if (before)
		km_metric_add(r->moves, 1);
	return true;
}

bool km_reach_endpoint(const struct km_reach *r, struct sockaddr_storage *out)
{
	const struct km_addr *a = km_endpoints_used(r->endpoints);

	memset(out, 0, sizeof(*out));
	if (a)
		km_addr_to_sa(out, a, r->port);
	return a != NULL;
}

/* ---- names ---- */

/* Asked again with every fruitless handshake, so it is said now and then only. */
static void unresolved(const struct query *q, const char *why)
{
	static struct km_log_limit limit;
	const struct km_reach *r = q->reach;
	uint32_t held;

	km_metric_add(r->failures, 1);
	if (km_log_allow(&limit, km_now_ms(), 5, 60000, &held))
		km_warn("gateway's name not resolved", km_ks("gateway", r->name),
			km_ks("host", km_endpoints_host(r->endpoints, q->entry)),
			km_ks("error", why),
			km_ki("known", (int64_t)km_endpoints_candidates(r->endpoints)),
			km_ki("held_back", held));
}

static void count(struct km_reach *r)
{
	km_metric_set(r->candidates, (int64_t)km_endpoints_candidates(r->endpoints));
}

static void on_resolved(void *arg, const struct km_resolver_answer *a)
{
	struct query *q = arg;
	struct km_reach *r = q->reach;

	q->query = NULL;
	if (!a->n) {
		unresolved(q, a->why);
		return;
	}
	if (km_endpoints_resolved(r->endpoints, q->entry, a->addrs, a->n))
		changed(r->all);
	count(r);
	if (choose(r))
		r->moved(r->arg);
}

static void resolve(struct km_reach *r, bool fresh)
{
	for (size_t i = 0; i < KM_ENDPOINTS_ENTRIES; i++) {
		struct query *q = &r->queries[i];
		const char *host = km_endpoints_host(r->endpoints, i);
		int rc;

		if (!host || q->query)
			continue;
		q->query = km_resolver_ask(r->all->port, host, fresh, on_resolved, q, &rc);
		if (!q->query)
			unresolved(q, km_strerror(rc));
	}
}

static void cancel(struct km_reach *r)
{
	for (size_t i = 0; i < KM_ENDPOINTS_ENTRIES; i++) {
		km_resolver_cancel(r->queries[i].query);
		r->queries[i].query = NULL;
	}
}

/* ---- one gateway ---- */

static struct km_metric *metric(const struct km_reach *r, enum km_metric_kind kind,
				const char *what, const char *help)
{
	char name[80], labels[64];

	snprintf(name, sizeof(name), "kakuremichi_%s_%s", r->all->type, what);
	snprintf(labels, sizeof(labels), "gateway=\"%s\"", r->id);
	return km_metric(kind, name, labels, help);
}

struct km_reach *km_reach_new(struct km_reaches *all, const char *id, void (*moved)(void *arg),
			      void *arg)
{
	struct km_reach *r = km_xcalloc(1, sizeof(*r));

	r->all = all;
	snprintf(r->id, sizeof(r->id), "%s", id);
	r->endpoints = km_endpoints_new();
	r->moved = moved;
	r->arg = arg;
	for (size_t i = 0; i < KM_ENDPOINTS_ENTRIES; i++)
		r->queries[i] = (struct query){.reach = r, .entry = i};
	r->candidates = metric(r, KM_METRIC_GAUGE, "gateway_addresses",
			       "Addresses at which the gateway may be reached.");
	r->moves = metric(r, KM_METRIC_COUNTER, "gateway_moves_total",
			  "Changes to another address of the gateway.");
	r->failures = metric(r, KM_METRIC_COUNTER, "resolve_failures_total",
			     "Names of the gateway that did not resolve.");
	DL_APPEND(all->list, r);
	return r;
}

void km_reach_free(struct km_reach *r)
{
	if (!r)
		return;
	cancel(r);
	km_metric_set(r->candidates, 0);
	DL_DELETE(r->all->list, r);
	changed(r->all);
	km_endpoints_free(r->endpoints);
	free(r->entries);
	free(r);
}

/* Whether the gateway is to be reached in another way than before. */
static bool other_entries(struct km_reach *r, const char *const *entries, size_t n, uint16_t port)
{
	char *text = km_xasprintf("%u", port), *longer;
	bool other;

	for (size_t i = 0; i < n; i++) {
		longer = km_xasprintf("%s\n%s", text, entries[i]);
		free(text);
		text = longer;
	}
	other = !r->entries || strcmp(r->entries, text) != 0;
	free(r->entries);
	r->entries = text;
	return other;
}

bool km_reach_set(struct km_reach *r, const char *name, const char *const *entries, size_t n,
		  uint16_t port)
{
	snprintf(r->name, sizeof(r->name), "%s", name);
	if (!other_entries(r, entries, n, port))
		return false;
	r->port = port;
	cancel(r);
	km_endpoints_set(r->endpoints, entries, n);
	if (!r->loaded)
		km_endpoints_load(r->endpoints, json_object_get(r->all->kept, r->id));
	r->loaded = true;
	count(r);
	choose(r);
	resolve(r, false);
	return true;
}

void km_reach_failed(struct km_reach *r)
{
	km_endpoints_failed(r->endpoints);
	choose(r);
	resolve(r, true);
}

void km_reach_works(struct km_reach *r)
{
	if (km_endpoints_works(r->endpoints))
		changed(r->all);
}
