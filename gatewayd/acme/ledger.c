/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/ledger.h"
#include "libkm/base/buf.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_MAX_LEN 260
#define ISSUERS_MAX 256
#define SLACK_LINES 1000 /* lines more than twice the entries, before the log is written anew */
#define FILE_MAX (1u << 30)
#define FORGET_MS (30 * 86400000LL)

struct ledger {
	char *path;
	struct ledger_entry *all;
	char *issuers[ISSUERS_MAX];
	size_t lines, owed;
	bool anew; /* the file is not what it should be: only writing it anew helps */
};

/* ---- entries ---- */

size_t ledger_count(const struct ledger *l)
{
	return HASH_COUNT(l->all);
}

struct ledger_entry *ledger_find(const struct ledger *l, const char *name)
{
	struct ledger_entry *e;
	HASH_FIND_STR(l->all, name, e);
	return e;
}

struct ledger_entry *ledger_get(struct ledger *l, const char *name)
{
	struct ledger_entry *e = ledger_find(l, name);
	size_t n = strlen(name) + 1;
	if (e)
		return e;
	if (!(e = calloc(1, sizeof(*e) + n)))
		return NULL;
	memcpy(e->name, name, n);
	HASH_ADD_STR(l->all, name, e);
	return e;
}

void ledger_each(const struct ledger *l, void (*each)(void *arg, struct ledger_entry *e), void *arg)
{
	struct ledger_entry *e, *tmp;
	HASH_ITER (hh, l->all, e, tmp)
		each(arg, e);
}

void ledger_text(char **at, const char *text)
{
	char *copy = text && text[0] ? strdup(text) : NULL;
	free(*at);
	*at = copy;
}

const char *ledger_issuer(struct ledger *l, const char *issuer)
{
	size_t i = 0;
	if (!issuer || !issuer[0])
		return NULL;
	for (; i < ISSUERS_MAX && l->issuers[i]; i++)
		if (!strcmp(l->issuers[i], issuer))
			return l->issuers[i];
	return i < ISSUERS_MAX ? (l->issuers[i] = strdup(issuer)) : NULL;
}

bool ledger_held_by(const struct ledger_entry *e, const uint8_t gateway[static 16])
{
	for (size_t i = 0; i < e->n_holders; i++)
		if (!memcmp(e->holders + 16 * i, gateway, 16))
			return true;
	return e->others;
}

bool ledger_holder(struct ledger_entry *e, const uint8_t gateway[static 16])
{
	uint8_t *more;
	if (ledger_held_by(e, gateway))
		return false;
	if (e->n_holders == LEDGER_HOLDERS_MAX || !(more = realloc(e->holders, 16 * (e->n_holders + 1u)))) {
		e->others = true; /* no room for one: then any may have it */
		return true;
	}
	e->holders = more;
	memcpy(more + 16 * (size_t)e->n_holders++, gateway, 16);
	return true;
}

void ledger_no_certificate(struct ledger_entry *e)
{
	e->not_before_ms = e->not_after_ms = 0;
	e->ari_start_ms = e->ari_end_ms = e->ari_ms = e->ari_again_ms = 0;
	memset(e->fingerprint, 0, sizeof(e->fingerprint));
	e->issuer = NULL;
	ledger_text(&e->ari_id, NULL);
	free(e->holders);
	e->holders = NULL;
	e->n_holders = 0;
	e->others = e->distrusted = false;
}

static void entry_drop(struct ledger *l, struct ledger_entry *e)
{
	if (e->owed)
		l->owed--;
	HASH_DEL(l->all, e);
	free(e->ari_id);
	free(e->error);
	free(e->order_url);
	free(e->holders);
	free(e);
}

/* ---- a line ---- */

static void put_int(json_t *o, const char *key, int64_t v)
{
	if (v)
		json_object_set_new(o, key, json_integer(v));
}

static void put_text(json_t *o, const char *key, const char *v)
{
	if (v)
		json_object_set_new(o, key, json_string(v));
}

static void put_holders(json_t *o, const struct ledger_entry *e)
{
	char id[KM_UUID_STRLEN];
	json_t *a = e->n_holders ? json_array() : NULL;
	for (size_t i = 0; a && i < e->n_holders; i++)
		json_array_append_new(a, json_string(km_uuid_str(e->holders + 16 * i, id)));
	if (a)
		json_object_set_new(o, "holders", a);
}

static char *line_make(const struct ledger_entry *e)
{
	char hex[65];
	json_t *o = json_object();
	put_text(o, "name", e->name);
	put_int(o, "notBefore", e->not_before_ms);
	put_int(o, "notAfter", e->not_after_ms);
	if (e->not_after_ms)
		put_text(o, "fingerprint", km_hex(e->fingerprint, sizeof(e->fingerprint), hex));
	put_text(o, "issuer", e->issuer);
	put_text(o, "ariId", e->ari_id);
	put_int(o, "ariStart", e->ari_start_ms);
	put_int(o, "ariEnd", e->ari_end_ms);
	put_int(o, "ariAt", e->ari_ms);
	put_int(o, "ariAgain", e->ari_again_ms);
	put_int(o, "failures", e->failures);
	put_int(o, "cause", e->cause);
	put_text(o, "error", e->error);
	put_int(o, "nextTry", e->next_try_ms);
	put_text(o, "order", e->order_url);
	put_holders(o, e);
	put_int(o, "others", e->others);
	put_int(o, "distrusted", e->distrusted);
	put_int(o, "alerted", e->alerted_ms);
	char *text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return text;
}

static int64_t get_int(const json_t *o, const char *key)
{
	return json_integer_value(json_object_get(o, key));
}

static const char *get_text(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static void get_holders(const json_t *o, struct ledger_entry *e)
{
	uint8_t id[16];
	size_t i;
	json_t *v;
	free(e->holders);
	e->holders = NULL;
	e->n_holders = 0;
	json_array_foreach(json_object_get(o, "holders"), i, v)
		if (json_is_string(v) && !km_uuid_parse(id, json_string_value(v)))
			(void)ledger_holder(e, id);
}

static void entry_read(struct ledger *l, struct ledger_entry *e, const json_t *o)
{
	const char *hex = get_text(o, "fingerprint");
	int64_t cause = get_int(o, "cause");
	e->not_before_ms = get_int(o, "notBefore");
	e->not_after_ms = get_int(o, "notAfter");
	if (!hex || km_unhex(e->fingerprint, sizeof(e->fingerprint), hex))
		memset(e->fingerprint, 0, sizeof(e->fingerprint));
	e->issuer = ledger_issuer(l, get_text(o, "issuer"));
	ledger_text(&e->ari_id, get_text(o, "ariId"));
	e->ari_start_ms = get_int(o, "ariStart");
	e->ari_end_ms = get_int(o, "ariEnd");
	e->ari_ms = get_int(o, "ariAt");
	e->ari_again_ms = get_int(o, "ariAgain");
	e->failures = (uint32_t)get_int(o, "failures");
	e->cause = cause > ACME_OK && cause <= ACME_LOCAL ? (enum acme_cause)cause : ACME_OK;
	ledger_text(&e->error, get_text(o, "error"));
	e->next_try_ms = get_int(o, "nextTry");
	ledger_text(&e->order_url, get_text(o, "order"));
	e->others = false;
	get_holders(o, e);
	e->others = e->others || get_int(o, "others");
	e->distrusted = get_int(o, "distrusted");
	e->alerted_ms = get_int(o, "alerted");
}

/* Whether the line (without its newline) could be understood. */
static int line_take(struct ledger *l, const char *line, size_t n)
{
	json_t *o = n < LEDGER_LINE_MAX ? json_loadb(line, n, 0, NULL) : NULL;
	const char *name = get_text(o, "name");
	struct ledger_entry *e;
	int rc = KM_EINVAL;
	if (name && name[0] && strlen(name) <= NAME_MAX_LEN) {
		rc = 0;
		if (json_is_true(json_object_get(o, "gone"))) {
			if ((e = ledger_find(l, name)))
				entry_drop(l, e);
		} else if ((e = ledger_get(l, name))) {
			entry_read(l, e, o);
		} else {
			rc = KM_ENOMEM;
		}
	}
	json_decref(o);
	return rc;
}

/* ---- reading ---- */

static void set_aside(struct ledger *l, size_t line)
{
	char *broken = NULL;
	km_warn("what was known of certificates is damaged, set aside as *.broken", km_ks("file", l->path),
		km_ki("line", (int64_t)line));
	if (asprintf(&broken, "%s.broken", l->path) < 0)
		broken = NULL;
	if (!broken || rename(l->path, broken))
		km_warn("cannot rename", km_ks("file", l->path), km_ks("why", strerror(errno)));
	free(broken);
	l->anew = true;
}

/* Line by line, so that a long log needs no memory. */
static int read_lines(struct ledger *l, FILE *f)
{
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	off_t good = 0;
	int rc = 0;
	while (!rc && (n = getline(&line, &cap, f)) > 0) {
		if (line[n - 1] != '\n') { /* torn */
			l->anew = truncate(l->path, good) != 0;
			break;
		}
		rc = line_take(l, line, (size_t)n - 1);
		good += rc ? 0 : n;
		l->lines += !rc;
	}
	free(line);
	if (rc == KM_EINVAL) {
		set_aside(l, l->lines + 1);
		rc = 0;
	}
	return rc;
}

int ledger_open(struct ledger **out, const char *path, struct km_errtext *err)
{
	struct ledger *l = calloc(1, sizeof(*l));
	FILE *f = NULL;
	int rc = 0;
	if (!l || !(l->path = strdup(path))) {
		rc = km_errtext_set(err, KM_ENOMEM, "no memory");
		goto out;
	}
	f = fopen(path, "re");
	if (!f && errno != ENOENT) {
		rc = km_errtext_set(err, KM_EIO, "%s: %s", path, strerror(errno));
		goto out;
	}
	if (f && (rc = read_lines(l, f)))
		km_errtext_set(err, rc, "%s: %s", path, km_strerror(rc));
out:
	if (f)
		fclose(f);
	if (rc) {
		ledger_free(l);
		return rc;
	}
	*out = l;
	return 0;
}

void ledger_free(struct ledger *l)
{
	struct ledger_entry *e, *tmp;
	if (!l)
		return;
	if (l->owed && ledger_settle(l))
		km_warn("what is known of certificates is not on disk", km_ks("file", l->path),
			km_ks("why", strerror(errno)));
	HASH_ITER (hh, l->all, e, tmp)
		entry_drop(l, e);
	for (size_t i = 0; i < ISSUERS_MAX; i++)
		free(l->issuers[i]);
	free(l->path);
	free(l);
}

/* ---- writing ---- */

/* A part of a line that could not be written whole is cut off again. */
static int append(struct ledger *l, const char *line, bool sync)
{
	int fd = open(l->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
	struct stat st;
	int rc = KM_EIO;
	if (fd < 0)
		return KM_EIO;
	if (fstat(fd, &st))
		goto out;
	rc = km_write_all(fd, line, strlen(line));
	if (!rc && sync && fdatasync(fd))
		rc = KM_EIO;
	if (rc) {
		int saved = errno;
		l->anew = ftruncate(fd, st.st_size) != 0 || l->anew;
		errno = saved;
	} else {
		l->lines++;
	}
out:
	close(fd);
	return rc;
}

static int write_anew(struct ledger *l)
{
	struct ledger_entry *e, *tmp;
	struct km_buf b;
	int rc = 0;
	km_buf_init(&b, FILE_MAX);
	HASH_ITER (hh, l->all, e, tmp) {
		char *line = rc ? NULL : line_make(e);
		if (!rc)
			rc = line ? km_buf_addf(&b, "%s\n", line) : KM_ENOMEM;
		free(line);
	}
	if (!rc)
		rc = km_file_write(l->path, b.len ? km_buf_head(&b) : (const void *)"", b.len, 0600);
	km_buf_free(&b);
	if (rc)
		return rc;
	l->lines = HASH_COUNT(l->all);
	l->owed = 0;
	l->anew = false;
	HASH_ITER (hh, l->all, e, tmp)
		e->owed = false;
	return 0;
}

static bool is_long(const struct ledger *l)
{
	return l->lines > 2 * (size_t)HASH_COUNT(l->all) + SLACK_LINES;
}

static int append_entry(struct ledger *l, const struct ledger_entry *e, bool sync)
{
	char *text = line_make(e), *line = NULL;
	int rc = KM_ENOMEM;
	if (text && asprintf(&line, "%s\n", text) >= 0)
		rc = append(l, line, sync);
	else
		line = NULL;
	free(text);
	free(line);
	return rc;
}

int ledger_save(struct ledger *l, struct ledger_entry *e, bool sync)
{
	int rc = l->anew || is_long(l) ? write_anew(l) : append_entry(l, e, sync);
	bool owed = rc != 0;
	l->owed += owed - e->owed;
	e->owed = owed;
	return rc;
}

int ledger_settle(struct ledger *l)
{
	struct ledger_entry *e, *tmp;
	if (l->anew || is_long(l))
		return write_anew(l);
	HASH_ITER (hh, l->all, e, tmp) {
		int rc = l->owed && e->owed ? ledger_save(l, e, false) : 0;
		if (rc)
			return rc;
	}
	return 0;
}

void ledger_forget(struct ledger *l, struct ledger_entry *e)
{
	json_t *o = json_pack("{ss sb}", "name", e->name, "gone", 1);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL, *line = NULL;
	if (!text || asprintf(&line, "%s\n", text) < 0)
		line = NULL;
	if (!line || l->anew || append(l, line, false))
		l->anew = true;
	json_decref(o);
	free(text);
	free(line);
	entry_drop(l, e);
}

void ledger_tidy(struct ledger *l, int64_t wall_ms)
{
	struct ledger_entry *e, *tmp;
	HASH_ITER (hh, l->all, e, tmp)
		if (!e->used && !e->distrusted && e->not_after_ms < wall_ms - FORGET_MS &&
		    e->next_try_ms < wall_ms - FORGET_MS)
			ledger_forget(l, e);
}
