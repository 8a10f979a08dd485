/* SPDX-License-Identifier: MIT */
/* Who may not try again yet: failed attempts per key (an address, an id), in a bounded table. Time
 * is passed in. */
#ifndef CONTROLD_API_LIMIT_H
#define CONTROLD_API_LIMIT_H

#include <stddef.h>
#include <stdint.h>

struct limit;

/* burst failures are free, then one per every_ms; at most `max` keys are remembered (the one that
 * failed longest ago makes room). NULL: no memory. */
struct limit *limit_new(uint32_t burst, int64_t every_ms, size_t max);
/* 0: may try; else the milliseconds to wait. */
int64_t limit_wait_ms(struct limit *l, const char *key, int64_t now_ms);
/* Counts one failure of key (at most 63 bytes are looked at). */
void limit_failed(struct limit *l, const char *key, int64_t now_ms);
void limit_free(struct limit *l);

#endif
