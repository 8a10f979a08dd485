/* SPDX-License-Identifier: MIT */
/* An order (RFC 8555 section 7.4), from names to a chain. The functions stand in the order in which things
 * happen. */
#include "gatewayd/acme/authz.h"
#include "gatewayd/acme/chain.h"
#include "gatewayd/acme/csr.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ORDERS_MAX 6            /* made by one job */
#define FINALIZES_MAX 4
#define ALTERNATES_MAX 8
#define HINTS_MAX 3
#define POLL_FIRST_MS 100
#define POLL_MAX_MS 3000
#define POLL_ASKED_MAX_MS 60000 /* of a Retry-After */
#define DECIDE_MS 120000        /* from the last challenge to the CA's verdict */
#define ISSUE_MS 180000         /* from finalize to the certificate */

enum step {
	STEP_NEW,
	STEP_RESUME,    /* an order from before a restart is read */
	STEP_AUTHZ,     /* authorization `at` is read */
	STEP_PRESENT,
	STEP_ACK,       /* the CA is told that challenge `at` is up */
	STEP_DECIDE,    /* the order is polled until it is ready */
	STEP_FINALIZE,
	STEP_ISSUE,     /* … until it is valid */
	STEP_CHAIN,
	STEP_ALTERNATE, /* alternate chain `at` */
	STEP_WHY,       /* authorization `at` of an order that failed is read */
};

struct order {
	struct acme_job job;
	char *names[ACME_NAMES_MAX];
	size_t n_names;
	EVP_PKEY *key;
	char *types[TYPES_MAX + 1];
	char *profile, *chain_wanted, *replaces;
	void (*ordered)(void *arg, const char *url);
	void *arg;

	enum step step;
	char *url, *csr, *certificate, *finalize;
	struct authz authz[ACME_NAMES_MAX];
	size_t n_authz, at;
	unsigned failed[ACME_NAMES_MAX]; /* by name: bits of types that did not work */
	unsigned orders, finalizes, hints;
	struct acme_problem last;        /* why the latest validation failed; cause 0: none did */

	bool hinted;
	int64_t poll_at, poll_step, deadline;

	char *chain, *link;              /* the default chain, and where the others are */
};

static struct order *order_of(const struct acme_job *j);

static const char *const *names_of(const struct order *o)
{
	return (const char *const *)o->names;
}

static const char *const *types_of(const struct order *o)
{
	return (const char *const *)o->types;
}

/* Forgets the order at the CA, not why the last one failed. */
static void forget(struct order *o)
{
	for (size_t i = 0; i < o->n_authz; i++)
		authz_clear(&o->authz[i]);
	o->n_authz = o->at = 0;
	o->finalizes = 0;
	free(o->url);
	free(o->certificate);
	free(o->finalize);
	free(o->chain);
	free(o->link);
	o->url = o->certificate = o->finalize = o->chain = o->link = NULL;
}

static void begin_anew(struct order *o)
{
	forget(o);
	o->step = STEP_NEW;
	if (o->orders < ORDERS_MAX)
		return;
	if (o->last.cause)
		job_fail(&o->job, &o->last);
	else
		job_failf(&o->job, ACME_PROTOCOL, "the CA's orders come to nothing");
}

static void account_lost(struct acme_job *j)
{
	begin_anew(order_of(j));
}

/* ---- the order is made, or found again ---- */

static bool offers_profile(const struct order *o)
{
	return o->profile && json_object_get(o->job.client->dir.profiles, o->profile);
}

static char *new_order(const struct order *o)
{
	json_t *ids = json_array(), *doc = json_pack("{s:o}", "identifiers", ids);
	char *text = NULL;
	int rc = doc ? 0 : -1;

	for (size_t i = 0; !rc && i < o->n_names; i++)
		rc = json_array_append_new(
		    ids, json_pack("{s:s, s:s}", "type", csr_name_is_ip(o->names[i]) ? "ip" : "dns",
				   "value", o->names[i]));
	if (!rc && offers_profile(o))
		rc = json_object_set_new(doc, "profile", json_string(o->profile));
	if (!rc && o->replaces && o->job.client->dir.renewal_info)
		rc = json_object_set_new(doc, "replaces", json_string(o->replaces));
	if (!rc)
		text = json_dumps(doc, JSON_COMPACT);
	json_decref(doc);
	return text;
}

static bool replaces_is_the_trouble(const struct order *o, const struct acme_answer *a,
				    const struct acme_problem *p)
{
	return o->replaces && o->job.client->dir.renewal_info &&
	       (a->status == 409 || problem_is(p, "alreadyReplaced") || problem_is(p, "malformed") ||
		problem_is(p, "unauthorized") || a->status == 404);
}

static void order_refused(struct order *o, const struct acme_answer *a, struct acme_problem *p)
{
	if (replaces_is_the_trouble(o, a, p)) {
		free(o->replaces);
		o->replaces = NULL;
		return;
	}
	if (problem_is(p, "unauthorized")) /* there is nothing yet that could have been validated */
		p->cause = ACME_ACCOUNT;
	problem_about(p, "the order");
	job_fail(&o->job, p);
}

/* Reads the order that came; false: the job has failed, or goes on otherwise. */
static bool read_order(struct order *o, const struct acme_answer *a, struct order_doc *d)
{
	struct km_errtext err = {""};
	json_t *doc = job_json(&o->job, a);
	int rc;

	if (!doc)
		return false;
	rc = order_doc_read(d, doc, names_of(o), o->n_names, &err);
	json_decref(doc);
	if (rc && o->step == STEP_RESUME && rc != KM_ENOMEM)
		begin_anew(o); /* not the order that we took it for */
	else if (rc)
		job_failf(&o->job, rc == KM_ENOMEM ? ACME_LOCAL : ACME_PROTOCOL, "%s", err.text);
	return rc == 0;
}

static void take_authz(struct order *o, struct order_doc *d)
{
	for (size_t i = 0; i < o->n_authz; i++)
		authz_clear(&o->authz[i]);
	for (size_t i = 0; i < d->n_authz; i++) {
		o->authz[i].url = d->authz[i];
		d->authz[i] = NULL;
	}
	o->n_authz = d->n_authz;
}

static void take_url(char **to, char **from)
{
	free(*to);
	*to = *from;
	*from = NULL;
}

static void poll_from(struct order *o, enum step step, int64_t bound)
{
	o->step = step;
	o->poll_step = POLL_FIRST_MS;
	o->poll_at = o->hinted ? o->job.mono : o->job.mono + POLL_FIRST_MS;
	o->hinted = false;
	o->deadline = o->job.mono + bound;
}

static void poll_again(struct order *o, const struct acme_answer *a)
{
	int64_t asked = problem_retry_after(a->retry_after, o->job.wall);

	if (o->job.mono >= o->deadline) {
		job_failf(&o->job, ACME_NETWORK, "the CA has not %s in time",
			  o->step == STEP_DECIDE ? "looked at the challenge" : "issued the certificate");
		return;
	}
	o->poll_step = o->poll_step * 2 < POLL_MAX_MS ? o->poll_step * 2 : POLL_MAX_MS;
	if (asked > POLL_ASKED_MAX_MS)
		asked = POLL_ASKED_MAX_MS;
	o->poll_at = o->hinted ? o->job.mono : o->job.mono + (asked > 0 ? asked : o->poll_step);
	o->hinted = false;
}

static void order_failed(struct order *o, const struct order_doc *d);

/* What the order's status means at this step. */
static void order_is(struct order *o, const struct acme_answer *a, struct order_doc *d)
{
	bool first = o->step == STEP_NEW || o->step == STEP_RESUME;

	take_url(&o->finalize, &d->finalize);
	if (first)
		take_authz(o, d);
	switch (d->status) {
	case ORDER_PENDING:
		if (!first) {
			poll_again(o, a);
			return;
		}
		o->step = STEP_AUTHZ;
		o->at = 0;
		return;
	case ORDER_READY:
		o->step = STEP_FINALIZE;
		return;
	case ORDER_PROCESSING:
		if (o->step == STEP_ISSUE)
			poll_again(o, a);
		else
			poll_from(o, STEP_ISSUE, ISSUE_MS);
		return;
	case ORDER_VALID:
		take_url(&o->certificate, &d->certificate);
		o->step = STEP_CHAIN;
		return;
	case ORDER_INVALID:
		order_failed(o, d);
	}
}

static void order_made(struct order *o, const struct acme_answer *a)
{
	struct order_doc d;

	if (!a->location || !acme_url_ok(a->location)) {
		job_failf(&o->job, ACME_PROTOCOL, "the CA gives the order no https URL");
		return;
	}
	o->orders++;
	o->job.problem.reached = true;
	if (!(o->url = strdup(a->location))) {
		job_no_memory(&o->job);
		return;
	}
	if (o->ordered)
		o->ordered(o->arg, o->url);
	if (!read_order(o, a, &d))
		return;
	order_is(o, a, &d);
	order_doc_clear(&d);
}

static void order_read(struct order *o, const struct acme_answer *a, struct acme_problem *p)
{
	struct order_doc d;

	if (p && o->step == STEP_RESUME && a->status < 500 && p->cause != ACME_RATE_LIMITED) {
		begin_anew(o); /* expired, or another account's */
		return;
	}
	if (p) {
		problem_about(p, "the order");
		job_fail(&o->job, p);
		return;
	}
	if (!read_order(o, a, &d))
		return;
	o->job.problem.reached = true;
	order_is(o, a, &d);
	order_doc_clear(&d);
}

/* ---- authorizations ---- */

static void name_failed(struct order *o, const struct authz *a, const struct acme_problem *p)
{
	if (o->last.cause != ACME_REJECTED)
		o->last = *p;
	if (a->type_no < TYPES_MAX)
		o->failed[a->name] |= 1U << a->type_no;
}

static void choose(struct order *o)
{
	struct km_errtext err = {""};
	bool any = false;

	for (size_t i = 0; i < o->n_authz; i++) {
		struct authz *a = &o->authz[i];
		int rc;

		if (a->status != AUTHZ_PENDING)
			continue;
		any = true;
		rc = authz_choose(a, o->job.client, types_of(o), o->failed[a->name], &err);
		if (!rc)
			continue;
		if (rc == KM_ENOTFOUND && o->last.cause)
			job_fail(&o->job, &o->last); /* what could be tried has been */
		else
			job_failf(&o->job,
				  rc == KM_ENOTFOUND ? ACME_UNSUPPORTED
				  : rc == KM_EPROTO  ? ACME_PROTOCOL
						     : ACME_LOCAL,
				  "%s", err.text);
		return;
	}
	o->at = 0;
	if (any)
		o->step = STEP_PRESENT;
	else
		poll_from(o, STEP_DECIDE, DECIDE_MS); /* all are valid: it must become ready */
}

/* The next one to be told of, from `at`. */
static bool next_chosen(struct order *o)
{
	while (o->at < o->n_authz && !o->authz[o->at].type)
		o->at++;
	return o->at < o->n_authz;
}

static void authz_came(struct order *o, const struct acme_answer *a, struct acme_problem *p)
{
	struct authz *z = &o->authz[o->at];
	struct acme_problem why = {0};
	struct km_errtext err = {""};
	json_t *doc;
	int rc;

	if (p) {
		problem_about(p, "the authorization");
		job_fail(&o->job, p);
		return;
	}
	if (!(doc = job_json(&o->job, a)))
		return;
	rc = authz_read(z, doc, names_of(o), o->n_names, &err);
	json_decref(doc);
	if (rc) {
		job_failf(&o->job, ACME_PROTOCOL, "%s", err.text);
		return;
	}
	if (z->status == AUTHZ_DEAD) {
		authz_problem(z, types_of(o), &why, &z->type_no);
		if (o->step == STEP_WHY || !o->last.cause)
			name_failed(o, z, &why);
	}
	if (z->status == AUTHZ_DEAD && o->step == STEP_AUTHZ) {
		begin_anew(o); /* the CA has given an old order again */
		return;
	}
	if (++o->at < o->n_authz)
		return;
	if (o->step == STEP_AUTHZ) {
		choose(o);
		return;
	}
	/* Why the order failed is known now. No other type changes what a CAA record says. */
	if (o->last.cause == ACME_VALIDATION && !problem_is(&o->last, "caa"))
		begin_anew(o);
	else
		job_fail(&o->job, &o->last);
}

/* An order became invalid: its authorizations say why. */
static void order_failed(struct order *o, const struct order_doc *d)
{
	bool resumed = o->step == STEP_RESUME;

	if (d->error) {
		problem_read(&o->last, d->error);
		if (!o->last.cause)
			o->last.cause = ACME_VALIDATION;
		problem_about(&o->last, "the order");
	} else if (!resumed) {
		problem_set(&o->last, ACME_PROTOCOL, "the CA gives the order up and does not say why");
	}
	o->at = 0;
	if (resumed)
		begin_anew(o);
	else if (o->step == STEP_DECIDE && o->n_authz)
		o->step = STEP_WHY;
	else
		job_fail(&o->job, &o->last);
}

bool acme_job_challenge(const struct acme_job *j, size_t i, struct acme_challenge *out)
{
	struct order *o = order_of(j);

	if (!o || o->step != STEP_PRESENT)
		return false;
	for (size_t k = 0; k < o->n_authz; k++) {
		const struct authz *a = &o->authz[k];
		const char *name = o->names[a->name];

		if (!a->type || i--)
			continue;
		*out = (struct acme_challenge){.type = a->type,
					       .name = name + (a->wildcard ? 2 : 0),
					       .wildcard = a->wildcard,
					       .ip = csr_name_is_ip(name),
					       .token = a->token,
					       .key_auth = a->key_auth,
					       .dns_value = a->dns_value,
					       .issuers = a->issuers[0] ? a->issuers : NULL};
		return true;
	}
	return false;
}

void acme_job_presented(struct acme_job *j, bool ok, const char *why)
{
	struct order *o = order_of(j);
	struct acme_problem p = {0};

	if (!o || j->over || o->step != STEP_PRESENT)
		return;
	if (ok) {
		o->step = STEP_ACK;
		o->at = 0;
		o->hints = HINTS_MAX;
		o->hinted = false;
		return;
	}
	problem_set(&p, ACME_LOCAL, "%s", why ? why : "the challenge could not be put up");
	for (size_t i = 0; i < o->n_authz; i++)
		if (o->authz[i].type)
			name_failed(o, &o->authz[i], &p);
	choose(o);
}

static void ack_came(struct order *o, struct acme_problem *p)
{
	if (p && (p->cause == ACME_RATE_LIMITED || p->cause == ACME_NETWORK || p->cause == ACME_ACCOUNT)) {
		problem_about(p, "the challenge");
		job_fail(&o->job, p);
		return;
	}
	o->at++; /* a refusal: it may have been told before; the order knows */
	if (!next_chosen(o))
		poll_from(o, STEP_DECIDE, DECIDE_MS);
}

void acme_job_hint(struct acme_job *j)
{
	struct order *o = order_of(j);

	if (!o || j->over || (o->step != STEP_ACK && o->step != STEP_DECIDE) || !o->hints)
		return;
	o->hints--;
	if (o->step == STEP_DECIDE && !j->sent)
		o->poll_at = 0;
	else
		o->hinted = true;
	o->poll_step = POLL_FIRST_MS / 2;
}

/* ---- finalize, and the chain ---- */

static void finalized(struct order *o, const struct acme_answer *a, struct acme_problem *p)
{
	struct order_doc d;

	if (p && problem_is(p, "orderNotReady") && o->finalizes < FINALIZES_MAX) {
		poll_from(o, STEP_DECIDE, DECIDE_MS);
		o->poll_at = o->finalizes > 1 ? o->poll_at : 0;
		return;
	}
	if (p) {
		problem_about(p, "finalizing");
		job_fail(&o->job, p);
		return;
	}
	if (!read_order(o, a, &d))
		return;
	if (d.status == ORDER_PENDING || d.status == ORDER_READY)
		d.status = ORDER_PROCESSING;
	order_is(o, a, &d);
	order_doc_clear(&d);
}

static void next_alternate(struct order *o)
{
	char *url = o->at < ALTERNATES_MAX ? chain_alternate(o->link, o->at) : NULL;

	if (!url) {
		job_done(&o->job); /* none is preferred: the default */
		return;
	}
	take_url(&o->certificate, &url);
	o->step = STEP_ALTERNATE;
}

static void chain_came(struct order *o, const struct acme_answer *a, struct acme_problem *p)
{
	char issuer[CHAIN_ISSUER_MAX], *pem;
	struct km_errtext err = {""};
	int rc;

	if (p) {
		problem_about(p, "the certificate");
		job_fail(&o->job, p);
		return;
	}
	rc = chain_read(&pem, issuer, a->body ? a->body : "", a->n, o->key, names_of(o), o->n_names, &err);
	if (rc == KM_EAUTH && !o->orders) {
		begin_anew(o); /* an order from before, whose key is gone */
		return;
	}
	if (rc) {
		job_failf(&o->job, rc == KM_ENOMEM ? ACME_LOCAL : ACME_PROTOCOL, "%s", err.text);
		return;
	}
	o->chain = pem;
	if (!o->chain_wanted || !strcmp(issuer, o->chain_wanted)) {
		job_done(&o->job);
		return;
	}
	if (a->link && strlen(a->link) < ACME_CHAIN_MAX && !(o->link = strdup(a->link))) {
		job_no_memory(&o->job);
		return;
	}
	o->at = 0;
	next_alternate(o);
}

/* One that cannot be had or used is passed over: there is a good chain already. */
static void alternate_came(struct order *o, const struct acme_answer *a, const struct acme_problem *p)
{
	char issuer[CHAIN_ISSUER_MAX], *pem = NULL;

	if (!p && !chain_read(&pem, issuer, a->body ? a->body : "", a->n, o->key, names_of(o), o->n_names,
			      NULL) &&
	    !strcmp(issuer, o->chain_wanted)) {
		take_url(&o->chain, &pem);
		job_done(&o->job);
		return;
	}
	free(pem);
	o->at++;
	next_alternate(o);
}

const char *acme_job_chain(const struct acme_job *j)
{
	struct order *o = order_of(j);

	return o && j->over == JOB_DONE ? o->chain : NULL;
}

/* ---- requests and answers by step ---- */

static void order_answer(struct acme_job *j, const struct acme_answer *a, struct acme_problem *p)
{
	struct order *o = order_of(j);

	switch (o->step) {
	case STEP_NEW:
		if (p)
			order_refused(o, a, p);
		else
			order_made(o, a);
		return;
	case STEP_RESUME:
	case STEP_DECIDE:
	case STEP_ISSUE:
		order_read(o, a, p);
		return;
	case STEP_AUTHZ:
	case STEP_WHY:
		authz_came(o, a, p);
		return;
	case STEP_ACK:
		ack_came(o, p);
		return;
	case STEP_FINALIZE:
		finalized(o, a, p);
		return;
	case STEP_CHAIN:
		chain_came(o, a, p);
		return;
	case STEP_ALTERNATE:
		alternate_came(o, a, p);
		return;
	case STEP_PRESENT: /* nothing is sent then */
		return;
	}
}

static char *finalize_payload(struct order *o)
{
	char *text = NULL;

	if (!o->csr)
		o->csr = csr_new(o->key, names_of(o), o->n_names);
	if (!o->csr || asprintf(&text, "{\"csr\":\"%s\"}", o->csr) < 0)
		return NULL;
	return text;
}

static void order_next(struct acme_job *j, struct want *w)
{
	struct order *o = order_of(j);
	bool payload = false;

	w->want = ACME_REQUEST;
	w->url = o->url;
	switch (o->step) {
	case STEP_NEW:
		w->url = j->client->dir.new_order;
		w->payload = new_order(o);
		payload = true;
		break;
	case STEP_AUTHZ:
	case STEP_WHY:
		w->url = o->authz[o->at].url;
		break;
	case STEP_PRESENT:
		w->want = ACME_PRESENT;
		return;
	case STEP_ACK:
		next_chosen(o);
		w->url = o->authz[o->at].challenge_url;
		w->payload = strdup("{}");
		payload = true;
		break;
	case STEP_DECIDE:
	case STEP_ISSUE:
		if (o->poll_at > j->mono) {
			w->want = ACME_WAIT;
			w->until = o->poll_at;
		}
		break;
	case STEP_FINALIZE:
		w->url = o->finalize;
		w->payload = finalize_payload(o);
		payload = true;
		break;
	case STEP_CHAIN:
	case STEP_ALTERNATE:
		w->url = o->certificate;
		w->accept = "application/pem-certificate-chain";
		break;
	case STEP_RESUME:
		break;
	}
	if (payload && !w->payload)
		job_failf(j, ACME_LOCAL, "a request cannot be made (no memory, or OpenSSL failed)");
}

/* ---- life ---- */

static void order_free(struct acme_job *j)
{
	struct order *o = order_of(j);

	forget(o);
	for (size_t i = 0; i < o->n_names; i++)
		free(o->names[i]);
	for (size_t i = 0; i < TYPES_MAX; i++)
		free(o->types[i]);
	EVP_PKEY_free(o->key);
	free(o->csr);
	free(o->profile);
	free(o->chain_wanted);
	free(o->replaces);
	free(o);
}

static const struct job_ops order_ops = {
    .next = order_next, .answer = order_answer, .account_lost = account_lost, .free = order_free};

static struct order *order_of(const struct acme_job *j)
{
	return j->ops == &order_ops ? (struct order *)j : NULL;
}

static int check_names(const struct acme_order_opts *o, struct km_errtext *err)
{
	if (!o->n_names || o->n_names > ACME_NAMES_MAX)
		return km_errtext_set(err, KM_EINVAL, "an order has 1 to %d names", ACME_NAMES_MAX);
	for (size_t i = 0; i < o->n_names; i++) {
		if (!csr_name_ok(o->names[i]))
			return km_errtext_set(err, KM_EINVAL, "%s is no host name or IP address", o->names[i]);
		for (size_t k = 0; k < i; k++)
			if (!strcmp(o->names[i], o->names[k]))
				return km_errtext_set(err, KM_EINVAL, "%s stands twice in the order",
						      o->names[i]);
	}
	if (!o->challenges || !o->challenges[0])
		return km_errtext_set(err, KM_EINVAL, "no challenge may be used");
	return 0;
}

static bool copy(char **out, const char *from)
{
	return !from || (*out = strdup(from));
}

static bool copy_opts(struct order *o, const struct acme_order_opts *from)
{
	for (; o->n_names < from->n_names; o->n_names++)
		if (!(o->names[o->n_names] = strdup(from->names[o->n_names])))
			return false;
	for (size_t i = 0; i < TYPES_MAX && from->challenges[i]; i++)
		if (!(o->types[i] = strdup(from->challenges[i])))
			return false;
	if (EVP_PKEY_up_ref(from->key) != 1)
		return false;
	o->key = from->key;
	o->ordered = from->ordered;
	o->arg = from->arg;
	return copy(&o->profile, from->profile) && copy(&o->chain_wanted, from->chain) &&
	       copy(&o->replaces, from->replaces);
}

int acme_order_new(struct acme_job **out, struct acme_client *c, const struct acme_order_opts *from,
		   struct km_errtext *err)
{
	struct order *o;
	int rc = check_names(from, err);

	*out = NULL;
	if (rc)
		return rc;
	if (!(o = calloc(1, sizeof(*o))))
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	job_init(&o->job, &order_ops, c);
	o->step = STEP_NEW;
	if (from->order_url && acme_url_ok(from->order_url)) {
		o->step = STEP_RESUME;
		o->url = strdup(from->order_url);
	}
	if (!copy_opts(o, from) || (o->step == STEP_RESUME && !o->url)) {
		acme_job_free(&o->job);
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	}
	*out = &o->job;
	return 0;
}
