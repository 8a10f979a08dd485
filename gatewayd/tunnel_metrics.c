/* SPDX-License-Identifier: MIT */
#include "gatewayd/tunnel_metrics.h"
#include "libkm/base/err.h"
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

enum place { UNDECIDED, OWN, OTHER };

/* What is printed, of one tunnel or of several. */
struct sums {
	struct counts_sum requests;
	uint64_t bytes_in, bytes_out, errors, limited, passed, active;
};

struct item {
	uint8_t tunnel[16];
	struct route_state *state; /* its last counts are read when it is gone, too */
	enum place place;
	uint64_t round, serial;
	char *labels;
	struct sums now;
	UT_hash_handle hh;
};

struct tunnel_metrics {
	const struct route_table *routes;
	size_t limit, own;
	uint64_t round;
	struct item *items;
	struct sums gone, others; /* of those among the others that are no more; of all others */
	int rc;
};

struct tunnel_metrics *tunnel_metrics_new(const struct route_table *routes, size_t limit)
{
	struct tunnel_metrics *m = calloc(1, sizeof(*m));
	if (m) {
		m->routes = routes;
		m->limit = limit;
	}
	return m;
}

static void item_free(struct tunnel_metrics *m, struct item *it)
{
	HASH_DEL(m->items, it);
	if (it->place == OWN)
		m->own--;
	route_state_put(it->state);
	free(it->labels);
	free(it);
}

void tunnel_metrics_free(struct tunnel_metrics *m)
{
	struct item *it, *tmp;
	if (!m)
		return;
	HASH_ITER (hh, m->items, it, tmp)
		item_free(m, it);
	free(m);
}

/* ---- gathering ---- */

static void add(struct sums *to, const struct route_state *s)
{
	counts_sum_add(&to->requests, &s->counts);
	to->bytes_in += counts_read(&s->bytes_in);
	to->bytes_out += counts_read(&s->bytes_out);
	to->errors += counts_read(&s->errors);
	to->limited += counts_read(&s->limited);
	to->passed += counts_read(&s->passed);
	to->active += counts_read(&s->active);
}

/* The sum of all others keeps what it has counted. */
static void item_gone(struct tunnel_metrics *m, struct item *it)
{
	if (it->place == OTHER)
		add(&m->gone, it->state);
	m->gone.active = 0;
	item_free(m, it);
}

static struct item *item_of(struct tunnel_metrics *m, const struct route_entry *e)
{
	struct item *it;
	HASH_FIND(hh, m->items, e->tunnel, sizeof(e->tunnel), it);
	if (it && it->state == e->state)
		return it;
	if (it)
		item_gone(m, it);
	if (!(it = calloc(1, sizeof(*it))))
		return NULL;
	memcpy(it->tunnel, e->tunnel, sizeof(it->tunnel));
	it->state = route_state_ref(e->state);
	HASH_ADD(hh, m->items, tunnel, sizeof(it->tunnel), it);
	return it;
}

/* A label's value: '\', '"' and newline are escaped. */
static char *put_value(char *p, const char *s)
{
	for (; *s; s++) {
		if (*s == '\\' || *s == '"' || *s == '\n')
			*p++ = '\\';
		*p++ = *s == '\n' ? 'n' : *s;
	}
	return p;
}

static int labels_make(struct item *it, const struct route_entry *e)
{
	if (it->labels && it->serial == e->serial)
		return 0;
	const char *path = e->path && strcmp(e->path, "/") != 0 ? e->path : "";
	free(it->labels);
	it->labels =
	    malloc(2 * (strlen(e->domain) + strlen(path)) + sizeof("domain=\"\",path=\"\""));
	if (!it->labels)
		return KM_ENOMEM;
	char *p = put_value(stpcpy(it->labels, "domain=\""), e->domain);
	if (*path)
		p = put_value(stpcpy(p, "\",path=\""), path);
	stpcpy(p, "\"");
	it->serial = e->serial;
	return 0;
}

/* Once made, the decision stands: a sum out of which tunnels came and went again would not grow
 * only. */
static void decide(struct tunnel_metrics *m, struct item *it)
{
	bool used = counts_read(&it->state->requests) || counts_read(&it->state->active);
	if (it->place != UNDECIDED || (!used && route_count(m->routes) > m->limit))
		return;
	it->place = m->own < m->limit ? OWN : OTHER;
	m->own += it->place == OWN;
}

static void gather(void *arg, const struct route_entry *e)
{
	struct tunnel_metrics *m = arg;
	struct item *it = m->rc ? NULL : item_of(m, e);
	if (!it || labels_make(it, e)) {
		m->rc = KM_ENOMEM;
		return;
	}
	it->round = m->round;
}

static void sum_up(struct tunnel_metrics *m)
{
	struct item *it, *tmp;
	HASH_ITER (hh, m->items, it, tmp)
		if (it->round != m->round)
			item_gone(m, it);
	m->others = m->gone;
	HASH_ITER (hh, m->items, it, tmp) {
		decide(m, it);
		it->now = (struct sums){0};
		add(it->place == OWN ? &it->now : &m->others, it->state);
	}
}

/* ---- printing ---- */

static int print_requests(struct km_buf *out, const char *name, const char *labels,
			  const struct sums *s)
{
	return counts_print_classes(out, name, labels, &s->requests, false);
}

static int print_took(struct km_buf *out, const char *name, const char *labels,
		      const struct sums *s)
{
	return counts_print_histogram(out, name, labels, &s->requests);
}

#define PRINT(member)                                                                              \
	static int print_##member(struct km_buf *out, const char *name, const char *labels,        \
				  const struct sums *s)                                            \
	{                                                                                          \
		return counts_print_line(out, name, labels, s->member);                            \
	}
PRINT(bytes_in)
PRINT(bytes_out)
PRINT(errors)
PRINT(limited)
PRINT(active)
#undef PRINT

/* Most tunnels have none. */
static int print_passed(struct km_buf *out, const char *name, const char *labels,
			const struct sums *s)
{
	return s->passed ? counts_print_line(out, name, labels, s->passed) : 0;
}

static const struct family {
	const char *name, *type, *help;
	int (*print)(struct km_buf *out, const char *name, const char *labels,
		     const struct sums *s);
} families[] = {
    {"kakuremichi_tunnel_requests_total", "counter", "Requests of a tunnel, by class of status.",
     print_requests},
    {"kakuremichi_tunnel_request_duration_seconds", "histogram",
     "From a request's head to the end of its answer, but for upgraded ones.", print_took},
    {"kakuremichi_tunnel_passthrough_total", "counter",
     "Connections passed through untouched that have ended.", print_passed},
    {"kakuremichi_tunnel_request_bytes_total", "counter",
     "Bytes of request bodies passed on, and what clients of upgraded and passed-through connections "
     "sent.",
     print_bytes_in},
    {"kakuremichi_tunnel_response_bytes_total", "counter",
     "Bytes of response bodies passed on, and what targets of upgraded and passed-through connections "
     "sent.",
     print_bytes_out},
    {"kakuremichi_tunnel_upstream_errors_total", "counter",
     "Requests to which the target gave no whole answer.", print_errors},
    {"kakuremichi_tunnel_limited_total", "counter",
     "Requests over a limit of rate, answered with 429.", print_limited},
    {"kakuremichi_tunnel_active", "gauge",
     "Requests, upgraded and passed-through connections under way.", print_active},
};

static int print_family(struct tunnel_metrics *m, const struct family *f, bool others,
			struct km_buf *out)
{
	int rc = counts_print_head(out, f->name, f->type, f->help);
	for (struct item *it = m->items; it && !rc; it = it->hh.next)
		if (it->place == OWN)
			rc = f->print(out, f->name, it->labels, &it->now);
	return rc || !others ? rc : f->print(out, f->name, "domain=\"other\"", &m->others);
}

int tunnel_metrics_print(void *arg, struct km_buf *out)
{
	static const struct sums none;
	struct tunnel_metrics *m = arg;
	m->round++;
	m->rc = 0;
	route_each(m->routes, gather, m);
	if (m->rc)
		return m->rc;
	sum_up(m);
	bool others = route_count(m->routes) > m->limit || memcmp(&m->others, &none, sizeof(none));
	int rc = 0;
	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]) && !rc; i++)
		rc = print_family(m, &families[i], others, out);
	return rc;
}
