/* SPDX-License-Identifier: MIT */
#include "libkm/base/conf.h"
#include "libkm/base/conf_value.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <string.h>

#define MAN_DATE "November 21, 2026"
#define COLUMNS 78

static const char *type_text(const struct km_opt *o)
{
	switch (o->type) {
	case KM_OPT_STRING:
		return "text";
	case KM_OPT_PATH:
		return "absolute path";
	case KM_OPT_INT:
		return "number";
	case KM_OPT_BOOL:
		return "yes or no";
	case KM_OPT_DURATION:
		return "duration";
	case KM_OPT_SIZE:
		return "size";
	case KM_OPT_ENUM:
		return "one of";
	case KM_OPT_LIST:
		return "list";
	}
	return "";
}

/* "number, 1 to 65535", "one of auto, kernel". */
static void describe(const struct km_opt *o, char *out, size_t size)
{
	char least[KM_CONF_NUMBER_STRLEN], most[KM_CONF_NUMBER_STRLEN];
	size_t n = (size_t)snprintf(out, size, "%s", type_text(o));

	if (o->type == KM_OPT_ENUM)
		for (int i = 0; o->choices[i] && n < size; i++)
			n += (size_t)snprintf(out + n, size - n, "%s%s", i ? ", " : " ",
					      o->choices[i]);
	else if (o->min || o->max)
		snprintf(out + n, size - n, ", %s to %s", km_conf_number_str(o, o->min, least),
			 km_conf_number_str(o, o->max, most));
}

/* The text as comment lines of at most COLUMNS bytes, broken at blanks. */
static void wrap_comment(FILE *f, const char *s)
{
	size_t column = 0;

	while (*s) {
		size_t n = strcspn(s, " \n");

		if (column && column + 1 + n > COLUMNS) {
			fputc('\n', f);
			column = 0;
		}
		column += (size_t)fprintf(f, "%s%.*s", column ? " " : "# ", (int)n, s);
		s += n;
		s += strspn(s, " \n");
	}
	if (column)
		fputc('\n', f);
}

void km_conf_sample(const struct km_conf_spec *spec, FILE *f)
{
	char text[512];

	snprintf(text, sizeof(text), "%s: settings of %s. %s", spec->file, spec->program,
		 spec->what);
	wrap_comment(f, text);
	wrap_comment(f, "Lines that begin with \"#\" or \";\" are comments. A commented setting shows "
			"its default. An environment variable such as KAKUREMICHI_LOG_LEVEL "
			"overrides the file. A list may go on in indented lines.");
	for (size_t i = 0; i < spec->n_opts; i++) {
		const struct km_opt *o = &spec->opts[i];

		describe(o, text, sizeof(text));
		fputc('\n', f);
		wrap_comment(f, o->help);
		fprintf(f, "# (%s%s)\n", text, o->required ? "; required" : "");
		fprintf(f, "%s%s =%s%s\n", o->required && !o->def ? "" : "#", o->key,
			o->def && *o->def ? " " : "", o->def ? o->def : "");
	}
}

static void roff_char(FILE *f, char c)
{
	if (c == '\\')
		fputs("\\e", f);
	else
		fputc(c, f);
}

/* Text for roff: escaped, one sentence a line and lines not too long, none that looks like a
 * request. */
static void roff_text(FILE *f, const char *s)
{
	size_t column = 0;
	bool end = false; /* of a sentence */

	for (s += strspn(s, " \n"); *s; s += strspn(s, " \n")) {
		size_t n = strcspn(s, " \n");

		if (column && (column + 1 + n > COLUMNS || (end && !islower((unsigned char)*s)))) {
			fputc('\n', f);
			column = 0;
		}
		if (column)
			fputc(' ', f);
		else if (*s == '.' || *s == '\'')
			fputs("\\&", f);
		for (size_t i = 0; i < n; i++)
			roff_char(f, s[i]);
		column += n + 1;
		end = strchr(".!?", s[n - 1]);
		s += n;
	}
	if (column)
		fputc('\n', f);
}

/* One argument of a macro: quoted, so that blanks and words that are macros stay text. */
static void roff_arg(FILE *f, const char *s)
{
	fputs(" \"\\&", f);
	for (; *s; s++) {
		if (*s == '"')
			fputs("\\(dq", f);
		else if (*s == '-')
			fputs("\\-", f);
		else
			roff_char(f, *s);
	}
	fputc('"', f);
}

static void man_option(FILE *f, const struct km_opt *o)
{
	char text[512];

	fprintf(f, ".It Ic %s\n", o->key);
	roff_text(f, o->help);
	describe(o, text, sizeof(text));
	if (islower((unsigned char)text[0]))
		text[0] = (char)toupper((unsigned char)text[0]);
	fprintf(f, ".br\n%s", text);
	if (o->required)
		fputs("; required", f);
	if (o->def && *o->def) {
		fputs("; default:\n.Ql", f);
		roff_arg(f, o->def);
	}
	fputc('\n', f);
}

void km_conf_man(const struct km_conf_spec *spec, FILE *f)
{
	char env[80];

	fputs(".\\\" SPDX-License-Identifier: MIT\n.\\\" Made by --man from the table of settings.\n",
	      f);
	fprintf(f, ".Dd %s\n.Dt ", MAN_DATE);
	for (const char *p = spec->file; *p; p++)
		fputc(toupper((unsigned char)*p), f);
	fprintf(f, " 5\n.Os\n.Sh NAME\n.Nm %s\n.Nd settings of %s\n", spec->file, spec->program);
	fprintf(f, ".Sh SYNOPSIS\n.Pa %s/%s\n.Sh DESCRIPTION\n", KM_SYSCONF, spec->file);
	roff_text(f, spec->what);
	km_conf_env_name(spec->n_opts ? spec->opts[0].key : "key", env, sizeof(env));
	fprintf(f,
		".Pp\nThe file has lines of the form\n.Dl key = value\n"
		"Lines that begin with\n.Sq #\nor\n.Sq \\&;\n"
		"are comments, and so is the rest of a line after a blank and\n.Sq \\&; ;\n"
		"after a value\n.Sq #\nbelongs to it.\n"
		"A line has at most 199 bytes; the value of a list may go on in indented lines.\n"
		"Durations are written like 500ms, 30s, 5m, 2h or 30d, sizes like 65536, 64K,\n"
		"1M or 2G; the words of a list are parted by blanks or commas.\n"
		".Pp\nEvery setting can also be given by an environment variable, which has\n"
		"precedence:\n.Ev KAKUREMICHI_\nand the key in upper case, such as\n.Ev %s .\n"
		".Pp\nUnknown keys, keys given twice and wrong values are mistakes; all of them\n"
		"are reported with file and line, and nothing is started.\n"
		".Ql %s \\-t\nchecks the file only.\n",
		env, spec->program);
	fputs(".Sh SETTINGS\n.Bl -tag -width Ds\n", f);
	for (size_t i = 0; i < spec->n_opts; i++)
		man_option(f, &spec->opts[i]);
	fprintf(f,
		".El\n.Sh FILES\n.Bl -tag -width Ds -compact\n.It Pa %s/%s\nThe file read by "
		"default.\n.It Pa %s/%s.sample\nA sample with every setting.\n.El\n",
		KM_SYSCONF, spec->file, KM_SYSCONF, spec->file);
	fprintf(f, ".Sh SEE ALSO\n.Xr %s 8\n", spec->program);
}
