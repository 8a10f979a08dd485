/* SPDX-License-Identifier: MIT */
#include "controld/api/input.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DETAILS 100
#define MAX_DESCRIPTION 1000
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

static bool known(const char *key, const char *const *keys)
{
	for (; *keys; keys++)
		if (strcmp(key, *keys) == 0)
			return true;
	return false;
}

static void refuse_unknown(const json_t *body, const char *prefix, const char *const *keys,
			   struct details *d)
{
	const char *key;
	json_t *v;
	json_object_foreach((json_t *)(uintptr_t)body, key, v)
	{
		char field[160];
		snprintf(field, sizeof(field), "%s%s", prefix, key);
		if (!known(key, keys))
			details_add(d, field, "is not a field of this request");
	}
}

/* The string of a field, or NULL: absent, or not a string (then said so). */
static const char *text_of(const json_t *v, const char *field, bool required, struct details *d)
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
	const char *s = text_of(json_object_get(body, "name"), "name", required, d);
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
	const char *s = text_of(v, field, true, d), *why;
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
	out->region = text_of(v, "region", false, d);
	if (out->region && (strlen(out->region) < 1 || strlen(out->region) > MAX_REGION))
		details_add(d, "region", "must be 1 to %d bytes", MAX_REGION);
}

static int verdict(const struct details *d)
{
	return d->list ? KM_EINVAL : 0;
}

int input_agent(struct host_input *out, const json_t *body, bool create, struct details *d)
{
	static const char *const keys[] = {"name", NULL};
	memset(out, 0, sizeof(*out));
	refuse_unknown(body, "", keys, d);
	out->name = name_of(body, create, d);
	return verdict(d);
}

int input_gateway(struct host_input *out, const json_t *body, bool create, struct details *d)
{
	static const char *const keys[] = {"name", "publicIp", "region", NULL};
	memset(out, 0, sizeof(*out));
	refuse_unknown(body, "", keys, d);
	out->name = name_of(body, create, d);
	public_ip_of(out, json_object_get(body, "publicIp"), d);
	region_of(out, json_object_get(body, "region"), d);
	return verdict(d);
}

int input_token(struct host_input *out, const json_t *body, int64_t now_ms, struct details *d)
{
	static const char *const keys[] = {"name", "expiresAt", NULL};
	memset(out, 0, sizeof(*out));
	refuse_unknown(body, "", keys, d);
	out->name = name_of(body, true, d);
	const json_t *v = json_object_get(body, "expiresAt");
	if (v && !json_is_null(v)) {
		int64_t at;
		out->expires_at = text_of(v, "expiresAt", false, d);
		out->has_expires_at = true;
		if (out->expires_at && km_iso8601_parse(&at, out->expires_at) < 0)
			details_add(d, "expiresAt", "must be a time such as 2030-01-31T00:00:00Z");
		else if (out->expires_at && at <= now_ms)
			details_add(d, "expiresAt", "must lie in the future");
	}
	return verdict(d);
}

/* ---- tunnels ---- */

struct tunnel_fields {
	const json_t *domain, *agent_id, *target;
	const char *domain_at, *agent_at, *target_at; /* how the request names them */
};

static void protocol_must_be_http(const json_t *v, const char *field, struct details *d)
{
	const char *s = v ? text_of(v, field, false, d) : NULL;
	if (s && strcmp(s, "http") != 0)
		details_add(d, field, "only \"http\" is supported by this version");
}

static void not_built(const json_t *v, const char *field, struct details *d)
{
	if (v && !json_is_null(v))
		details_add(d, field, "is not supported by this version");
}

static void full_match(struct tunnel_fields *f, const json_t *match, struct details *d)
{
	static const char *const keys[] = {"domain", "path", "port", "protocol", NULL};
	if (!json_is_object(match)) {
		details_add(d, "match", "must be an object");
		return;
	}
	refuse_unknown(match, "match.", keys, d);
	not_built(json_object_get(match, "path"), "match.path", d);
	not_built(json_object_get(match, "port"), "match.port", d);
	protocol_must_be_http(json_object_get(match, "protocol"), "match.protocol", d);
	if (f->domain)
		details_add(d, "match", "give either match or domain");
	f->domain = json_object_get(match, "domain");
	f->domain_at = "match.domain";
}

/* A value that may be given because it is what would be so anyway. */
static void only_default(const json_t *v, const json_t *def, const char *field, struct details *d)
{
	if (v && !json_equal(v, def)) {
		char *text = json_dumps(def, JSON_ENCODE_ANY);
		details_add(d, field, "only %s is supported by this version", text ? text : "");
		free(text);
	}
}

static void full_targets(struct tunnel_fields *f, const json_t *targets, struct details *d)
{
	static const char *const keys[] = {"id",       "agentId", "target",   "protocol", "weight",
					   "priority", "enabled", "draining", NULL};
	if (!json_is_array(targets) || json_array_size(targets) == 0) {
		details_add(d, "targets", "must be an array of one target");
		return;
	}
	if (json_array_size(targets) > 1) {
		details_add(d, "targets", "several targets are not supported by this version");
		return;
	}
	const json_t *t = json_array_get(targets, 0);
	if (!json_is_object(t)) {
		details_add(d, "targets[0]", "must be an object");
		return;
	}
	refuse_unknown(t, "targets[0].", keys, d);
	protocol_must_be_http(json_object_get(t, "protocol"), "targets[0].protocol", d);
	json_t *one = json_integer(1), *zero = json_integer(0);
	only_default(json_object_get(t, "weight"), one, "targets[0].weight", d);
	only_default(json_object_get(t, "priority"), zero, "targets[0].priority", d);
	only_default(json_object_get(t, "enabled"), json_true(), "targets[0].enabled", d);
	only_default(json_object_get(t, "draining"), json_false(), "targets[0].draining", d);
	json_decref(one);
	json_decref(zero);
	if (f->target || f->agent_id)
		details_add(d, "targets", "give either targets or agentId and target");
	f->agent_id = json_object_get(t, "agentId");
	f->target = json_object_get(t, "target");
	f->agent_at = "targets[0].agentId";
	f->target_at = "targets[0].target";
}

static void tunnel_strings(struct tunnel_input *out, const struct tunnel_fields *f, bool create,
			   struct details *d)
{
	struct km_errtext err;
	struct km_target target;
	const char *s = text_of(f->domain, f->domain_at, create, d);
	out->has_domain = s != NULL;
	if (s && domain_normalize(out->domain, s, &err) < 0)
		details_add(d, f->domain_at, "%s", err.text);
	out->agent_id = text_of(f->agent_id, f->agent_at, create, d);
	out->has_agent_id = out->agent_id != NULL;
	if (out->agent_id && !km_uuid_ok(out->agent_id))
		details_add(d, f->agent_at, "must be the id (UUID) of an agent");
	out->target = text_of(f->target, f->target_at, create, d);
	out->has_target = out->target != NULL;
	if (out->target && km_target_parse(&target, out->target, &err) < 0)
		details_add(d, f->target_at, "%s", err.text);
	else if (out->target && !target.is_unix && !target.hp.host[0])
		details_add(d, f->target_at, "must name a host: host:port or unix:/path");
}

static void tls_of(struct tunnel_input *out, const json_t *v, struct details *d)
{
	static const char *const choices[] = {"auto", "own", "passthrough", "off", NULL};
	const char *s = text_of(v, "tls", false, d);
	out->has_tls = s != NULL;
	if (s && !known(s, choices))
		details_add(d, "tls", "must be \"auto\" (gateways obtain a certificate), \"own\" (one "
				      "that you put on them), \"passthrough\" (the target does TLS) or "
				      "\"off\" (plain HTTP)");
	else if (s)
		out->tls = s;
}

int input_tunnel(struct tunnel_input *out, const json_t *body, bool create, struct details *d)
{
	static const char *const keys[] = {"domain",      "agentId", "target",  "enabled",
					   "description", "match",   "targets", "protocol",
					   "path",        "port",    "tls",     NULL};
	memset(out, 0, sizeof(*out));
	out->enabled = true;
	out->tls = "auto";
	out->description = "";
	refuse_unknown(body, "", keys, d);
	struct tunnel_fields f = {json_object_get(body, "domain"),
				  json_object_get(body, "agentId"),
				  json_object_get(body, "target"),
				  "domain",
				  "agentId",
				  "target"};
	const json_t *v = json_object_get(body, "match");
	if (v)
		full_match(&f, v, d);
	v = json_object_get(body, "targets");
	if (v)
		full_targets(&f, v, d);
	protocol_must_be_http(json_object_get(body, "protocol"), "protocol", d);
	not_built(json_object_get(body, "path"), "path", d);
	not_built(json_object_get(body, "port"), "port", d);
	tunnel_strings(out, &f, create, d);
	tls_of(out, json_object_get(body, "tls"), d);
	v = json_object_get(body, "enabled");
	if (v && !json_is_true(v) && !json_is_false(v)) {
		details_add(d, "enabled", "must be true or false");
	} else if (v) {
		out->has_enabled = true;
		out->enabled = json_is_true(v);
	}
	v = json_object_get(body, "description");
	if (json_is_null(v)) {
		out->has_description = true;
	} else if (v) {
		const char *s = text_of(v, "description", false, d);
		if (s && strlen(s) > MAX_DESCRIPTION)
			details_add(d, "description", "must not be longer than %d bytes",
				    MAX_DESCRIPTION);
		out->has_description = s != NULL;
		out->description = s ? s : "";
	}
	return verdict(d);
}

/* One of a list of certificates; false: it is none. */
static bool filter_param(struct page_input *p, const char *key, const char *value, struct details *d)
{
	static const char *const choices[] = {"pending", "issuing", "ready", "renewal_due", "error",
					      NULL};
	struct km_errtext err;
	if (strcmp(key, "domain") == 0) {
		if (domain_normalize(p->domain, value, &err) < 0)
			details_add(d, key, "%s", err.text);
	} else if (strcmp(key, "gateway") == 0) {
		p->gateway = value;
		if (!name_ok(value))
			details_add(d, key, "must be the name or the id of a gateway");
	} else if (strcmp(key, "status") == 0) {
		p->status = value;
		if (!known(value, choices))
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
	} else if (!p->certificates || !filter_param(p, key, value, d)) {
		details_add(d, key, "is not a parameter of this request");
	}
}
