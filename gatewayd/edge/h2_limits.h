/* SPDX-License-Identifier: MIT */
/* What one HTTP/2 connection may do that costs its sender nearly nothing: frames that carry no
 * request forward. Each kind has a token bucket. Sans-I/O; time is passed in. */
#ifndef GATEWAYD_EDGE_H2_LIMITS_H
#define GATEWAYD_EDGE_H2_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

enum h2_flood {
	H2_FLOOD_RESET,	 /* requests taken back (rapid reset, CVE-2023-44487) */
	H2_FLOOD_ERROR,	 /* streams that we had to reset because of what came (CVE-2025-8671) */
	H2_FLOOD_PING,
	H2_FLOOD_SETTINGS,
	H2_FLOOD_PRIORITY, /* and what is of no known type */
	H2_FLOOD_WINDOW,   /* WINDOW_UPDATE; a bound that grows with what we send */
	H2_FLOOD_EMPTY,	   /* DATA that carries nothing */
	H2_FLOOD_HEADER,   /* a head that grows on and on (HPACK bomb) */
	H2_FLOOD_CONTINUATION,
	H2_FLOODS,
};

struct h2_limits {
	struct h2_bucket {
		int64_t level; /* thousandths of a token */
		int64_t at;    /* when it was filled last, ms */
	} buckets[H2_FLOODS];
};

/* What the settings say of a kind: n at once, and again n per ms. */
struct h2_rates {
	struct h2_rate {
		int64_t n, ms;
	} of[H2_FLOODS];
};
/* The built-in bounds, with those of `resets` for the first two. */
void h2_rates_init(struct h2_rates *r, int64_t resets, int64_t resets_ms);

/* Full buckets. */
void h2_limits_init(struct h2_limits *l, const struct h2_rates *r, int64_t now);
/* Takes one token; false: there is none, this is a flood. Kinds without a rate: always false. */
bool h2_limits_take(struct h2_limits *l, const struct h2_rates *r, enum h2_flood kind, int64_t now);
/* n bytes of answers' bodies were sent: the client may open windows for them. */
void h2_limits_sent(struct h2_limits *l, const struct h2_rates *r, uint64_t n);
/* A word for logs and metrics. */
const char *h2_flood_name(enum h2_flood kind);

#endif
