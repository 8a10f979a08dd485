/* SPDX-License-Identifier: MIT */
/* Where a tunnel begins and where it leads, as people write it and as it is stored. Sans-I/O. */
#ifndef CONTROLD_API_PLACE_H
#define CONTROLD_API_PLACE_H

#include "libkm/base/err.h"
#include <stdbool.h>
#include <stddef.h>

#define PLACE_PATH_STRLEN 1025

/* Writes the stored form of a URL's path: segments of RFC 3986 with what need not be
 * percent-encoded decoded, what must be encoded (UTF-8 too), in upper case. KM_EINVAL with what is
 * wrong, fit to stand after the field's name: it does not begin with "/", has a query or a
 * fragment, an empty segment before the last, "." or "..", an encoded "/", "\" or control byte, or
 * is longer than 1,024 bytes. */
int place_path(char out[static PLACE_PATH_STRLEN], const char *in, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* The same for a tunnel's path, without ";" and "/" at its end; "" for the whole domain. */
int place_tunnel_path(char out[static PLACE_PATH_STRLEN], const char *in, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Whether path is prefix or goes on after it with "/"; prefix is a tunnel's path ("": every path).
 */
bool place_path_below(const char *path, const char *prefix);

#define PLACE_TARGET_STRLEN 301
struct place_target {
	char address[PLACE_TARGET_STRLEN]; /* host:port or unix:/path */
	const char *protocol;              /* "http", "h2c", "https"; NULL: in says none */
};
/* Reads "host:port", "unix:/path" or a URL of http, h2c or https without a path, whose port may be
 * left out. KM_EINVAL with a sentence. */
int place_target(struct place_target *out, const char *in, struct km_errtext *err)
    __attribute__((warn_unused_result));

#endif
