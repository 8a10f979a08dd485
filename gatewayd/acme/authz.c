/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/authz.h"
#include "gatewayd/acme/jose.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TOKEN_MAX 128
#define CHALLENGES_LOOKED_AT 16

/* ---- identifiers ---- */

static bool is_name(const json_t *id, const char *name)
{
	const char *type = acme_json_text(id, "type"), *value = acme_json_text(id, "value");
	struct km_addr ours, theirs;

	if (!type || !value)
		return false;
	if (km_addr_parse(&ours, name))
		return !strcmp(type, "dns") && !strcasecmp(value, name);
	return !strcmp(type, "ip") && !km_addr_parse(&theirs, value) && km_addr_eq(&ours, &theirs);
}

/* ---- orders ---- */

static int status_of(enum order_status *out, const char *text)
{
	static const char *const names[] = {"pending", "ready", "processing", "valid", "invalid"};

	for (size_t i = 0; text && i < KM_ARRAY_LEN(names); i++)
		if (!strcmp(names[i], text)) {
			*out = (enum order_status)i;
			return 0;
		}
	return KM_EPROTO;
}

static bool same_names(const json_t *ids, const char *const *names, size_t n)
{
	if (json_array_size(ids) != n)
		return false;
	for (size_t i = 0; i < n; i++) {
		size_t k = 0;

		while (k < n && !is_name(json_array_get(ids, k), names[i]))
			k++;
		if (k == n)
			return false;
	}
	return true;
}

static int read_authz_urls(struct order_doc *d, const json_t *urls)
{
	for (size_t i = 0; i < json_array_size(urls); i++) {
		const char *s = json_string_value(json_array_get(urls, i));

		if (!s || !acme_url_ok(s) || d->n_authz == ACME_NAMES_MAX)
			return KM_EPROTO;
		if (!(d->authz[d->n_authz] = strdup(s)))
			return KM_ENOMEM;
		d->n_authz++;
	}
	return d->n_authz ? 0 : KM_EPROTO;
}

int order_doc_read(struct order_doc *d, const json_t *doc, const char *const *names, size_t n,
		   struct km_errtext *err)
{
	json_t *error = json_object_get(doc, "error");
	const char *what = "status";
	int rc;

	*d = (struct order_doc){0};
	rc = status_of(&d->status, acme_json_text(doc, "status"));
	if (!rc && !same_names(json_object_get(doc, "identifiers"), names, n))
		what = "identifiers", rc = KM_EPROTO;
	if (!rc && (rc = read_authz_urls(d, json_object_get(doc, "authorizations"))))
		what = "authorizations";
	if (!rc && (rc = acme_json_url(&d->finalize, doc, "finalize")))
		what = "finalize";
	if (!rc && (rc = acme_json_url(&d->certificate, doc, "certificate")) == KM_ENOTFOUND)
		rc = 0;
	else if (rc && !strcmp(what, "status"))
		what = "certificate";
	if (!rc && d->status == ORDER_VALID && !d->certificate)
		what = "certificate", rc = KM_EPROTO;
	if (!rc && json_is_object(error))
		d->error = json_incref(error);
	if (rc) {
		order_doc_clear(d);
		rc = rc == KM_ENOMEM
			 ? km_errtext_set(err, rc, "no memory")
			 : km_errtext_set(err, KM_EPROTO, "the CA's order has no usable %s", what);
	}
	return rc;
}

void order_doc_clear(struct order_doc *d)
{
	for (size_t i = 0; i < d->n_authz; i++)
		free(d->authz[i]);
	free(d->finalize);
	free(d->certificate);
	json_decref(d->error);
	*d = (struct order_doc){0};
}

/* ---- authorizations ---- */

static void unchoose(struct authz *a)
{
	free(a->key_auth);
	free(a->dns_value);
	a->key_auth = a->dns_value = NULL;
	a->type = a->challenge_url = a->token = NULL;
	memset(a->issuers, 0, sizeof(a->issuers));
}

void authz_clear(struct authz *a)
{
	unchoose(a);
	json_decref(a->doc);
	free(a->url);
	*a = (struct authz){0};
}

/* Which name: for "*.x" the CA says x, and wildcard. */
static int find_name(struct authz *a, const json_t *doc, const char *const *names, size_t n)
{
	const json_t *id = json_object_get(doc, "identifier");

	a->wildcard = json_is_true(json_object_get(doc, "wildcard"));
	for (a->name = 0; a->name < n; a->name++) {
		const char *name = names[a->name];
		bool wild = !strncmp(name, "*.", 2);

		if (wild == a->wildcard && is_name(id, wild ? name + 2 : name))
			return 0;
	}
	return KM_EPROTO;
}

int authz_read(struct authz *a, json_t *doc, const char *const *names, size_t n,
	       struct km_errtext *err)
{
	const char *status = acme_json_text(doc, "status");

	unchoose(a);
	json_decref(a->doc);
	a->doc = NULL;
	if (!status)
		return km_errtext_set(err, KM_EPROTO, "the CA's authorization has no status");
	if (find_name(a, doc, names, n))
		return km_errtext_set(err, KM_EPROTO, "the CA's authorization is for another name");
	a->status = !strcmp(status, "pending") ? AUTHZ_PENDING
		    : !strcmp(status, "valid") ? AUTHZ_VALID
					       : AUTHZ_DEAD;
	a->doc = json_incref(doc);
	return 0;
}

static size_t number_of(const char *const *types, const char *type)
{
	size_t i = 0;

	while (i < TYPES_MAX && types[i] && strcmp(types[i], type))
		i++;
	return i < TYPES_MAX && types[i] ? i : TYPES_MAX;
}

void authz_hide(const struct authz *a, struct acme_problem *p)
{
	const json_t *all = json_object_get(a->doc, "challenges");

	for (size_t i = 0; i < json_array_size(all) && i < CHALLENGES_LOOKED_AT; i++) {
		const char *token = acme_json_text(json_array_get(all, i), "token");

		if (token)
			problem_hide(p, token);
	}
}

void authz_problem(const struct authz *a, const char *const *types, struct acme_problem *p,
		   size_t *type_no)
{
	const json_t *all = json_object_get(a->doc, "challenges");
	const char *name = acme_json_text(json_object_get(a->doc, "identifier"), "value");
	char what[400];

	*type_no = TYPES_MAX;
	for (size_t i = 0; i < json_array_size(all) && i < CHALLENGES_LOOKED_AT; i++) {
		const json_t *c = json_array_get(all, i), *error = json_object_get(c, "error");
		const char *type = acme_json_text(c, "type");

		if (!type || !json_is_object(error))
			continue;
		problem_read(p, error);
		authz_hide(a, p);
		if (!p->cause || p->cause == ACME_PROTOCOL)
			p->cause = ACME_VALIDATION;
		snprintf(what, sizeof(what), "%.253s by %.40s", name ? name : "", type);
		problem_about(p, what);
		*type_no = number_of(types, type);
		return;
	}
	problem_set(p, ACME_VALIDATION, "the CA's authorization of %.253s is %.40s",
		    name ? name : "", acme_json_text(a->doc, "status"));
}

/* ---- the challenge ---- */

static const json_t *offered(const struct authz *a, const char *type)
{
	const json_t *all = json_object_get(a->doc, "challenges");

	for (size_t i = 0; i < json_array_size(all) && i < CHALLENGES_LOOKED_AT; i++) {
		const json_t *c = json_array_get(all, i);
		const char *t = acme_json_text(c, "type"), *status = acme_json_text(c, "status");

		if (t && !strcmp(t, type) && (!status || strcmp(status, "invalid") != 0))
			return c;
	}
	return NULL;
}

static int none_offered(const struct authz *a, struct km_errtext *err)
{
	const json_t *all = json_object_get(a->doc, "challenges");
	char list[200] = "";

	for (size_t i = 0; i < json_array_size(all) && i < CHALLENGES_LOOKED_AT; i++) {
		const char *t = acme_json_text(json_array_get(all, i), "type");

		if (t && strlen(list) + strlen(t) + 3 < sizeof(list))
			strcat(strcat(list, *list ? ", " : ""), t);
	}
	return km_errtext_set(err, KM_ENOTFOUND,
			      "the CA offers %s for %s%s, and none that may be used",
			      *list ? list : "nothing", a->wildcard ? "*." : "",
			      acme_json_text(json_object_get(a->doc, "identifier"), "value"));
}

static int take_persist(struct authz *a, const json_t *c)
{
	const json_t *names = json_object_get(c, "issuer-domain-names");
	size_t n = 0;

	for (size_t i = 0; i < json_array_size(names) && n < ISSUERS_MAX; i++) {
		const char *s = json_string_value(json_array_get(names, i));

		if (s && *s && strlen(s) <= ISSUER_MAX)
			a->issuers[n++] = s;
	}
	return n ? 0 : KM_EPROTO;
}

static int take_token(struct authz *a, const struct acme_client *client, const json_t *c)
{
	const char *token = acme_json_text(c, "token");
	uint8_t digest[32];

	if (!token || !acme_b64url_ok(token, TOKEN_MAX))
		return KM_EPROTO;
	if (!(a->key_auth = acme_client_key_authorization(client, token)))
		return KM_ENOMEM;
	km_sha256(digest, a->key_auth, strlen(a->key_auth));
	if (!strcmp(a->type, "dns-01") && !(a->dns_value = jose_b64(digest, sizeof(digest))))
		return KM_ENOMEM;
	a->token = token;
	return 0;
}

int authz_choose(struct authz *a, const struct acme_client *client, const char *const *types,
		 unsigned failed, struct km_errtext *err)
{
	const json_t *c = NULL;
	int rc;

	unchoose(a);
	for (size_t i = 0; !c && i < TYPES_MAX && types[i]; i++)
		if (!(failed & 1U << i) && (c = offered(a, types[i]))) {
			a->type = types[i];
			a->type_no = i;
		}
	if (!c)
		return none_offered(a, err);
	a->challenge_url = acme_json_text(c, "url");
	if (!a->challenge_url || !acme_url_ok(a->challenge_url))
		rc = KM_EPROTO;
	else if (!strcmp(a->type, "dns-persist-01"))
		rc = take_persist(a, c);
	else
		rc = take_token(a, client, c);
	if (rc == KM_EPROTO)
		km_errtext_set(err, rc, "the CA's %s challenge has no usable url, token or issuer",
			       a->type);
	else if (rc)
		km_errtext_set(err, rc, "no memory");
	if (rc)
		unchoose(a);
	return rc;
}
