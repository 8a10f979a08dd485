/* SPDX-License-Identifier: MIT */
#include "libkm/base/conf_value.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Decimal digits at *s, moved behind them. KM_EINVAL when there are none or they overflow. */
static int digits(int64_t *out, const char **s)
{
	const char *start = *s;
	int64_t v = 0;

	for (; **s >= '0' && **s <= '9'; (*s)++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, **s - '0', &v))
			return KM_EINVAL;
	*out = v;
	return *s == start ? KM_EINVAL : 0;
}

struct unit {
	const char *name;
	int64_t factor;
};

/* Smallest first. */
static const struct unit durations[] = {
    {"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}, {NULL, 0},
};
/* In capitals or not. */
static const struct unit sizes[] = {
    {"", 1}, {"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {NULL, 0},
};

static int with_unit(int64_t *out, const char *s, const struct unit *units)
{
	int (*same)(const char *, const char *) = units == sizes ? strcasecmp : strcmp;
	int64_t v;

	if (digits(&v, &s))
		return KM_EINVAL;
	for (; units->name; units++)
		if (!same(s, units->name))
			return __builtin_mul_overflow(v, units->factor, out) ? KM_EINVAL : 0;
	if (v || *s)
		return KM_EINVAL;
	*out = 0; /* nothing needs no unit */
	return 0;
}

int km_duration_parse(int64_t *ms, const char *s)
{
	return with_unit(ms, s, durations);
}

int km_size_parse(int64_t *bytes, const char *s)
{
	return with_unit(bytes, s, sizes);
}

char *km_conf_number_str(const struct km_opt *o, int64_t v, char out[static KM_CONF_NUMBER_STRLEN])
{
	const struct unit *u = o->type == KM_OPT_DURATION ? durations : sizes;

	if (o->type == KM_OPT_INT || !v) {
		snprintf(out, KM_CONF_NUMBER_STRLEN, "%" PRId64, v);
		return out;
	}
	while (u[1].name && v % u[1].factor == 0)
		u++;
	snprintf(out, KM_CONF_NUMBER_STRLEN, "%" PRId64 "%s", v / u->factor, u->name);
	return out;
}

static int int_parse(int64_t *out, const char *s)
{
	bool minus = *s == '-';
	int64_t v;

	s += minus;
	if (digits(&v, &s) || *s)
		return KM_EINVAL;
	*out = minus ? -v : v;
	return 0;
}

static int bool_parse(bool *out, const char *s)
{
	static const char *const words[] = {"no", "yes", "off", "on", "false", "true", "0", "1"};

	for (size_t i = 0; i < KM_ARRAY_LEN(words); i++) {
		if (!strcasecmp(s, words[i])) {
			*out = i % 2;
			return 0;
		}
	}
	return KM_EINVAL;
}

static int set_number(const struct km_opt *o, int64_t *at, const char *text, struct km_errtext *err)
{
	int64_t v, min = o->min, max = o->max;
	char least[KM_CONF_NUMBER_STRLEN], most[KM_CONF_NUMBER_STRLEN];
	const char *what;
	int e;

	if (!min && !max)
		max = INT64_MAX;
	if (o->type == KM_OPT_DURATION) {
		e = km_duration_parse(&v, text);
		what = "a duration such as 500ms, 30s, 5m, 2h or 30d";
	} else if (o->type == KM_OPT_SIZE) {
		e = km_size_parse(&v, text);
		what = "a size such as 65536, 64K, 1M or 2G";
	} else {
		e = int_parse(&v, text);
		what = "a whole number";
	}
	if (e)
		return km_errtext_set(err, e, "%s: \"%.200s\" is not %s", o->key, text, what);
	if (v < min || v > max)
		return km_errtext_set(err, KM_EINVAL,
				      "%s: %.200s is outside %s to %s", o->key, text,
				      km_conf_number_str(o, min, least),
				      km_conf_number_str(o, max, most));
	*at = v;
	return 0;
}

static int set_enum(const struct km_opt *o, int *at, const char *text, struct km_errtext *err)
{
	char all[256] = "";
	size_t n = 0;

	for (int i = 0; o->choices[i]; i++) {
		if (!strcmp(text, o->choices[i])) {
			*at = i;
			return 0;
		}
		if (n < sizeof(all))
			n += (size_t)snprintf(all + n, sizeof(all) - n, "%s%s", i ? ", " : "",
					      o->choices[i]);
	}
	return km_errtext_set(err, KM_EINVAL, "%s: \"%.100s\" is not one of %s", o->key, text, all);
}

static int run_check(const struct km_opt *o, const char *text, struct km_errtext *err)
{
	const char *wrong = o->check ? o->check(text) : NULL;

	return wrong ? km_errtext_set(err, KM_EINVAL, "%s: \"%.200s\": %s", o->key, text, wrong)
		     : 0;
}

static int set_string(const struct km_opt *o, char **at, const char *text, struct km_errtext *err)
{
	if (*text && o->type == KM_OPT_PATH && *text != '/')
		return km_errtext_set(err, KM_EINVAL,
				      "%s: \"%.200s\" is not an absolute path (it must begin "
				      "with /)",
				      o->key, text);
	free(*at);
	*at = *text ? km_xstrdup(text) : NULL;
	return 0;
}

void km_strlist_free(struct km_strlist *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->items[i]);
	free(l->items);
	*l = (struct km_strlist){0};
}

/* Splits text into words and checks each; *l is empty before, and after an error. */
static int list_split(const struct km_opt *o, struct km_strlist *l, const char *text,
		      struct km_errtext *err)
{
	char *copy = km_xstrdup(text), *save = NULL;
	int e = 0;

	l->items = km_xcalloc(strlen(text) / 2 + 1, sizeof(char *));
	for (char *w = strtok_r(copy, ", \t", &save); w; w = strtok_r(NULL, ", \t", &save)) {
		e = run_check(o, w, err);
		if (e)
			break;
		l->items[l->n++] = km_xstrdup(w);
	}
	if (e || !l->n)
		km_strlist_free(l);
	free(copy);
	return e;
}

static int set_list(const struct km_opt *o, struct km_strlist *at, const char *text,
		    struct km_errtext *err)
{
	struct km_strlist l = {0};
	int e = list_split(o, &l, text, err);

	if (e)
		return e;
	km_strlist_free(at);
	*at = l;
	return 0;
}

int km_conf_value_append(const struct km_opt *o, void *out, const char *text,
			 struct km_errtext *err)
{
	struct km_strlist *at = (struct km_strlist *)((char *)out + o->offset), l = {0}, sum = {0};
	int e = list_split(o, &l, text, err);

	if (e)
		return e;
	sum.items = km_xcalloc(at->n + l.n, sizeof(char *));
	for (size_t i = 0; i < at->n; i++)
		sum.items[sum.n++] = at->items[i];
	for (size_t i = 0; i < l.n; i++)
		sum.items[sum.n++] = l.items[i];
	free(at->items);
	free(l.items);
	*at = sum;
	return 0;
}

int km_conf_value_set(const struct km_opt *o, void *out, const char *text, struct km_errtext *err)
{
	void *at = (char *)out + o->offset;
	int e;

	if (!*text && o->type != KM_OPT_STRING && o->type != KM_OPT_PATH && o->type != KM_OPT_LIST)
		return km_errtext_set(err, KM_EINVAL, "%s: the value is empty", o->key);
	if (*text && o->type != KM_OPT_LIST) {
		e = run_check(o, text, err);
		if (e)
			return e;
	}
	switch (o->type) {
	case KM_OPT_STRING:
	case KM_OPT_PATH:
		return set_string(o, at, text, err);
	case KM_OPT_INT:
	case KM_OPT_DURATION:
	case KM_OPT_SIZE:
		return set_number(o, at, text, err);
	case KM_OPT_ENUM:
		return set_enum(o, at, text, err);
	case KM_OPT_LIST:
		return set_list(o, at, text, err);
	case KM_OPT_BOOL:
		break;
	}
	if (bool_parse(at, text))
		return km_errtext_set(err, KM_EINVAL, "%s: \"%.200s\" is neither on nor off",
				      o->key, text);
	return 0;
}

void km_conf_value_free(const struct km_opt *o, void *out)
{
	void *at = (char *)out + o->offset;

	if (o->type == KM_OPT_LIST) {
		km_strlist_free(at);
	} else if (o->type == KM_OPT_STRING || o->type == KM_OPT_PATH) {
		free(*(char **)at);
		*(char **)at = NULL;
	}
}

void km_conf_env_name(const char *key, char *out, size_t n)
{
	snprintf(out, n, "KAKUREMICHI_%s", key);
	for (; *out; out++)
		*out = (char)toupper((unsigned char)*out);
}
