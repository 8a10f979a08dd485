/* SPDX-License-Identifier: MIT */
/* Inside km_conf: one value of a setting, from its text into the program's struct. */
#ifndef KM_BASE_CONF_VALUE_H
#define KM_BASE_CONF_VALUE_H

#include "libkm/base/conf.h"

/* Parses `text` as o asks and stores it in the settings struct `out`, replacing (and freeing) what
 * is there; an empty text unsets a string, path or list. KM_EINVAL with a sentence that begins with
 * the key; the old value then stands. */
int km_conf_value_set(const struct km_opt *o, void *out, const char *text, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Appends the words of `text` to a list. Errors as above. */
int km_conf_value_append(const struct km_opt *o, void *out, const char *text,
			 struct km_errtext *err) __attribute__((warn_unused_result));
/* Frees and zeroes the value. */
void km_conf_value_free(const struct km_opt *o, void *out);
/* A bound of o (its min or max) as one would write it: "1h", "64K", "65535". */
#define KM_CONF_NUMBER_STRLEN 24
char *km_conf_number_str(const struct km_opt *o, int64_t v, char out[static KM_CONF_NUMBER_STRLEN]);
/* The environment variable that overrides key, "KAKUREMICHI_KEY"; out is cut at n bytes. */
void km_conf_env_name(const char *key, char *out, size_t n);

#endif
