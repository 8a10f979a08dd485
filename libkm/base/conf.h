/* SPDX-License-Identifier: MIT */
/* Settings: one table of options per program, from which parsing, checking (-t), the sample file
 * and the man page's list come. Files are `key = value` lines (libinih; ';' or '#' comments);
 * an environment variable KAKUREMICHI_KEY (upper case) overrides the file. */
#ifndef KM_BASE_CONF_H
#define KM_BASE_CONF_H

#include "libkm/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum km_opt_type {
	KM_OPT_STRING,   /* char *; NULL when unset and without a default */
	KM_OPT_PATH,     /* char *, must be absolute */
	KM_OPT_INT,      /* int64_t, min..max */
	KM_OPT_BOOL,     /* bool: yes/no, on/off, true/false, 1/0 */
	KM_OPT_DURATION, /* int64_t milliseconds: 500ms 30s 5m 2h 30d; min..max in ms */
	KM_OPT_SIZE,     /* int64_t bytes: 65536 64K 1M 2G; min..max */
	KM_OPT_ENUM,     /* int: index into choices */
	KM_OPT_LIST,     /* struct km_strlist: words parted by commas or spaces */
};
struct km_strlist {
	char **items;
	size_t n;
};
/* Frees the texts and the list, which is empty afterwards. */
void km_strlist_free(struct km_strlist *l);
struct km_opt {
	const char *key;
	enum km_opt_type type;
	size_t offset;     /* of the member in the program's settings struct */
	const char *def;   /* default, as one would write it; NULL: unset (zero) */
	const char *help;  /* one or two sentences, without roff */
	int64_t min, max;  /* for numbers; both 0: any non-negative value */
	const char *const *choices; /* KM_OPT_ENUM: NULL-terminated */
	bool required;
	/* More checks: returns NULL or what is wrong with the value (of a list: with each word).
	 * Not called for an empty value. May be NULL. */
	const char *(*check)(const char *value);
};
struct km_conf_spec {
	const char *program, *file; /* "gatewayd", "gateway.conf" */
	const char *what;           /* one sentence about the program, for man page and sample */
	const struct km_opt *opts;
	size_t n_opts;
	size_t size; /* of the settings struct */
};

/* Fills the zeroed settings struct `out` from defaults, the file (NULL: none) and the environment.
 * Every mistake is written to `report` as `file:line: what` (environment: `$NAME: what`), all of
 * them, also unknown keys (with the nearest known one) and keys given twice. 0, or KM_EINVAL when
 * there was a mistake, or KM_EIO when the file cannot be read (also reported). A line has at most
 * 199 bytes; a list may go on in indented lines. A key with nothing behind '=' is unset. After an
 * error `out` holds what was right, to be freed as usual. */
int km_conf_load(const struct km_conf_spec *spec, const char *path, void *out, FILE *report);
/* Frees every string and list in the settings struct; accepts a zeroed one. */
void km_conf_free(const struct km_conf_spec *spec, void *out);
/* Writes the commented sample file, or the man page (roff, section 5). */
void km_conf_sample(const struct km_conf_spec *spec, FILE *f);
void km_conf_man(const struct km_conf_spec *spec, FILE *f);

/* What every daemon's main begins with: -c FILE, -t, -v (debug log), -V, -h, --sample, --man.
 * Loads the settings into out. Returns KM_PROGRAM_RUN when the program should go on, else the exit
 * status (0 after -t, -V, -h …; 2 after a mistake, which has been printed). *verbose: -v was given.
 * A -c that is absent means KM_SYSCONF "/" spec->file, or no file when there is none. `out` must be
 * zeroed; unless KM_PROGRAM_RUN is returned it holds nothing that must be freed. */
#define KM_PROGRAM_RUN (-1)
int km_program_start(const struct km_conf_spec *spec, int argc, char **argv, void *out,
		     bool *verbose);

/* The parsers of single values, also for use elsewhere: KM_EINVAL on a malformed one. Sizes
 * end in K, M or G, capital or not. */
int km_duration_parse(int64_t *ms, const char *s) __attribute__((warn_unused_result));
int km_size_parse(int64_t *bytes, const char *s) __attribute__((warn_unused_result));

#endif
