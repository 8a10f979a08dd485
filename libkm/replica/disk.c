/* SPDX-License-Identifier: MIT */
#include "libkm/replica/disk.h"

#include "libkm/base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUM_LEN 16 /* hex digits */

static void checksum(const void *p, size_t n, char out[static SUM_LEN + 1])
{
	uint8_t digest[32];

	km_sha256(digest, p, n);
	km_hex(digest, SUM_LEN / 2, out);
}

static char *join(const char *a, const char *b)
{
	char *s;

	return asprintf(&s, "%s%s", a, b) < 0 ? NULL : s;
}

static void set_aside(const char *path, const char *why)
{
	char *broken = join(path, ".broken");

	km_warn("applied configuration cannot be understood, set aside as *.broken",
		km_ks("file", path), km_ks("why", why));
	if (broken && rename(path, broken))
		km_warn("cannot rename", km_ks("file", path), km_ks("why", strerror(errno)));
	free(broken);
}

/* ---- read ---- */

/* *out NULL: there is no such file. A too large one is set aside. */
static int read_file(const char *path, size_t max, char **out, size_t *n, struct km_errtext *err)
{
	int r = km_file_read(path, max, out, n);

	if (!r)
		return 0;
	*out = NULL;
	*n = 0;
	if (r == KM_EIO && errno == ENOENT)
		return 0;
	if (r == KM_ETOOBIG) {
		set_aside(path, "too large");
		return 0;
	}
	return km_errtext_set(err, r, "%s: %s", path, km_why(r));
}

static json_t *parse_json(const char *p, size_t n)
{
	return json_loadb(p, n, JSON_REJECT_DUPLICATES, NULL);
}

static void look_at_form(struct disk *d, const json_t *v)
{
	const char *form = json_string_value(json_object_get(v, "form"));

	if (!form || strcmp(form, d->form))
		d->foreign = true;
}

/* The id under "snapshot"; false: there is none. */
static bool snapshot_id(const json_t *v, char id[static KM_UUID_STRLEN])
{
	const char *s = json_string_value(json_object_get(v, "snapshot"));

	if (!s || !km_uuid_ok(s))
		return false;
	memcpy(id, s, KM_UUID_STRLEN);
	return true;
}

static int read_snapshot(struct disk *d, disk_snapshot_cb *snapshot, void *arg,
			 struct km_errtext *err)
{
	struct km_errtext why = {"not a JSON object with a snapshot id"};
	json_t *v = NULL;
	char *text;
	size_t n;
	int r;

	r = read_file(d->snapshot, REPLICA_SNAPSHOT_MAX, &text, &n, err);
	if (r || !text)
		return r;
	v = parse_json(text, n);
	r = v && snapshot_id(v, d->id) ? snapshot(arg, v, &why) : KM_EINVAL;
	if (!r)
		look_at_form(d, v);
	if (r == KM_ENOMEM) {
		km_errtext_set(err, r, "%s: no memory", d->snapshot);
	} else if (r) {
		set_aside(d->snapshot, why.text);
		d->id[0] = 0;
		r = 0;
	}
	json_decref(v);
	free(text);
	return r;
}

/* The JSON of a line without its newline, or NULL: torn or damaged. */
static json_t *open_line(const char *line, size_t n)
{
	char sum[SUM_LEN + 1];

	if (n < SUM_LEN + 1 || line[SUM_LEN] != ' ')
		return NULL;
	line += SUM_LEN + 1;
	n -= SUM_LEN + 1;
	checksum(line, n, sum);
	return memcmp(line - SUM_LEN - 1, sum, SUM_LEN) ? NULL : parse_json(line, n);
}

/* The changes of a journal whose first line names our snapshot. Sets size and lines to its good
 * part. KM_EINVAL: what follows is damaged, *why says how. */
static int read_lines(struct disk *d, const char *text, size_t n, disk_change_cb *change, void *arg,
		      struct km_errtext *why)
{
	char id[KM_UUID_STRLEN];
	int r = 0;

	while (d->size < n && !r) {
		const char *line = text + d->size, *end = memchr(line, '\n', n - d->size);
		json_t *v = end ? open_line(line, (size_t)(end - line)) : NULL;
		const char *type = json_string_value(json_object_get(v, "type"));

		if (!v && (!end || end + 1 == text + n)) /* torn */
			break;
		if (!v)
			r = km_errtext_set(why, KM_EINVAL, "line %zu is damaged", d->lines + 1);
		else if (!d->lines && (!snapshot_id(v, id) || strcmp(id, d->id)))
			n = 0; /* of an older snapshot */
		else if (d->lines)
			r = type ? change(arg, type, json_object_get(v, "data"), why)
				 : km_errtext_set(why, KM_EINVAL, "line %zu has no type",
						  d->lines + 1);
		if (!r && n && d->lines)
			look_at_form(d, v);
		if (!r && n) {
			d->size = (size_t)(end + 1 - text);
			d->lines++;
		}
		json_decref(v);
	}
	return r;
}

static int read_journal(struct disk *d, disk_change_cb *change, void *arg, struct km_errtext *err)
{
	struct km_errtext why = {""};
	char *text;
	size_t n;
	int r;

	r = read_file(d->journal, REPLICA_JOURNAL_MAX + REPLICA_LINE_MAX, &text, &n, err);
	if (r || !text)
		return r;
	r = read_lines(d, text, n, change, arg, &why);
	free(text);
	if (r == KM_ENOMEM)
		return km_errtext_set(err, r, "%s: no memory", d->journal);
	if (r) {
		set_aside(d->journal, why.text);
		d->bad = true;
		/* NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): it was opened */
	} else if (d->size < n && truncate(d->journal, (off_t)d->size)) {
		d->bad = true;
	}
	return 0;
}

int km_disk_open(struct disk *d, const char *dir, const char *form, disk_snapshot_cb *snapshot,
		 disk_change_cb *change, void *arg, struct km_errtext *err)
{
	struct stat st;
	int r = 0;

	memset(d, 0, sizeof *d);
	snprintf(d->form, sizeof d->form, "%s", form);
	if (stat(dir, &st))
		return km_errtext_set(err, KM_EIO, "%s: %s", dir, strerror(errno));
	d->snapshot = join(dir, "/config.json");
	d->journal = join(dir, "/config.journal");
	if (!d->snapshot || !d->journal)
		r = km_errtext_set(err, KM_ENOMEM, "no memory");
	if (!r)
		r = read_snapshot(d, snapshot, arg, err);
	if (!r)
		r = read_journal(d, change, arg, err);
	if (r)
		km_disk_close(d);
	return r;
}

void km_disk_close(struct disk *d)
{
	free(d->snapshot);
	free(d->journal);
	memset(d, 0, sizeof *d);
}

/* ---- write ---- */

/* Appends a checked line to out; takes v's reference. */
static int line_add(struct km_buf *out, json_t *v)
{
	char sum[SUM_LEN + 1];
	char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
	int r = KM_ENOMEM;

	json_decref(v);
	if (text) {
		checksum(text, strlen(text), sum);
		r = km_buf_addf(out, "%s ", sum);
	}
	if (!r)
		r = km_buf_adds(out, text);
	if (!r)
		r = km_buf_adds(out, "\n");
	free(text);
	return r;
}

/* The journal is opened for each change, so that a file that was removed or changed by someone else
 * is noticed instead of being written into the void. */
static int append_bytes(struct disk *d, const struct km_buf *b)
{
	bool first = !d->size;
	struct stat st;
	int fd, r = KM_EIO;

	fd = open(d->journal, O_WRONLY | O_APPEND | O_CLOEXEC | (first ? O_CREAT : 0), 0600);
	if (fd < 0)
		return KM_EIO;
	if (fstat(fd, &st))
		goto out;
	if ((size_t)st.st_size != d->size) {
		errno = ESTALE;
		goto out;
	}
	if (km_write_all(fd, km_buf_head(b), b->len) || fdatasync(fd)) {
		int saved = errno;

		if (ftruncate(fd, (off_t)d->size))
			km_warn("cannot cut the journal", km_ks("file", d->journal),
				km_ks("why", strerror(errno)));
		errno = saved;
		goto out;
	}
	r = first ? km_folder_sync(d->journal) : 0;
out:
	close(fd);
	return r;
}

int km_disk_append(struct disk *d, const char *type, const json_t *data)
{
	struct km_buf b;
	int r = 0;

	km_buf_init(&b, REPLICA_LINE_MAX);
	if (!d->size)
		r = line_add(&b, json_pack("{s:s}", "snapshot", d->id));
	if (!r)
		r = line_add(
		    &b, json_pack("{s:s, s:s, s:O}", "type", type, "form", d->form, "data", data));
	if (!r)
		r = append_bytes(d, &b);
	if (!r) {
		d->lines += d->size ? 1 : 2;
		d->size += b.len;
	} else {
		d->bad = true;
	}
	km_buf_free(&b);
	return r;
}

bool km_disk_is_long(const struct disk *d)
{
	return d->size > REPLICA_JOURNAL_MAX || d->lines > REPLICA_JOURNAL_LINES_MAX;
}

int km_disk_snapshot_begin(const struct disk *d, struct km_buf *out, char id[static KM_UUID_STRLEN])
{
	km_uuid_new(id);
	return km_buf_addf(out, "{\"snapshot\": \"%s\", \"form\": \"%s\",\n", id,
			   d->foreign ? "" : d->form);
}

int km_disk_snapshot_write(struct disk *d, const struct km_buf *text, const char *id)
{
	int r = km_file_write(d->snapshot, km_buf_head(text), text->len, 0600);

	if (r) {
		d->bad = true;
		return r;
	}
	memcpy(d->id, id, KM_UUID_STRLEN);
	d->size = d->lines = 0;
	d->bad = truncate(d->journal, 0) && errno != ENOENT;
	return 0;
}
