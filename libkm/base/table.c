/* SPDX-License-Identifier: MIT */
#include "libkm/base/table.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

#define MINUTE_MS INT64_C(60000)
#define HOUR_MS (60 * MINUTE_MS)
#define DAY_MS (24 * HOUR_MS)

struct km_table {
	const char *const *headings;
	size_t columns, n, room;
	char **cells; /* n * columns */
};

struct km_table *km_table_new(const char *const *headings)
{
	struct km_table *t = km_xcalloc(1, sizeof(*t));

	t->headings = headings;
	while (headings[t->columns] && t->columns < KM_TABLE_COLUMNS)
		t->columns++;
	return t;
}

void km_table_row(struct km_table *t, const char *const *cells)
{
	if (t->n == t->room) {
		size_t room = t->room ? 2 * t->room : 16;
		char **more = km_xcalloc(room * t->columns, sizeof(char *));

		if (t->n)
			memcpy(more, t->cells, t->n * t->columns * sizeof(char *));
		free(t->cells);
		t->cells = more;
		t->room = room;
	}
	for (size_t i = 0; i < t->columns; i++)
		t->cells[t->n * t->columns + i] = km_plain(cells[i] && *cells[i] ? cells[i] : "-");
	t->n++;
}

static void print_row(const struct km_table *t, const char *const *cells, const size_t *widths,
		      FILE *to)
{
	for (size_t i = 0; i < t->columns; i++)
		if (i + 1 < t->columns)
			fprintf(to, "%-*s  ", (int)widths[i], cells[i]);
		else
			fprintf(to, "%s\n", cells[i]);
}

void km_table_print(const struct km_table *t, const char *none, FILE *to)
{
	size_t widths[KM_TABLE_COLUMNS];

	if (!t->n) {
		fprintf(to, "%s\n", none);
		return;
	}
	for (size_t i = 0; i < t->columns; i++) {
		widths[i] = strlen(t->headings[i]);
		for (size_t row = 0; row < t->n; row++) {
			size_t len = strlen(t->cells[row * t->columns + i]);

			widths[i] = len > widths[i] ? len : widths[i];
		}
	}
	print_row(t, t->headings, widths, to);
	for (size_t row = 0; row < t->n; row++)
		print_row(t, (const char *const *)&t->cells[row * t->columns], widths, to);
}

void km_table_free(struct km_table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->n * t->columns; i++)
		free(t->cells[i]);
	free(t->cells);
	free(t);
}

char *km_plain(const char *s)
{
	char *copy = km_xstrdup(s);

	for (char *c = copy; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	return copy;
}

char *km_when(const char *iso, int64_t now_ms, char out[static KM_WHEN_LEN])
{
	int64_t at_ms, apart, n;
	const char *unit;

	if (!iso || km_iso8601_parse(&at_ms, iso)) {
		snprintf(out, KM_WHEN_LEN, "-");
		return out;
	}
	apart = at_ms > now_ms ? at_ms - now_ms : now_ms - at_ms;
	if (apart >= 2 * DAY_MS) {
		n = apart / DAY_MS;
		unit = "days";
	} else if (apart >= 2 * HOUR_MS) {
		n = apart / HOUR_MS;
		unit = "hours";
	} else if (apart >= 2 * MINUTE_MS) {
		n = apart / MINUTE_MS;
		unit = "minutes";
	} else {
		n = apart / 1000;
		unit = n == 1 ? "second" : "seconds";
	}
	snprintf(out, KM_WHEN_LEN, at_ms > now_ms ? "%.10s (in %lld %s)" : "%.10s (%lld %s ago)",
		 iso, (long long)n, unit);
	return out;
}
