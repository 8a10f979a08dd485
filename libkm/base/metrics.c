/* SPDX-License-Identifier: MIT */
#include "libkm/base/metrics.h"
#include "libkm/base/util.h"
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#define MAX_SERIES 1024
#define SLOTS (2 * MAX_SERIES) /* a power of two, never more than half full */

struct series {
	struct km_metric metric;
	enum km_metric_kind kind;
	char *name, *labels, *help;
	struct series *next; /* of the same name */
	bool first;          /* of its name */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct series table[MAX_SERIES];
static size_t n_series;
static struct {
	int (*print)(void *arg, struct km_buf *out);
	void *arg;
} also[8];
static uint16_t slots[SLOTS]; /* index + 1; 0: free */
static struct series overflow = {
    .kind = KM_METRIC_COUNTER,
    .name = (char[]){"kakuremichi_metrics_overflow_total"},
    .labels = (char[]){""},
    .help = (char[]){"What was counted in series beyond the bound on series."},
    .first = true,
};

/* FNV-1a. */
static uint32_t hash(uint32_t h, const char *s)
{
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 16777619U;
	return (h ^ 0xff) * 16777619U;
}

static void join_family(struct series *s)
{
	struct series *head = NULL;

	for (size_t i = 0; i < n_series && !head; i++)
		if (table[i].first && !strcmp(table[i].name, s->name))
			head = &table[i];
	s->first = !head;
	if (!head)
		return;
	while (head->next)
		head = head->next;
	head->next = s;
}

struct km_metric *km_metric(enum km_metric_kind kind, const char *name, const char *labels,
			    const char *help)
{
	uint32_t at = hash(hash(2166136261U, name), labels) % SLOTS;
	struct series *s;

	pthread_mutex_lock(&lock);
	for (; slots[at]; at = (at + 1) % SLOTS) {
		s = &table[slots[at] - 1];
		if (!strcmp(s->name, name) && !strcmp(s->labels, labels))
			goto out;
	}
	if (n_series == MAX_SERIES) {
		s = &overflow;
		goto out;
	}
	s = &table[n_series];
	s->kind = kind;
	s->name = km_xstrdup(name);
	s->labels = km_xstrdup(labels);
	s->help = km_xstrdup(help ? help : "");
	join_family(s);
	slots[at] = (uint16_t)++n_series;
out:
	pthread_mutex_unlock(&lock);
	return &s->metric;
}

/* The help text with '\' and newline escaped, as the format asks. */
static int print_head(struct km_buf *out, const struct series *s)
{
	int err = km_buf_addf(out, "# HELP %s ", s->name);

	for (const char *p = s->help; *p && !err; p++)
		err = *p == '\\'   ? km_buf_adds(out, "\\\\")
		      : *p == '\n' ? km_buf_adds(out, "\\n")
				   : km_buf_add(out, p, 1);
	if (!err)
		err = km_buf_addf(out, "\n# TYPE %s %s\n", s->name,
				  s->kind == KM_METRIC_GAUGE ? "gauge" : "counter");
	return err;
}

static int print_family(struct km_buf *out, struct series *s)
{
	int err = print_head(out, s);

	for (; s && !err; s = s->next) {
		int64_t v = atomic_load_explicit(&s->metric.value, memory_order_relaxed);

		if (*s->labels)
			err = km_buf_addf(out, "%s{%s} %" PRId64 "\n", s->name, s->labels, v);
		else
			err = km_buf_addf(out, "%s %" PRId64 "\n", s->name, v);
	}
	return err;
}

void km_metrics_also(int (*print)(void *arg, struct km_buf *out), void *arg)
{
	size_t i = 0;

	pthread_mutex_lock(&lock);
	while (i < KM_ARRAY_LEN(also) - 1 && (print ? also[i].print != NULL : also[i].arg != arg))
		i++;
	if (print || also[i].arg == arg) {
		also[i].print = print;
		also[i].arg = print ? arg : NULL;
	}
	pthread_mutex_unlock(&lock);
}

int km_metrics_print(struct km_buf *out)
{
	int err = 0;

	pthread_mutex_lock(&lock);
	for (size_t i = 0; i < n_series && !err; i++)
		if (table[i].first)
			err = print_family(out, &table[i]);
	if (!err && n_series == MAX_SERIES)
		err = print_family(out, &overflow);
	for (size_t i = 0; i < KM_ARRAY_LEN(also) && !err; i++)
		if (also[i].print)
			err = also[i].print(also[i].arg, out);
	pthread_mutex_unlock(&lock);
	return err;
}
