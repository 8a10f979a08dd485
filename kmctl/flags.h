/* SPDX-License-Identifier: MIT */
/* Options in the manner of nebula-cert: "-name value", "-name=value", one dash or two, in any
 * order. */
#ifndef KMCTL_FLAGS_H
#define KMCTL_FLAGS_H

#include "libkm/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum flag_kind { FLAG_TEXT, FLAG_BOOL, FLAG_NUMBER, FLAG_DURATION };

struct flag {
	const char *name;
	enum flag_kind kind;
	const char *text; /* the value; before parsing the default, NULL: none */
	const char *help;
	bool given;
	bool on;         /* FLAG_BOOL */
	uint32_t number; /* FLAG_NUMBER, also of the default */
	int64_t ns;      /* FLAG_DURATION, nanoseconds, also of the default */
};

#define FLAGS_HELP 1 /* -h or -help is among the options */

/* Reads argv[0..argc) into the n flags. 0, FLAGS_HELP, or KM_EINVAL with a sentence. */
int flags_parse(struct flag *flags, size_t n, int argc, char **argv, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* The flag of this name, which must be there. */
struct flag *flags_get(struct flag *flags, size_t n, const char *name);
/* The list of options, as part of a help text. */
void flags_print(const struct flag *flags, size_t n, FILE *to);

/* "1h30m", "-1.5s", "0": numbers with units h, m, s, ms, us, ns. KM_EINVAL, also out of range. */
int flags_duration(int64_t *ns, const char *s) __attribute__((warn_unused_result));

#endif
