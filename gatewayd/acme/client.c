/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/internal.h"
#include "gatewayd/acme/jose.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- foreign values ---- */

bool acme_url_ok(const char *url)
{
	size_t n = strlen(url);

	if (n >= ACME_URL_MAX || strncmp(url, "https://", 8) || !url[8] || url[8] == '/')
		return false;
	for (size_t i = 0; i < n; i++)
		if (url[i] <= ' ' || url[i] > '~' || strchr("\"<>\\^`{|}", url[i]))
			return false;
	return true;
}

bool acme_b64url_ok(const char *text, size_t max)
{
	size_t n = strlen(text);

	return n && n <= max &&
	       strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") ==
		   n;
}

const char *acme_json_text(const json_t *doc, const char *key)
{
	return json_string_value(json_object_get(doc, key));
}

bool acme_copy(char **out, const char *from)
{
	return !from || (*out = strdup(from));
}

int acme_json_url(char **out, const json_t *doc, const char *key)
{
	const json_t *v = json_object_get(doc, key);
	const char *s = json_string_value(v);

	*out = NULL;
	if (!v || json_is_null(v))
		return KM_ENOTFOUND;
	if (!s || !acme_url_ok(s))
		return KM_EPROTO;
	return (*out = strdup(s)) ? 0 : KM_ENOMEM;
}

/* ---- the directory ---- */

void directory_clear(struct directory *d)
{
	free(d->new_nonce);
	free(d->new_account);
	free(d->new_order);
	free(d->revoke_cert);
	free(d->key_change);
	free(d->renewal_info);
	free(d->terms);
	for (size_t i = 0; i < ISSUERS_MAX; i++)
		free(d->issuers[i]);
	json_decref(d->profiles);
	*d = (struct directory){0};
}

static int read_meta(struct directory *d, json_t *meta)
{
	json_t *ids = json_object_get(meta, "caaIdentities");
	json_t *profiles = json_object_get(meta, "profiles");
	const char *terms = acme_json_text(meta, "termsOfService");
	size_t n = 0;

	for (size_t i = 0; i < json_array_size(ids) && n < ISSUERS_MAX; i++) {
		const char *s = json_string_value(json_array_get(ids, i));

		if (!s || !*s || strlen(s) > ISSUER_MAX)
			continue;
		if (!(d->issuers[n++] = strdup(s)))
			return KM_ENOMEM;
	}
	if (json_is_object(profiles))
		d->profiles = json_incref(profiles);
	d->external_account = json_is_true(json_object_get(meta, "externalAccountRequired"));
	if (terms && strlen(terms) < ACME_URL_MAX && !(d->terms = strdup(terms)))
		return KM_ENOMEM;
	return 0;
}

int directory_read(struct directory *d, const json_t *doc, struct km_errtext *err)
{
	struct {
		const char *key;
		char **url;
		bool must;
	} urls[] = {
	    {"newNonce", &d->new_nonce, true},    {"newAccount", &d->new_account, true},
	    {"newOrder", &d->new_order, true},    {"revokeCert", &d->revoke_cert, false},
	    {"keyChange", &d->key_change, false}, {"renewalInfo", &d->renewal_info, false},
	};
	int rc = 0;

	*d = (struct directory){0};
	for (size_t i = 0; !rc && i < KM_ARRAY_LEN(urls); i++) {
		rc = acme_json_url(urls[i].url, doc, urls[i].key);
		if (rc == KM_ENOTFOUND && !urls[i].must)
			rc = 0;
		if (rc && rc != KM_ENOMEM)
			rc = km_errtext_set(err, KM_EPROTO, "the directory has no usable %s",
					    urls[i].key);
	}
	if (!rc)
		rc = read_meta(d, json_object_get(doc, "meta"));
	if (rc == KM_ENOMEM)
		km_errtext_set(err, rc, "no memory");
	if (rc)
		directory_clear(d);
	return rc;
}

bool acme_client_directory(const struct acme_client *c, bool *ari, const char *const **issuers,
			   const char **terms)
{
	if (ari)
		*ari = c->dir.renewal_info != NULL;
	if (issuers)
		*issuers = (const char *const *)c->dir.issuers;
	if (terms)
		*terms = c->dir.terms;
	return c->dir_known;
}

/* ---- nonces ---- */

void client_keep_nonce(struct acme_client *c, const char *nonce)
{
	char *copy;

	if (!nonce || !acme_b64url_ok(nonce, NONCE_MAX) || !(copy = strdup(nonce)))
		return; /* RFC 8555 section 6.5.1: ignored; another one will be asked for */
	if (c->n_nonces == NONCES_MAX) { /* the oldest expires first */
		free(c->nonces[0]);
		memmove(c->nonces, c->nonces + 1, sizeof(c->nonces[0]) * --c->n_nonces);
	}
	c->nonces[c->n_nonces++] = copy;
}

char *client_take_nonce(struct acme_client *c)
{
	return c->n_nonces ? c->nonces[--c->n_nonces] : NULL;
}

void client_drop_nonces(struct acme_client *c)
{
	while (c->n_nonces)
		free(c->nonces[--c->n_nonces]);
}

/* ---- the account ---- */

bool client_set_account(struct acme_client *c, const char *url)
{
	char *copy = url ? strdup(url) : NULL;

	if (url && !copy)
		return false;
	free(c->account_url);
	c->account_url = copy;
	if (c->account)
		c->account(c->arg, copy);
	return true;
}

const char *acme_client_account_url(const struct acme_client *c)
{
	return c->account_url;
}

int client_new_account(struct acme_client *c, char **payload)
{
	json_t *doc = json_pack("{s:b}", "termsOfServiceAgreed", 1);
	char *mail = NULL, *eab = NULL;
	int rc = doc ? 0 : KM_ENOMEM;

	*payload = NULL;
	if (!rc && c->email) {
		rc = asprintf(&mail, "mailto:%s", c->email) < 0 ? KM_ENOMEM : 0;
		if (rc)
			mail = NULL;
		else if (json_object_set_new(doc, "contact", json_pack("[s]", mail)))
			rc = KM_ENOMEM;
	}
	if (!rc && c->eab_kid && c->eab_key)
		rc = jose_eab(&eab, c->key, c->eab_kid, c->eab_key, c->dir.new_account);
	if (!rc && eab &&
	    json_object_set_new(doc, "externalAccountBinding", json_loads(eab, 0, NULL)))
		rc = KM_ENOMEM;
	if (!rc && !(*payload = json_dumps(doc, JSON_COMPACT)))
		rc = KM_ENOMEM;
	json_decref(doc);
	free(mail);
	free(eab);
	return rc;
}

char *acme_client_key_authorization(const struct acme_client *c, const char *token)
{
	char print[JOSE_THUMBPRINT_LEN], *out;

	if (jose_thumbprint(c->key, print) || asprintf(&out, "%s.%s", token, print) < 0)
		return NULL;
	return out;
}

/* ---- life ---- */

int acme_client_new(struct acme_client **out, const struct acme_client_opts *o,
		    struct km_errtext *err)
{
	struct acme_client *c = NULL;
	char print[JOSE_THUMBPRINT_LEN];
	int rc = 0;

	*out = NULL;
	if (!acme_url_ok(o->directory))
		return km_errtext_set(err, KM_EINVAL, "the ACME directory %s is no https URL",
				      o->directory);
	if (!o->eab_kid != !o->eab_key)
		return km_errtext_set(err, KM_EINVAL,
				      "external account binding needs a key id and a key");
	if (!EVP_PKEY_is_a(o->key, "EC") || (rc = jose_thumbprint(o->key, print)) == KM_EINVAL)
		return km_errtext_set(err, KM_EINVAL, "the account key is no P-256 key");
	if (rc || !(c = calloc(1, sizeof(*c))))
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	c->turn = 1;
	c->account = o->account;
	c->changed = o->changed;
	c->arg = o->arg;
	if (EVP_PKEY_up_ref(o->key) == 1)
		c->key = o->key;
	if (!c->key || !acme_copy(&c->url, o->directory) || !acme_copy(&c->email, o->email) ||
	    !acme_copy(&c->eab_kid, o->eab_kid) || !acme_copy(&c->eab_key, o->eab_key) ||
	    !acme_copy(&c->account_url,
		       o->account_url && acme_url_ok(o->account_url) ? o->account_url : NULL)) {
		acme_client_free(c);
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	}
	*out = c;
	return 0;
}

void acme_client_free(struct acme_client *c)
{
	if (!c)
		return;
	directory_clear(&c->dir);
	client_drop_nonces(c);
	EVP_PKEY_free(c->key);
	if (c->eab_key)
		km_wipe(c->eab_key, strlen(c->eab_key));
	free(c->eab_key);
	free(c->eab_kid);
	free(c->email);
	free(c->url);
	free(c->account_url);
	free(c);
}
