/* SPDX-License-Identifier: MIT */
/* A CA for tests of the ACME client: it checks what it is sent as RFC 8555 demands (signature,
 * nonce, url, who signs), keeps accounts and orders, issues by a key of its own, and misbehaves as
 * the test's table says. No sockets; time is the test's. */
#ifndef TESTS_UNIT_GATEWAYD_ACME_CA_H
#define TESTS_UNIT_GATEWAYD_ACME_CA_H

#include "gatewayd/acme/client.h"
#include "libkm/base/util.h"
#include <arpa/inet.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/hmac.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CA "https://ca.test"
#define URN "urn:ietf:params:acme:error:"
#define CA_ORDERS 16
#define CA_NONCES 256

/* Instead of the true answer (status 0 and `true` set: the true one, but with these headers). */
struct fault {
	const char *at;  /* of the path, its beginning; NULL ends the table */
	int skip, times; /* from which request on, how many of them (0: one) */
	int status;
	const char *type; /* of a problem document */
	const char *detail;
	const char *body; /* any other */
	const char *retry_after, *location;
	bool no_answer, no_nonce, truly;
	bool done_all_the_same; /* what was asked for is done; the answer says otherwise */
};

struct ca_order {
	char status[16], authz_status[ACME_NAMES_MAX][16];
	char *names[ACME_NAMES_MAX];
	size_t n;
	char *failed_type[ACME_NAMES_MAX];
	char *pem, *alternate;
	bool replaced;
	int polls;
};

struct ca {
	/* what the test sets */
	const struct fault *faults;
	const char *meta; /* more of the directory's meta: ", \"profiles\": {…}" */
	bool no_ari, no_revoke, no_key_change;
	const char *eab_mac;    /* raw HMAC key, 32 bytes */
	const char *fail_types; /* challenges of these types fail, " http-01 dns-01 " */
	const char *fail_error; /* as what: "connection" */
	const char *offers;     /* " http-01 tls-alpn-01 dns-01 " by default */
	bool reuse;             /* authorizations are valid at once */
	int slow;               /* polls until an order goes on */
	const char *wrong_name; /* the certificate is for this name */
	bool wrong_key;
	int extra_certs;
	const char *junk; /* before the chain */
	int64_t ari_start, ari_end;

	/* what it keeps */
	EVP_PKEY *key, *account;
	int account_no;
	json_t *last_payload; /* of the latest POST */
	char *last_order_payload, *last_account_payload;
	struct ca_order orders[CA_ORDERS];
	int n_orders, n_requests, n_revoked, n_bad;
	char nonces[CA_NONCES][24];
	int n_nonces, serial;
	int seen[32]; /* by fault */

	/* the answer */
	struct acme_answer a;
	char *body, *location, *nonce, *link;
};

/* ---- base64url and JWS, by other means than the client's ---- */

static inline uint8_t *ca_unb64url(const char *text, size_t *n)
{
	size_t len = strlen(text);
	char *std = calloc(1, len + 4);
	uint8_t *out;

	for (size_t i = 0; i < len; i++) {
		assert_true(text[i] != '+' && text[i] != '/' && text[i] != '=');
		std[i] = (char)(text[i] == '-' ? '+' : text[i] == '_' ? '/' : text[i]);
	}
	while (strlen(std) % 4)
		strcat(std, "=");
	out = calloc(1, len + 4);
	assert_true(EVP_DecodeBlock(out, (uint8_t *)std, (int)strlen(std)) >= 0);
	*n = len * 3 / 4;
	free(std);
	return out;
}

static inline json_t *ca_part(const json_t *jws, const char *key)
{
	size_t n;
	uint8_t *raw = ca_unb64url(json_string_value(json_object_get(jws, key)), &n);
	json_t *doc = json_loadb((char *)raw, n, 0, NULL);

	free(raw);
	return doc;
}

static inline EVP_PKEY *ca_jwk(const json_t *jwk)
{
	size_t nx, ny;
	uint8_t point[65] = {4}, *x, *y;
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	EVP_PKEY *key = NULL;
	OSSL_PARAM params[] = {
	    OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char *)"P-256", 0),
	    OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point)),
	    OSSL_PARAM_END};

	assert_string_equal(json_string_value(json_object_get(jwk, "kty")), "EC");
	assert_string_equal(json_string_value(json_object_get(jwk, "crv")), "P-256");
	x = ca_unb64url(json_string_value(json_object_get(jwk, "x")), &nx);
	y = ca_unb64url(json_string_value(json_object_get(jwk, "y")), &ny);
	assert_true(nx == 32 && ny == 32);
	memcpy(point + 1, x, 32);
	memcpy(point + 33, y, 32);
	free(x);
	free(y);
	assert_int_equal(EVP_PKEY_fromdata_init(ctx), 1);
	assert_int_equal(EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params), 1);
	EVP_PKEY_CTX_free(ctx);
	return key;
}

static inline char *ca_signed_text(const json_t *jws)
{
	return km_xasprintf("%s.%s", json_string_value(json_object_get(jws, "protected")),
			    json_string_value(json_object_get(jws, "payload")));
}

static inline bool ca_verify(const json_t *jws, EVP_PKEY *key)
{
	char *text = ca_signed_text(jws);
	size_t n;
	uint8_t *raw = ca_unb64url(json_string_value(json_object_get(jws, "signature")), &n),
		*der = NULL;
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool ok, ec = EVP_PKEY_is_a(key, "EC");
	int len = 0;

	if (ec) {
		ECDSA_SIG *sig = ECDSA_SIG_new();

		assert_int_equal(n, 64);
		ECDSA_SIG_set0(sig, BN_bin2bn(raw, 32, NULL), BN_bin2bn(raw + 32, 32, NULL));
		len = i2d_ECDSA_SIG(sig, &der);
		ECDSA_SIG_free(sig);
	}
	ok = EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
	     EVP_DigestVerify(ctx, ec ? der : raw, ec ? (size_t)len : n, (uint8_t *)text,
			      strlen(text)) == 1;
	EVP_MD_CTX_free(ctx);
	OPENSSL_free(der);
	free(raw);
	free(text);
	return ok;
}

/* ---- answers ---- */

static inline void ca_clear_answer(struct ca *ca)
{
	free(ca->body);
	free(ca->location);
	free(ca->nonce);
	free(ca->link);
	ca->body = ca->location = ca->nonce = ca->link = NULL;
	ca->a = (struct acme_answer){0};
}

static inline void ca_give_nonce(struct ca *ca)
{
	char *to = ca->nonces[ca->n_nonces++ % CA_NONCES];

	snprintf(to, sizeof(ca->nonces[0]), "nonce_%d-x", ca->n_nonces);
	ca->nonce = km_xstrdup(to);
}

static inline void ca_says(struct ca *ca, int status, char *body)
{
	ca->a.status = status;
	free(ca->body);
	ca->body = body;
}

static inline void ca_refuses(struct ca *ca, int status, const char *type, const char *detail)
{
	ca->n_bad += !strcmp(type, "malformed") && !strncmp(detail, "client:", 7);
	ca_says(ca, status,
		km_xasprintf("{\"type\":\"" URN "%s\",\"detail\":\"%s\"}", type, detail));
	ca->a.content_type = "application/problem+json";
}

static inline bool ca_takes_nonce(struct ca *ca, const char *nonce)
{
	for (int i = 0; nonce && i < CA_NONCES; i++)
		if (*ca->nonces[i] && !strcmp(ca->nonces[i], nonce)) {
			ca->nonces[i][0] = '\0';
			return true;
		}
	return false;
}

/* ---- what it does ---- */

static inline void ca_directory(struct ca *ca)
{
	ca_says(ca, 200,
		km_xasprintf("{\"newNonce\":\"" CA "/nonce\",\"newAccount\":\"" CA
			     "/account\",\"newOrder\":\"" CA
			     "/order\",%s%s%s\"meta\":{\"termsOfService\":\"" CA
			     "/terms\",\"caaIdentities\":[\"ca.test\",\"ca2.test\"]%s}, \"x\": 1}",
			     ca->no_ari ? "" : "\"renewalInfo\":\"" CA "/ari\",",
			     ca->no_revoke ? "" : "\"revokeCert\":\"" CA "/revoke\",",
			     ca->no_key_change ? "" : "\"keyChange\":\"" CA "/change\",",
			     ca->meta ? ca->meta : ""));
}

static inline char *ca_account_url(const struct ca *ca)
{
	return km_xasprintf(CA "/acct/%d", ca->account_no);
}

static inline bool ca_eab_ok(struct ca *ca, const json_t *payload, const json_t *jwk)
{
	const json_t *eab = json_object_get(payload, "externalAccountBinding");
	json_t *head, *bound;
	uint8_t mac[32], *sig;
	unsigned len;
	size_t n;
	char *text;
	bool ok;

	if (!ca->eab_mac)
		return true;
	if (!eab)
		return false;
	head = ca_part(eab, "protected");
	bound = ca_part(eab, "payload");
	text = ca_signed_text(eab);
	HMAC(EVP_sha256(), ca->eab_mac, 32, (uint8_t *)text, strlen(text), mac, &len);
	sig = ca_unb64url(json_string_value(json_object_get(eab, "signature")), &n);
	ok = n == 32 && !memcmp(mac, sig, 32) && json_equal(bound, jwk) &&
	     !strcmp(json_string_value(json_object_get(head, "alg")), "HS256") &&
	     !strcmp(json_string_value(json_object_get(head, "url")), CA "/account") &&
	     !strcmp(json_string_value(json_object_get(head, "kid")), "kid-1") &&
	     !json_object_get(head, "nonce");
	json_decref(head);
	json_decref(bound);
	free(text);
	free(sig);
	return ok;
}

static inline void ca_new_account(struct ca *ca, const json_t *payload, EVP_PKEY *key,
				  const json_t *jwk)
{
	bool known = ca->account && EVP_PKEY_eq(ca->account, key) == 1;

	free(ca->last_account_payload);
	ca->last_account_payload = json_dumps(payload, JSON_COMPACT);
	if (!known && json_is_true(json_object_get(payload, "onlyReturnExisting"))) {
		ca_refuses(ca, 400, "accountDoesNotExist", "no such account");
		return;
	}
	if (!known && !ca_eab_ok(ca, payload, jwk)) {
		ca_refuses(ca, 403, "unauthorized", "bad binding");
		return;
	}
	if (!known) {
		EVP_PKEY_free(ca->account);
		EVP_PKEY_up_ref(key);
		ca->account = key;
		ca->account_no++;
	}
	ca_says(ca, known ? 200 : 201, km_xstrdup("{\"status\":\"valid\"}"));
	ca->location = ca_account_url(ca);
}

static inline void ca_show_order(struct ca *ca, int no, int status)
{
	struct ca_order *o = &ca->orders[no];
	char *ids = km_xstrdup(""), *authz = km_xstrdup(""), *old;

	for (size_t i = 0; i < o->n; i++) {
		const char *type = strchr(o->names[i], ':') ||
					   strspn(o->names[i], "0123456789.") == strlen(o->names[i])
				       ? "ip"
				       : "dns";

		old = ids;
		ids = km_xasprintf("%s%s{\"type\":\"%s\",\"value\":\"%s\"}", old, i ? "," : "",
				   type, o->names[i]);
		free(old);
		old = authz;
		authz = km_xasprintf("%s%s\"" CA "/authz/%d/%zu\"", old, i ? "," : "", no, i);
		free(old);
	}
	old = o->pem ? km_xasprintf(",\"certificate\":\"" CA "/cert/%d\"", no) : km_xstrdup("");
	ca_says(
	    ca, status,
	    km_xasprintf(
		"{\"status\":\"%s\",\"identifiers\":[%s],\"authorizations\":[%s],\"finalize\":\"" CA
		"/finalize/%d\"%s}",
		o->status, ids, authz, no, old));
	free(old);
	free(ids);
	free(authz);
	free(ca->location);
	ca->location = status == 201 ? km_xasprintf(CA "/order/%d", no) : NULL;
}

static inline void ca_new_order(struct ca *ca, const json_t *payload)
{
	const json_t *ids = json_object_get(payload, "identifiers");
	struct ca_order *o = &ca->orders[ca->n_orders];

	assert_true(ca->n_orders < CA_ORDERS);
	free(ca->last_order_payload);
	ca->last_order_payload = json_dumps(payload, JSON_COMPACT);
	o->n = json_array_size(ids);
	assert_in_range(o->n, 1, ACME_NAMES_MAX);
	for (size_t i = 0; i < o->n; i++) {
		o->names[i] =
		    km_xstrdup(json_string_value(json_object_get(json_array_get(ids, i), "value")));
		strcpy(o->authz_status[i], ca->reuse ? "valid" : "pending");
	}
	strcpy(o->status, ca->reuse ? "ready" : "pending");
	ca_show_order(ca, ca->n_orders++, 201);
}

static inline void ca_show_authz(struct ca *ca, int no, size_t k)
{
	struct ca_order *o = &ca->orders[no];
	bool wild = !strncmp(o->names[k], "*.", 2), ip = !strchr(o->names[k], 't');
	const char *offers = ca->offers ? ca->offers : " http-01 tls-alpn-01 dns-01 ";
	char *all = km_xstrdup(""), *list = km_xstrdup(offers), *save = NULL, *old;

	for (char *t = strtok_r(list, " ", &save); t; t = strtok_r(NULL, " ", &save)) {
		bool failed = o->failed_type[k] && !strcmp(o->failed_type[k], t);
		char *error = failed ? km_xasprintf(",\"error\":{\"type\":\"" URN
						    "%s\",\"detail\":\"no luck with "
						    "token-%d_%zu.its-print!\"}",
						    ca->fail_error ? ca->fail_error : "connection",
						    no, k)
				     : km_xstrdup("");

		if (!wild || !strncmp(t, "dns-", 4)) {
			old = all;
			all = km_xasprintf(
			    "%s%s{\"type\":\"%s\",\"url\":\"" CA
			    "/chall/%d/%zu/%s\",\"status\":\"%s\","
			    "\"token\":\"token-%d_%zu\",\"issuer-domain-names\":[\"ca.test\"]%s}",
			    old, *old ? "," : "", t, no, k, t, failed ? "invalid" : "pending", no,
			    k, error);
			free(old);
		}
		free(error);
	}
	ca_says(
	    ca, 200,
	    km_xasprintf("{\"status\":\"%s\",\"identifier\":{\"type\":\"%s\",\"value\":\"%s\"}%s,"
			 "\"challenges\":[%s]}",
			 o->authz_status[k], ip ? "ip" : "dns", o->names[k] + (wild ? 2 : 0),
			 wild ? ",\"wildcard\":true" : "", all));
	free(all);
	free(list);
}

static inline void ca_challenge(struct ca *ca, int no, size_t k, const char *type)
{
	struct ca_order *o = &ca->orders[no];
	char *word = km_xasprintf(" %s ", type);
	bool fails = ca->fail_types && strstr(ca->fail_types, word), all = true;

	free(word);
	if (strcmp(o->authz_status[k], "pending") != 0) {
		ca_refuses(ca, 400, "malformed", "authorization is not pending");
		return;
	}
	strcpy(o->authz_status[k], fails ? "invalid" : "valid");
	if (fails) {
		o->failed_type[k] = km_xstrdup(type);
		strcpy(o->status, "invalid");
	}
	for (size_t i = 0; i < o->n; i++)
		all = all && !strcmp(o->authz_status[i], "valid");
	if (all)
		strcpy(o->status, "ready");
	ca_says(ca, 200, km_xstrdup("{\"status\":\"processing\"}"));
	o->polls = 0;
}

static inline X509 *ca_issue(struct ca *ca, EVP_PKEY *key, const char *cn, const char *issuer,
			     const char *san)
{
	X509 *x = X509_new();
	X509V3_CTX ctx;
	X509_EXTENSION *e;

	X509_set_version(x, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(x), 0x80 + ++ca->serial);
	X509_gmtime_adj(X509_getm_notBefore(x), -60);
	X509_gmtime_adj(X509_getm_notAfter(x), 86400);
	X509_NAME_add_entry_by_txt(X509_get_issuer_name(x), "CN", MBSTRING_ASC,
				   (const uint8_t *)issuer, -1, -1, 0);
	if (cn)
		X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
					   (const uint8_t *)cn, -1, -1, 0);
	X509_set_pubkey(x, key);
	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, x, x, NULL, NULL, 0);
	if (san) {
		e = X509V3_EXT_conf_nid(NULL, &ctx, NID_subject_alt_name, san);
		assert_non_null(e);
		X509_add_ext(x, e, -1);
		X509_EXTENSION_free(e);
	}
	/* Its authority key identifier: what renewal information is asked by. */
	e = X509V3_EXT_conf(NULL, &ctx, "2.5.29.35", "DER:30:06:80:04:01:02:03:04");
	assert_non_null(e);
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
	assert_true(X509_sign(x, ca->key, EVP_sha256()) > 0);
	return x;
}

static inline void ca_append(char **pem, X509 *x)
{
	BIO *b = BIO_new(BIO_s_mem());
	char *text, *old = *pem;
	long n;

	PEM_write_bio_X509(b, x);
	n = BIO_get_mem_data(b, &text);
	*pem = km_xasprintf("%s%.*s", old ? old : "", (int)n, text);
	free(old);
	BIO_free(b);
	X509_free(x);
}

/* The names of a request, as OpenSSL's own text; "" when it has none. */
static inline char *ca_csr_names(X509_REQ *req)
{
	STACK_OF(X509_EXTENSION) *exts = X509_REQ_get_extensions(req);
	GENERAL_NAMES *names = X509V3_get_d2i(exts, NID_subject_alt_name, NULL, NULL);
	char *out = km_xstrdup(""), *old;

	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		int type;
		const ASN1_STRING *s =
		    GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
		char ip[INET6_ADDRSTRLEN];

		if (type == GEN_IPADD)
			inet_ntop(ASN1_STRING_length(s) == 4 ? AF_INET : AF_INET6,
				  ASN1_STRING_get0_data(s), ip, sizeof(ip));
		old = out;
		out = km_xasprintf("%s%s%s:%.*s", old, *old ? "," : "",
				   type == GEN_IPADD ? "IP" : "DNS",
				   type == GEN_IPADD ? (int)strlen(ip) : ASN1_STRING_length(s),
				   type == GEN_IPADD ? ip : (const char *)ASN1_STRING_get0_data(s));
		free(old);
	}
	GENERAL_NAMES_free(names);
	sk_X509_EXTENSION_pop_free(exts, X509_EXTENSION_free);
	return out;
}

static inline void ca_finalize(struct ca *ca, int no, const json_t *payload)
{
	struct ca_order *o = &ca->orders[no];
	size_t n;
	uint8_t *der = ca_unb64url(json_string_value(json_object_get(payload, "csr")), &n);
	const uint8_t *p = der;
	X509_REQ *req = d2i_X509_REQ(NULL, &p, (long)n);
	char *san, *wrong = NULL;
	EVP_PKEY *key;

	free(der);
	if (strcmp(o->status, "ready") != 0) {
		X509_REQ_free(req);
		ca_refuses(ca, 403, "orderNotReady", "not now");
		return;
	}
	assert_non_null(req);
	assert_int_equal(X509_REQ_verify(req, X509_REQ_get0_pubkey(req)), 1);
	assert_int_equal(X509_NAME_entry_count(X509_REQ_get_subject_name(req)), 0);
	san = ca_csr_names(req);
	for (size_t i = 0; i < o->n; i++)
		assert_non_null(strstr(san, o->names[i]));
	if (ca->wrong_name)
		wrong = km_xasprintf("DNS:%s", ca->wrong_name);
	key = ca->wrong_key ? EVP_EC_gen("P-256") : X509_REQ_get_pubkey(req);
	o->pem = ca->junk ? km_xstrdup(ca->junk) : NULL;
	ca_append(&o->pem, ca_issue(ca, key, NULL, "middle", wrong ? wrong : san));
	ca_append(&o->pem, ca_issue(ca, ca->key, "middle", "root one", NULL));
	for (int i = 0; i < ca->extra_certs; i++)
		ca_append(&o->pem, ca_issue(ca, ca->key, "more", "root one", NULL));
	ca_append(&o->alternate, ca_issue(ca, key, NULL, "middle", wrong ? wrong : san));
	ca_append(&o->alternate, ca_issue(ca, ca->key, "middle", "root two", NULL));
	EVP_PKEY_free(key);
	free(wrong);
	free(san);
	X509_REQ_free(req);
	strcpy(o->status, ca->slow ? "processing" : "valid");
	o->polls = 0;
	ca_show_order(ca, no, 200);
}

static inline void ca_poll(struct ca *ca, int no)
{
	struct ca_order *o = &ca->orders[no];
	char status[16];

	strcpy(status, o->status);
	if (o->polls++ < ca->slow && (!strcmp(status, "ready") || !strcmp(status, "invalid")))
		strcpy(o->status, "pending"); /* as seen from outside */
	else if (!strcmp(status, "processing") && o->polls > ca->slow)
		strcpy(status, strcpy(o->status, "valid"));
	ca_show_order(ca, no, 200);
	strcpy(o->status, status);
}

static inline void ca_revoke(struct ca *ca, const json_t *payload)
{
	if (ca->n_revoked++)
		ca_refuses(ca, 400, "alreadyRevoked", "it is");
	else
		ca_says(ca, 200, km_xstrdup(""));
	assert_non_null(json_object_get(payload, "certificate"));
}

static inline void ca_change(struct ca *ca, const json_t *inner)
{
	json_t *head = ca_part(inner, "protected"), *payload = ca_part(inner, "payload");
	EVP_PKEY *key = ca_jwk(json_object_get(head, "jwk")),
		 *old = ca_jwk(json_object_get(payload, "oldKey"));
	char *url = ca_account_url(ca);

	assert_true(ca_verify(inner, key));
	assert_null(json_object_get(head, "nonce"));
	assert_string_equal(json_string_value(json_object_get(head, "url")), CA "/change");
	assert_string_equal(json_string_value(json_object_get(payload, "account")), url);
	assert_int_equal(EVP_PKEY_eq(old, ca->account), 1);
	EVP_PKEY_free(old);
	EVP_PKEY_free(ca->account);
	ca->account = key;
	ca_says(ca, 200, km_xstrdup("{\"status\":\"valid\"}"));
	free(url);
	json_decref(head);
	json_decref(payload);
}

static inline void ca_ari(struct ca *ca)
{
	char from[KM_ISO8601_LEN], to[KM_ISO8601_LEN];

	ca_says(
	    ca, 200,
	    km_xasprintf(
		"{\"suggestedWindow\":{\"start\":\"%s\",\"end\":\"%s\"},\"explanationURL\":\"" CA
		"/why\"}",
		km_iso8601(ca->ari_start, from), km_iso8601(ca->ari_end, to)));
}

/* ---- requests ---- */

static inline void ca_serve(struct ca *ca, const char *path, const json_t *payload, EVP_PKEY *by,
			    const json_t *jwk)
{
	int no = 0;
	size_t k = 0;
	char type[32] = "";

	if (!strcmp(path, "/account")) {
		ca_new_account(ca, payload, by, jwk);
	} else if (!strcmp(path, "/revoke")) {
		ca_revoke(ca, payload);
	} else if (!strcmp(path, "/change")) {
		ca_change(ca, payload);
	} else if (!strcmp(path, "/order")) {
		ca_new_order(ca, payload);
	} else if (sscanf(path, "/order/%d", &no) == 1 && no < ca->n_orders) {
		ca_poll(ca, no);
	} else if (sscanf(path, "/authz/%d/%zu", &no, &k) == 2 && no < ca->n_orders) {
		ca_show_authz(ca, no, k);
	} else if (sscanf(path, "/chall/%d/%zu/%31s", &no, &k, type) == 3) {
		assert_true(json_is_object(payload) && !json_object_size(payload));
		ca_challenge(ca, no, k, type);
	} else if (sscanf(path, "/finalize/%d", &no) == 1) {
		ca_finalize(ca, no, payload);
	} else if (sscanf(path, "/cert/%d", &no) == 1) {
		bool other = strstr(path, "/other");

		ca_says(ca, 200, km_xstrdup(other ? ca->orders[no].alternate : ca->orders[no].pem));
		if (!other)
			ca->link =
			    km_xasprintf("<" CA "/dir>;rel=\"index\"\n<" CA
					 "/cert/%d/other>; title=\"a, b\"; rel=\"alternate\"",
					 no);
	} else {
		ca_refuses(ca, 404, "malformed", "there is no such thing");
	}
}

/* Checks the JWS as section 6 demands; then serves. */
static inline void ca_post(struct ca *ca, const char *url, const char *body)
{
	json_t *jws = json_loads(body, 0, NULL), *head = ca_part(jws, "protected"), *payload = NULL;
	const json_t *jwk = json_object_get(head, "jwk");
	const char *kid = json_string_value(json_object_get(head, "kid")), *path = url + strlen(CA);
	char *account = ca_account_url(ca);
	bool by_jwk = !strcmp(path, "/account") || (!strcmp(path, "/revoke") && jwk);
	EVP_PKEY *key = NULL;

	assert_true(!jwk != !kid);
	assert_true(json_object_size(jws) == 3 && json_object_size(head) == 4);
	assert_string_equal(json_string_value(json_object_get(head, "url")), url);
	if (jwk && !strcmp(json_string_value(json_object_get(jwk, "kty")), "RSA"))
		key = NULL; /* test_acme_jose looks at those */
	else if (jwk)
		key = ca_jwk(jwk);
	else if (ca->account)
		EVP_PKEY_up_ref(key = ca->account);
	if (*json_string_value(json_object_get(jws, "payload")))
		payload = ca_part(jws, "payload");
	json_decref(ca->last_payload);
	ca->last_payload = json_incref(payload);
	if (by_jwk != !!jwk)
		ca_refuses(ca, 400, "malformed", "client: the wrong one of jwk and kid");
	else if (kid && (!ca->account || strcmp(kid, account) != 0))
		ca_refuses(ca, 400, "accountDoesNotExist", "never heard of it");
	else if (key && !ca_verify(jws, key))
		ca_refuses(ca, 400, "malformed", "JWS verification error");
	else if (!ca_takes_nonce(ca, json_string_value(json_object_get(head, "nonce"))))
		ca_refuses(ca, 400, "badNonce", "unknown nonce");
	else
		ca_serve(ca, path, payload, key, jwk);
	EVP_PKEY_free(key);
	free(account);
	json_decref(jws);
	json_decref(head);
	json_decref(payload);
}

static inline const struct fault *ca_fault(struct ca *ca, const char *path)
{
	const struct fault *f = ca->faults;

	for (int i = 0; f && f[i].at; i++)
		if (!strncmp(path, f[i].at, strlen(f[i].at)) &&
		    (path[strlen(f[i].at)] == '\0' || f[i].at[strlen(f[i].at) - 1] == '/')) {
			int no = ca->seen[i]++;

			if (no >= f[i].skip && no < f[i].skip + (f[i].times ? f[i].times : 1))
				return &f[i];
		}
	return NULL;
}

static inline void ca_misbehaves(struct ca *ca, const struct fault *f)
{
	if (f->no_answer) {
		ca_clear_answer(ca);
		ca->a.failed = "connection reset";
		return;
	}
	if (!f->truly) {
		ca->a.content_type = f->type ? "application/problem+json" : "text/plain";
		ca_says(ca, f->status,
			f->type ? km_xasprintf("{\"type\":\"" URN "%s\",\"detail\":\"%s\"}",
					       f->type, f->detail ? f->detail : "by the test")
				: km_xstrdup(f->body ? f->body : ""));
	}
	if (f->location) {
		free(ca->location);
		ca->location = *f->location ? km_xstrdup(f->location) : NULL;
	}
	ca->a.retry_after = f->retry_after;
	if (f->no_nonce) {
		free(ca->nonce);
		ca->nonce = NULL;
	}
}

static inline const struct acme_answer *ca_ask(struct ca *ca, const struct acme_request *r)
{
	const struct fault *f;
	const char *path = r->url + strlen(CA);

	assert_memory_equal(r->url, "https://", 8);
	ca_clear_answer(ca);
	ca->n_requests++;
	if (strncmp(r->url, CA "/", strlen(CA) + 1) != 0) {
		ca->a.failed = "no such host";
		return &ca->a;
	}
	f = ca_fault(ca, path);
	ca_give_nonce(ca);
	if (f && !f->truly && !f->done_all_the_same)
		;
	else if (!strcmp(path, "/dir") && r->method == ACME_GET)
		ca_directory(ca);
	else if (!strcmp(path, "/nonce") && r->method == ACME_HEAD)
		ca_says(ca, 200, km_xstrdup(""));
	else if (!strncmp(path, "/ari/", 5) && r->method == ACME_GET)
		ca_ari(ca);
	else if (r->method == ACME_POST)
		ca_post(ca, r->url, r->body);
	else
		ca_refuses(ca, 405, "malformed", "client: wrong method");
	if (f)
		ca_misbehaves(ca, f);
	ca->a.body = ca->body;
	ca->a.n = ca->body ? strlen(ca->body) : 0;
	ca->a.location = ca->location;
	ca->a.replay_nonce = ca->nonce;
	ca->a.link = ca->link;
	return &ca->a;
}

static inline void ca_init(struct ca *ca)
{
	*ca = (struct ca){.key = EVP_EC_gen("P-256")};
}

static inline void ca_free(struct ca *ca)
{
	assert_int_equal(ca->n_bad, 0);
	ca_clear_answer(ca);
	for (int i = 0; i < ca->n_orders; i++) {
		for (size_t k = 0; k < ca->orders[i].n; k++) {
			free(ca->orders[i].names[k]);
			free(ca->orders[i].failed_type[k]);
		}
		free(ca->orders[i].pem);
		free(ca->orders[i].alternate);
	}
	EVP_PKEY_free(ca->key);
	EVP_PKEY_free(ca->account);
	json_decref(ca->last_payload);
	free(ca->last_order_payload);
	free(ca->last_account_payload);
}

/* ---- the client's side ---- */

#define WALL 1800000000000LL /* at monotonic 0 */

struct bench {
	struct ca ca;
	struct acme_client *client;
	EVP_PKEY *account_key, *key;
	int64_t now;
	char account[64], order[64]; /* as told */
	int n_accounts, n_lost, n_changed, n_presented;
	char presented[400];     /* "TYPE NAME; " */
	const char *refuse_type; /* this type cannot be put up */
	bool hint;
	int waits;
};

static inline void bench_account(void *arg, const char *url)
{
	struct bench *b = arg;

	snprintf(b->account, sizeof(b->account), "%s", url ? url : "");
	*(url ? &b->n_accounts : &b->n_lost) += 1;
}

static inline void bench_changed(void *arg)
{
	((struct bench *)arg)->n_changed++;
}

static inline void bench_ordered(void *arg, const char *url)
{
	struct bench *b = arg;

	snprintf(b->order, sizeof(b->order), "%s", url);
}

static inline void bench_begin(struct bench *b, struct acme_client_opts o)
{
	struct km_errtext err = {""};

	*b = (struct bench){.now = 1000};
	ca_init(&b->ca);
	b->account_key = EVP_EC_gen("P-256");
	b->key = EVP_EC_gen("P-256");
	o.directory = CA "/dir";
	o.key = b->account_key;
	o.account = bench_account;
	o.changed = bench_changed;
	o.arg = b;
	assert_int_equal(acme_client_new(&b->client, &o, &err), 0);
}

static inline void bench_end(struct bench *b)
{
	acme_client_free(b->client);
	EVP_PKEY_free(b->account_key);
	EVP_PKEY_free(b->key);
	ca_free(&b->ca);
}

static inline void bench_present(struct bench *b, struct acme_job *j)
{
	struct acme_challenge c;
	bool ok = true;

	b->n_presented++;
	for (size_t i = 0; acme_job_challenge(j, i, &c); i++) {
		size_t n = strlen(b->presented);

		assert_true(strncmp(c.name, "*.", 2) != 0);
		snprintf(b->presented + n, sizeof(b->presented) - n, "%s %s%s; ", c.type,
			 c.wildcard ? "*." : "", c.name);
		ok = ok && (!b->refuse_type || strcmp(b->refuse_type, c.type) != 0);
		if (!strcmp(c.type, "dns-persist-01")) {
			assert_null(c.token);
			assert_string_equal(c.issuers[0], "ca.test");
			assert_null(c.issuers[1]);
			continue;
		}
		assert_memory_equal(c.key_auth, c.token, strlen(c.token));
		assert_true(!c.dns_value == !!strcmp(c.type, "dns-01"));
	}
	acme_job_presented(j, ok, ok ? NULL : "the test could not put it up");
	if (ok && b->hint)
		acme_job_hint(j);
}

/* Drives a job to its end; time passes where it waits. Returns the cause (ACME_OK: done). */
static inline enum acme_cause bench_run(struct bench *b, struct acme_job *j)
{
	struct acme_next n;

	for (int i = 0; i < 2000; i++) {
		acme_job_next(j, b->now, WALL + b->now, &n);
		if (n.want == ACME_REQUEST) {
			const struct acme_answer *a = ca_ask(&b->ca, &n.request);

			acme_request_clear(&n.request);
			b->now += 5;
			acme_job_answer(j, a, b->now, WALL + b->now);
		} else if (n.want == ACME_PRESENT) {
			bench_present(b, j);
		} else if (n.want == ACME_WAIT) {
			assert_true(n.until_ms > b->now && n.until_ms != INT64_MAX);
			b->now = n.until_ms;
			b->waits++;
		} else {
			assert_true((n.want == ACME_DONE) == !acme_job_problem(j)->cause);
			return acme_job_problem(j)->cause;
		}
	}
	fail_msg("the job does not end");
	return ACME_LOCAL;
}

#endif
