/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/h2_limits.h"
#include <stddef.h>

#define TOKEN 1000
#define RATE_N_MAX 1000000
#define RATE_MS_MAX 86400000 /* so that n * ms * TOKEN fits */
/* A WINDOW_UPDATE for every so many bytes is no flood: clients exist that send two for each read. */
#define WINDOW_BYTES 256

static const struct {
	const char *name;
	struct h2_rate rate;
} kinds[H2_FLOODS] = {
    [H2_FLOOD_RESET] = {"reset", {200, 10000}},
    [H2_FLOOD_ERROR] = {"stream_error", {200, 10000}},
    [H2_FLOOD_PING] = {"ping", {1000, 10000}}, /* gRPC measures its bandwidth with them */
    [H2_FLOOD_SETTINGS] = {"settings", {50, 10000}},
    [H2_FLOOD_PRIORITY] = {"priority", {1000, 10000}},
    [H2_FLOOD_WINDOW] = {"window_update", {2000, 10000}},
    [H2_FLOOD_EMPTY] = {"empty_data", {200, 10000}},
    [H2_FLOOD_HEADER] = {"header", {0, 0}},
    [H2_FLOOD_CONTINUATION] = {"continuation", {0, 0}},
};

void h2_rates_init(struct h2_rates *r, int64_t resets, int64_t resets_ms)
{
	for (size_t i = 0; i < H2_FLOODS; i++)
		r->of[i] = kinds[i].rate;
	if (resets > RATE_N_MAX)
		resets = RATE_N_MAX;
	if (resets_ms > RATE_MS_MAX)
		resets_ms = RATE_MS_MAX;
	r->of[H2_FLOOD_RESET] = r->of[H2_FLOOD_ERROR] = (struct h2_rate){resets, resets_ms};
}

void h2_limits_init(struct h2_limits *l, const struct h2_rates *r, int64_t now)
{
	for (size_t i = 0; i < H2_FLOODS; i++)
		l->buckets[i] = (struct h2_bucket){r->of[i].n * TOKEN, now};
}

static void fill(struct h2_bucket *b, const struct h2_rate *r, int64_t tokens)
{
	int64_t most = r->n * TOKEN;
	b->level = tokens > most - b->level ? most : b->level + tokens;
}

bool h2_limits_take(struct h2_limits *l, const struct h2_rates *rates, enum h2_flood kind,
		    int64_t now)
{
	struct h2_bucket *b = &l->buckets[kind];
	const struct h2_rate *r = &rates->of[kind];
	if (!r->n)
		return false;
	if (b->level < TOKEN && now > b->at) {
		int64_t passed = now - b->at < r->ms ? now - b->at : r->ms;
		fill(b, r, passed * r->n * TOKEN / r->ms);
		b->at = now;
	}
	if (b->level < TOKEN)
		return false;
	b->level -= TOKEN;
	return true;
}

void h2_limits_sent(struct h2_limits *l, const struct h2_rates *r, uint64_t n)
{
	uint64_t most = UINT64_C(1) << 30;
	fill(&l->buckets[H2_FLOOD_WINDOW], &r->of[H2_FLOOD_WINDOW],
	     (int64_t)(n < most ? n : most) * TOKEN / WINDOW_BYTES);
}

const char *h2_flood_name(enum h2_flood kind)
{
	return kinds[kind].name;
}
