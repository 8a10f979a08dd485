/* SPDX-License-Identifier: MIT */
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_MAX_BYTES 4096
#define TAIL_ROOM 16 /* for what ends a cut line: `","cut":true}` and a newline */

static _Atomic(const char *) program_name = "kakuremichi";
static _Atomic int max_level = KM_LOG_INFO;
static _Atomic int out_format = KM_LOG_TEXT;
static _Atomic bool to_journal;

struct line {
	char text[LINE_MAX_BYTES];
	size_t len;
	bool cut;
};

/* systemd sets JOURNAL_STREAM to "device:inode" of the stream that it connected. */
static bool stderr_is_journal(void)
{
	const char *s = getenv("JOURNAL_STREAM");
	uintmax_t dev, ino;
	struct stat st;

	if (!s || sscanf(s, "%ju:%ju", &dev, &ino) != 2 || fstat(STDERR_FILENO, &st))
		return false;
	return st.st_dev == dev && st.st_ino == ino;
}

void km_log_init(const char *program, enum km_log_level level, enum km_log_format format)
{
	atomic_store(&program_name, program);
	atomic_store(&max_level, (int)level);
	atomic_store(&out_format, (int)format);
	atomic_store(&to_journal, stderr_is_journal());
}

bool km_log_on(enum km_log_level level)
{
	return (int)level <= atomic_load_explicit(&max_level, memory_order_relaxed);
}

const char *km_log_str(const char *v)
{
	return v ? v : "-";
}

static const char *level_name(enum km_log_level level)
{
	switch (level) {
	case KM_LOG_ERROR:
		return "error";
	case KM_LOG_WARN:
		return "warn";
	case KM_LOG_INFO:
		return "info";
	default:
		return "debug";
	}
}

/* Adds n bytes whole, or cuts the line here. */
static void put(struct line *l, const char *s, size_t n)
{
	if (l->cut || n > sizeof(l->text) - TAIL_ROOM - l->len) {
		l->cut = true;
		return;
	}
	memcpy(l->text + l->len, s, n);
	l->len += n;
}

static void puts_raw(struct line *l, const char *s)
{
	put(l, s, strlen(s));
}

static void put_num(struct line *l, int64_t n)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRId64, n);
	puts_raw(l, text);
}

/* One escaped character; returns how many bytes of s it took. */
static size_t put_escaped(struct line *l, const unsigned char *s, bool json, bool quoted)
{
	size_t n = km_utf8_len((const char *)s);
	char esc[8];

	if (quoted && (*s == '"' || *s == '\\'))
		snprintf(esc, sizeof(esc), "\\%c", *s);
	else if (*s == '\n')
		snprintf(esc, sizeof(esc), "\\n");
	else if (*s == '\t')
		snprintf(esc, sizeof(esc), "\\t");
	else if (!n && json)
		snprintf(esc, sizeof(esc), "\\ufffd");
	else if (!n || *s < 0x20 || *s == 0x7f)
		snprintf(esc, sizeof(esc), json ? "\\u%04x" : "\\x%02x", *s);
	else if (n == 2 && s[0] == 0xc2 && s[1] < 0xa0) /* C1 controls */
		snprintf(esc, sizeof(esc), json ? "\\u%04x" : "\\x%02x", s[1]);
	else {
		put(l, (const char *)s, n);
		return n;
	}
	puts_raw(l, esc);
	return n ? n : 1;
}

static void put_text(struct line *l, const char *s, bool json, bool quoted)
{
	const unsigned char *p = (const unsigned char *)s;

	while (*p && !l->cut)
		p += put_escaped(l, p, json, quoted);
}

static void put_json_string(struct line *l, const char *s)
{
	puts_raw(l, "\"");
	put_text(l, s, true, true);
	puts_raw(l, "\"");
}

static void put_json_pair(struct line *l, const struct km_kv *kv)
{
	size_t start = l->len;

	puts_raw(l, ",");
	put_json_string(l, kv->key);
	puts_raw(l, ":");
	if (l->cut) { /* no half keys */
		l->len = start;
		return;
	}
	start = l->len;
	if (!kv->str)
		put_num(l, kv->num);
	else
		put_json_string(l, kv->str);
	if (!l->cut)
		return;
	/* The value was cut: close the string, or open and close one. TAIL_ROOM covers it. */
	if (l->len == start)
		l->text[l->len++] = '"';
	l->text[l->len++] = '"';
}

static void put_json(struct line *l, enum km_log_level level, const struct km_kv *kv)
{
	static const char cut[] = ",\"cut\":true";
	char time[KM_ISO8601_LEN];

	puts_raw(l, "{\"time\":");
	put_json_string(l, km_iso8601(km_wall_ms(), time));
	put_json_pair(l, &(struct km_kv){"level", level_name(level), 0});
	put_json_pair(l, &(struct km_kv){"program", atomic_load(&program_name), 0});
	put_json_pair(l, &(struct km_kv){"event", kv->key, 0});
	for (kv++; kv->key && !l->cut; kv++)
		put_json_pair(l, kv);
	if (l->cut) {
		memcpy(l->text + l->len, cut, sizeof(cut) - 1);
		l->len += sizeof(cut) - 1;
	}
	l->text[l->len++] = '}';
}

static void put_text_pair(struct line *l, const struct km_kv *kv)
{
	bool quote;

	puts_raw(l, " ");
	put_text(l, kv->key, false, false);
	puts_raw(l, "=");
	if (!kv->str) {
		put_num(l, kv->num);
		return;
	}
	quote = !*kv->str || strpbrk(kv->str, " \"=\\\t\n");
	puts_raw(l, quote ? "\"" : "");
	put_text(l, kv->str, false, quote);
	puts_raw(l, quote ? "\"" : "");
}

static void put_plain(struct line *l, enum km_log_level level, const struct km_kv *kv)
{
	char time[KM_ISO8601_LEN];

	if (!atomic_load(&to_journal)) {
		puts_raw(l, km_iso8601(km_wall_ms(), time));
		puts_raw(l, " ");
		puts_raw(l, atomic_load(&program_name));
		puts_raw(l, " ");
		puts_raw(l, level_name(level));
		puts_raw(l, ": ");
	}
	put_text(l, kv->key, false, false);
	for (kv++; kv->key && !l->cut; kv++)
		put_text_pair(l, kv);
	if (l->cut) {
		memcpy(l->text + l->len, " ...", 4);
		l->len += 4;
	}
}

void km_log_emit(enum km_log_level level, const struct km_kv *kv)
{
	int saved = errno;
	struct line l;

	l.len = 0;
	l.cut = false;
	if (atomic_load(&to_journal)) {
		l.text[l.len++] = '<';
		l.text[l.len++] = (char)('0' + (int)level);
		l.text[l.len++] = '>';
	}
	if (atomic_load(&out_format) == KM_LOG_JSON)
		put_json(&l, level, kv);
	else
		put_plain(&l, level, kv);
	l.text[l.len++] = '\n';
	/* A log line that cannot be written has nowhere to be reported. */
	if (write(STDERR_FILENO, l.text, l.len) < 0)
		errno = 0;
	errno = saved;
}

bool km_log_allow(struct km_log_limit *l, int64_t now_ms, uint32_t burst, uint32_t every_ms,
		  uint32_t *held)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	bool allow;

	pthread_mutex_lock(&lock);
	/* One used place comes back at next_ms and then every every_ms. */
	if (every_ms && l->used && now_ms >= l->next_ms) {
		int64_t back = 1 + (now_ms - l->next_ms) / every_ms;

		l->used -= back < (int64_t)l->used ? (uint32_t)back : l->used;
		l->next_ms += back * every_ms;
	}
	allow = !every_ms || l->used < burst || (!burst && !l->used);
	if (allow) {
		if (!l->used)
			l->next_ms = now_ms + every_ms;
		l->used += every_ms ? 1 : 0;
		if (held)
			*held = l->held;
		l->held = 0;
	} else if (l->held < UINT32_MAX) {
		l->held++;
	}
	pthread_mutex_unlock(&lock);
	return allow;
}
