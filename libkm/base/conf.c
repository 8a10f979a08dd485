/* SPDX-License-Identifier: MIT */
#include "libkm/base/conf.h"
#include "libkm/base/conf_value.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define KEY_MAX 64

struct load {
	const struct km_conf_spec *spec;
	const char *path;
	void *out;
	FILE *report, *file;
	char *raw; /* the line as read; getline's */
	size_t raw_size;
	int line;
	struct {
		int line;     /* that set it, 0: none */
		bool set;     /* by the file or the environment */
		bool refused; /* a value was wrong, and that was reported */
	} *seen;	       /* per option */
	bool indented; /* the line began with white space: libinih takes it as a continuation */
	bool lone;     /* it has neither '=' nor ':' */
	bool read_error;
	unsigned mistakes;
};

__attribute__((format(printf, 2, 3))) static void mistake(struct load *l, const char *fmt, ...)
{
	va_list ap;

	l->mistakes++;
	fprintf(l->report, "%s:%d: ", l->path, l->line);
	va_start(ap, fmt);
	vfprintf(l->report, fmt, ap);
	va_end(ap);
	fputc('\n', l->report);
}

static size_t min3(size_t a, size_t b, size_t c)
{
	a = a < b ? a : b;
	return a < c ? a : c;
}

/* Levenshtein's distance; both shorter than KEY_MAX. */
static size_t distance(const char *a, const char *b)
{
	size_t row[KEY_MAX], n = strlen(b);

	for (size_t j = 0; j <= n; j++)
		row[j] = j;
	for (size_t i = 1; a[i - 1]; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= n; j++) {
			size_t up = row[j];

			row[j] = min3(up + 1, row[j - 1] + 1,
				      diagonal + (tolower((unsigned char)a[i - 1]) != b[j - 1]));
			diagonal = up;
		}
	}
	return row[n];
}

/* The known key that `key` most likely means, or NULL. */
static const char *nearest(const struct km_conf_spec *spec, const char *key)
{
	size_t best = strlen(key) / 3 + 2;
	const char *found = NULL;

	if (strlen(key) >= KEY_MAX)
		return NULL;
	for (size_t i = 0; i < spec->n_opts; i++) {
		size_t d = distance(key, spec->opts[i].key);

		if (d < best) {
			best = d;
			found = spec->opts[i].key;
		}
	}
	return found;
}

static size_t find(const struct km_conf_spec *spec, const char *key)
{
	size_t i = 0;

	while (i < spec->n_opts && strcmp(spec->opts[i].key, key) != 0)
		i++;
	return i;
}

/* libinih's fgets. Whatever it would misunderstand is reported here and given to it as a comment. */
static char *on_line(char *to, int size, void *arg)
{
	struct load *l = arg;
	const char *text;
	ssize_t n;

	errno = 0;
	n = getline(&l->raw, &l->raw_size, l->file);
	if (n < 0) {
		l->read_error = errno != 0 && !feof(l->file);
		return NULL;
	}
	l->line++;
	if (strlen(l->raw) != (size_t)n) {
		mistake(l, "the line has a NUL byte");
		goto skip;
	}
	while (n && (l->raw[n - 1] == '\n' || l->raw[n - 1] == '\r'))
		l->raw[--n] = '\0';
	if (n >= size) {
		mistake(l,
			"the line has %zd bytes, more than %d; a list may go on in an indented "
			"line",
			n, size - 1);
		goto skip;
	}
	text = l->raw + (l->line == 1 && !strncmp(l->raw, "\xef\xbb\xbf", 3) ? 3 : 0);
	l->indented = isspace((unsigned char)*text);
	text += strspn(text, " \t\v\f");
	if (*text == '[') {
		mistake(l, "sections are not used here: \"%.60s\"", text);
		goto skip;
	}
	if (*text && !strchr(";#", *text) && !l->indented && !strpbrk(text, "=:")) {
		mistake(l, "not \"key = value\": \"%.60s\"", text);
		goto skip;
	}
	memcpy(to, l->raw, (size_t)n + 1);
	return to;
skip:
	to[0] = '#';
	to[1] = '\0';
	return to;
}

static void on_continuation(struct load *l, size_t i, const char *value)
{
	const struct km_opt *o = &l->spec->opts[i];
	struct km_errtext err;

	if (o->type != KM_OPT_LIST) {
		mistake(l, "an indented line goes on with the one above, but %s takes one value",
			o->key);
	} else if (km_conf_value_append(o, l->out, value, &err)) {
		mistake(l, "%s", err.text);
		l->seen[i].refused = true;
	}
}

/* libinih's handler; always "handled", for mistakes are counted by us. */
static int on_pair(void *arg, const char *section, const char *key, const char *value)
{
	struct load *l = arg;
	size_t i = find(l->spec, key);
	struct km_errtext err;
	const char *near;

	(void)section;
	if (i == l->spec->n_opts) {
		near = nearest(l->spec, key);
		if (l->indented)
			return 1; /* goes on with a line that was reported */
		if (near)
			mistake(l, "unknown key \"%.60s\"; did you mean \"%s\"?", key, near);
		else
			mistake(l, "unknown key \"%.60s\"", key);
	} else if (l->seen[i].line && l->indented) {
		on_continuation(l, i, value);
	} else if (l->seen[i].line) {
		mistake(l, "%s is given twice; line %d has it already", key, l->seen[i].line);
	} else {
		l->seen[i].line = l->line;
		l->seen[i].set = true;
		if (km_conf_value_set(&l->spec->opts[i], l->out, value, &err)) {
			mistake(l, "%s", err.text);
			l->seen[i].refused = true;
		}
	}
	return 1;
}

static int load_file(struct load *l)
{
	int err = 0;

	l->file = fopen(l->path, "re");
	if (!l->file) {
		fprintf(l->report, "%s: cannot open: %s\n", l->path, strerror(errno));
		return KM_EIO;
	}
	/* A positive result names a line that on_line has reported already. */
	if (ini_parse_stream(on_line, l, on_pair, l) < 0)
		err = KM_ENOMEM;
	if (l->read_error) {
		fprintf(l->report, "%s: cannot read: %s\n", l->path, strerror(errno));
		err = KM_EIO;
	}
	fclose(l->file);
	free(l->raw);
	return err;
}

static void load_defaults(struct load *l)
{
	for (size_t i = 0; i < l->spec->n_opts; i++) {
		const struct km_opt *o = &l->spec->opts[i];
		struct km_errtext err;

		if (o->def && km_conf_value_set(o, l->out, o->def, &err)) {
			fprintf(l->report, "built-in default: %s\n", err.text);
			l->mistakes++;
		}
	}
}

static void load_environment(struct load *l)
{
	for (size_t i = 0; i < l->spec->n_opts; i++) {
		const struct km_opt *o = &l->spec->opts[i];
		char name[KEY_MAX + 16];
		struct km_errtext err;
		const char *value;

		km_conf_env_name(o->key, name, sizeof(name));
		value = getenv(name);
		if (!value)
			continue;
		l->seen[i].set = true;
		if (!km_conf_value_set(o, l->out, value, &err))
			continue;
		fprintf(l->report, "$%s: %s\n", name, err.text);
		l->mistakes++;
		l->seen[i].refused = true;
	}
}

/* Whether the setting is there; numbers and the like always are once they have a default. */
static bool has_value(const struct load *l, size_t i)
{
	const struct km_opt *o = &l->spec->opts[i];
	const void *at = (const char *)l->out + o->offset;

	switch (o->type) {
	case KM_OPT_STRING:
	case KM_OPT_PATH:
		return *(char *const *)at != NULL;
	case KM_OPT_LIST:
		return ((const struct km_strlist *)at)->n > 0;
	default:
		return o->def || l->seen[i].set;
	}
}

static void check_required(struct load *l)
{
	for (size_t i = 0; i < l->spec->n_opts; i++) {
		const struct km_opt *o = &l->spec->opts[i];
		char name[KEY_MAX + 16];

		if (!o->required || l->seen[i].refused || has_value(l, i))
			continue;
		km_conf_env_name(o->key, name, sizeof(name));
		fprintf(l->report, "%s: %s is required (there or in $%s)\n",
			l->path ? l->path : l->spec->file, o->key, name);
		l->mistakes++;
	}
}

int km_conf_load(const struct km_conf_spec *spec, const char *path, void *out, FILE *report)
{
	struct load l = {.spec = spec, .path = path, .out = out, .report = report};
	int err = 0;

	l.seen = km_xcalloc(spec->n_opts, sizeof(*l.seen));
	load_defaults(&l);
	if (path)
		err = load_file(&l);
	load_environment(&l);
	if (!err)
		check_required(&l);
	free(l.seen);
	if (err)
		return err;
	return l.mistakes ? KM_EINVAL : 0;
}

void km_conf_free(const struct km_conf_spec *spec, void *out)
{
	for (size_t i = 0; i < spec->n_opts; i++)
		km_conf_value_free(&spec->opts[i], out);
}
