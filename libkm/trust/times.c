/* SPDX-License-Identifier: MIT */
#include "libkm/trust/times.h"
#include "libkm/base/util.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#define BORNE_MAX 65536

/* A certificate that looks out of its validity since this running time. */
struct borne {
	uint8_t fp[KM_CERT_FP_LEN];
	int64_t since_s;
	UT_hash_handle hh;
};

struct km_times {
	int64_t grace_s, saved_s;
	int64_t ran_s;    /* in all earlier runs */
	int64_t began_ms; /* this one, monotonic */
	struct borne *borne;
};

struct km_times *km_times_new(int64_t grace_s, int64_t mono_ms)
{
	struct km_times *t = calloc(1, sizeof(*t));

	if (t) {
		t->grace_s = grace_s;
		t->began_ms = mono_ms;
	}
	return t;
}

static void drop_all(struct km_times *t)
{
	struct borne *b, *next;

	HASH_ITER (hh, t->borne, b, next) {
		HASH_DEL(t->borne, b);
		free(b);
	}
}

void km_times_free(struct km_times *t)
{
	if (!t)
		return;
	drop_all(t);
	free(t);
}

static int64_t running_s(const struct km_times *t, int64_t mono_ms)
{
	return t->ran_s + (mono_ms > t->began_ms ? (mono_ms - t->began_ms) / 1000 : 0);
}

static struct borne *find(const struct km_times *t, const uint8_t *fp)
{
	struct borne *b;

	HASH_FIND(hh, t->borne, fp, KM_CERT_FP_LEN, b);
	return b;
}

static struct borne *add(struct km_times *t, const uint8_t *fp, int64_t since_s)
{
	struct borne *b = HASH_COUNT(t->borne) < BORNE_MAX ? calloc(1, sizeof(*b)) : NULL;

	if (!b)
		return NULL;
	memcpy(b->fp, fp, KM_CERT_FP_LEN);
	b->since_s = since_s;
	HASH_ADD(hh, t->borne, fp, KM_CERT_FP_LEN, b);
	return b;
}

bool km_times_bear(struct km_times *t, const uint8_t fp[static KM_CERT_FP_LEN], int64_t mono_ms,
		   int64_t *left_s)
{
	int64_t now = running_s(t, mono_ms);
	struct borne *b = find(t, fp);

	if (!b)
		b = add(t, fp, now);
	/* Without room for it nothing can be counted: it is borne with, as nobody is to be cut off
	 * before the time. */
	*left_s = b ? b->since_s + t->grace_s - now : t->grace_s;
	if (*left_s > 0)
		return true;
	*left_s = 0;
	return false;
}

void km_times_fine(struct km_times *t, const uint8_t fp[static KM_CERT_FP_LEN])
{
	struct borne *b = find(t, fp);

	if (!b)
		return;
	HASH_DEL(t->borne, b);
	free(b);
}

int64_t km_times_saved(const struct km_times *t)
{
	return t->saved_s;
}

/* "saved SECONDS", "running SECONDS", then "borne FINGERPRINT SECONDS" for each. */
int km_times_format(const struct km_times *t, struct km_buf *out, int64_t wall_s, int64_t mono_ms)
{
	char hex[KM_CERT_FP_STRLEN];
	const struct borne *b;
	int rc = km_buf_addf(out, "saved %" PRId64 "\nrunning %" PRId64 "\n", wall_s,
			     running_s(t, mono_ms));

	for (b = t->borne; b && !rc; b = b->hh.next)
		rc = km_buf_addf(out, "borne %s %" PRId64 "\n", km_hex(b->fp, KM_CERT_FP_LEN, hex),
				 b->since_s);
	return rc;
}

/* The decimal number at *s, which ends with its line; *s moves to the next. */
static bool number(const char **s, int64_t *out)
{
	char *end;

	if (**s < '0' || **s > '9')
		return false;
	*out = strtoll(*s, &end, 10);
	if (*end != '\n' || *out < 0 || *out > INT64_MAX / 4)
		return false;
	*s = end + 1;
	return true;
}

static bool word(const char **s, const char *w)
{
	size_t n = strlen(w);

	if (strncmp(*s, w, n) != 0)
		return false;
	*s += n;
	return true;
}

static bool borne_line(struct km_times *t, const char **s)
{
	char hex[KM_CERT_FP_STRLEN];
	uint8_t fp[KM_CERT_FP_LEN];
	int64_t since;

	if (!word(s, "borne ") || strnlen(*s, 2 * sizeof(fp) + 1) <= 2 * sizeof(fp) ||
	    (*s)[2 * sizeof(fp)] != ' ')
		return false;
	memcpy(hex, *s, 2 * sizeof(fp));
	hex[2 * sizeof(fp)] = 0;
	*s += 2 * sizeof(fp) + 1;
	return km_unhex(fp, sizeof(fp), hex) == 0 && number(s, &since) && !find(t, fp) &&
	       since <= t->ran_s && add(t, fp, since);
}

int km_times_parse(struct km_times *t, const char *text)
{
	if (!word(&text, "saved ") || !number(&text, &t->saved_s) || !word(&text, "running ") ||
	    !number(&text, &t->ran_s))
		goto bad;
	while (*text)
		if (!borne_line(t, &text))
			goto bad;
	return 0;
bad:
	drop_all(t);
	t->saved_s = t->ran_s = 0;
	return KM_EINVAL;
}
