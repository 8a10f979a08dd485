/* SPDX-License-Identifier: MIT */
/* What an order asks to be proved: authorizations are read, challenges put up, the verdict looked
 * at. */
#include "gatewayd/acme/csr.h"
#include "gatewayd/acme/order.h"
#include <string.h>

#define HINTS_MAX 3

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
		rc = authz_choose(a, o->job.client, order_types(o), o->failed[a->name], &err);
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
		order_poll(o, STEP_DECIDE, DECIDE_MS,
			   NULL); /* all are valid: it must become ready */
}

/* The next one to be told of, from `at`. */
static bool next_chosen(struct order *o)
{
	while (o->at < o->n_authz && !o->authz[o->at].type)
		o->at++;
	return o->at < o->n_authz;
}

/* Whether another order could fare better: it counts against the CA's limits. */
static bool type_left(const struct order *o)
{
	unsigned all = 0;

	for (size_t i = 0; i < TYPES_MAX && o->types[i]; i++)
		all |= 1U << i;
	for (size_t i = 0; i < o->n_names; i++)
		if ((o->failed[i] & all) == all)
			return false;
	return true;
}

void order_authz_came(struct order *o, const struct acme_answer *a, struct acme_problem *p)
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
	rc = authz_read(z, doc, order_names(o), o->n_names, &err);
	json_decref(doc);
	if (rc) {
		job_failf(&o->job, ACME_PROTOCOL, "%s", err.text);
		return;
	}
	if (z->status == AUTHZ_DEAD) {
		authz_problem(z, order_types(o), &why, &z->type_no);
		if (o->step == STEP_WHY || !o->last.cause)
			name_failed(o, z, &why);
	}
	if (z->status == AUTHZ_DEAD && o->step == STEP_AUTHZ) {
		order_anew(o); /* the CA has given an old order again */
		return;
	}
	if (++o->at < o->n_authz)
		return;
	if (o->step == STEP_AUTHZ) {
		choose(o);
		return;
	}
	/* Why the order failed is known now. No other type changes what a CAA record says. */
	if (o->last.cause == ACME_VALIDATION && !problem_is(&o->last, "caa") && type_left(o))
		order_anew(o);
	else
		job_fail(&o->job, &o->last);
}

/* An order became invalid: its authorizations say why. */
void order_failed(struct order *o, const struct order_doc *d)
{
	bool resumed = o->step == STEP_RESUME;

	if (d->error) {
		problem_read(&o->last, d->error);
		for (size_t i = 0; i < o->n_authz; i++)
			authz_hide(&o->authz[i], &o->last);
		if (!o->last.cause)
			o->last.cause = ACME_VALIDATION;
		problem_about(&o->last, "the order");
	} else if (!resumed) {
		problem_set(&o->last, ACME_PROTOCOL,
			    "the CA gives the order up and does not say why");
	}
	o->at = 0;
	if (resumed)
		order_anew(o);
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
		(void)next_chosen(o);
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

void order_ack_came(struct order *o, struct acme_problem *p)
{
	if (p && (p->cause == ACME_RATE_LIMITED || p->cause == ACME_NETWORK ||
		  p->cause == ACME_ACCOUNT)) {
		problem_about(p, "the challenge");
		job_fail(&o->job, p);
		return;
	}
	o->at++; /* a refusal: it may have been told before; the order knows */
	if (!next_chosen(o))
		order_poll(o, STEP_DECIDE, DECIDE_MS, NULL);
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
