/* SPDX-License-Identifier: MIT */
/* A TXT record for dns-01, from where it belongs to its being seen: CNAMEs, the provider, the
 * zone's servers, each asked until it shows the value. */
#include "gatewayd/acme/dns/exchange.h"
#include "gatewayd/acme/dns/zone.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOPS_MAX 8
#define FIRST_PAUSE_MS 200
#define LAST_PAUSE_MS 5000
/* A server that has not answered so often in a row is not waited for, if others show the record. */
#define SILENCES_MAX 3
#define DNS_PORT 53

struct server {
	struct dns_record *r;
	struct km_addr addr;
	struct dns_exchange *exchange;
	struct event *timer; /* until it is asked again */
	int64_t pause_ms;
	unsigned silences;
	bool shows;
	char last[120]; /* what it said; "" not asked yet */
};

struct dns_record {
	struct dns *d;
	struct dns_provider *provider;
	void (*done)(void *arg, const char *failed); /* NULL: has been called, or nobody listens */
	void *arg;
	char *value;
	char first[DNS_NAME_STRLEN]; /* _acme-challenge.NAME */
	char name[DNS_NAME_STRLEN];  /* where the CNAMEs led */
	unsigned hops;
	int64_t timeout_ms;

	struct dns_query *cname;
	bool presenting, presented, removed;
	struct dns_zone_find *find;
	char zone[DNS_NAME_STRLEN];
	struct server servers[DNS_SERVERS_MAX];
	size_t n;
	struct event *deadline;
	struct dns_orphan orphan;
};

static void stop_watching(struct dns_record *r)
{
	dns_query_cancel(r->cname);
	r->cname = NULL;
	dns_zone_cancel(r->find);
	r->find = NULL;
	for (size_t i = 0; i < r->n; i++) {
		dns_exchange_cancel(r->servers[i].exchange);
		r->servers[i].exchange = NULL;
		if (r->servers[i].timer)
			event_free(r->servers[i].timer);
		r->servers[i].timer = NULL;
	}
	if (r->deadline)
		event_free(r->deadline);
	r->deadline = NULL;
}

static void record_free(struct dns_record *r)
{
	stop_watching(r);
	free(r->value);
	free(r);
}

static void conclude(struct dns_record *r, const char *failed)
{
	void (*done)(void *arg, const char *failed) = r->done;

	stop_watching(r);
	r->done = NULL;
	if (done)
		done(r->arg, failed);
}

/* ---- where the record belongs ---- */
static void on_presented(void *arg, const char *failed);

static void present(struct dns_record *r)
{
	r->presenting = r->presented = true;
	r->provider->ops->change(r->provider, true, r->name, r->value, on_presented, r);
}

/* What may stand in a program's arguments and in a request. */
static bool is_plain(const char *name)
{
	for (const char *c = name; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("-._", *c))
			return false;
	return isalnum((unsigned char)*name) || *name == '_';
}

static void on_cname(void *arg, const struct dns_reply *reply)
{
	struct dns_record *r = arg;
	char text[700] = "", to[DNS_NAME_STRLEN];

	r->cname = NULL;
	if (reply->status == DNS_FAILED) {
		snprintf(text, sizeof(text), "%s could not be looked up: %s", r->name,
			 reply->failed);
	} else if (reply->status != DNS_FOUND || !dns_msg_cname(&reply->msg, r->name, to)) {
		return present(r);
	} else if (!is_plain(to)) {
		snprintf(text, sizeof(text), "%s leads to a name that is not a host's", r->name);
	} else if (++r->hops > HOPS_MAX) {
		snprintf(text, sizeof(text), "the CNAMEs of %s have no end", r->first);
	} else {
		strcpy(r->name, to);
		r->cname = dns_query(r->d, r->name, DNS_TYPE_CNAME, on_cname, r);
		if (r->cname)
			return;
		snprintf(text, sizeof(text), "no memory to look up %s", r->name);
	}
	conclude(r, text);
}

/* ---- the provider has written it ---- */
static void clean_up(struct dns_record *r);
static void on_zone(void *arg, const struct dns_zone *z, const char *failed);

static void on_presented(void *arg, const char *failed)
{
	struct dns_record *r = arg;

	r->presenting = false;
	if (r->removed)
		return clean_up(r);
	if (!r->deadline) /* it took too long, that has been said */
		return;
	if (failed)
		return conclude(r, failed);
	r->find = dns_zone_find(r->d, r->name, true, on_zone, r);
	if (!r->find)
		conclude(r, "no memory to look for the zone");
}

/* ---- the zone's servers ---- */
static void ask(struct server *s);

static void on_zone(void *arg, const struct dns_zone *z, const char *failed)
{
	struct dns_record *r = arg;

	r->find = NULL;
	if (failed)
		return conclude(r, failed);
	strcpy(r->zone, z->name);
	for (r->n = 0; r->n < z->n; r->n++)
		r->servers[r->n] =
		    (struct server){.r = r, .addr = z->servers[r->n], .pause_ms = FIRST_PAUSE_MS};
	for (size_t i = 0; i < r->n; i++)
		ask(&r->servers[i]);
}

/* All that answer show it, and one does. */
static void judge(struct dns_record *r)
{
	bool seen = false;

	for (size_t i = 0; i < r->n; i++) {
		if (!r->servers[i].shows && r->servers[i].silences < SILENCES_MAX)
			return;
		seen |= r->servers[i].shows;
	}
	if (seen)
		conclude(r, NULL);
}

static void on_pause_over(evutil_socket_t fd, short what, void *arg)
{
	struct server *s = arg;

	(void)fd;
	(void)what;
	event_free(s->timer);
	s->timer = NULL;
	ask(s);
}

static void ask_again(struct server *s)
{
	struct timeval tv = {s->pause_ms / 1000, s->pause_ms % 1000 * 1000};

	s->pause_ms = s->pause_ms * 2 > LAST_PAUSE_MS ? LAST_PAUSE_MS : s->pause_ms * 2;
	s->timer = evtimer_new(dns_base(s->r->d), on_pause_over, s);
	if (s->timer)
		evtimer_add(s->timer, &tv);
}

static bool shows(struct server *s, const struct dns_msg *m)
{
	struct dns_rrs it = dns_msg_rrs(m);
	struct dns_rr rr;

	while (dns_rr_next(&it, &rr) && rr.section == 0)
		if (rr.type == DNS_TYPE_TXT && dns_name_eq(rr.name, s->r->name) &&
		    dns_rr_txt_is(&rr, s->r->value))
			return true;
	return false;
}

static void on_answer(void *arg, const uint8_t *p, size_t n, const char *failed)
{
	struct server *s = arg;
	struct dns_msg m;

	s->exchange = NULL;
	if (failed || dns_msg_parse(&m, p, n)) {
		s->silences++;
		snprintf(s->last, sizeof(s->last), "%s",
			 failed ? failed : "its answer is malformed");
	} else {
		int rcode = dns_msg_rcode(&m);
		s->silences = 0;
		s->shows = shows(s, &m);
		if (rcode != DNS_RCODE_OK && rcode != DNS_RCODE_NXDOMAIN)
			snprintf(s->last, sizeof(s->last), "it answers %s", dns_rcode_str(rcode));
		else
			snprintf(s->last, sizeof(s->last), "it does not show the value");
	}
	if (!s->shows)
		ask_again(s);
	judge(s->r);
}

static void ask(struct server *s)
{
	uint8_t msg[DNS_QUERY_MAX];
	uint16_t id;
	size_t n;

	km_random(&id, sizeof(id));
	if (!dns_query_make(msg, &n, id, s->r->name, DNS_TYPE_TXT, false))
		s->exchange =
		    dns_exchange(dns_base(s->r->d), &s->addr, DNS_PORT, msg, n, on_answer, s);
	if (!s->exchange)
		ask_again(s);
}

/* ---- too late ---- */
static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	struct dns_record *r = arg;
	char text[900], addr[KM_ADDR_STRLEN];
	const struct server *s = NULL;
	long long seconds = (long long)(r->timeout_ms + 999) / 1000;

	(void)fd;
	(void)what;
	for (size_t i = 0; i < r->n && !s; i++)
		if (!r->servers[i].shows && *r->servers[i].last)
			s = &r->servers[i];
	if (s)
		snprintf(text, sizeof(text),
			 "the TXT record of %s was not seen on %s, a server of the zone %s, within "
			 "%lld s: %s",
			 r->name, km_addr_str(&s->addr, addr), r->zone, seconds, s->last);
	else
		snprintf(text, sizeof(text), "the TXT record of %s was not there after %lld s: %s",
			 r->name, seconds,
			 r->presenting ? "the provider has not finished"
				       : "the DNS does not answer");
	conclude(r, text);
}

/* ---- start and end ---- */
struct dns_record *dns_record_present(struct dns *d, struct dns_provider *p, const char *name,
				      const char *value, int64_t timeout_ms,
				      void (*done)(void *arg, const char *failed), void *arg)
{
	struct dns_record *r = calloc(1, sizeof(*r));
	struct timeval tv = {timeout_ms / 1000, timeout_ms % 1000 * 1000};

	if (!r)
		return NULL;
	r->d = d;
	r->provider = p;
	r->done = done;
	r->arg = arg;
	r->timeout_ms = timeout_ms;
	r->value = strdup(value);
	snprintf(r->first, sizeof(r->first), "_acme-challenge.%s", name);
	strcpy(r->name, r->first);
	r->deadline = evtimer_new(dns_base(d), on_deadline, r);
	r->cname = dns_query(d, r->name, DNS_TYPE_CNAME, on_cname, r);
	if (!r->value || !r->deadline || evtimer_add(r->deadline, &tv) || !r->cname) {
		record_free(r);
		return NULL;
	}
	return r;
}

static void on_cleaned(void *arg, const char *failed)
{
	struct dns_record *r = arg;

	if (failed)
		km_warn("dns record not removed", km_ks("name", r->name), km_ks("error", failed));
	dns_orphan_drop(r->d, &r->orphan);
	record_free(r);
}

static void clean_up(struct dns_record *r)
{
	r->provider->ops->change(r->provider, false, r->name, r->value, on_cleaned, r);
}

static void orphan_free(struct dns_orphan *o)
{
	record_free((struct dns_record *)((char *)o - offsetof(struct dns_record, orphan)));
}

void dns_record_remove(struct dns_record *r)
{
	if (!r)
		return;
	stop_watching(r);
	r->done = NULL;
	r->removed = true;
	if (!r->presented) {
		record_free(r);
		return;
	}
	/* From here on it is nobody's: whoever is left over when the provider has gone ends with d.
	 */
	r->orphan.free = orphan_free;
	dns_orphan_add(r->d, &r->orphan);
	if (!r->presenting)
		clean_up(r);
}
