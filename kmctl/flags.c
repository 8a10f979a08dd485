/* SPDX-License-Identifier: MIT */
#include "kmctl/flags.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct unit {
	const char *name;
	int64_t ns;
} units[] = {
    /* longer names first where one begins with another */
    {"ns", 1},       {"us", 1000},      {"\xc2\xb5s", 1000}, /* µs */
    {"ms", 1000000}, {"s", 1000000000}, {"m", 60000000000},  {"h", 3600000000000},
};

static const struct unit *unit_at(const char **s)
{
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (!strncmp(*s, units[i].name, strlen(units[i].name))) {
			*s += strlen(units[i].name);
			return &units[i];
		}
	return NULL;
}

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

/* One number with its unit, added to *sum. */
static int add_part(int64_t *sum, const char **s)
{
	int64_t whole = 0, part = 0, scale = 1, part_ns;
	const struct unit *u;
	bool any = false;

	for (; digit(**s); (*s)++, any = true)
		if (__builtin_mul_overflow(whole, 10, &whole) ||
		    __builtin_add_overflow(whole, **s - '0', &whole))
			return KM_EINVAL;
	if (**s == '.')
		for ((*s)++; digit(**s); (*s)++, any = true)
			if (scale < 1000000000) {
				part = part * 10 + (**s - '0');
				scale *= 10;
			}
	u = any ? unit_at(s) : NULL;
	if (!u || __builtin_mul_overflow(whole, u->ns, &whole) ||
	    __builtin_add_overflow(*sum, whole, sum))
		return KM_EINVAL;
	part_ns = (int64_t)((__int128)part * u->ns / scale);
	return __builtin_add_overflow(*sum, part_ns, sum) ? KM_EINVAL : 0;
}

int flags_duration(int64_t *ns, const char *s)
{
	bool negative = *s == '-';
	int64_t sum = 0;

	if (*s == '-' || *s == '+')
		s++;
	*ns = 0;
	if (!strcmp(s, "0"))
		return 0;
	if (!*s)
		return KM_EINVAL;
	while (*s)
		if (add_part(&sum, &s))
			return KM_EINVAL;
	*ns = negative ? -sum : sum;
	return 0;
}

static int flag_number(uint32_t *out, const char *s)
{
	unsigned long v;
	char *end;

	errno = 0;
	v = strtoul(s, &end, 10);
	if (!digit(*s) || *end || errno || v > UINT32_MAX)
		return KM_EINVAL;
	*out = (uint32_t)v;
	return 0;
}

/* What stands in text as the flag's kind wants it. */
static int take_value(struct flag *f)
{
	switch (f->kind) {
	case FLAG_NUMBER:
		return flag_number(&f->number, f->text);
	case FLAG_DURATION:
		return flags_duration(&f->ns, f->text);
	case FLAG_BOOL:
		f->on = !strcmp(f->text, "true") || !strcmp(f->text, "1");
		return f->on || !strcmp(f->text, "false") || !strcmp(f->text, "0") ? 0 : KM_EINVAL;
	default:
		return 0;
	}
}

static struct flag *find(struct flag *flags, size_t n, const char *name, size_t len)
{
	for (size_t i = 0; i < n; i++)
		if (strlen(flags[i].name) == len && !memcmp(flags[i].name, name, len))
			return &flags[i];
	return NULL;
}

struct flag *flags_get(struct flag *flags, size_t n, const char *name)
{
	struct flag *f = find(flags, n, name, strlen(name));

	assert(f);
	return f;
}

/* argv[*i] and, where the value stands apart, argv[*i + 1]. */
static int parse_one(struct flag *flags, size_t n, int argc, char **argv, int *i,
		     struct km_errtext *err)
{
	const char *name = argv[*i] + (argv[*i][1] == '-' ? 2 : 1);
	size_t len = strcspn(name, "=");
	struct flag *f = find(flags, n, name, len);

	if (!f && (!strcmp(name, "h") || !strcmp(name, "help")))
		return FLAGS_HELP;
	if (!f)
		return km_errtext_set(err, KM_EINVAL, "flag provided but not defined: -%.*s",
				      (int)len, name);
	if (name[len])
		f->text = name + len + 1;
	else if (f->kind == FLAG_BOOL)
		f->text = "true";
	else if (*i + 1 < argc)
		f->text = argv[++*i];
	else
		return km_errtext_set(err, KM_EINVAL, "flag needs an argument: -%s", f->name);
	f->given = true;
	if (take_value(f))
		return km_errtext_set(err, KM_EINVAL, "invalid value \"%s\" for flag -%s", f->text,
				      f->name);
	return 0;
}

int flags_parse(struct flag *flags, size_t n, int argc, char **argv, struct km_errtext *err)
{
	for (size_t i = 0; i < n; i++)
		if (flags[i].text && take_value(&flags[i]))
			assert(!"a default is malformed");
	for (int i = 0; i < argc; i++) {
		int rc;

		if (argv[i][0] != '-' || !argv[i][1])
			return km_errtext_set(err, KM_EINVAL, "unexpected argument: %s", argv[i]);
		rc = parse_one(flags, n, argc, argv, &i, err);
		if (rc)
			return rc;
	}
	return 0;
}

void flags_print(const struct flag *flags, size_t n, FILE *to)
{
	static const char *const kinds[] = {[FLAG_TEXT] = " text",
					    [FLAG_BOOL] = "",
					    [FLAG_NUMBER] = " number",
					    [FLAG_DURATION] = " duration"};

	for (size_t i = 0; i < n; i++) {
		fprintf(to, "  -%s%s\n    \t%s", flags[i].name, kinds[flags[i].kind],
			flags[i].help);
		if (flags[i].text && !flags[i].given && flags[i].kind != FLAG_BOOL)
			fprintf(to, " (default %s)", flags[i].text);
		fputc('\n', to);
	}
}
