/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/query.h"
#include "libkm/base/util.h"
#include <stdlib.h>
#include <string.h>

struct dns_lookup {
	struct dns *d;
	struct dns_query *query;
	void (*done)(void *arg, const struct dns_found *f);
	void *arg;
	uint16_t type;
	unsigned cnames;
	char name[DNS_NAME_STRLEN];
};

static void on_reply(void *arg, const struct dns_reply *r);

static void collect(struct dns_lookup *l, const struct dns_msg *m, struct dns_found *f)
{
	struct dns_rrs it = dns_msg_rrs(m);
	struct dns_rr rr;

	while (f->n < DNS_RRSET_MAX && dns_rr_next(&it, &rr) && rr.section == 0)
		if (rr.type == l->type && dns_name_eq(rr.name, l->name))
			f->rr[f->n++] = rr;
}

static void finish(struct dns_lookup *l, struct dns_found *f)
{
	f->name = l->name;
	l->done(l->arg, f);
	free(l);
}

static void fail(struct dns_lookup *l, const char *why)
{
	struct dns_found f = {.status = DNS_FAILED, .failed = why};
	finish(l, &f);
}

/* Goes along the CNAMEs as far as this answer has them; the set at their end, or another question.
 */
static void follow(struct dns_lookup *l, const struct dns_msg *m)
{
	struct dns_found f = {.status = DNS_NO_DATA, .msg = m};
	unsigned before = l->cnames;
	char to[DNS_NAME_STRLEN];

	while (l->type != DNS_TYPE_CNAME && dns_msg_cname(m, l->name, to)) {
		if (++l->cnames > DNS_CNAMES_MAX)
			return fail(l, "its CNAMEs have no end");
		strcpy(l->name, to);
	}
	collect(l, m, &f);
	if (f.n)
		f.status = DNS_FOUND;
	if (f.n || l->cnames == before)
		return finish(l, &f);
	l->query = dns_query(l->d, l->name, l->type, on_reply, l);
	if (!l->query)
		fail(l, "no memory");
}

static void on_reply(void *arg, const struct dns_reply *r)
{
	struct dns_lookup *l = arg;
	struct dns_found f = {.status = r->status, .failed = r->failed};

	l->query = NULL;
	if (r->status == DNS_FOUND)
		follow(l, &r->msg);
	else
		finish(l, &f);
}

struct dns_lookup *dns_lookup(struct dns *d, const char *name, uint16_t type,
			      void (*done)(void *arg, const struct dns_found *f), void *arg)
{
	struct dns_lookup *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->d = d;
	l->type = type;
	l->done = done;
	l->arg = arg;
	strncpy(l->name, name, sizeof(l->name) - 1);
	l->query = dns_query(d, name, type, on_reply, l);
	if (!l->query) {
		free(l);
		return NULL;
	}
	return l;
}

void dns_lookup_cancel(struct dns_lookup *l)
{
	if (!l)
		return;
	dns_query_cancel(l->query);
	free(l);
}

/* ---- asks ---- */
void dns_cancel(struct dns_ask *a)
{
	if (a)
		a->cancel(a);
}

char **dns_list_copy(const char *const *list)
{
	size_t n = 0;

	if (!list)
		return NULL;
	while (list[n])
		n++;
	char **out = km_xcalloc(n + 1, sizeof(*out));
	for (size_t i = 0; i < n; i++)
		out[i] = km_xstrdup(list[i]);
	return out;
}

void dns_list_free(char **list)
{
	for (char **i = list; i && *i; i++)
		free(*i);
	free(list);
}
