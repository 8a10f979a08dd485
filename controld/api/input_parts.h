/* SPDX-License-Identifier: MIT */
/* What the readers of request bodies share. Only for the files input*.c and options*.c. */
#ifndef CONTROLD_API_INPUT_PARTS_H
#define CONTROLD_API_INPUT_PARTS_H

#include "controld/api/input.h"

/* Names a part of the body: "options.redirects[2]" and a key, or a number. */
#define INPUT_AT_LEN 160
char *input_at(char out[static INPUT_AT_LEN], const char *at, const char *key);
char *input_at_n(char out[static INPUT_AT_LEN], const char *at, size_t i);

/* Whether key is one of keys, which NULL ends. */
bool input_known(const char *key, const char *const *keys);
/* Every field of the object o that is none of keys is a mistake; at: of o, "" for the body itself.
 */
void input_refuse_unknown(const json_t *o, const char *at, const char *const *keys,
			  struct details *d);
/* The string of a field, or NULL: absent, or not a string (then said so). */
const char *input_text(const json_t *v, const char *field, bool required, struct details *d);
/* Whether v is an object; if not it is said so. */
bool input_is_object(const json_t *v, const char *field, struct details *d);
/* Whether v is an integer from min to max; if not it is said so. */
bool input_is_int(const json_t *v, const char *field, json_int_t min, json_int_t max,
		  struct details *d);
/* KM_EINVAL when d names a mistake, else 0. */
int input_verdict(const struct details *d);

#endif
