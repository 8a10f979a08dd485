/* SPDX-License-Identifier: MIT */
#include "controld/api/options_parts.h"
#include "controld/api/place.h"
#include "libkm/base/addr.h"
#include "libkm/base/field.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_RULES 64
#define MAX_NAME 256
#define MAX_VALUE 8192
#define MAX_TO 2048

/* ---- header fields ---- */

static const char *name_of(const json_t *rule)
{
	return json_string_value(json_object_get(rule, "name"));
}

/* Appends the rule for one name; value NULL: it is removed. */
static void add_rule(json_t *rules, const char *name, const json_t *value, const char *field,
		     struct details *d)
{
	const char *why = km_field_reserved(name), *text = json_string_value(value);
	json_t *other;
	size_t i;
	if (!km_field_name_ok(name) || strlen(name) > MAX_NAME)
		details_add(d, field, "is not the name of a header field");
	else if (why)
		details_add(d, field, "no rule may touch %s: it %s", name, why);
	if (value && !text)
		details_add(d, field, "must be a string");
	else if (text && (!km_field_value_ok(text) || strlen(text) > MAX_VALUE))
		details_add(
		    d, field,
		    "must be ASCII without control characters and without blanks at its ends, "
		    "at most %d bytes",
		    MAX_VALUE);
	json_array_foreach(rules, i, other)
	{
		if (strcasecmp(name_of(other), name) == 0)
			details_add(d, field, "another rule has this name");
	}
	json_t *rule = json_pack("{s:s, s:s*}", "name", name, "value", text);
	json_array_append_new(rules, rule);
}

static int by_name(const void *a, const void *b)
{
	return strcasecmp(name_of(*(json_t *const *)a), name_of(*(json_t *const *)b));
}

static size_t bytes_of(const json_t *rules)
{
	const json_t *one;
	size_t i, n = 0;
	json_array_foreach(rules, i, one)
	{
		n += strlen(name_of(one)) + json_string_length(json_object_get(one, "value")) + 4;
	}
	return n;
}

/* In the order of names, so that the same rules are stored in the same form. */
static json_t *sorted(json_t *rules)
{
	json_t *list[2 * MAX_RULES], *out = json_array();
	size_t n = json_array_size(rules);
	for (size_t i = 0; i < n; i++)
		list[i] = json_array_get(rules, i);
	if (n)
		qsort(list, n, sizeof(list[0]), by_name);
	for (size_t i = 0; i < n; i++)
		json_array_append(out, list[i]);
	json_decref(rules);
	return out;
}

static void read_set(json_t *rules, const json_t *set, const char *at, struct details *d)
{
	char field[INPUT_AT_LEN];
	const char *name;
	json_t *v;
	if (!set || json_is_null(set) || !input_is_object(set, at, d))
		return;
	if (json_object_size(set) > MAX_RULES) {
		details_add(d, at, "may have at most %d fields", MAX_RULES);
		return;
	}
	json_object_foreach((json_t *)(uintptr_t)set, name, v)
	{
		add_rule(rules, name, v, input_at(field, at, name), d);
	}
}

static void read_remove(json_t *rules, const json_t *names, const char *at, struct details *d)
{
	char field[INPUT_AT_LEN];
	json_t *v;
	size_t i;
	if (!names || json_is_null(names))
		return;
	if (!json_is_array(names) || json_array_size(names) > MAX_RULES) {
		details_add(d, at, "must be an array of at most %d names", MAX_RULES);
		return;
	}
	json_array_foreach(names, i, v)
	{
		const char *name = input_text(v, input_at_n(field, at, i), true, d);
		if (name)
			add_rule(rules, name, NULL, field, d);
	}
}

json_t *option_headers(const json_t *v, const char *at, struct details *d)
{
	static const char *const keys[] = {"set", "remove", NULL};
	char field[INPUT_AT_LEN];
	if (!json_is_object(v)) {
		details_add(d, at, "must be {\"set\": {name: value, …}, \"remove\": [name, …]}");
		return NULL;
	}
	input_refuse_unknown(v, at, keys, d);
	json_t *rules = json_array();
	read_set(rules, json_object_get(v, "set"), input_at(field, at, "set"), d);
	read_remove(rules, json_object_get(v, "remove"), input_at(field, at, "remove"), d);
	if (json_array_size(rules) > MAX_RULES)
		details_add(d, at, "may have at most %d rules", MAX_RULES);
	if (bytes_of(rules) > KM_FIELD_RULES_BYTES)
		details_add(d, at, "must not be longer than %d bytes in all", KM_FIELD_RULES_BYTES);
	rules = sorted(rules);
	if (json_array_size(rules) == 0) {
		json_decref(rules);
		return json_null();
	}
	return rules;
}

/* ---- redirects ---- */

/* Cuts a "*" off the end; whether there was one. */
static bool cut_star(char *s)
{
	size_t n = strlen(s);
	if (n == 0 || s[n - 1] != '*')
		return false;
	s[n - 1] = '\0';
	return true;
}

/* Writes the stored form of `from`; whether it ends in "*". */
static int read_from(char out[static PLACE_PATH_STRLEN + 1], bool *star, const char *in,
		     struct km_errtext *err)
{
	char text[MAX_TO + 1];
	if (strlen(in) > MAX_TO)
		return km_errtext_set(err, KM_EINVAL, "is too long");
	strcpy(text, in);
	*star = cut_star(text);
	int rc = place_path(out, text, err);
	if (rc == 0 && strchr(out, '*'))
		rc = km_errtext_set(err, KM_EINVAL, "may have \"*\" only at its end");
	if (rc == 0 && strlen(out) + *star >= PLACE_PATH_STRLEN)
		rc = km_errtext_set(err, KM_EINVAL, "is longer than %d bytes",
				    PLACE_PATH_STRLEN - 1);
	if (rc == 0 && *star)
		strcat(out, "*");
	return rc;
}

/* "https://host:port" of a URL: its length, its parts. 0: it is none. */
static size_t origin(const char *url, struct km_hostport *hp)
{
	char text[300];
	size_t scheme = strncmp(url, "https://", 8) == 0  ? 8
			: strncmp(url, "http://", 7) == 0 ? 7
							  : 0,
	       n = scheme ? strcspn(url + scheme, "/?") : 0;
	if (n == 0 || n > 280)
		return 0;
	snprintf(text, sizeof(text), "%.*s", (int)n, url + scheme);
	if (km_hostport_parse(hp, text, NULL) != 0) {
		snprintf(text + n, sizeof(text) - n, ":%d", scheme == 8 ? 443 : 80);
		if (km_hostport_parse(hp, text, NULL) != 0)
			return 0;
	}
	return hp->host[0] ? scheme + n : 0;
}

static int check_to(const char *to, bool star, struct km_errtext *err)
{
	char text[MAX_TO + 1], path[PLACE_PATH_STRLEN];
	struct km_hostport hp;
	for (const char *p = to; *p; p++)
		if (*p <= ' ' || *p >= 0x7f || strchr("\"<>\\^`{|}#", *p))
			return km_errtext_set(err, KM_EINVAL,
					      "may hold visible ASCII only, and no fragment; "
					      "percent-encode other bytes");
	if (strlen(to) > MAX_TO)
		return km_errtext_set(err, KM_EINVAL, "is longer than %d bytes", MAX_TO);
	strcpy(text, to);
	if (cut_star(text) && !star)
		return km_errtext_set(err, KM_EINVAL,
				      "may end in \"*\" only where `from` does too");
	if (strchr(text, '*'))
		return km_errtext_set(err, KM_EINVAL, "may have \"*\" only at its end");
	size_t n = text[0] == '/' ? 0 : origin(text, &hp);
	if (text[0] != '/' && n == 0)
		return km_errtext_set(err, KM_EINVAL,
				      "must be a path or a URL of http or https with a host");
	/* What stands for "*" comes from the stranger: never in the host. */
	if (n && text[n] != '/' && to[strlen(text)])
		return km_errtext_set(err, KM_EINVAL, "may have \"*\" only behind a path's \"/\"");
	text[n + strcspn(text + n, "?")] = '\0';
	return text[n] ? place_path(path, text + n, err) : 0;
}

static json_t *read_redirect(const json_t *v, const char *at, struct details *d)
{
	static const char *const keys[] = {"from", "to", "status", NULL};
	char field[INPUT_AT_LEN], stored[PLACE_PATH_STRLEN + 1] = "";
	struct km_errtext err;
	json_int_t status = 302;
	bool star = false;
	if (!input_is_object(v, at, d))
		return NULL;
	input_refuse_unknown(v, at, keys, d);
	const char *from =
	    input_text(json_object_get(v, "from"), input_at(field, at, "from"), true, d);
	if (from && read_from(stored, &star, from, &err) < 0)
		details_add(d, field, "%s", err.text);
	const char *to = input_text(json_object_get(v, "to"), input_at(field, at, "to"), true, d);
	if (to && check_to(to, star, &err) < 0)
		details_add(d, field, "%s", err.text);
	const json_t *s = json_object_get(v, "status");
	if (s && !json_is_null(s)) {
		status = json_integer_value(s);
		if (status < 301 || status > 308 || (status > 303 && status < 307))
			details_add(d, input_at(field, at, "status"),
				    "must be 301, 302, 303, 307 or 308");
	}
	return json_pack("{s:s, s:s, s:I}", "from", stored, "to", to ? to : "", "status", status);
}

json_t *option_redirects(const json_t *v, const char *at, struct details *d)
{
	char field[INPUT_AT_LEN];
	json_t *one;
	size_t i;
	if (!json_is_array(v) || json_array_size(v) > MAX_RULES) {
		details_add(d, at, "must be an array of at most %d rules {from, to, status}",
			    MAX_RULES);
		return NULL;
	}
	if (json_array_size(v) == 0)
		return json_null();
	json_t *out = json_array();
	json_array_foreach(v, i, one)
	{
		json_array_append_new(out, read_redirect(one, input_at_n(field, at, i), d));
	}
	return out;
}

/* ---- loops ---- */

static bool same_host(const char *domain, const char *host)
{
	if (strncmp(domain, "*.", 2) != 0)
		return strcasecmp(domain, host) == 0;
	const char *dot = strchr(host, '.');
	return dot && strcasecmp(domain + 1, dot) == 0;
}

/* The path that `to` leads to on this domain, with rest in the place of "*"; false: elsewhere. */
static bool led_to(char out[static PLACE_PATH_STRLEN], const char *to, const char *rest,
		   const char *domain)
{
	char text[MAX_TO + PLACE_PATH_STRLEN + 1];
	struct km_hostport hp;
	struct km_errtext err;
	snprintf(text, sizeof(text), "%.*s", MAX_TO, to);
	if (cut_star(text))
		strcat(text, rest);
	size_t n = text[0] == '/' ? 0 : origin(text, &hp);
	if (text[0] != '/' &&
	    (n == 0 || !same_host(domain, hp.host) || (hp.port != 443 && hp.port != 80)))
		return false;
	text[n + strcspn(text + n, "?")] = '\0';
	return place_path(out, text[n] ? text + n : "/", &err) == 0;
}

/* Whether the rule fits; then what "*" stands for. */
static bool fits(const char *from, const char *path, const char **rest)
{
	size_t n = strlen(from);
	bool star = n && from[n - 1] == '*',
	     fit = star ? strncmp(from, path, n - 1) == 0 : strcmp(from, path) == 0;
	*rest = fit && star ? path + n - 1 : "";
	return fit;
}

static const json_t *first_fit(const json_t *redirects, const char *path, const char **rest)
{
	const json_t *one;
	size_t i;
	json_array_foreach(redirects, i, one)
	{
		const char *from = json_string_value(json_object_get(one, "from"));
		if (from && from[0] && fits(from, path, rest))
			return one;
	}
	return NULL;
}

/* Follows from one rule, for a path with this in the place of its "*". */
static bool endless(const json_t *redirects, const json_t *rule, const char *rest,
		    const char *domain)
{
	char path[PLACE_PATH_STRLEN], kept[PLACE_PATH_STRLEN];
	for (size_t steps = 0; rule; steps++) {
		const char *to = json_string_value(json_object_get(rule, "to"));
		if (steps > json_array_size(redirects))
			return true;
		if (!to || !led_to(path, to, rest, domain))
			return false;
		rule = first_fit(redirects, path, &rest);
		if (rule) {
			snprintf(kept, sizeof(kept), "%s", rest);
			rest = kept;
		}
	}
	return false;
}

int option_redirects_loop(const json_t *redirects, const char *domain)
{
	const json_t *one;
	size_t i;
	json_array_foreach(redirects, i, one)
	{
		if (endless(redirects, one, "", domain) || endless(redirects, one, "x", domain))
			return (int)i;
	}
	return -1;
}
