/* SPDX-License-Identifier: MIT */
#include "gatewayd/tunnel_metrics.h"
#include "libkm/base/err.h"
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define OTHER "domain=\"other\""
#define REVIEWS 15        /* in the time for which a tunnel keeps its series */
#define DISPLACE_TIMES 2  /* so much busier must be who gets the series of another */
#define DISPLACE_LEAST 10 /* requests, about: nobody loses series to one that was asked for twice  \
			   */

/* What is printed of one tunnel or of several: counters. */
struct sums {
	struct counts_sum requests;
	uint64_t bytes_in, bytes_out, errors, limited, passed;
};
#define SUMS (sizeof(struct sums) / sizeof(uint64_t))

/* Every request is counted in one series, once: what a tunnel counts belongs to its own series
 * while it has some, else to the sum of the others, and stays there. So either only grows, and a
 * series that comes back goes on from where it was. */
struct item {
	uint8_t tunnel[16];
	struct route_state *state; /* its last counts are read when it is gone, too */
	bool own;
	uint64_t round, serial;
	char *labels;
	struct sums kept; /* of its own series, from the times before */
	struct sums base; /* its counts when the present time, its own or the others', began */
	struct sums last; /* its counts as they were printed last */
	uint64_t active;
	int64_t since; /* it has its series */
	uint64_t seen; /* its requests at the last review */
	double score;
	UT_hash_handle hh;
};

struct tunnel_metrics {
	const struct route_table *routes;
	size_t limit, own;
	int64_t keep_ms, reviewed;
	uint64_t round;
	struct item *items;
	struct sums
	    gone; /* of the others: what those counted who have gone, or have their own now */
	struct sums others;
	uint64_t others_active;
	struct km_metric *moved;
	int rc;
};

struct tunnel_metrics *tunnel_metrics_new(const struct route_table *routes, size_t limit,
					  int64_t keep_ms)
{
	struct tunnel_metrics *m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	m->routes = routes;
	m->limit = limit;
	m->keep_ms = keep_ms;
	m->moved = km_metric(KM_METRIC_COUNTER, "kakuremichi_tunnel_series_moved_total", "",
			     "Times that a busier tunnel has got the series of another.");
	return m;
}

static void item_free(struct tunnel_metrics *m, struct item *it)
{
	HASH_DEL(m->items, it);
	m->own -= it->own;
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

/* ---- sums ---- */

static void read_state(struct sums *to, const struct route_state *s)
{
	*to = (struct sums){.bytes_in = counts_read(&s->bytes_in),
			    .bytes_out = counts_read(&s->bytes_out),
			    .errors = counts_read(&s->errors),
			    .limited = counts_read(&s->limited),
			    .passed = counts_read(&s->passed)};
	counts_sum_add(&to->requests, &s->counts);
}

/* to += now - base, all of which are counts only. */
static void grow(struct sums *to, const struct sums *now, const struct sums *base)
{
	uint64_t *t = (uint64_t *)to;
	const uint64_t *n = (const uint64_t *)now, *b = (const uint64_t *)base;
	for (size_t i = 0; i < SUMS; i++)
		t[i] += n[i] - b[i];
}

/* ---- gathering ---- */

/* The sum of all others keeps what it has counted. */
static void item_gone(struct tunnel_metrics *m, struct item *it)
{
	struct sums now;
	read_state(&now, it->state);
	if (!it->own)
		grow(&m->gone, &now, &it->base);
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

static void sweep(struct tunnel_metrics *m)
{
	struct item *it, *tmp;
	HASH_ITER (hh, m->items, it, tmp)
		if (it->round != m->round)
			item_gone(m, it);
}

/* ---- whose series there are ---- */

/* What has been counted since it was printed last belongs to where the tunnel is now. */
static void move(struct tunnel_metrics *m, struct item *it, bool own, int64_t now)
{
	grow(own ? &m->gone : &it->kept, &it->last, &it->base);
	it->base = it->last;
	it->own = own;
	it->since = now;
	m->own += own ? 1 : (size_t)-1;
}

static uint64_t fresh(const struct item *it)
{
	return counts_read(&it->state->requests) - it->seen;
}

/* What `elapsed` leaves of a score: half of it after a third of the time that series are kept. */
static double decay(const struct tunnel_metrics *m, int64_t elapsed)
{
	static const double fifth = 0.870551; /* 2^(-1/5) */
	double left = 1, steps = (double)elapsed * REVIEWS / (double)m->keep_ms;
	if (steps > 200)
		return 0;
	int whole = (int)steps;
	for (int i = 0; i < whole; i++)
		left *= fifth;
	return left * (1 - (steps - whole) * (1 - fifth));
}

/* How busy each has been of late. Connections that last count as long as they do. */
static void score(struct tunnel_metrics *m, int64_t now)
{
	struct item *it, *tmp;
	double left = m->reviewed ? decay(m, now - m->reviewed) : 0;
	m->reviewed = now;
	HASH_ITER (hh, m->items, it, tmp) {
		uint64_t n = fresh(it);
		it->score = it->score * left + (double)(n + counts_read(&it->state->active));
		it->seen += n;
	}
}

static int busier(const void *a, const void *b)
{
	const struct item *x = *(struct item *const *)a, *y = *(struct item *const *)b;
	double dx = x->score + (double)fresh(x), dy = y->score + (double)fresh(y);
	return dx < dy ? 1 : dx > dy ? -1 : memcmp(x->tunnel, y->tunnel, sizeof(x->tunnel));
}

/* Those with series that they have had long enough to lose them, or those without that are used;
 * the busiest first. NULL: none, or no memory. */
static struct item **rank(struct tunnel_metrics *m, bool own, int64_t now, size_t *n)
{
	struct item *it, *tmp, **all = calloc(HASH_COUNT(m->items) + 1, sizeof(*all));
	*n = 0;
	if (!all)
		return NULL;
	HASH_ITER (hh, m->items, it, tmp)
		if (it->own == own &&
		    (own ? now - it->since >= m->keep_ms
			 : it->score > 0 || fresh(it) || counts_read(&it->state->active)))
			all[(*n)++] = it;
	qsort(all, *n, sizeof(*all), busier);
	return all;
}

static void fill(struct tunnel_metrics *m, int64_t now)
{
	struct item *it, *tmp, **all;
	size_t n;
	if (HASH_COUNT(m->items) <= m->limit) {
		HASH_ITER (hh, m->items, it, tmp)
			if (!it->own)
				move(m, it, true, now);
		return;
	}
	if (m->own >= m->limit || !(all = rank(m, false, now, &n)))
		return;
	for (size_t i = 0; i < n && m->own < m->limit; i++)
		move(m, all[i], true, now);
	free(all);
}

static void displace(struct tunnel_metrics *m, int64_t now)
{
	size_t n_in = 0, n_out = 0;
	struct item **in = NULL, **out = NULL;
	if (m->own < m->limit || m->own == HASH_COUNT(m->items) ||
	    !(in = rank(m, false, now, &n_in)) || !(out = rank(m, true, now, &n_out)))
		goto out;
	for (size_t i = 0; i < n_in && n_out; i++) {
		struct item *least = out[--n_out];
		if (in[i]->score < DISPLACE_LEAST || in[i]->score <= DISPLACE_TIMES * least->score)
			break;
		move(m, least, false, now);
		move(m, in[i], true, now);
		km_metric_add(m->moved, 1);
	}
out:
	free(in);
	free(out);
}

static void places(struct tunnel_metrics *m, int64_t now)
{
	fill(m, now);
	if (m->reviewed && now - m->reviewed < m->keep_ms / REVIEWS)
		return;
	score(m, now);
	displace(m, now);
}

static void sum_up(struct tunnel_metrics *m)
{
	struct item *it, *tmp;
	m->others = m->gone;
	m->others_active = 0;
	HASH_ITER (hh, m->items, it, tmp) {
		read_state(&it->last, it->state);
		it->active = counts_read(&it->state->active);
		if (it->own)
			continue;
		grow(&m->others, &it->last, &it->base);
		m->others_active += it->active;
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
     "Bytes of request bodies passed on, and what clients of upgraded and passed-through "
     "connections "
     "sent.",
     print_bytes_in},
    {"kakuremichi_tunnel_response_bytes_total", "counter",
     "Bytes of response bodies passed on, and what targets of upgraded and passed-through "
     "connections "
     "sent.",
     print_bytes_out},
    {"kakuremichi_tunnel_upstream_errors_total", "counter",
     "Requests to which the target gave no whole answer.", print_errors},
    {"kakuremichi_tunnel_limited_total", "counter",
     "Requests over a limit of rate, answered with 429.", print_limited},
};

/* Its own series. */
static void own_sums(const struct item *it, struct sums *s)
{
	*s = it->kept;
	grow(s, &it->last, &it->base);
}

static int print_family(struct tunnel_metrics *m, const struct family *f, bool others,
			struct km_buf *out)
{
	struct sums s;
	int rc = counts_print_head(out, f->name, f->type, f->help);
	for (struct item *it = m->items; it && !rc; it = it->hh.next) {
		if (!it->own)
			continue;
		own_sums(it, &s);
		rc = f->print(out, f->name, it->labels, &s);
	}
	return rc || !others ? rc : f->print(out, f->name, OTHER, &m->others);
}

static int print_active(struct tunnel_metrics *m, bool others, struct km_buf *out)
{
	static const char name[] = "kakuremichi_tunnel_active";
	int rc = counts_print_head(out, name, "gauge",
				   "Requests, upgraded and passed-through connections under way.");
	for (struct item *it = m->items; it && !rc; it = it->hh.next)
		if (it->own)
			rc = counts_print_line(out, name, it->labels, it->active);
	return rc || !others ? rc : counts_print_line(out, name, OTHER, m->others_active);
}

int tunnel_metrics_write(struct tunnel_metrics *m, int64_t now, struct km_buf *out)
{
	static const struct sums none;
	m->round++;
	m->rc = 0;
	route_each(m->routes, gather, m);
	if (m->rc)
		return m->rc;
	sweep(m);
	places(m, now);
	sum_up(m);
	bool others = m->own < HASH_COUNT(m->items) || memcmp(&m->others, &none, sizeof(none)) != 0;
	int rc = 0;
	for (size_t i = 0; i < sizeof(families) / sizeof(families[0]) && !rc; i++)
		rc = print_family(m, &families[i], others, out);
	return rc ? rc : print_active(m, others, out);
}

int tunnel_metrics_print(void *arg, struct km_buf *out)
{
	return tunnel_metrics_write(arg, km_now_ms(), out);
}
