/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/csr.h"
#include "gatewayd/acme/jose.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include <openssl/err.h>
#include <string.h>

#define NAME_MAX_LEN 253
#define LABEL_MAX 63
#define ALPN_DAYS 7
#define ID_PE_ACME "1.3.6.1.5.5.7.1.31" /* RFC 8737 section 6.1 */

/* ---- keys ---- */

EVP_PKEY *acme_key_new(bool rsa)
{
	EVP_PKEY *key = rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256");

	ERR_clear_error();
	return key;
}

/* ---- names ---- */

bool csr_name_is_ip(const char *name)
{
	struct km_addr a;

	return !km_addr_parse(&a, name);
}

static bool label_ok(const char *p, size_t n)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789-_";

	return n && n <= LABEL_MAX && p[0] != '-' && p[n - 1] != '-' && strspn(p, allowed) >= n;
}

bool csr_name_ok(const char *name)
{
	size_t labels = 0;

	if (csr_name_is_ip(name))
		return true;
	if (strlen(name) > NAME_MAX_LEN)
		return false;
	if (!strncmp(name, "*.", 2))
		name += 2;
	for (;; labels++) {
		size_t n = strcspn(name, ".");

		if (!label_ok(name, n))
			return false;
		if (!name[n])
			return labels > 0;
		name += n + 1;
	}
}

GENERAL_NAME *csr_general_name(const char *name)
{
	struct km_addr a;
	bool ip = !km_addr_parse(&a, name);
	GENERAL_NAME *g = GENERAL_NAME_new();
	ASN1_STRING *value = ip ? ASN1_OCTET_STRING_new() : ASN1_IA5STRING_new();
	const void *bytes = ip ? (const void *)a.ip : name;
	size_t n = ip ? (a.family == AF_INET ? 4 : 16) : strlen(name);

	if (!g || !value || ASN1_STRING_set(value, bytes, (int)n) != 1) {
		ASN1_STRING_free(value);
		GENERAL_NAME_free(g);
		return NULL;
	}
	GENERAL_NAME_set0_value(g, ip ? GEN_IPADD : GEN_DNS, value);
	return g;
}

X509_EXTENSION *csr_san(const char *const *names, size_t n)
{
	GENERAL_NAMES *all = GENERAL_NAMES_new();
	X509_EXTENSION *e = NULL;

	for (size_t i = 0; all && i < n; i++) {
		GENERAL_NAME *g = csr_general_name(names[i]);

		if (!g || !sk_GENERAL_NAME_push(all, g)) {
			GENERAL_NAME_free(g);
			goto out;
		}
	}
	e = all ? X509V3_EXT_i2d(NID_subject_alt_name, 0, all) : NULL;
out:
	GENERAL_NAMES_free(all);
	return e;
}

/* ---- the request ---- */

static int add_san(X509_REQ *req, const char *const *names, size_t n)
{
	X509_EXTENSION *e = csr_san(names, n);
	STACK_OF(X509_EXTENSION) *all = sk_X509_EXTENSION_new_null();
	int ok = 0;

	if (e && all && sk_X509_EXTENSION_push(all, e)) {
		e = NULL;
		ok = X509_REQ_add_extensions(req, all);
	}
	X509_EXTENSION_free(e);
	sk_X509_EXTENSION_pop_free(all, X509_EXTENSION_free);
	return ok;
}

char *csr_new(EVP_PKEY *key, const char *const *names, size_t n)
{
	X509_REQ *req = X509_REQ_new();
	uint8_t *der = NULL;
	char *out = NULL;
	int len;

	if (req && X509_REQ_set_version(req, X509_REQ_VERSION_1) == 1 &&
	    X509_REQ_set_pubkey(req, key) == 1 && add_san(req, names, n) == 1 &&
	    X509_REQ_sign(req, key, EVP_sha256()) > 0 && (len = i2d_X509_REQ(req, &der)) > 0)
		out = jose_b64(der, (size_t)len);
	OPENSSL_free(der);
	X509_REQ_free(req);
	ERR_clear_error();
	return out;
}

/* ---- tls-alpn-01 ---- */

/* acmeIdentifier: an OCTET STRING with the digest, critical. */
static int add_acme_identifier(X509 *x, const char *key_auth)
{
	uint8_t value[34] = {0x04, 32};
	ASN1_OBJECT *oid = OBJ_txt2obj(ID_PE_ACME, 1);
	ASN1_OCTET_STRING *os = ASN1_OCTET_STRING_new();
	X509_EXTENSION *e = NULL;
	int ok = 0;

	km_sha256(value + 2, key_auth, strlen(key_auth));
	if (oid && os && ASN1_OCTET_STRING_set(os, value, sizeof(value)) == 1 &&
	    (e = X509_EXTENSION_create_by_OBJ(NULL, oid, 1, os)))
		ok = X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
	ASN1_OCTET_STRING_free(os);
	ASN1_OBJECT_free(oid);
	return ok;
}

static int alpn_fill(X509 *x, EVP_PKEY *key, const char *name, const char *key_auth)
{
	X509_EXTENSION *san = csr_san(&name, 1);
	X509_NAME *who = X509_get_subject_name(x);
	static const uint8_t cn[] = "ACME challenge";
	uint32_t serial;
	int ok = 0;

	km_random(&serial, sizeof(serial));
	if (san && X509_set_version(x, X509_VERSION_3) == 1 &&
	    ASN1_INTEGER_set_uint64(X509_get_serialNumber(x), serial | 1) == 1 &&
	    X509_gmtime_adj(X509_getm_notBefore(x), -86400) &&
	    X509_gmtime_adj(X509_getm_notAfter(x), ALPN_DAYS * 86400L) &&
	    X509_NAME_add_entry_by_NID(who, NID_commonName, MBSTRING_ASC, cn, -1, -1, 0) == 1 &&
	    X509_set_issuer_name(x, who) == 1 && X509_set_pubkey(x, key) == 1)
		ok = X509_add_ext(x, san, -1) == 1 && add_acme_identifier(x, key_auth) == 1;
	X509_EXTENSION_free(san);
	return ok && X509_sign(x, key, EVP_sha256()) > 0;
}

int acme_alpn_cert(X509 **cert, EVP_PKEY **key, const char *name, const char *key_auth)
{
	X509 *x = X509_new();
	EVP_PKEY *k = acme_key_new(false);
	int ok = x && k && alpn_fill(x, k, name, key_auth);

	*cert = ok ? x : NULL;
	*key = ok ? k : NULL;
	if (!ok) {
		X509_free(x);
		EVP_PKEY_free(k);
	}
	ERR_clear_error();
	return ok ? 0 : KM_ENOMEM;
}
