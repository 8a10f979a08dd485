/* SPDX-License-Identifier: MIT */
#include "libkm/host/kept.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX ((size_t)16 << 20)

json_t *km_kept_read(const char *file, const char *what)
{
	char *text = NULL;
	size_t n = 0;
	json_t *v = NULL;

	if (!km_file_read(file, FILE_MAX, &text, &n))
		v = json_loadb(text, n, JSON_REJECT_DUPLICATES, NULL);
	else if (errno != ENOENT)
		km_warn("file cannot be read, its content is learned anew", km_ks("what", what),
			km_ks("file", file), km_ks("why", strerror(errno)));
	if (text && !json_is_object(v))
		km_warn("file not understood, its content is learned anew", km_ks("what", what),
			km_ks("file", file));
	free(text);
	if (json_is_object(v))
		return v;
	json_decref(v);
	return json_object();
}

bool km_kept_write(const char *file, const json_t *object, const char *what)
{
	char *text = json_dumps(object, JSON_SORT_KEYS | JSON_INDENT(1));
	bool done = text && km_file_write(file, text, strlen(text), 0600) == 0;

	if (!done)
		km_warn("file cannot be written", km_ks("what", what), km_ks("file", file),
			km_ks("why", strerror(errno)));
	free(text);
	return done;
}
