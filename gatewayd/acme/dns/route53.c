/* SPDX-License-Identifier: MIT */
/* Amazon Route 53, API of 2013-04-01. All values of a name are one record set there, which is read,
 * changed and written; so operations go one after the other. */
#include "gatewayd/acme/dns/api.h"
#include "gatewayd/acme/dns/message.h"
#include "gatewayd/acme/dns/provider.h"
#include "gatewayd/acme/dns/sigv4.h"
#include "gatewayd/acme/dns/xml.h"
#include "libkm/base/buf.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define API "/2013-04-01"
#define CONTENT_TYPE "application/xml"
#define ID_STRLEN 40
#define PAGES_MAX 20
#define VALUES_MAX 100 /* of one record set; Route 53 allows 400 records, a challenge needs few */
#define VALUE_STRLEN 1024
#define BODY_MAX (512 << 10)

struct conf {
	char *access_key_id, *secret_access_key, *zone_id, *region, *endpoint, *ca_file;
	int64_t ttl;
};

struct route53 {
	struct dns_provider provider;
	struct event_base *base;
	struct acme_http *http;
	struct conf conf;
	char host[300], base_path[300]; /* of endpoint */
	struct event *now;              /* the first operation begins */
	struct op *ops;                 /* the first one is under way */
};

struct op {
	struct route53 *p;
	bool add;
	void (*done)(void *arg, const char *failed);
	void *arg;
	struct dns_api *api;
	/* the request under way, for `sign` */
	const char *method;
	char *path, *query, *body;

	char fqdn[DNS_NAME_STRLEN], value[256];
	const char *zone_name; /* in fqdn: the suffix that is tried */
	char zone[ID_STRLEN];
	int page;
	char next_id[ID_STRLEN];
	char *values[VALUES_MAX]; /* of the set, in quotes as the API has them */
	unsigned n_values;
	char set_ttl[16]; /* "" when the set is not there */
	struct op *prev, *next;
};

static void next_op(struct route53 *p);

static void request_free(struct op *op)
{
	free(op->path);
	free(op->query);
	free(op->body);
	op->path = op->query = op->body = NULL;
}

static void op_free(struct op *op)
{
	DL_DELETE(op->p->ops, op);
	dns_api_cancel(op->api);
	request_free(op);
	for (unsigned i = 0; i < op->n_values; i++)
		free(op->values[i]);
	free(op);
}

static void conclude(struct op *op, const char *failed)
{
	struct route53 *p = op->p;
	void (*done)(void *arg, const char *failed) = op->done;
	void *arg = op->arg;

	op_free(op);
	next_op(p);
	done(arg, failed);
}

static void fail(struct op *op, const char *why)
{
	char text[900];

	snprintf(text, sizeof(text), "Route 53, %s the TXT record of %s: %s",
		 op->add ? "adding" : "deleting", op->fqdn, why);
	conclude(op, text);
}

/* ---- requests and answers ---- */
static int sign(void *arg, char *headers[static DNS_API_SIGNED])
{
	struct op *op = arg;
	const struct conf *c = &op->p->conf;
	struct sigv4_key k = {c->access_key_id, c->secret_access_key, c->region, "route53"};
	struct sigv4_request r = {op->method,
				  op->p->host,
				  op->path,
				  op->query,
				  op->body ? CONTENT_TYPE : NULL,
				  op->body ? op->body : ""};
	char date[SIGV4_DATE_STRLEN], authorization[600];
	int n = 0, e = sigv4_sign(&k, &r, km_wall_ms(), date, authorization, sizeof(authorization));

	if (e)
		return e;
	headers[n++] = km_xasprintf("X-Amz-Date: %s", date);
	headers[n++] = km_xasprintf("Authorization: %s", authorization);
	if (op->body)
		headers[n++] = km_xasprintf("Content-Type: %s", CONTENT_TYPE);
	return 0;
}

static void error_of(const struct acme_answer *a, char code[static 64], char *message, size_t size)
{
	struct xml x = {a->body, a->n};

	if (!a->status || !xml_text(x, "Code", code, 64))
		strcpy(code, "");
	if (!a->status || !xml_text(x, "Message", message, size))
		snprintf(message, size, "%s", a->status ? "" : a->failed);
}

/* Refusals with status 400 that pass by themselves. */
static bool busy(const struct acme_answer *a)
{
	char code[64], message[300];

	error_of(a, code, message, sizeof(message));
	return !strcmp(code, "Throttling") || !strcmp(code, "PriorRequestNotComplete");
}

static void ask(struct op *op, const char *method, char *path, char *query, char *body,
		void (*done)(void *arg, const struct acme_answer *a))
{
	request_free(op);
	op->method = method;
	op->path = path;
	op->query = query;
	op->body = body;
	/* The endpoint may have a path of its own. */
	char *scheme_host =
	    strndup(op->p->conf.endpoint, strlen(op->p->conf.endpoint) - strlen(op->p->base_path));
	char *url = km_xasprintf("%s%s%s%s", scheme_host ? scheme_host : "", path,
				 *query ? "?" : "", query);
	struct dns_api_opts o = {.base = op->p->base,
				 .http = op->p->http,
				 .method = method,
				 .url = url,
				 .body = body,
				 .sign = sign,
				 .busy = busy,
				 .done = done,
				 .arg = op};

	op->api = dns_api_send(&o);
	free(scheme_host);
	free(url);
	if (!op->api)
		fail(op, "no memory");
}

/* False: the operation has failed and is gone. */
static bool succeeded(struct op *op, const struct acme_answer *a)
{
	char code[64], message[300], why[500];

	op->api = NULL;
	if (a->status == 200)
		return true;
	error_of(a, code, message, sizeof(message));
	if (!a->status)
		snprintf(why, sizeof(why), "%s", message);
	else
		snprintf(why, sizeof(why), "HTTP %d: %s%s%s", a->status,
			 *code ? code : "no error of the API's", *message ? ": " : "", message);
	for (char *c = why; *c; c++)
		if (!isprint((unsigned char)*c))
			*c = '?';
	fail(op, why);
	return false;
}

/* ---- the zone: the longest suffix of the name that is a public zone ---- */
static void read_set(struct op *op);
static void on_zones(void *arg, const struct acme_answer *a);

static void ask_zone(struct op *op)
{
	if (!strchr(op->zone_name, '.')) {
		fail(op, "no public hosted zone that the key may list holds this name");
		return;
	}
	ask(op, "GET", km_xasprintf("%s" API "/hostedzonesbyname", op->p->base_path),
	    *op->next_id ? km_xasprintf("dnsname=%s.&hostedzoneid=%s&maxitems=10", op->zone_name,
					op->next_id)
			 : km_xasprintf("dnsname=%s.&maxitems=10", op->zone_name),
	    NULL, on_zones);
}

/* "/hostedzone/Z1" or "Z1"; it goes into paths. */
static bool copy_id(char out[static ID_STRLEN], const char *id)
{
	const char *slash = strrchr(id, '/');

	id = slash ? slash + 1 : id;
	if (!*id || strlen(id) >= ID_STRLEN)
		return false;
	for (const char *c = id; *c; c++)
		if (!isalnum((unsigned char)*c))
			return false;
	strcpy(out, id);
	return true;
}

static bool is_name(const char *with_dot, const char *name)
{
	size_t n = strlen(name);

	return !strncasecmp(with_dot, name, n) && !strcmp(with_dot + n, ".");
}

/* Zones come in the order of their names, from the one that was asked for. Private ones of the same
 * name may stand before the public one. */
static bool pick_zone(struct op *op, const struct acme_answer *a, bool *more)
{
	struct xml x = {a->body, a->n}, zone;
	char name[300], id[100], private[8];

	*more = xml_text(x, "IsTruncated", private, sizeof(private)) && !strcmp(private, "true") &&
		xml_text(x, "NextDNSName", name, sizeof(name)) && is_name(name, op->zone_name) &&
		xml_text(x, "NextHostedZoneId", id, sizeof(id)) && copy_id(op->next_id, id) &&
		++op->page < PAGES_MAX;
	while (xml_next(&x, "HostedZone", &zone)) {
		if (!xml_text(zone, "Name", name, sizeof(name)) || !is_name(name, op->zone_name) ||
		    !xml_text(zone, "Id", id, sizeof(id)))
			continue;
		if (xml_text(zone, "PrivateZone", private, sizeof(private)) &&
		    !strcmp(private, "true"))
			continue;
		if (copy_id(op->zone, id))
			return true;
	}
	return false;
}

static void on_zones(void *arg, const struct acme_answer *a)
{
	struct op *op = arg;
	bool more;

	if (!succeeded(op, a))
		return;
	if (pick_zone(op, a, &more)) {
		read_set(op);
		return;
	}
	if (!more) {
		op->zone_name = dns_name_parent(op->zone_name);
		op->next_id[0] = '\0';
		op->page = 0;
	}
	ask_zone(op);
}

/* ---- the values that are there ---- */
static void change(struct op *op);
static void on_set(void *arg, const struct acme_answer *a);

static void read_set(struct op *op)
{
	ask(op, "GET", km_xasprintf("%s" API "/hostedzone/%s/rrset", op->p->base_path, op->zone),
	    km_xasprintf("maxitems=1&name=%s.&type=TXT", op->fqdn), NULL, on_set);
}

/* Sets come in order from the one that was asked for; another first one means that it is not there.
 */
static const char *take_set(struct op *op, const struct acme_answer *a)
{
	struct xml x = {a->body, a->n}, set, record;
	char name[300], type[16], value[VALUE_STRLEN];

	if (!xml_next(&x, "ResourceRecordSet", &set) ||
	    !xml_text(set, "Name", name, sizeof(name)) || !is_name(name, op->fqdn) ||
	    !xml_text(set, "Type", type, sizeof(type)) || strcmp(type, "TXT"))
		return NULL;
	if (xml_text(set, "SetIdentifier", value, sizeof(value)))
		return "its record set has a routing policy, which is not for challenges";
	if (!xml_text(set, "TTL", op->set_ttl, sizeof(op->set_ttl)))
		return "its record set has no TTL";
	while (xml_next(&set, "ResourceRecord", &record)) {
		if (op->n_values == VALUES_MAX || !xml_text(record, "Value", value, sizeof(value)))
			return "its record set has too many or too long values";
		op->values[op->n_values++] = km_xstrdup(value);
	}
	return NULL;
}

static void on_set(void *arg, const struct acme_answer *a)
{
	struct op *op = arg;

	if (!succeeded(op, a))
		return;
	const char *wrong = take_set(op, a);
	if (wrong)
		fail(op, wrong);
	else
		change(op);
}

/* ---- the change ---- */
static int add_values(const struct op *op, struct km_buf *b)
{
	char escaped[VALUE_STRLEN * 6];
	int e = 0;

	for (unsigned i = 0; i < op->n_values && !e; i++) {
		if (!xml_escape(op->values[i], escaped, sizeof(escaped)))
			return KM_ETOOBIG;
		e = km_buf_addf(b, "<ResourceRecord><Value>%s</Value></ResourceRecord>", escaped);
	}
	return e;
}

static char *change_body(const struct op *op, const char *action, const char *ttl)
{
	struct km_buf b;
	char *out = NULL;

	km_buf_init(&b, BODY_MAX);
	int e = km_buf_addf(
	    &b,
	    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
	    "<ChangeResourceRecordSetsRequest "
	    "xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><ChangeBatch><Changes>"
	    "<Change><Action>%s</Action><ResourceRecordSet><Name>%s.</Name>"
	    "<Type>TXT</Type><TTL>%s</TTL><ResourceRecords>",
	    action, op->fqdn, ttl);
	if (!e)
		e = add_values(op, &b);
	if (!e)
		e = km_buf_adds(
		    &b, "</ResourceRecords></ResourceRecordSet></Change></Changes></ChangeBatch>"
			"</ChangeResourceRecordSetsRequest>");
	if (!e)
		out = strndup((const char *)km_buf_head(&b), b.len);
	km_buf_free(&b);
	return out;
}

static void on_changed(void *arg, const struct acme_answer *a)
{
	struct op *op = arg;

	if (succeeded(op, a))
		conclude(op, NULL);
}

static void change(struct op *op)
{
	char quoted[260], ttl[16];
	unsigned at = 0;
	const char *action = "UPSERT";

	snprintf(quoted, sizeof(quoted), "\"%s\"", op->value);
	snprintf(ttl, sizeof(ttl), "%lld", (long long)op->p->conf.ttl);
	while (at < op->n_values && strcmp(op->values[at], quoted) != 0)
		at++;
	if ((at < op->n_values) == op->add)
		return conclude(op, NULL); /* it is as it shall be */
	if (op->add && op->n_values == VALUES_MAX)
		return fail(op, "its record set has too many values");
	if (op->add) {
		op->values[op->n_values++] = km_xstrdup(quoted);
	} else if (op->n_values == 1) {
		action = "DELETE"; /* it must name the set exactly as it is */
	} else {
		free(op->values[at]);
		op->values[at] = op->values[--op->n_values];
	}
	char *body = change_body(op, action, *op->set_ttl ? op->set_ttl : ttl);
	if (!body)
		return fail(op, "the change would be too long");
	ask(op, "POST", km_xasprintf("%s" API "/hostedzone/%s/rrset/", op->p->base_path, op->zone),
	    km_xstrdup(""), body, on_changed);
}

/* ---- start and end ---- */
static void on_now(evutil_socket_t fd, short what, void *arg)
{
	struct route53 *p = arg;
	struct op *op = p->ops;

	(void)fd;
	(void)what;
	if (!op || op->method)
		return; /* nothing to do, or it has begun */
	if (p->conf.zone_id && copy_id(op->zone, p->conf.zone_id))
		read_set(op);
	else
		ask_zone(op);
}

static void next_op(struct route53 *p)
{
	if (p->ops)
		event_active(p->now, 0, 0);
}

static void change_record(struct dns_provider *provider, bool add, const char *fqdn, const char *value,
		   void (*done)(void *arg, const char *failed), void *arg)
{
	struct route53 *p = (struct route53 *)provider;
	struct op *op = km_xcalloc(1, sizeof(*op));

	op->p = p;
	op->add = add;
	op->done = done;
	op->arg = arg;
	snprintf(op->fqdn, sizeof(op->fqdn), "%s", fqdn);
	snprintf(op->value, sizeof(op->value), "%s", value);
	op->zone_name = op->fqdn;
	DL_APPEND(p->ops, op);
	next_op(p);
}

/* ---- the file ---- */
static const char *zone_check(const char *v)
{
	char id[ID_STRLEN];

	return copy_id(id, v) ? NULL : "not a hosted zone's id";
}

static const char *region_check(const char *v)
{
	for (const char *c = v; *c; c++)
		if (!isalnum((unsigned char)*c) && *c != '-')
			return "not a region";
	return strlen(v) > 40 ? "not a region" : NULL;
}

#define AT(member) offsetof(struct conf, member)
static const struct km_opt opts[] = {
    {.key = "access_key_id", .type = KM_OPT_STRING, .offset = AT(access_key_id), .required = true},
    {.key = "secret_access_key",
     .type = KM_OPT_STRING,
     .offset = AT(secret_access_key),
     .required = true},
    {.key = "zone_id", .type = KM_OPT_STRING, .offset = AT(zone_id), .check = zone_check},
    {.key = "region",
     .type = KM_OPT_STRING,
     .offset = AT(region),
     .def = "us-east-1",
     .check = region_check},
    {.key = "endpoint",
     .type = KM_OPT_STRING,
     .offset = AT(endpoint),
     .def = "https://route53.amazonaws.com",
     .check = dns_api_url_check},
    {.key = "ca_file", .type = KM_OPT_PATH, .offset = AT(ca_file)},
    {.key = "ttl", .type = KM_OPT_INT, .offset = AT(ttl), .def = "60", .min = 0, .max = 86400},
};
static const struct km_conf_spec spec = {
    .program = "route53",
    .file = "dns_provider_file",
    .opts = opts,
    .n_opts = KM_ARRAY_LEN(opts),
    .size = sizeof(struct conf),
};

static void route53_free(struct dns_provider *provider)
{
	struct route53 *p = (struct route53 *)provider;
	struct op *each, *tmp;

	DL_FOREACH_SAFE (p->ops, each, tmp)
		op_free(each);
	if (p->now)
		event_free(p->now);
	acme_http_free(p->http);
	dns_secret_free(&p->conf.secret_access_key);
	km_conf_free(&spec, &p->conf);
	free(p);
}

static const struct dns_provider_ops ops = {"route53", change_record, route53_free};

/* "https://HOST[:PORT][/PATH]" into its parts; a final '/' goes. */
static void split_endpoint(struct route53 *p)
{
	char *url = p->conf.endpoint, *host = strstr(url, "://") + 3;
	size_t n = strlen(url), len = strcspn(host, "/");

	while (n && url[n - 1] == '/')
		url[--n] = '\0';
	snprintf(p->host, sizeof(p->host), "%.*s", (int)len, host);
	snprintf(p->base_path, sizeof(p->base_path), "%s",
		 host + (len < strlen(host) ? len : strlen(host)));
}

int dns_route53_new(struct dns_provider **out, const struct dns_provider_opts *o,
		    struct km_errtext *err)
{
	struct route53 *p = km_xcalloc(1, sizeof(*p));

	p->provider.ops = &ops;
	p->base = o->base;
	int e = dns_provider_load(&spec, o->file, &p->conf, err);
	if (!e &&
	    (!dns_header_ok(p->conf.access_key_id) || !dns_header_ok(p->conf.secret_access_key)))
		e = km_errtext_set(err, KM_EINVAL,
				   "%s: the credentials have characters that none have", o->file);
	if (!e)
		e = acme_http_new(&p->http, o->base, p->conf.ca_file, err);
	if (!e) {
		split_endpoint(p);
		p->now = event_new(o->base, -1, 0, on_now, p);
		if (!p->now)
			e = km_errtext_set(err, KM_ENOMEM, "no memory for Route 53");
	}
	if (e) {
		route53_free(&p->provider);
		return e;
	}
	*out = &p->provider;
	return 0;
}
