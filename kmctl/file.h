/* SPDX-License-Identifier: MIT */
/* Files that a command reads and writes; "-" is standard input or output. */
#ifndef KMCTL_FILE_H
#define KMCTL_FILE_H

#include "libkm/base/err.h"
#include <stdbool.h>
#include <stddef.h>

bool file_is_std(const char *path);

/* Reads all of it, at most max bytes, into *out (malloc'd, NUL after *n bytes; the caller wipes
 * where needed and frees). The sentence is "open FILE: cause". KM_EIO, KM_ETOOBIG, KM_ENOMEM. */
int file_read(const char *path, size_t max, char **out, size_t *n, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* Whether group or others may read or change the file. */
bool file_is_open_to_others(const char *path);

/* Whether something is there by that name (never for "-"). */
bool file_exists(const char *path);

/* Writes a new file, mode 0600; one that is there is never replaced (KM_EEXIST), and half a file
 * does not stay. KM_EIO. */
int file_write_new(const char *path, const void *p, size_t n, struct km_errtext *err)
    __attribute__((warn_unused_result));

#endif
