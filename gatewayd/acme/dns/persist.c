/* SPDX-License-Identifier: MIT */
/* dns-persist-01: one TXT record that stays, `issuer; accounturi=URL[; policy=wildcard][;
 * persistUntil=T]`, with the syntax of a CAA record's issue value (RFC 8659 section 4.2). */
#include "gatewayd/acme/client.h"
#include "gatewayd/acme/dns/caa.h"
#include "gatewayd/acme/dns/query.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct persist {
	struct dns_ask ask;
	struct dns_lookup *lookup;
	void (*done)(void *arg, const char *failed);
	void *arg;
	bool wildcard;
	char name[DNS_NAME_STRLEN]; /* _validation-persist.NAME */
	char **issuers;
	char *account_url;
};

static void persist_free(struct dns_ask *a)
{
	struct persist *p = (struct persist *)a;

	dns_lookup_cancel(p->lookup);
	dns_list_free(p->issuers);
	free(p->account_url);
	free(p);
}

static bool fits(const struct persist *p, const struct dns_rr *rr)
{
	struct persist_question q = {p->wildcard, (const char *const *)p->issuers, p->account_url,
				     km_wall_ms() / 1000};
	char value[2048];

	dns_rr_txt(rr, value, sizeof(value));
	return persist_allows(value, strlen(value), &q);
}

static void on_found(void *arg, const struct dns_found *f)
{
	struct persist *p = arg;
	void (*done)(void *done_arg, const char *failed) = p->done;
	void *done_arg = p->arg;
	char text[ACME_URL_MAX + 1024];
	bool ok = false;

	p->lookup = NULL;
	for (size_t i = 0; i < f->n && !ok; i++)
		ok = fits(p, &f->rr[i]);
	if (f->status == DNS_FAILED)
		snprintf(text, sizeof(text), "%s could not be looked up: %s", p->name, f->failed);
	else
		snprintf(
		    text, sizeof(text), "publish this record: %s. IN TXT \"%s; accounturi=%s%s\"%s",
		    p->name, p->issuers[0], p->account_url, p->wildcard ? "; policy=wildcard" : "",
		    f->n ? " (what is there names another CA or account, is of the past, or is "
			   "not for wildcards)"
			 : "");
	persist_free(&p->ask);
	done(done_arg, ok ? NULL : text);
}

struct dns_ask *dns_persist_check(struct dns *d, const char *name, bool wildcard,
				  const char *const *issuers, const char *account_url,
				  void (*done)(void *arg, const char *failed), void *arg)
{
	struct persist *p = issuers[0] ? calloc(1, sizeof(*p)) : NULL;

	if (!p)
		return NULL;
	p->ask.cancel = persist_free;
	p->done = done;
	p->arg = arg;
	p->wildcard = wildcard;
	p->issuers = dns_list_copy(issuers);
	p->account_url = km_xstrdup(account_url);
	snprintf(p->name, sizeof(p->name), "_validation-persist.%s", name);
	p->lookup = dns_lookup(d, p->name, DNS_TYPE_TXT, on_found, p);
	if (!p->lookup) {
		persist_free(&p->ask);
		return NULL;
	}
	return &p->ask;
}
