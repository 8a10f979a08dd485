/* SPDX-License-Identifier: MIT */
#include "gatewayd/route/counts.h"
#include "libkm/base/util.h"
#include <string.h>

const int64_t counts_bounds_ms[COUNTS_BUCKETS - 1] = {10, 50, 100, 250, 500, 1000, 5000};

void counts_took(struct counts *c, int64_t ms)
{
	int i = 0;
	while (i < COUNTS_BUCKETS - 1 && ms > counts_bounds_ms[i])
		i++;
	counts_bump(&c->took[i], 1);
	if (ms > 0)
		counts_bump(&c->took_ms, (uint64_t)ms);
}

/* ---- printing ---- */

void counts_sum_add(struct counts_sum *s, const struct counts *c)
{
	for (int i = 0; i < COUNTS_CLASSES; i++)
		s->by_class[i] += counts_read(&c->by_class[i]);
	for (int i = 0; i < COUNTS_BUCKETS; i++)
		s->took[i] += counts_read(&c->took[i]);
	s->took_ms += counts_read(&c->took_ms);
}

int counts_print_head(struct km_buf *out, const char *name, const char *type, const char *help)
{
	return km_buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* name suffix{labels,more} value: a thousand tunnels have ten thousand lines, so no printf. With
 * `milli` the value is in thousandths. */
static int line(struct km_buf *out, const char *name, const char *suffix, const char *labels,
		const char *more, uint64_t n, bool milli)
{
	uint8_t *at;
	int rc = km_buf_reserve(
	    out, strlen(name) + strlen(suffix) + strlen(labels) + strlen(more) + 40, &at);
	if (rc)
		return rc;
	char *p = stpcpy(stpcpy((char *)at, name), suffix);
	if (*labels || *more) {
		*p++ = '{';
		p = stpcpy(p, labels);
		if (*labels && *more)
			*p++ = ',';
		p = stpcpy(p, more);
		*p++ = '}';
	}
	*p++ = ' ';
	p = km_put_u64(p, milli ? n / 1000 : n);
	if (milli) {
		*p++ = '.';
		*p++ = (char)('0' + n / 100 % 10);
		*p++ = (char)('0' + n / 10 % 10);
		*p++ = (char)('0' + n % 10);
	}
	*p++ = '\n';
	km_buf_commit(out, (size_t)(p - (char *)at));
	return 0;
}

int counts_print_line(struct km_buf *out, const char *name, const char *labels, uint64_t n)
{
	return line(out, name, "", labels, "", n, false);
}

int counts_print_classes(struct km_buf *out, const char *name, const char *labels,
			 const struct counts_sum *s, bool zeros)
{
	static const char *const classes[COUNTS_CLASSES] = {
	    "class=\"1xx\"", "class=\"2xx\"", "class=\"3xx\"", "class=\"4xx\"", "class=\"5xx\""};
	int rc = 0;
	for (int i = 0; i < COUNTS_CLASSES && !rc; i++)
		if (zeros || s->by_class[i])
			rc = line(out, name, "", labels, classes[i], s->by_class[i], false);
	return rc;
}

int counts_print_histogram(struct km_buf *out, const char *name, const char *labels,
			   const struct counts_sum *s)
{
	/* As counts_bounds_ms. */
	static const char *const le[COUNTS_BUCKETS] = {"le=\"0.01\"", "le=\"0.05\"", "le=\"0.1\"",
						       "le=\"0.25\"", "le=\"0.5\"",  "le=\"1\"",
						       "le=\"5\"",    "le=\"+Inf\""};
	uint64_t n = 0;
	int rc = 0;
	for (int i = 0; i < COUNTS_BUCKETS && !rc; i++)
		rc = line(out, name, "_bucket", labels, le[i], n += s->took[i], false);
	if (!rc)
		rc = line(out, name, "_sum", labels, "", s->took_ms, true);
	return rc ? rc : line(out, name, "_count", labels, "", n, false);
}
