/* SPDX-License-Identifier: MIT */
/* Orders and authorizations as the CA describes them (RFC 8555 sections 7.1.3 to 7.1.5), checked,
 * and which challenge is taken. */
#ifndef GATEWAYD_ACME_AUTHZ_H
#define GATEWAYD_ACME_AUTHZ_H

#include "gatewayd/acme/internal.h"

#define TYPES_MAX 8 /* challenge types in the order of preference */

enum order_status { ORDER_PENDING, ORDER_READY, ORDER_PROCESSING, ORDER_VALID, ORDER_INVALID };

struct order_doc {
	enum order_status status;
	char *authz[ACME_NAMES_MAX];
	size_t n_authz;
	char *finalize;    /* NULL: there is none (RFC demands it; looked at when needed) */
	char *certificate; /* NULL until valid */
	json_t *error;     /* NULL */
};
/* Fails when the identifiers are not those names, or anything is of the wrong type. KM_EPROTO with
 * a sentence, KM_ENOMEM. */
int order_doc_read(struct order_doc *out, const json_t *doc, const char *const *names, size_t n,
		   struct km_errtext *err) __attribute__((warn_unused_result));
void order_doc_clear(struct order_doc *d);

/* One authorization of an order, and the challenge taken of it. */
struct authz {
	char *url;
	json_t *doc; /* NULL until read */
	size_t name; /* which of the order's names it is for */
	bool wildcard;
	enum {
		AUTHZ_PENDING,
		AUTHZ_VALID,
		AUTHZ_DEAD
	} status; /* dead: invalid, expired, deactivated, revoked */
	/* What has been chosen; type NULL: nothing. Strings of doc where const. */
	const char *type, *challenge_url, *token;
	size_t type_no; /* in the order of preference */
	char *key_auth, *dns_value;
	const char *issuers[ISSUERS_MAX + 1];
};
void authz_clear(struct authz *a);
/* Takes what the CA says of it. KM_EPROTO with a sentence. */
int authz_read(struct authz *a, json_t *doc, const char *const *names, size_t n,
	       struct km_errtext *err) __attribute__((warn_unused_result));
/* Why it is dead, as far as a challenge says, and which type failed (type_no; TYPES_MAX: none of
 * ours). */
void authz_problem(const struct authz *a, const char *const *types, struct acme_problem *p,
		   size_t *type_no);
/* Takes its tokens out of what the CA says (problem_hide). */
void authz_hide(const struct authz *a, struct acme_problem *p);
/* Chooses the first type whose bit is not in `failed` and that is offered. KM_ENOTFOUND (text lists
 * what is offered), KM_EPROTO (a challenge that must not be), KM_ENOMEM. */
int authz_choose(struct authz *a, const struct acme_client *c, const char *const *types,
		 unsigned failed, struct km_errtext *err) __attribute__((warn_unused_result));

#endif
