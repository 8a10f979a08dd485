/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/zone.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_MAX 8 /* names of servers that are looked up */

struct dns_zone_find {
	struct dns *d;
	void (*done)(void *arg, const struct dns_zone *z, const char *failed);
	void *arg;
	bool servers;
	char name[DNS_NAME_STRLEN];
	const char *at; /* in name: where the climb is */
	struct dns_query *soa;
	struct dns_lookup *ns;
	struct wanted {
		struct dns_zone_find *f;
		struct dns_lookup *lookup; /* A of one server's name, or AAAA */
	} wanted[2 * NS_MAX];
	struct dns_zone zone;
};

void dns_zone_cancel(struct dns_zone_find *f)
{
	if (!f)
		return;
	dns_query_cancel(f->soa);
	dns_lookup_cancel(f->ns);
	for (size_t i = 0; i < KM_ARRAY_LEN(f->wanted); i++)
		dns_lookup_cancel(f->wanted[i].lookup);
	free(f);
}

static void conclude(struct dns_zone_find *f, const char *failed)
{
	void (*done)(void *arg, const struct dns_zone *z, const char *failed) = f->done;
	struct dns_zone z = f->zone;
	void *arg = f->arg;

	dns_zone_cancel(f);
	done(arg, &z, failed);
}

static void fail(struct dns_zone_find *f, const char *what, const char *name, const char *why)
{
	char text[700];

	snprintf(text, sizeof(text), "%s %s could not be found: %s", what, name, why);
	conclude(f, text);
}

/* ---- the servers' addresses ---- */
static bool have(const struct dns_zone *z, const struct km_addr *a)
{
	for (size_t i = 0; i < z->n; i++)
		if (km_addr_eq(&z->servers[i], a))
			return true;
	return false;
}

static void add(struct dns_zone *z, const struct dns_rr *rr)
{
	struct km_addr a = {.family = rr->type == DNS_TYPE_A ? AF_INET : AF_INET6};
	size_t size = rr->type == DNS_TYPE_A ? 4 : 16;

	if (rr->n != size)
		return;
	memcpy(a.ip, rr->data, size);
	if (z->n < DNS_SERVERS_MAX && !have(z, &a))
		z->servers[z->n++] = a;
}

static void on_address(void *arg, const struct dns_found *found)
{
	struct wanted *w = arg;
	struct dns_zone_find *f = w->f;

	w->lookup = NULL;
	for (size_t i = 0; i < found->n; i++)
		add(&f->zone, &found->rr[i]);
	for (size_t i = 0; i < KM_ARRAY_LEN(f->wanted); i++)
		if (f->wanted[i].lookup)
			return;
	if (f->zone.n)
		conclude(f, NULL);
	else
		fail(f, "an address of a server of the zone", f->zone.name,
		     found->failed ? found->failed : "there is none");
}

static void on_ns(void *arg, const struct dns_found *found)
{
	struct dns_zone_find *f = arg;
	struct wanted *w = f->wanted;
	char host[DNS_NAME_STRLEN];

	f->ns = NULL;
	for (size_t i = 0; i < found->n && w < f->wanted + KM_ARRAY_LEN(f->wanted); i++) {
		if (dns_rr_name(found->msg, &found->rr[i], host))
			continue;
		for (int family = 0; family < 2; family++, w++) {
			w->f = f;
			w->lookup = dns_lookup(f->d, host, family ? DNS_TYPE_AAAA : DNS_TYPE_A,
					       on_address, w);
			if (!w->lookup)
				return fail(f, "the servers of the zone", f->zone.name,
					    "no memory");
		}
	}
	if (w == f->wanted)
		fail(f, "the servers of the zone", f->zone.name,
		     found->failed ? found->failed : "it has no NS record");
}

/* ---- the zone ---- */
static void on_soa(void *arg, const struct dns_reply *r);

static bool ask(struct dns_zone_find *f)
{
	f->soa = dns_query(f->d, f->at, DNS_TYPE_SOA, on_soa, f);
	return f->soa != NULL;
}

/* An SOA record of this very name, not of where a CNAME leads. */
static bool is_apex(const struct dns_msg *m, const char *name)
{
	struct dns_rrs it = dns_msg_rrs(m);
	struct dns_rr rr;

	while (dns_rr_next(&it, &rr) && rr.section == 0)
		if (rr.type == DNS_TYPE_SOA && dns_name_eq(rr.name, name))
			return true;
	return false;
}

static void on_soa(void *arg, const struct dns_reply *r)
{
	struct dns_zone_find *f = arg;

	f->soa = NULL;
	if (r->status == DNS_FAILED)
		return fail(f, "the zone of", f->name, r->failed);
	if (r->status != DNS_FOUND || !is_apex(&r->msg, f->at)) {
		f->at = dns_name_parent(f->at);
		if (!*f->at)
			fail(f, "the zone of", f->name, "no name above it has an SOA record");
		else if (!ask(f))
			fail(f, "the zone of", f->name, "no memory");
		return;
	}
	strcpy(f->zone.name, f->at);
	if (!f->servers)
		return conclude(f, NULL);
	f->ns = dns_lookup(f->d, f->zone.name, DNS_TYPE_NS, on_ns, f);
	if (!f->ns)
		fail(f, "the servers of the zone", f->zone.name, "no memory");
}

struct dns_zone_find *
dns_zone_find(struct dns *d, const char *name, bool servers,
	      void (*done)(void *arg, const struct dns_zone *z, const char *failed), void *arg)
{
	struct dns_zone_find *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->d = d;
	f->servers = servers;
	f->done = done;
	f->arg = arg;
	snprintf(f->name, sizeof(f->name), "%s", name);
	f->at = f->name;
	if (!ask(f)) {
		free(f);
		return NULL;
	}
	return f;
}
