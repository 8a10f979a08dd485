/* SPDX-License-Identifier: MIT */
/* Tables for the terminal: columns as wide as their widest cell. What comes from elsewhere is shown
 * in plain ASCII, so that nobody's text can steer the terminal. */
#ifndef KMCTL_TABLE_H
#define KMCTL_TABLE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define TABLE_COLUMNS 8

struct table;

/* A table with these headings, at most TABLE_COLUMNS, ended by NULL; they stay the caller's. */
struct table *table_new(const char *const *headings);
/* Adds a row of as many cells; NULL and "" are shown as "-". */
void table_row(struct table *t, const char *const *cells);
/* Writes it; without a row only the sentence `none`. */
void table_print(const struct table *t, const char *none, FILE *to);
void table_free(struct table *t);

/* A copy with '?' for every byte that is no printable ASCII; the caller frees it. */
char *plain(const char *s);
/* "2027-02-19 (in 90 days)", "… (in 5 hours)", "… (2 days ago)" for a time as REST writes it; "-"
 * for NULL and what is no time. Returns out. */
#define WHEN_LEN 48
char *when(const char *iso, int64_t now_ms, char out[static WHEN_LEN]);

#endif
