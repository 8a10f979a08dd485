/* SPDX-License-Identifier: MIT */
#include "controld/api/input_parts.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DETAILS 100
#define MAX_REGION 64

void details_add(struct details *d, const char *field, const char *fmt, ...)
{
	char text[600];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (!d->list)
		d->list = json_array();
	if (json_array_size(d->list) >= MAX_DETAILS)
		return;
	json_t *one = json_pack("{s:s, s:s}", "field", field, "message", text);
	if (!one) /* not UTF-8, or cut within a character */
		one = json_pack("{s:s, s:s}", "field", "?", "message", "is not understood");
	json_array_append_new(d->list, one);
}

json_t *input_parse(const char *text, size_t n, struct km_errtext *err)
{
	json_error_t je;
	json_t *v = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
	if (!v) {
		(void)km_errtext_set(err, KM_EINVAL, "invalid JSON in line %d, column %d: %s",
				     je.line, je.column, je.text);
		return NULL;
	}
	if (!json_is_object(v)) {
		json_decref(v);
		(void)km_errtext_set(err, KM_EINVAL, "the body must be a JSON object");
		return NULL;
	}
	return v;
}

bool input_is_json(const char *content_type)
{
	static const char want[] = "application/json";
	if (!content_type || strncasecmp(content_type, want, sizeof(want) - 1) != 0)
		return false;
	const char *rest = content_type + sizeof(want) - 1;
	while (*rest == ' ' || *rest == '\t')
		rest++;
	return *rest == '\0' || *rest == ';';
}

bool input_known(const char *key, const char *const *keys)
{
	for (; *keys; keys++)
		if (strcmp(key, *keys) == 0)
			return true;
	return false;
}

char *input_at(char out[static INPUT_AT_LEN], const char *at, const char *key)
{
	snprintf(out, INPUT_AT_LEN, "%s%s%s", at, at[0] ? "." : "", key);
	return out;
}

char *input_at_n(char out[static INPUT_AT_LEN], const char *at, size_t i)
{
	snprintf(out, INPUT_AT_LEN, "%s[%zu]", at, i);
	return out;
}

void input_refuse_unknown(const json_t *o, const char *at, const char *const *keys,
			  struct details *d)
{
	const char *key;
	json_t *v;
	json_object_foreach((json_t *)(uintptr_t)o, key, v)
	{
		char field[INPUT_AT_LEN];
		if (!input_known(key, keys))
			details_add(d, input_at(field, at, key), "is not a field of this request");
	}
}

const char *input_text(const json_t *v, const char *field, bool required, struct details *d)
{
	if (!v && required)
		details_add(d, field, "is required");
	if (!v)
		return NULL;
	if (!json_is_string(v)) {
		details_add(d, field, "must be a string");
		return NULL;
	}
	return json_string_value(v);
}

bool input_is_object(const json_t *v, const char *field, struct details *d)
{
	if (!json_is_object(v))
		details_add(d, field, "must be an object");
	return json_is_object(v);
}

bool input_is_int(const json_t *v, const char *field, json_int_t min, json_int_t max,
		  struct details *d)
{
	json_int_t n = json_integer_value(v);
	if (json_is_integer(v) && n >= min && n <= max)
		return true;
	if (!v)
		details_add(d, field, "is required");
	else
		details_add(d, field, "must be a whole number from %lld to %lld", (long long)min,
			    (long long)max);
	return false;
}

int input_verdict(const struct details *d)
{
	return d->list ? KM_EINVAL : 0;
}

static bool name_ok(const char *s)
{
	size_t n = strlen(s);
	if (n < 1 || n > 64)
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && *s != '_' && *s != '-')
			return false;
	return true;
}

static const char *name_of(const json_t *body, bool required, struct details *d)
{
	const char *s = input_text(json_object_get(body, "name"), "name", required, d);
	if (s && !name_ok(s))
		details_add(d, "name", "must be 1 to 64 letters, digits, '_' or '-'");
	return s;
}

const char *input_host_check(const char *s)
{
	struct km_addr a;
	struct km_errtext unused;
	char name[DOMAIN_STRLEN];
	const char *why = km_public_host_check(s);

	if (why || km_addr_parse(&a, s) == 0)
		return why;
	return domain_normalize(name, s, &unused) == 0 && strcmp(name, s) == 0
		   ? NULL
		   : "not a host name as DNS has it";
}

static void one_public_ip(struct host_input *out, const json_t *v, const char *field,
			  struct details *d)
{
	const char *s = input_text(v, field, true, d), *why;
	if (!s)
		return;
	why = input_host_check(s);
	if (why)
		details_add(d, field, "is unfit: %s", why);
	else if (out->n_public_ip < INPUT_IPS)
		out->public_ip[out->n_public_ip++] = s;
}

static void public_ip_of(struct host_input *out, const json_t *v, struct details *d)
{
	if (!v)
		return;
	out->has_public_ip = true;
	if (json_is_null(v))
		return;
	if (!json_is_array(v)) {
		if (json_is_string(v))
			one_public_ip(out, v, "publicIp", d);
		else
			details_add(d, "publicIp", "must be a string or an array of strings");
		return;
	}
	if (json_array_size(v) > INPUT_IPS) {
		details_add(d, "publicIp", "may hold at most %d addresses", INPUT_IPS);
		return;
	}
	for (size_t i = 0; i < json_array_size(v); i++) {
		char field[32];
		snprintf(field, sizeof(field), "publicIp[%zu]", i);
		one_public_ip(out, json_array_get(v, i), field, d);
	}
}

static void region_of(struct host_input *out, const json_t *v, struct details *d)
{
	out->has_region = v != NULL;
	if (!v || json_is_null(v))
		return;
	out->region = input_text(v, "region", false, d);
	if (out->region && (strlen(out->region) < 1 || strlen(out->region) > MAX_REGION))
		details_add(d, "region", "must be 1 to %d bytes", MAX_REGION);
}

int input_agent(struct host_input *out, const json_t *body, bool create, struct details *d)
{
	static const char *const keys[] = {"name", NULL};
	memset(out, 0, sizeof(*out));
	input_refuse_unknown(body, "", keys, d);
	out->name = name_of(body, create, d);
	return input_verdict(d);
}

int input_gateway(struct host_input *out, const json_t *body, bool create, struct details *d)
{
	static const char *const keys[] = {"name", "publicIp", "region", NULL};
	memset(out, 0, sizeof(*out));
	input_refuse_unknown(body, "", keys, d);
	out->name = name_of(body, create, d);
	public_ip_of(out, json_object_get(body, "publicIp"), d);
	region_of(out, json_object_get(body, "region"), d);
	return input_verdict(d);
}

int input_token(struct host_input *out, const json_t *body, int64_t now_ms, struct details *d)
{
	static const char *const keys[] = {"name", "expiresAt", NULL};
	memset(out, 0, sizeof(*out));
	input_refuse_unknown(body, "", keys, d);
	out->name = name_of(body, true, d);
	const json_t *v = json_object_get(body, "expiresAt");
	if (v && !json_is_null(v)) {
		int64_t at;
		out->expires_at = input_text(v, "expiresAt", false, d);
		out->has_expires_at = true;
		if (out->expires_at && km_iso8601_parse(&at, out->expires_at) < 0)
			details_add(d, "expiresAt", "must be a time such as 2030-01-31T00:00:00Z");
		else if (out->expires_at && at <= now_ms)
			details_add(d, "expiresAt", "must lie in the future");
	}
	return input_verdict(d);
}

/* A filter of the list; false: it has none of this name. */
static bool filter_param(struct page_input *p, const char *key, const char *value,
			 struct details *d)
{
	static const char *const choices[] = {"pending",     "issuing", "ready",
					      "renewal_due", "error",   NULL};
	struct km_errtext err;
	if ((p->filters & PAGE_DOMAIN) && strcmp(key, "domain") == 0) {
		if (domain_normalize(p->domain, value, &err) < 0)
			details_add(d, key, "%s", err.text);
	} else if ((p->filters & PAGE_GATEWAY) && strcmp(key, "gateway") == 0) {
		p->gateway = value;
		if (!name_ok(value))
			details_add(d, key, "must be the name or the id of a gateway");
	} else if ((p->filters & PAGE_STATUS) && strcmp(key, "status") == 0) {
		p->status = value;
		if (!input_known(value, choices))
			details_add(d, key,
				    "must be pending, issuing, ready, renewal_due or error");
	} else {
		return false;
	}
	return true;
}

void input_page_param(struct page_input *p, const char *key, const char *value, struct details *d)
{
	if (strcmp(key, "cursor") == 0) {
		p->cursor = value;
	} else if (strcmp(key, "limit") == 0) {
		char *end;
		long n = strtol(value, &end, 10);
		if (!isdigit((unsigned char)value[0]) || *end || n < 1 || n > PAGE_MAX)
			details_add(d, "limit", "must be a number from 1 to %d", PAGE_MAX);
		else
			p->n = n;
	} else if (!filter_param(p, key, value, d)) {
		details_add(d, key, "is not a parameter of this request");
	}
}
