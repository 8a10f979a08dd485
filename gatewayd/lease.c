/* SPDX-License-Identifier: MIT */
#include "gatewayd/lease.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include "libkm/msg/msg.h"
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

struct taking {
	struct leases *all;
	char domain[256];
	void (*done)(void *arg, bool granted, const uint8_t *holder);
	void *arg;
	struct event *timer;
	struct taking *prev, *next;
};

struct leases {
	struct event_base *base;
	int (*send)(void *arg, json_t *data);
	void *send_arg;
	struct taking *list;
	size_t n;
	struct km_metric *granted, *held, *unasked;
};

static void taking_free(struct taking *t)
{
	DL_DELETE(t->all->list, t);
	t->all->n--;
	if (t->timer)
		event_free(t->timer);
	free(t);
}

static void finish(struct taking *t, bool granted, const uint8_t *holder)
{
	struct taking ended = *t;
	taking_free(t);
	ended.done(ended.arg, granted, holder);
}

/* Control is away, or has not answered in time. */
static void on_due(evutil_socket_t fd, short what, void *arg)
{
	struct taking *t = arg;
	(void)fd, (void)what;
	km_metric_add(t->all->unasked, 1);
	finish(t, true, NULL);
}

static int tell(struct leases *l, const char *domain, bool release)
{
	struct km_msg_lease m = {
	    .domain = (char *)domain, .release = release, .has_release = release};
	json_t *data;
	if (!l->send)
		return KM_ECLOSED;
	data = km_msg_format(&km_msg_desc_lease, &m);
	return data ? l->send(l->send_arg, data) : KM_ENOMEM;
}

static void take(void *arg, const char *domain,
		 void (*done)(void *done_arg, bool granted, const uint8_t *holder), void *done_arg)
{
	struct leases *l = arg;
	struct taking *t = km_xcalloc(1, sizeof(*t));
	bool asked = l->n < LEASES_MAX && tell(l, domain, false) == 0;
	struct timeval tv = {asked ? LEASE_WAIT_MS / 1000 : 0, 0};
	t->all = l;
	snprintf(t->domain, sizeof(t->domain), "%s", domain);
	t->done = done;
	t->arg = done_arg;
	DL_APPEND(l->list, t);
	l->n++;
	t->timer = event_new(l->base, -1, 0, on_due, t);
	if (!t->timer || event_add(t->timer, &tv)) {
		km_error("out of memory");
		abort();
	}
}

static void release(void *arg, const char *domain)
{
	(void)tell(arg, domain, true); /* else it runs out by itself */
}

struct acme_lease leases_ops(struct leases *l)
{
	return (struct acme_lease){.take = take, .release = release, .arg = l};
}

/* All that have been asked for this domain by now; done may ask for more. */
static void answered(struct leases *l, const struct km_msg_lease_result *m)
{
	uint8_t holder[16];
	bool named = m->holder && !km_uuid_parse(holder, m->holder);
	struct taking *t, *next, *last = l->list ? l->list->prev : NULL;
	for (t = l->list; t; t = next) {
		next = t == last ? NULL : t->next;
		if (strcmp(t->domain, m->domain) != 0)
			continue;
		km_metric_add(m->granted ? l->granted : l->held, 1);
		finish(t, m->granted, m->granted || !named ? NULL : holder);
	}
}

void leases_result(struct leases *l, const json_t *data)
{
	static struct km_log_limit limit;
	struct km_errtext err = {""};
	struct km_msg_lease_result m;
	uint32_t held;
	if (km_msg_parse(&km_msg_desc_lease_result, &m, data, &err)) {
		if (km_log_allow(&limit, km_now_ms(), 5, 60000, &held))
			km_warn("lease_result malformed", km_ks("why", err.text),
				km_ki("held_back", held));
		return;
	}
	answered(l, &m);
	km_msg_clear(&km_msg_desc_lease_result, &m);
}

void leases_sender(struct leases *l, int (*send)(void *arg, json_t *data), void *arg)
{
	l->send = send;
	l->send_arg = arg;
}

static struct km_metric *count(const char *labels)
{
	return km_metric(KM_METRIC_COUNTER, "kakuremichi_gateway_leases_total", labels,
			 "Leases on domains that this gateway wanted, by what control said.");
}

struct leases *leases_new(struct event_base *base)
{
	struct leases *l = km_xcalloc(1, sizeof(*l));
	l->base = base;
	l->granted = count("result=\"granted\"");
	l->held = count("result=\"held\"");
	l->unasked = count("result=\"no_answer\"");
	return l;
}

void leases_free(struct leases *l)
{
	if (!l)
		return;
	while (l->list)
		/* It takes it off the list. NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
		taking_free(l->list);
	free(l);
}
