/* SPDX-License-Identifier: MIT */
/* What a tunnel may want beyond its place: from the form in which people write it to the one in
 * which it is stored and sent (struct tunnel_options of messages.def). The database's
 * km_options_view makes the first of the second again. Sans-I/O. */
#ifndef CONTROLD_API_OPTIONS_H
#define CONTROLD_API_OPTIONS_H

#include "controld/api/input.h"

#define OPTIONS_MAX_BYTES (128 * 1024) /* of all together, as JSON */

/* Reads the object `in`, which the request names `at`; every mistake goes into d. A new object that
 * has what is named, in the stored form, and null for what is to be taken away. NULL: not an
 * object. */
json_t *options_read(const json_t *in, const char *at, struct details *d);
/* A new object: what `was` (NULL: nothing) has, and what `patch` says in its place. */
json_t *options_merge(const json_t *was, const json_t *patch);

/* A tunnel as it is to be; path is "" for the whole domain. */
struct options_tunnel {
	const char *domain, *path, *tls, *target, *protocol;
	const json_t *options; /* in the stored form; NULL: none */
};
/* What its parts say together: every contradiction goes into d. */
void options_check(const struct options_tunnel *t, struct details *d);

#endif
