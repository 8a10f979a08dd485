/* SPDX-License-Identifier: MIT */
/* One line per event: `event key=value key=value`, as text (systemd's <N> priority prefix when
 * standard error is the journal) or JSON. Safe from any thread. Never give it a secret. */
#ifndef KM_BASE_LOG_H
#define KM_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum km_log_level { KM_LOG_ERROR = 3, KM_LOG_WARN = 4, KM_LOG_INFO = 6, KM_LOG_DEBUG = 7 };
enum km_log_format { KM_LOG_TEXT, KM_LOG_JSON };

struct km_kv {
	const char *key;
	const char *str; /* the value, or NULL: then num */
	int64_t num;
};

/* Key and value pairs for the macros below: a string (NULL is printed as "-"), a number, an error. */
#define km_ks(k, v) ((struct km_kv){(k), km_log_str(v), 0})
#define km_ki(k, v) ((struct km_kv){(k), NULL, (int64_t)(v)})
#define km_ke(v) ((struct km_kv){"error", km_strerror(v), 0})

/* e.g. km_info("agent connected", km_ks("id", id), km_ki("port", port)); */
#define km_error(event, ...) KM_LOG_(KM_LOG_ERROR, event, ##__VA_ARGS__)
#define km_warn(event, ...) KM_LOG_(KM_LOG_WARN, event, ##__VA_ARGS__)
#define km_info(event, ...) KM_LOG_(KM_LOG_INFO, event, ##__VA_ARGS__)
#define km_debug(event, ...) KM_LOG_(KM_LOG_DEBUG, event, ##__VA_ARGS__)
#define KM_LOG_(level, event, ...)                                                                 \
	do {                                                                                       \
		if (km_log_on(level))                                                              \
			km_log_emit(level, (const struct km_kv[]){{(event), "", 0},                \
								  ##__VA_ARGS__,                   \
								  {NULL, NULL, 0}});               \
	} while (0)

/* Sets level and format for the whole process; program names the lines in text form when standard
 * error is not the journal. Before the first call: INFO, text. program must outlive the process. */
void km_log_init(const char *program, enum km_log_level level, enum km_log_format format);

/* Whether a line of this level would be written. */
bool km_log_on(enum km_log_level level);

/* Writes one line in one write(2) to standard error: kv[0].key is the event, the rest the pairs up
 * to a NULL key. Control characters and quotes in values are escaped; a line is cut at 4 KiB. */
void km_log_emit(enum km_log_level level, const struct km_kv *kv);

/* v, or "-" when it is NULL. */
const char *km_log_str(const char *v);

/* A limiter for lines that a stranger can cause: lets `burst` through, then one per `every_ms`, and
 * counts what it held back. Zero-initialise (static struct km_log_limit l). Thread-safe. Returns
 * true when the line should be written; *held gets the number held back since the last. */
struct km_log_limit {
	int64_t next_ms;
	uint32_t used, held;
};
bool km_log_allow(struct km_log_limit *l, int64_t now_ms, uint32_t burst, uint32_t every_ms,
		  uint32_t *held);

#endif
