/* SPDX-License-Identifier: MIT */
/* An order's end: finalize, the chain, and the alternate that is preferred. */
#include "gatewayd/acme/chain.h"
#include "gatewayd/acme/order.h"
#include <stdlib.h>
#include <string.h>

#define FINALIZES_MAX 4
#define ALTERNATES_MAX 8

/* ---- finalize, and the chain ---- */

void order_finalized(struct order *o, const struct acme_answer *a, struct acme_problem *p)
{
	struct order_doc d;

	if (p && problem_is(p, "orderNotReady") && ++o->finalizes < FINALIZES_MAX) {
		order_poll(o, STEP_DECIDE, DECIDE_MS, a); /* perhaps it has been finalized before */
		return;
	}
	if (p) {
		problem_about(p, "finalizing");
		job_fail(&o->job, p);
		return;
	}
	if (!order_doc(o, a, &d))
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
	order_take(&o->certificate, &url);
	o->step = STEP_ALTERNATE;
}

void order_chain_came(struct order *o, const struct acme_answer *a, struct acme_problem *p)
{
	char issuer[CHAIN_ISSUER_MAX], *pem;
	struct km_errtext err = {""};
	int rc;

	if (p) {
		problem_about(p, "the certificate");
		job_fail(&o->job, p);
		return;
	}
	rc = chain_read(&pem, issuer, a->body ? a->body : "", a->n, o->key, order_names(o),
			o->n_names, &err);
	if (rc == KM_EAUTH && !o->orders) {
		order_anew(o); /* an order from before, whose key is gone */
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
void order_alternate_came(struct order *o, const struct acme_answer *a,
			  const struct acme_problem *p)
{
	char issuer[CHAIN_ISSUER_MAX], *pem = NULL;

	if (!p &&
	    !chain_read(&pem, issuer, a->body ? a->body : "", a->n, o->key, order_names(o),
			o->n_names, NULL) &&
	    !strcmp(issuer, o->chain_wanted)) {
		order_take(&o->chain, &pem);
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
