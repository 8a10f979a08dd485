/* SPDX-License-Identifier: MIT */
/* Changing a settings file: other lines, comments among them, stay as they are. Sans-I/O. */
#ifndef KM_JOIN_CONF_EDIT_H
#define KM_JOIN_CONF_EDIT_H

#include "libkm/base/buf.h"
#include "libkm/base/conf.h"

/* A key with its new values; n of 0 leaves it out. Several go on in indented lines. */
struct km_conf_edit {
	const char *key;
	const char *const *values;
	size_t n;
};
/* Appends to out the text (may be "") without these keys' lines, then the keys with their values.
 * KM_EINVAL: a value has a line break or is too long for a line; KM_ETOOBIG, KM_ENOMEM. */
int km_conf_edit(struct km_buf *out, const char *text, const struct km_conf_edit *edits, size_t n)
    __attribute__((warn_unused_result));

#endif
