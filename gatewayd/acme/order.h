/* SPDX-License-Identifier: MIT */
/* The order job, shared by the files that make it up: order.c (made, found again, polled),
 * order_prove.c (authorizations and challenges), order_issue.c (finalize, the chain). */
#ifndef GATEWAYD_ACME_ORDER_H
#define GATEWAYD_ACME_ORDER_H

#include "gatewayd/acme/authz.h"

#define DECIDE_MS 120000 /* from the last challenge to the CA's verdict */
#define ISSUE_MS 180000  /* from finalize to the certificate */
#define POLL_FIRST_MS 100

enum step {
	STEP_NEW,
	STEP_RESUME, /* an order from before a restart is read */
	STEP_AUTHZ,  /* authorization `at` is read */
	STEP_PRESENT,
	STEP_ACK,    /* the CA is told that challenge `at` is up */
	STEP_DECIDE, /* the order is polled until it is ready */
	STEP_FINALIZE,
	STEP_ISSUE, /* … until it is valid */
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
	struct acme_problem last; /* why the latest validation failed; cause 0: none did */

	bool hinted;
	int64_t poll_at, poll_step, deadline;

	char *chain, *link; /* the default chain, and where the others are */
};

/* The order behind a job; NULL: it is another kind of job. */
struct order *order_of(const struct acme_job *j);
static inline const char *const *order_names(const struct order *o)
{
	return (const char *const *)o->names;
}
static inline const char *const *order_types(const struct order *o)
{
	return (const char *const *)o->types;
}
/* *to is freed and becomes *from, which becomes NULL. */
void order_take(char **to, char **from);
/* Forgets the order at the CA, not why the last one failed, and makes another; fails when there
 * were enough. */
void order_anew(struct order *o);
/* Reads the order that came; false: the job has failed, or goes on otherwise. */
bool order_doc(struct order *o, const struct acme_answer *a, struct order_doc *d);
/* What the order's status means at this step. */
void order_is(struct order *o, const struct acme_answer *a, struct order_doc *d);
/* Polls the order at this step, for so long. a: an answer that may name a time; NULL. */
void order_poll(struct order *o, enum step step, int64_t bound, const struct acme_answer *a);

/* ---- order_prove.c ---- */
void order_authz_came(struct order *o, const struct acme_answer *a, struct acme_problem *p);
void order_ack_came(struct order *o, struct acme_problem *p);
/* The order became invalid. */
void order_failed(struct order *o, const struct order_doc *d);

/* ---- order_issue.c ---- */
void order_finalized(struct order *o, const struct acme_answer *a, struct acme_problem *p);
void order_chain_came(struct order *o, const struct acme_answer *a, struct acme_problem *p);
void order_alternate_came(struct order *o, const struct acme_answer *a,
			  const struct acme_problem *p);

#endif
