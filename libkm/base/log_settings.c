/* SPDX-License-Identifier: MIT */
#include "libkm/base/log_settings.h"

const char *const km_log_levels[] = {"error", "warn", "info", "debug", NULL};
const char *const km_log_formats[] = {"text", "json", NULL};

void km_log_start(const char *program, const struct km_log_settings *s, bool verbose)
{
	static const enum km_log_level level[] = {KM_LOG_ERROR, KM_LOG_WARN, KM_LOG_INFO,
						  KM_LOG_DEBUG};

	km_log_init(program, verbose ? KM_LOG_DEBUG : level[s->level],
		    (enum km_log_format)s->format);
}
