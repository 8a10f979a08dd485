/* SPDX-License-Identifier: MIT */
/* A and AAAA of the name, and its CAA records up to the root, are asked at once; the verdict is
 * given when all is known. */
#include "gatewayd/acme/dns/caa.h"
#include "gatewayd/acme/dns/query.h"
#include "libkm/base/util.h"
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAID_ADDRESSES 4 /* in a sentence */

enum { V4, V6, FAMILIES };

struct preflight {
	struct dns_ask ask;
	struct dns *d;
	void (*done)(void *arg, enum dns_verdict v, const char *text);
	void *arg;
	char name[DNS_NAME_STRLEN];
	bool wildcard;
	struct km_addr *ours;
	size_t n_ours;
	char **issuers, **methods; /* NULL-terminated copies; NULL */
	char *account_url;

	struct dns_lookup *address[FAMILIES], *caa;
	struct event *now; /* nothing had to be asked */
	enum dns_status status[FAMILIES];
	bool exists; /* one of the two said so */
	char failed[120];
	struct km_addr found[2 * DNS_RRSET_MAX];
	size_t n_found;
	const char *caa_name; /* in name: where the climb is */
	enum dns_verdict caa_verdict;
	char caa_text[400];
};

static void preflight_free(struct dns_ask *a)
{
	struct preflight *p = (struct preflight *)a;

	for (int f = 0; f < FAMILIES; f++)
		dns_lookup_cancel(p->address[f]);
	dns_lookup_cancel(p->caa);
	if (p->now)
		event_free(p->now);
	dns_list_free(p->issuers);
	dns_list_free(p->methods);
	free(p->account_url);
	free(p->ours);
	free(p);
}

/* ---- the verdict ---- */
static bool is_ours(const struct preflight *p, const struct km_addr *a)
{
	for (size_t i = 0; i < p->n_ours; i++)
		if (km_addr_eq(&p->ours[i], a))
			return true;
	return false;
}

static bool family_known(const struct preflight *p, uint8_t family)
{
	for (size_t i = 0; i < p->n_ours; i++)
		if (p->ours[i].family == family)
			return true;
	return false;
}

static void say_ours(const struct preflight *p, char *out, size_t size)
{
	char one[KM_ADDR_STRLEN];
	size_t len = 0;

	out[0] = '\0';
	for (size_t i = 0; i < p->n_ours && i < SAID_ADDRESSES && len < size; i++)
		len += (size_t)snprintf(out + len, size - len, "%s%s", i ? ", " : "",
					km_addr_str(&p->ours[i], one));
	if (p->n_ours > SAID_ADDRESSES && len < size)
		snprintf(out + len, size - len, ", …");
}

/* Every address must be a gateway's, for the CA may take any. Of a family in which we know no
 * address of a gateway nothing can be said, as long as the other family leads here. */
static enum dns_verdict judge_found(const struct preflight *p, char *text, size_t size)
{
	char ours[SAID_ADDRESSES * (KM_ADDR_STRLEN + 2) + 8], addr[KM_ADDR_STRLEN];
	const struct km_addr *stranger = NULL;
	bool here = false;

	for (size_t i = 0; i < p->n_found; i++)
		here |= is_ours(p, &p->found[i]);
	for (size_t i = 0; i < p->n_found && !stranger; i++)
		if (!is_ours(p, &p->found[i]) && (!here || family_known(p, p->found[i].family)))
			stranger = &p->found[i];
	if (!stranger)
		return DNS_FINE;
	say_ours(p, ours, sizeof(ours));
	snprintf(text, size,
		 here ? "%s leads also to %s, which is no gateway (%s)"
		      : "%s leads to %s, not to a gateway (%s)",
		 p->name, km_addr_str(stranger, addr), ours);
	return DNS_ELSEWHERE;
}

static enum dns_verdict judge_address(const struct preflight *p, char *text, size_t size)
{
	enum dns_verdict v = DNS_FINE;

	if (p->wildcard)
		return v;
	if (p->n_found && p->n_ours)
		v = judge_found(p, text, size);
	if (v != DNS_FINE || p->n_found)
		return v;
	if (p->status[V4] == DNS_FAILED || p->status[V6] == DNS_FAILED) {
		snprintf(text, size, "the address of %s could not be looked up: %s", p->name,
			 p->failed);
		return DNS_UNKNOWN;
	}
	snprintf(text, size, p->exists ? "%s has no address" : "%s does not exist in the DNS",
		 p->name);
	return DNS_ELSEWHERE;
}

static void conclude(struct preflight *p)
{
	char text[600] = "";
	void (*done)(void *arg, enum dns_verdict v, const char *text) = p->done;
	void *arg = p->arg;

	if (p->address[V4] || p->address[V6] || p->caa || p->now)
		return;
	enum dns_verdict v = judge_address(p, text, sizeof(text));
	if (v != DNS_ELSEWHERE && p->caa_verdict == DNS_FORBIDDEN)
		v = DNS_FINE; /* the worse of both is told */
	if (v == DNS_FINE && p->caa_verdict != DNS_FINE) {
		v = p->caa_verdict;
		snprintf(text, sizeof(text), "%s", p->caa_text);
	}
	preflight_free(&p->ask);
	done(arg, v, text);
}

/* ---- addresses ---- */
static void on_address(struct preflight *p, int family, const struct dns_found *f)
{
	uint16_t size = family == V4 ? 4 : 16;

	p->address[family] = NULL;
	p->status[family] = f->status;
	p->exists |= f->status == DNS_FOUND || f->status == DNS_NO_DATA;
	if (f->status == DNS_FAILED)
		snprintf(p->failed, sizeof(p->failed), "%s", f->failed);
	for (size_t i = 0; i < f->n; i++) {
		if (f->rr[i].n != size)
			continue;
		struct km_addr *a = &p->found[p->n_found++];
		a->family = family == V4 ? AF_INET : AF_INET6;
		memcpy(a->ip, f->rr[i].data, size);
	}
	conclude(p);
}

static void on_a(void *arg, const struct dns_found *f)
{
	on_address(arg, V4, f);
}

static void on_aaaa(void *arg, const struct dns_found *f)
{
	on_address(arg, V6, f);
}

/* ---- CAA ---- */
static void on_caa(void *arg, const struct dns_found *f);

/* RFC 8659 section 3: the first name upwards that has a CAA record, the root excluded. */
static void climb(struct preflight *p, const char *from)
{
	p->caa_name = from;
	if (!*from)
		return;
	p->caa = dns_lookup(p->d, from, DNS_TYPE_CAA, on_caa, p);
	if (!p->caa) {
		p->caa_verdict = DNS_UNKNOWN;
		snprintf(p->caa_text, sizeof(p->caa_text), "no memory to look up CAA records");
	}
}

static void judge_caa(struct preflight *p, const struct dns_found *f)
{
	struct caa_record set[DNS_RRSET_MAX];
	struct caa_question q = {p->wildcard, (const char *const *)p->issuers, p->account_url,
				 (const char *const *)p->methods};
	char why[300];

	for (size_t i = 0; i < f->n; i++)
		set[i] = (struct caa_record){f->rr[i].data, f->rr[i].n};
	if (caa_allows(set, f->n, &q, why, sizeof(why)))
		return;
	p->caa_verdict = DNS_FORBIDDEN;
	snprintf(p->caa_text, sizeof(p->caa_text), "the CAA record of %s %s", p->caa_name, why);
}

static void on_caa(void *arg, const struct dns_found *f)
{
	struct preflight *p = arg;

	p->caa = NULL;
	if (f->status == DNS_FOUND) {
		judge_caa(p, f);
	} else if (f->status == DNS_FAILED) {
		p->caa_verdict = DNS_UNKNOWN;
		snprintf(p->caa_text, sizeof(p->caa_text),
			 "the CAA records of %s could not be looked up: %s", p->caa_name,
			 f->failed);
	} else {
		climb(p, dns_name_parent(p->caa_name));
	}
	conclude(p);
}

/* ---- the start ---- */
static void on_now(evutil_socket_t fd, short what, void *arg)
{
	struct preflight *p = arg;

	(void)fd;
	(void)what;
	event_free(p->now);
	p->now = NULL;
	conclude(p);
}

static bool begin(struct preflight *p)
{
	struct km_addr literal;

	if (km_addr_parse(&literal, p->name) == 0) {
		p->found[p->n_found++] = literal;
	} else {
		if (p->issuers)
			climb(p, p->name);
		if (!p->wildcard) {
			p->address[V4] = dns_lookup(p->d, p->name, DNS_TYPE_A, on_a, p);
			p->address[V6] = dns_lookup(p->d, p->name, DNS_TYPE_AAAA, on_aaaa, p);
			return p->address[V4] && p->address[V6];
		}
	}
	if (p->caa)
		return true;
	p->now = evtimer_new(dns_base(p->d), on_now, p);
	if (p->now)
		event_active(p->now, 0, 0);
	return p->now != NULL;
}

struct dns_ask *dns_preflight(struct dns *d, const struct dns_preflight_opts *o,
			      void (*done)(void *arg, enum dns_verdict v, const char *text),
			      void *arg)
{
	struct preflight *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->ask.cancel = preflight_free;
	p->d = d;
	p->done = done;
	p->arg = arg;
	p->wildcard = o->wildcard;
	p->issuers = dns_list_copy(o->caa_issuers);
	p->methods = dns_list_copy(o->methods);
	p->account_url = o->account_url ? km_xstrdup(o->account_url) : NULL;
	p->n_ours = o->n_ours;
	p->ours = km_xcalloc(o->n_ours + 1, sizeof(*p->ours));
	if (o->n_ours)
		memcpy(p->ours, o->ours, o->n_ours * sizeof(*p->ours));
	snprintf(p->name, sizeof(p->name), "%s", o->name);
	if (!begin(p)) {
		preflight_free(&p->ask);
		return NULL;
	}
	return &p->ask;
}
