/* SPDX-License-Identifier: MIT */
#include "libkm/join/conf_edit.h"
#include <string.h>

#define LINE_MAX_BYTES 199

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* Whether the line of n bytes begins with one of the keys and '='. */
static bool is_key(const char *line, size_t n, const struct km_conf_edit *e, size_t n_edits)
{
	for (size_t i = 0; i < n_edits; i++) {
		size_t len = strlen(e[i].key), at = len;

		if (n <= len || memcmp(line, e[i].key, len) != 0)
			continue;
		while (at < n && is_blank(line[at]))
			at++;
		if (at < n && line[at] == '=')
			return true;
	}
	return false;
}

/* Copies what is to stay. A key's indented lines go with it. */
static int copy(struct km_buf *out, const char *text, const struct km_conf_edit *e, size_t n)
{
	bool dropping = false;
	int rc = 0;

	while (*text && !rc) {
		size_t len = strcspn(text, "\n");
		bool goes_on = len > 0 && is_blank(text[0]);

		if (!goes_on)
			dropping = is_key(text, len, e, n);
		if (!dropping) {
			rc = km_buf_add(out, text, len);
			rc = rc ? rc : km_buf_adds(out, "\n");
		}
		text += len + (text[len] == '\n');
	}
	return rc;
}

static int put(struct km_buf *out, const struct km_conf_edit *e)
{
	int rc = km_buf_addf(out, "%s =", e->key);

	for (size_t i = 0; i < e->n && !rc; i++) {
		size_t len = strlen(e->values[i]);

		if (strpbrk(e->values[i], "\r\n") || strlen(e->key) + len + 3 > LINE_MAX_BYTES)
			return KM_EINVAL;
		rc = km_buf_addf(out, i ? "\n\t%s" : " %s", e->values[i]);
	}
	return rc ? rc : km_buf_adds(out, "\n");
}

int km_conf_edit(struct km_buf *out, const char *text, const struct km_conf_edit *edits, size_t n)
{
	int rc = copy(out, text, edits, n);

	for (size_t i = 0; i < n && !rc; i++)
		if (edits[i].n)
			rc = put(out, &edits[i]);
	return rc;
}
