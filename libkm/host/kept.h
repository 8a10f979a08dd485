/* SPDX-License-Identifier: MIT */
/* What a daemon has learned and keeps as a JSON object in its state directory. It is worth having,
 * not needed: what cannot be read or written is logged, and work goes on. */
#ifndef KM_HOST_KEPT_H
#define KM_HOST_KEPT_H

#include <jansson.h>
#include <stdbool.h>

/* The object in the file (a new reference); an empty one when there is none, or none that is
 * understood. what: the plural noun for the log, as "learned endpoints". */
json_t *km_kept_read(const char *file, const char *what);
/* Replaces the file; false: not done. */
bool km_kept_write(const char *file, const json_t *object, const char *what);

#endif
