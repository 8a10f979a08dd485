/* SPDX-License-Identifier: MIT */
#include "gatewayd/route/rules_parts.h"
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>

struct rules_part {
	struct rules_part *next;
	max_align_t data[];
};

void *rules_keep(struct route_rules *r, size_t n)
{
	struct rules_part *p = calloc(1, sizeof(*p) + n);
	if (!p)
		return NULL;
	p->next = r->parts;
	r->parts = p;
	return p->data;
}

int rules_keep_str(struct route_rules *r, struct http_str *out, const char *s, size_t n)
{
	char *copy = rules_keep(r, n + 1);
	if (!copy)
		return KM_ENOMEM;
	memcpy(copy, s, n);
	*out = (struct http_str){copy, n};
	return 0;
}

const struct route_rules *route_rules_ref(const struct route_rules *r)
{
	atomic_fetch_add_explicit(&((struct route_rules *)(uintptr_t)r)->refs, 1,
				  memory_order_relaxed);
	return r;
}

void route_rules_put(const struct route_rules *r)
{
	struct route_rules *own = (struct route_rules *)(uintptr_t)r;
	if (!r || atomic_fetch_sub_explicit(&own->refs, 1, memory_order_acq_rel) != 1)
		return;
	while (own->parts) {
		struct rules_part *p = own->parts;
		own->parts = p->next;
		free(p);
	}
	X509_STORE_free(own->tls_store);
	free(own);
}

/* ---- rates and bodies ---- */

#define YEAR_NS INT64_C(31622400000000000)

struct route_rate route_rate_of(int64_t requests, int64_t per_ms, int64_t burst)
{
	int64_t per = per_ms < YEAR_NS / 1000000 ? per_ms * 1000000 : YEAR_NS;
	struct route_rate r = {.interval_ns = per / requests > 0 ? per / requests : 1};
	r.burst = burst < YEAR_NS / r.interval_ns ? burst : YEAR_NS / r.interval_ns;
	return r;
}

static struct route_rate rate_compile(const struct km_msg_rate *m)
{
	if (!m)
		return (struct route_rate){0};
	return route_rate_of(m->requests, m->has_per ? m->per : 1000,
			     m->has_burst ? m->burst : m->requests);
}

/* ---- header rules ---- */

static int field_check(const struct km_msg_header_rule *m, size_t n, size_t i,
		       struct km_errtext *err)
{
	const char *name = m[i].name, *why;
	if (!km_field_name_ok(name))
		return km_errtext_set(err, KM_EINVAL, "\"%.64s\" is not a header's name", name);
	if ((why = km_field_reserved(name)))
		return km_errtext_set(err, KM_EINVAL, "header %.64s %s", name, why);
	if (m[i].value && !km_field_value_ok(m[i].value))
		return km_errtext_set(err, KM_EINVAL, "header %.64s: not a header's value", name);
	for (size_t j = i + 1; j < n; j++)
		if (!strcasecmp(name, m[j].name))
			return km_errtext_set(err, KM_EINVAL, "header %.64s stands twice", name);
	return 0;
}

static int fields_compile(struct route_rules *r, const struct rules_field **out, size_t *n_out,
			  const struct km_msg_header_rule *m, size_t n, struct km_errtext *err)
{
	struct rules_field *f = n ? rules_keep(r, n * sizeof(*f)) : NULL;
	size_t bytes = 0;
	int rc = n && !f ? KM_ENOMEM : 0;
	for (size_t i = 0; i < n && !rc; i++) {
		if ((rc = field_check(m, n, i, err)))
			break;
		const char *value = m[i].value ? m[i].value : "";
		f[i].set = m[i].value != NULL;
		bytes += strlen(m[i].name) + strlen(value) + 4;
		rc = rules_keep_str(r, &f[i].field.name, m[i].name, strlen(m[i].name));
		if (!rc)
			rc = rules_keep_str(r, &f[i].field.value, value, strlen(value));
	}
	if (!rc && bytes > RULES_FIELDS_BYTES)
		rc = km_errtext_set(err, KM_EINVAL, "header rules are longer than %d bytes in all",
				    RULES_FIELDS_BYTES);
	*out = f;
	*n_out = n;
	return rc;
}

static int hsts_compile(struct route_rules *r, const struct km_msg_hsts *m)
{
	char text[80];
	if (!m)
		return 0;
	int n = snprintf(text, sizeof(text), "max-age=%lld%s%s", (long long)m->max_age,
			 m->include_subdomains ? "; includeSubDomains" : "",
			 m->preload ? "; preload" : "");
	return rules_keep_str(r, &r->hsts, text, (size_t)n);
}

/* ---- redirects ---- */

static bool all_visible(const char *s, const char *but)
{
	for (; *s; s++)
		if (*s <= 0x20 || *s >= 0x7f || strchr(but, *s))
			return false;
	return true;
}

/* A path that begins with one '/', so that no host can be meant; or http(s)://host[:port] and a
 * path. */
static bool redirect_to_ok(const char *to, size_t n, bool rest)
{
	char host[HTTP_HOST_MAX + 1];
	uint32_t port;
	if (to[0] == '/')
		return n == 1 || to[1] != '/';
	const char *at = !strncmp(to, "https://", 8)  ? to + 8
			 : !strncmp(to, "http://", 7) ? to + 7
						      : NULL;
	if (!at)
		return false;
	size_t len = strcspn(at, "/?#");
	/* What stands for "*" must not become part of the host. */
	return http_host_normal((struct http_str){at, len}, host, &port) &&
	       (at[len] == '/' || (at[len] == '?' && !rest) || (!at[len] && !rest));
}

static int redirect_compile(struct route_rules *r, struct rules_redirect *out,
			    const struct km_msg_redirect_rule *m, struct km_errtext *err)
{
	size_t from = strlen(m->from), to = strlen(m->to);
	out->from_rest = from && m->from[from - 1] == '*';
	out->to_rest = to && m->to[to - 1] == '*';
	from -= out->from_rest;
	to -= out->to_rest;
	out->status = m->has_status ? (int)m->status : 302;
	out->keep_query = !strchr(m->to, '?');
	if (m->from[0] != '/' || !all_visible(m->from, "?#") || memchr(m->from, '*', from))
		return km_errtext_set(err, KM_EINVAL, "redirect from \"%.64s\": not a path",
				      m->from);
	if (!all_visible(m->to, "\"<>\\^`{|}#") || memchr(m->to, '*', to) ||
	    !redirect_to_ok(m->to, to, out->to_rest) || (out->to_rest && !out->from_rest))
		return km_errtext_set(err, KM_EINVAL,
				      "redirect to \"%.64s\": neither a path nor an http(s) URL "
				      "that could be meant",
				      m->to);
	if (out->status < 301 || out->status > 308 || (out->status > 303 && out->status < 307))
		return km_errtext_set(err, KM_EINVAL, "redirect with status %d", out->status);
	int rc = rules_keep_str(r, &out->from, m->from, from);
	return rc ? rc : rules_keep_str(r, &out->to, m->to, to);
}

static int redirects_compile(struct route_rules *r, const struct km_msg_tunnel_options *o,
			     struct km_errtext *err)
{
	struct rules_redirect *d =
	    o->n_redirects ? rules_keep(r, o->n_redirects * sizeof(*d)) : NULL;
	int rc = o->n_redirects && !d ? KM_ENOMEM : 0;
	for (size_t i = 0; i < o->n_redirects && !rc; i++)
		rc = redirect_compile(r, &d[i], &o->redirects[i], err);
	r->redirects = d;
	r->n_redirects = o->n_redirects;
	return rc;
}

/* ---- all of it ---- */

static int options_compile(struct route_rules *r, const struct km_msg_tunnel *t,
			   struct km_errtext *err)
{
	static const struct km_msg_tunnel_options none;
	const struct km_msg_tunnel_options *o = t->options ? t->options : &none;
	int rc;
	r->strip_path = o->strip_path;
	r->max_body = o->has_max_body ? o->max_body : -1;
	r->max_connections = o->max_connections;
	r->rate = rate_compile(o->rate_limit);
	r->address_rate = rate_compile(o->address_rate_limit);
	if ((rc = rules_target(r, t, o, err)) ||
	    (rc = fields_compile(r, &r->request, &r->n_request, o->request_headers,
				 o->n_request_headers, err)) ||
	    (rc = fields_compile(r, &r->response, &r->n_response, o->response_headers,
				 o->n_response_headers, err)) ||
	    (rc = redirects_compile(r, o, err)) || (rc = hsts_compile(r, o->hsts)))
		return rc;
	return rules_maintenance(r, o->maintenance);
}

int route_rules_compile(const struct route_rules **out, const struct km_msg_tunnel *t,
			struct km_errtext *err)
{
	*out = NULL;
	if (!t->options && (!t->target_protocol || !strcmp(t->target_protocol, "http")))
		return 0;
	struct route_rules *r = calloc(1, sizeof(*r));
	if (!r)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	atomic_store(&r->refs, 1);
	if (err)
		err->text[0] = '\0';
	int rc = options_compile(r, t, err);
	if (rc) {
		route_rules_put(r);
		return err && err->text[0] ? rc : km_errtext_set(err, rc, "%s", km_strerror(rc));
	}
	*out = r;
	return 0;
}
