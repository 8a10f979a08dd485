/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/apply.h"
#include <string.h>

/* ---- fields ---- */

static struct http_str str(const char *s)
{
	return (struct http_str){s, strlen(s)};
}

/* Fields that are not to be passed on are marked so: X_User, too, where a rule is about X-User. */
static void drop_all(struct http_field *fields, size_t n, struct http_str name)
{
	for (size_t i = 0; i < n; i++)
		if (http_name_same(fields[i].name, name))
			fields[i].hop = true;
}

static void add(struct http_field *fields, size_t *n, struct http_str name, struct http_str value)
{
	if (*n < HTTP_FIELDS_ROOM)
		fields[(*n)++] = (struct http_field){.name = name, .value = value, .id = HTTP_OTHER};
}

static void set_all(struct http_field *fields, size_t *n, const struct rules_field *rules,
		    size_t n_rules)
{
	for (size_t i = 0; i < n_rules; i++)
		drop_all(fields, *n, rules[i].field.name);
	for (size_t i = 0; i < n_rules; i++)
		if (rules[i].set)
			add(fields, n, rules[i].field.name, rules[i].field.value);
}

/* ---- requests ---- */

static bool strip(struct http_request *r, size_t n)
{
	struct http_str prefix = {r->target.p, n}, rest = {r->target.p + n, r->target.n - n};
	if (rest.n > 1 && rest.p[0] == '/' && (rest.p[1] == '/' || rest.p[1] == '\\'))
		return false;
	r->target = rest;
	r->target_query = rest.n && rest.p[0] == '?';
	add(r->fields, &r->n_fields, str("X-Forwarded-Prefix"), prefix);
	return true;
}

bool apply_request(struct http_request *r, const struct route *route)
{
	const struct route_rules *rules = route->rules;
	if (!rules)
		return true;
	if (rules->n_request)
		set_all(r->fields, &r->n_fields, rules->request, rules->n_request);
	if (rules->host.n)
		r->authority = rules->host;
	return !rules->strip_path || !route->path_len || strip(r, route->path_len);
}

/* ---- answers ---- */

void apply_response(struct http_response *r, const struct route_rules *rules, bool secure)
{
	if (!rules)
		return;
	if (rules->n_response)
		set_all(r->fields, &r->n_fields, rules->response, rules->n_response);
	if (rules->hsts.n && secure) {
		struct http_str name = str("Strict-Transport-Security");
		drop_all(r->fields, r->n_fields, name);
		add(r->fields, &r->n_fields, name, rules->hsts);
	}
}

/* ---- redirects ---- */

static bool redirect_fits(const struct rules_redirect *d, struct http_str path)
{
	return d->from_rest ? path.n >= d->from.n && !memcmp(path.p, d->from.p, d->from.n)
			    : path.n == d->from.n && !memcmp(path.p, d->from.p, d->from.n);
}

static int redirect_write(struct km_buf *to, const struct rules_redirect *d, struct http_str path,
			  struct http_str query)
{
	struct http_str rest = {path.p + d->from.n, d->to_rest ? path.n - d->from.n : 0};
	/* "/" and "/host" make no path, but a host. */
	if (d->to.n == 1)
		while (rest.n && (rest.p[0] == '/' || rest.p[0] == '\\'))
			rest = (struct http_str){rest.p + 1, rest.n - 1};
	km_buf_clear(to);
	int rc = km_buf_add(to, d->to.p, d->to.n);
	if (!rc && rest.n)
		rc = km_buf_add(to, rest.p, rest.n);
	if (!rc && d->keep_query && query.n)
		rc = km_buf_add(to, query.p, query.n);
	return rc ? rc : km_buf_add(to, "", 1);
}

int apply_redirect(struct km_buf *to, const struct route_rules *rules, const struct http_request *r)
{
	struct http_str path = r->target.n && !r->target_query ? r->target : str("/");
	size_t n = route_path_len(path.p, path.n);
	struct http_str query = r->target_query ? r->target
						: (struct http_str){path.p + n, path.n - n};
	path.n = n;
	for (size_t i = 0; i < rules->n_redirects; i++) {
		const struct rules_redirect *d = &rules->redirects[i];
		if (!redirect_fits(d, path))
			continue;
		int rc = redirect_write(to, d, path, query);
		return rc ? rc : d->status;
	}
	return 0;
}
