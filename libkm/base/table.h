/* SPDX-License-Identifier: MIT */
/* Tables for the terminal: columns as wide as their widest cell. What comes from elsewhere is shown
 * in plain ASCII, so that nobody's text can steer the terminal. */
#ifndef KM_BASE_TABLE_H
#define KM_BASE_TABLE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define KM_TABLE_COLUMNS 8

struct km_table;

/* A table with these headings, at most KM_TABLE_COLUMNS, ended by NULL; they stay the caller's. */
struct km_table *km_table_new(const char *const *headings);
/* Adds a row of as many cells; NULL and "" are shown as "-". */
void km_table_row(struct km_table *t, const char *const *cells);
/* Writes it; without a row only the sentence `none`. */
void km_table_print(const struct km_table *t, const char *none, FILE *to);
void km_table_free(struct km_table *t);

/* A copy with '?' for every byte that is no printable ASCII; the caller frees it. */
char *km_plain(const char *s);
/* "2027-02-19 (in 90 days)", "… (in 5 hours)", "… (2 days ago)" for a time as REST writes it; "-"
 * for NULL and what is no time. Returns out. */
#define KM_WHEN_LEN 48
char *km_when(const char *iso, int64_t now_ms, char out[static KM_WHEN_LEN]);

#endif
