/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/manager.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define OPEN_MS 1800000 /* a challenge that nobody closes */

struct present {
	struct attempt *t;
	struct challenge ch;
	bool opened; /* ch is */
	struct dns_record *record;
	struct dns_ask *ask;
};

/* One of what is to be put up is up, or not. */
static void one_ended(struct attempt *t, const char *failed)
{
	if (failed && !t->present_failed)
		t->present_failed = strdup(failed);
	if (--t->presenting)
		return;
	acme_job_presented(t->job, !t->present_failed, t->present_failed);
	free(t->present_failed);
	t->present_failed = NULL;
	attempt_pump(t);
}

static void on_record(void *arg, const char *failed)
{
	struct present *p = arg;
	one_ended(p->t, failed);
}

static void on_persist(void *arg, const char *failed)
{
	struct present *p = arg;
	p->ask = NULL;
	one_ended(p->t, failed);
}

static void on_told(void *arg)
{
	struct attempt *t = ticket_take(arg);
	if (t)
		one_ended(t, NULL);
}

/* ---- the kinds ---- */

static void put_here(struct present *p, const struct acme_challenge *c)
{
	struct acme *a = p->t->a;
	p->ch.type = !strcmp(c->type, "http-01") ? CHALLENGE_HTTP : CHALLENGE_ALPN_TLS;
	snprintf(p->ch.name, sizeof(p->ch.name), "%s", c->name);
	snprintf(p->ch.token, sizeof(p->ch.token), "%s", c->token);
	snprintf(p->ch.key_auth, sizeof(p->ch.key_auth), "%s", c->key_auth);
	int rc = strlen(c->token) > CHALLENGE_TOKEN_MAX || strlen(c->key_auth) > CHALLENGE_KEY_AUTH_MAX
		     ? KM_EINVAL
		     : challenges_open(a->o.challenges, &p->ch, km_now_ms() + OPEN_MS);
	if (rc) {
		one_ended(p->t, rc == KM_EINVAL ? "the CA's token is malformed" : km_strerror(rc));
		return;
	}
	p->opened = true;
	if (a->mesh && mesh_alive(a->mesh))
		mesh_challenge(a->mesh, &p->ch, true, on_told, ticket_new(p->t));
	else
		one_ended(p->t, NULL);
}

static void put_record(struct present *p, const struct acme_challenge *c)
{
	struct acme *a = p->t->a;
	p->record = dns_record_present(a->dns, a->provider, c->name, c->dns_value, a->s->dns_timeout,
				       on_record, p);
	if (!p->record)
		one_ended(p->t, "no memory");
}

static void check_persist(struct present *p, const struct acme_challenge *c)
{
	struct acme *a = p->t->a;
	p->ask = dns_persist_check(a->dns, c->name, c->wildcard, c->issuers,
				   acme_client_account_url(a->client), on_persist, p);
	if (!p->ask)
		one_ended(p->t, "no memory");
}

void present_begin(struct attempt *t)
{
	struct acme_challenge c;
	size_t n = 0;
	present_clear(t);
	while (acme_job_challenge(t->job, n, &c))
		n++;
	t->presents = km_xcalloc(n ? n : 1, sizeof(*t->presents));
	t->n_presents = n;
	t->presenting = n + 1; /* one for this function, so that it cannot be over before its end */
	for (size_t i = 0; i < n; i++) {
		struct present *p = &t->presents[i];
		p->t = t;
		if (!acme_job_challenge(t->job, i, &c))
			one_ended(t, "no challenge");
		else if (!strcmp(c.type, "dns-01"))
			put_record(p, &c);
		else if (!strcmp(c.type, "dns-persist-01"))
			check_persist(p, &c);
		else
			put_here(p, &c);
	}
	one_ended(t, NULL);
}

void present_clear(struct attempt *t)
{
	struct acme *a = t->a;
	for (size_t i = 0; i < t->n_presents; i++) {
		struct present *p = &t->presents[i];
		if (p->opened) {
			challenges_close(a->o.challenges, p->ch.token);
			if (a->mesh)
				mesh_challenge(a->mesh, &p->ch, false, NULL, NULL);
		}
		if (p->record)
			dns_record_remove(p->record);
		dns_cancel(p->ask);
	}
	free(t->presents);
	free(t->present_failed);
	t->presents = NULL;
	t->present_failed = NULL;
	t->n_presents = t->presenting = 0;
}

void present_each(struct acme *a, void (*each)(void *arg, const struct challenge *ch), void *arg)
{
	struct attempt *t;
	DL_FOREACH (a->attempts, t)
		for (size_t i = 0; i < t->n_presents; i++)
			if (t->presents[i].opened)
				each(arg, &t->presents[i].ch);
}

bool present_has(const struct attempt *t, const char *token)
{
	for (size_t i = 0; i < t->n_presents; i++)
		if (t->presents[i].opened && !strcmp(t->presents[i].ch.token, token))
			return true;
	return false;
}
