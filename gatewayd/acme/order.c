/* SPDX-License-Identifier: MIT */
/* An order (RFC 8555 section 7.4), from names to a chain: made, found again, polled. */
#include "gatewayd/acme/order.h"
#include "gatewayd/acme/csr.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ORDERS_MAX 6 /* made by one job */
#define POLL_MAX_MS 3000
#define POLL_ASKED_MAX_MS 60000 /* of a Retry-After */

/* The order at the CA, not why the last one failed. */
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

void order_anew(struct order *o)
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
	order_anew(order_of(j));
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
	       (a->status == 409 || problem_is(p, "alreadyReplaced") ||
		problem_is(p, "malformed") || problem_is(p, "unauthorized") || a->status == 404);
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

bool order_doc(struct order *o, const struct acme_answer *a, struct order_doc *d)
{
	struct km_errtext err = {""};
	json_t *doc = job_json(&o->job, a);
	int rc;

	if (!doc)
		return false;
	rc = order_doc_read(d, doc, order_names(o), o->n_names, &err);
	json_decref(doc);
	if (rc && o->step == STEP_RESUME && rc != KM_ENOMEM)
		order_anew(o); /* not the order that we took it for */
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

void order_take(char **to, char **from)
{
	free(*to);
	*to = *from;
	*from = NULL;
}

/* When the order is to be asked for next: now if the CA has just looked, when the CA asks for it,
 * or at the step that has come. */
static void poll_in(struct order *o, const struct acme_answer *a)
{
	int64_t asked = problem_retry_after(a ? a->retry_after : NULL, o->job.wall);

	if (asked > POLL_ASKED_MAX_MS)
		asked = POLL_ASKED_MAX_MS;
	o->poll_at = o->job.mono + (o->hinted ? 0 : asked > 0 ? asked : o->poll_step);
	o->hinted = false;
}

void order_poll(struct order *o, enum step step, int64_t bound, const struct acme_answer *a)
{
	o->step = step;
	o->poll_step = POLL_FIRST_MS;
	o->deadline = o->job.mono + bound;
	poll_in(o, a);
}

static void poll_again(struct order *o, const struct acme_answer *a)
{
	if (o->job.mono >= o->deadline) {
		job_failf(&o->job, ACME_NETWORK, "the CA has not %s in time",
			  o->step == STEP_DECIDE ? "looked at the challenge"
						 : "issued the certificate");
		return;
	}
	o->poll_step = o->poll_step * 2 < POLL_MAX_MS ? o->poll_step * 2 : POLL_MAX_MS;
	poll_in(o, a);
}

void order_is(struct order *o, const struct acme_answer *a, struct order_doc *d)
{
	bool first = o->step == STEP_NEW || o->step == STEP_RESUME;

	order_take(&o->finalize, &d->finalize);
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
			order_poll(o, STEP_ISSUE, ISSUE_MS, a);
		return;
	case ORDER_VALID:
		order_take(&o->certificate, &d->certificate);
		o->step = STEP_CHAIN;
		return;
	case ORDER_INVALID:
		order_failed(o, d);
	}
}

static void order_made(struct order *o, const struct acme_answer *a)
{
	struct order_doc d;

	o->orders++;
	o->job.problem.reached = true;
	if (!a->location || !acme_url_ok(a->location)) {
		job_failf(&o->job, ACME_PROTOCOL, "the CA gives the order no https URL");
		return;
	}
	if (!(o->url = strdup(a->location))) {
		job_no_memory(&o->job);
		return;
	}
	if (o->ordered)
		o->ordered(o->arg, o->url);
	if (!order_doc(o, a, &d))
		return;
	order_is(o, a, &d);
	order_doc_clear(&d);
}

static void order_read(struct order *o, const struct acme_answer *a, struct acme_problem *p)
{
	struct order_doc d;

	if (p && o->step == STEP_RESUME && a->status < 500 && p->cause != ACME_RATE_LIMITED) {
		order_anew(o); /* expired, or another account's */
		return;
	}
	if (p) {
		problem_about(p, "the order");
		job_fail(&o->job, p);
		return;
	}
	if (!order_doc(o, a, &d))
		return;
	o->job.problem.reached = true;
	order_is(o, a, &d);
	order_doc_clear(&d);
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
		order_authz_came(o, a, p);
		return;
	case STEP_ACK:
		order_ack_came(o, p);
		return;
	case STEP_FINALIZE:
		order_finalized(o, a, p);
		return;
	case STEP_CHAIN:
		order_chain_came(o, a, p);
		return;
	case STEP_ALTERNATE:
		order_alternate_came(o, a, p);
		return;
	case STEP_PRESENT: /* nothing is sent then */
		return;
	}
}

static char *finalize_payload(struct order *o)
{
	char *text = NULL;

	if (!o->csr)
		o->csr = csr_new(o->key, order_names(o), o->n_names);
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

struct order *order_of(const struct acme_job *j)
{
	return j->ops == &order_ops ? (struct order *)j : NULL;
}

static int check_names(const struct acme_order_opts *o, struct km_errtext *err)
{
	if (!o->n_names || o->n_names > ACME_NAMES_MAX)
		return km_errtext_set(err, KM_EINVAL, "an order has 1 to %d names", ACME_NAMES_MAX);
	for (size_t i = 0; i < o->n_names; i++) {
		if (!csr_name_ok(o->names[i]))
			return km_errtext_set(err, KM_EINVAL, "%s is no host name or IP address",
					      o->names[i]);
		for (size_t k = 0; k < i; k++)
			if (!strcmp(o->names[i], o->names[k]))
				return km_errtext_set(err, KM_EINVAL,
						      "%s stands twice in the order", o->names[i]);
	}
	if (!o->challenges || !o->challenges[0])
		return km_errtext_set(err, KM_EINVAL, "no challenge may be used");
	return 0;
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
	return acme_copy(&o->profile, from->profile) && acme_copy(&o->chain_wanted, from->chain) &&
	       acme_copy(&o->replaces, from->replaces);
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
