/* SPDX-License-Identifier: MIT */
/* Cloudflare's API, version 4, with a token that may read zones and edit DNS. */
#include "gatewayd/acme/dns/api.h"
#include "gatewayd/acme/dns/message.h"
#include "gatewayd/acme/dns/provider.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define ID_STRLEN 40
#define IDS_MAX 16 /* records with one value that are deleted */
#define PAGES_MAX 20
#define PER_PAGE 100
#define VALUE_MAX 255

struct conf {
	char *api_token, *api_url, *ca_file;
	int64_t ttl;
};

struct cloudflare {
	struct dns_provider provider;
	struct event_base *base;
	struct acme_http *http;
	struct conf conf;
	struct op *ops;
};

struct op {
	struct cloudflare *p;
	bool add;
	void (*done)(void *arg, const char *failed);
	void *arg;
	struct dns_api *api;
	struct event *now;
	char fqdn[DNS_NAME_STRLEN], value[VALUE_MAX + 1];
	const char *zone_name; /* in fqdn: the suffix that is tried */
	char zone[ID_STRLEN];
	int page;
	char ids[IDS_MAX][ID_STRLEN]; /* of the records to delete */
	unsigned n_ids, at;
	struct op *prev, *next;
};

static void op_free(struct op *op)
{
	DL_DELETE(op->p->ops, op);
	dns_api_cancel(op->api);
	if (op->now)
		event_free(op->now);
	free(op);
}

static void conclude(struct op *op, const char *failed)
{
	void (*done)(void *arg, const char *failed) = op->done;
	void *arg = op->arg;

	op_free(op);
	done(arg, failed);
}

static void fail(struct op *op, const char *why)
{
	char text[900];

	snprintf(text, sizeof(text), "Cloudflare, %s the TXT record of %s: %s",
		 op->add ? "adding" : "deleting", op->fqdn, why);
	conclude(op, text);
}

/* ---- requests and answers ---- */
static void ask(struct op *op, const char *method, const char *path, const char *body,
		void (*done)(void *arg, const struct acme_answer *a))
{
	const struct conf *c = &op->p->conf;
	char *auth = km_xasprintf("Authorization: Bearer %s", c->api_token);
	char *url = km_xasprintf("%s%s", c->api_url, path);
	const char *headers[] = {auth, "Accept: application/json",
				 body ? "Content-Type: application/json" : NULL, NULL};
	struct dns_api_opts o = {.base = op->p->base,
				 .http = op->p->http,
				 .method = method,
				 .url = url,
				 .headers = headers,
				 .body = body,
				 .done = done,
				 .arg = op};

	op->api = dns_api_send(&o);
	free(url);
	dns_secret_free(&auth);
	if (!op->api)
		fail(op, "no memory");
}

/* Whether one of the errors in the answer has this code. */
static bool has_code(json_t *doc, int code)
{
	json_t *e;
	size_t i;

	json_array_foreach(json_object_get(doc, "errors"), i,
			   e) if (json_integer_value(json_object_get(e, "code")) ==
				  code) return true;
	return false;
}

static void say_error(const struct acme_answer *a, json_t *doc, char *out, size_t size)
{
	json_t *e = json_array_get(json_object_get(doc, "errors"), 0);
	const char *message = json_string_value(json_object_get(e, "message"));

	if (!a->status)
		snprintf(out, size, "%s", a->failed);
	else if (message)
		snprintf(out, size, "HTTP %d: %s (%lld)", a->status, message,
			 (long long)json_integer_value(json_object_get(e, "code")));
	else
		snprintf(out, size, "HTTP %d with an answer that is not the API's", a->status);
	for (; *out; out++)
		if (!isprint((unsigned char)*out))
			*out = '?';
}

/* The answer's document where the API says success; else the operation has failed (and is gone) and
 * NULL. */
static json_t *succeeded(struct op *op, const struct acme_answer *a)
{
	json_t *doc = a->status ? json_loadb(a->body, a->n, 0, NULL) : NULL;
	char why[400];

	op->api = NULL;
	if (a->status == 200 && json_is_true(json_object_get(doc, "success")))
		return doc;
	say_error(a, doc, why, sizeof(why));
	json_decref(doc);
	fail(op, why);
	return NULL;
}

/* An id goes into paths: letters and digits only. */
static bool copy_id(char out[static ID_STRLEN], json_t *object)
{
	const char *id = json_string_value(json_object_get(object, "id"));
	size_t n = id ? strlen(id) : 0;

	if (!n || n >= ID_STRLEN)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)id[i]))
			return false;
	strcpy(out, id);
	return true;
}

/* ---- the zone: the longest suffix of the name that the token can see ---- */
static void add_record(struct op *op);
static void list_records(struct op *op);
static void on_zone(void *arg, const struct acme_answer *a);

static void ask_zone(struct op *op)
{
	char path[DNS_NAME_STRLEN + 64];

	if (!strchr(op->zone_name, '.')) {
		fail(op, "no zone that the token may read holds this name");
		return;
	}
	snprintf(path, sizeof(path), "/zones?name=%s&per_page=5", op->zone_name);
	ask(op, "GET", path, NULL, on_zone);
}

static void on_zone(void *arg, const struct acme_answer *a)
{
	struct op *op = arg;
	json_t *doc = succeeded(op, a);

	if (!doc)
		return;
	json_t *zone = json_array_get(json_object_get(doc, "result"), 0);
	bool found = zone && copy_id(op->zone, zone);
	json_decref(doc);
	if (!found) {
		op->zone_name = dns_name_parent(op->zone_name);
		ask_zone(op);
	} else if (op->add) {
		add_record(op);
	} else {
		list_records(op);
	}
}

/* ---- present ---- */
static void on_added(void *arg, const struct acme_answer *a)
{
	struct op *op = arg;
	json_t *doc = a->status == 400 ? json_loadb(a->body, a->n, 0, NULL) : NULL;
	bool there = has_code(doc, 81057) || has_code(doc, 81058); /* the same record exists */

	json_decref(doc);
	if (there) {
		op->api = NULL;
		conclude(op, NULL);
		return;
	}
	doc = succeeded(op, a);
	if (!doc)
		return;
	json_decref(doc);
	conclude(op, NULL);
}

static void add_record(struct op *op)
{
	char path[ID_STRLEN + 64], content[VALUE_MAX + 3];

	snprintf(path, sizeof(path), "/zones/%s/dns_records", op->zone);
	snprintf(content, sizeof(content), "\"%s\"", op->value);
	json_t *doc = json_pack("{s:s, s:s, s:s, s:I}", "type", "TXT", "name", op->fqdn, "content",
				content, "ttl", (json_int_t)op->p->conf.ttl);
	char *body = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
	json_decref(doc);
	if (body)
		ask(op, "POST", path, body, on_added);
	else
		fail(op, "no memory");
	free(body);
}

/* ---- cleanup: every record with this value ---- */
static void on_listed(void *arg, const struct acme_answer *a);
static void delete_next(struct op *op);

static void list_records(struct op *op)
{
	char path[DNS_NAME_STRLEN + ID_STRLEN + 96];

	snprintf(path, sizeof(path), "/zones/%s/dns_records?type=TXT&name=%s&page=%d&per_page=%d",
		 op->zone, op->fqdn, ++op->page, PER_PAGE);
	ask(op, "GET", path, NULL, on_listed);
}

/* The API gives the content with or without its quotes. */
static bool is_value(const char *content, const char *value)
{
	size_t n = strlen(value);

	if (content && *content == '"')
		return !strncmp(content + 1, value, n) && !strcmp(content + 1 + n, "\"");
	return content && !strcmp(content, value);
}

static void on_listed(void *arg, const struct acme_answer *a)
{
	struct op *op = arg;
	json_t *doc = succeeded(op, a), *r;
	size_t i;

	if (!doc)
		return;
	json_array_foreach(
	    json_object_get(doc, "result"), i,
	    r) if (op->n_ids < IDS_MAX &&
		   is_value(json_string_value(json_object_get(r, "content")), op->value) &&
		   copy_id(op->ids[op->n_ids], r)) op->n_ids++;
	json_int_t pages =
	    json_integer_value(json_object_get(json_object_get(doc, "result_info"), "total_pages"));
	json_decref(doc);
	if (op->page < pages && op->page < PAGES_MAX)
		list_records(op);
	else
		delete_next(op);
}

static void on_deleted(void *arg, const struct acme_answer *a)
{
	struct op *op = arg;

	if (a->status == 404) { /* somebody was faster */
		op->api = NULL;
		delete_next(op);
		return;
	}
	json_t *doc = succeeded(op, a);
	if (!doc)
		return;
	json_decref(doc);
	delete_next(op);
}

static void delete_next(struct op *op)
{
	char path[2 * ID_STRLEN + 64];

	if (op->at == op->n_ids) {
		conclude(op, NULL);
		return;
	}
	snprintf(path, sizeof(path), "/zones/%s/dns_records/%s", op->zone, op->ids[op->at++]);
	ask(op, "DELETE", path, NULL, on_deleted);
}

/* ---- start and end ---- */
static void on_now(evutil_socket_t fd, short what, void *arg)
{
	struct op *op = arg;

	(void)fd;
	(void)what;
	ask_zone(op);
}

static void change(struct dns_provider *provider, bool add, const char *fqdn, const char *value,
		   void (*done)(void *arg, const char *failed), void *arg)
{
	struct cloudflare *p = (struct cloudflare *)provider;
	struct op *op = km_xcalloc(1, sizeof(*op));

	op->p = p;
	op->add = add;
	op->done = done;
	op->arg = arg;
	snprintf(op->fqdn, sizeof(op->fqdn), "%s", fqdn);
	snprintf(op->value, sizeof(op->value), "%s", value);
	op->zone_name = op->fqdn;
	DL_APPEND(p->ops, op);
	op->now = evtimer_new(p->base, on_now, op);
	if (!op->now)
		abort(); /* no memory, as km_xcalloc would */
	event_active(op->now, 0, 0);
}

#define AT(member) offsetof(struct conf, member)
static const struct km_opt opts[] = {
    {.key = "api_token", .type = KM_OPT_STRING, .offset = AT(api_token), .required = true},
    {.key = "api_url",
     .type = KM_OPT_STRING,
     .offset = AT(api_url),
     .def = "https://api.cloudflare.com/client/v4",
     .check = dns_api_url_check},
    {.key = "ca_file", .type = KM_OPT_PATH, .offset = AT(ca_file)},
    {.key = "ttl", .type = KM_OPT_INT, .offset = AT(ttl), .def = "60", .min = 1, .max = 86400},
};
static const struct km_conf_spec spec = {
    .program = "cloudflare",
    .file = "dns_provider_file",
    .opts = opts,
    .n_opts = KM_ARRAY_LEN(opts),
    .size = sizeof(struct conf),
};

static void cloudflare_free(struct dns_provider *provider)
{
	struct cloudflare *p = (struct cloudflare *)provider;
	struct op *each, *tmp;

	DL_FOREACH_SAFE (p->ops, each, tmp)
		op_free(each);
	acme_http_free(p->http);
	dns_secret_free(&p->conf.api_token);
	km_conf_free(&spec, &p->conf);
	free(p);
}

static const struct dns_provider_ops ops = {"cloudflare", change, cloudflare_free};

int dns_cloudflare_new(struct dns_provider **out, const struct dns_provider_opts *o,
		       struct km_errtext *err)
{
	struct cloudflare *p = km_xcalloc(1, sizeof(*p));

	p->provider.ops = &ops;
	p->base = o->base;
	int e = dns_provider_load(&spec, o->file, &p->conf, err);
	if (!e && !dns_header_ok(p->conf.api_token))
		e = km_errtext_set(err, KM_EINVAL, "%s: api_token has characters that no token has",
				   o->file);
	if (!e)
		e = acme_http_new(&p->http, o->base, p->conf.ca_file, err);
	if (e) {
		cloudflare_free(&p->provider);
		return e;
	}
	*out = &p->provider;
	return 0;
}
