/* SPDX-License-Identifier: MIT */
/* The settings of every daemon's log: rows for its table, and what they mean. */
#ifndef KM_BASE_LOG_SETTINGS_H
#define KM_BASE_LOG_SETTINGS_H

#include "libkm/base/conf.h"
#include "libkm/base/log.h"

struct km_log_settings {
	int level;  /* index into km_log_levels */
	int format; /* enum km_log_format */
};

extern const char *const km_log_levels[], *const km_log_formats[];

/* clang-format off */

/* The rows log_level and log_format; T is the program's struct of settings, whose member `at` is a
 * struct km_log_settings. */
#define KM_LOG_OPTS(T, at)                                                                         \
	{.key = "log_level",                                                                       \
	 .type = KM_OPT_ENUM,                                                                      \
	 .offset = offsetof(T, at.level),                                                          \
	 .def = "info",                                                                            \
	 .choices = km_log_levels,                                                                 \
	 .help = "The least important lines that are written."},                                   \
	{.key = "log_format",                                                                      \
	 .type = KM_OPT_ENUM,                                                                      \
	 .offset = offsetof(T, at.format),                                                         \
	 .def = "text",                                                                            \
	 .choices = km_log_formats,                                                                \
	 .help = "Lines as key=value text or as JSON."}

/* clang-format on */

/* km_log_init as the settings say; verbose (-v): at level debug whatever they say. */
void km_log_start(const char *program, const struct km_log_settings *s, bool verbose);

#endif
