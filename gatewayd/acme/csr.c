/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/client.h"
#include "libkm/base/addr.h"
#include "libkm/base/util.h"
#include <openssl/x509v3.h>
#include <string.h>

/* An extension by its object's dotted name and the text that OpenSSL's own syntax has for its value. */
static bool ext_add(X509 *x, const char *oid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, x, x, NULL, NULL, 0);
	X509_EXTENSION *e = X509V3_EXT_conf(NULL, &ctx, oid, value);
	bool ok = e && X509_add_ext(x, e, -1) == 1;
	X509_EXTENSION_free(e);
	return ok;
}

static bool alpn_fill(X509 *x, EVP_PKEY *key, const char *name, const char *key_auth)
{
	struct km_addr addr;
	uint8_t digest[32];
	char hex[2 * sizeof(digest) + 1], san[300], value[128];
	km_sha256(digest, key_auth, strlen(key_auth));
	snprintf(san, sizeof(san), "%s:%s", km_addr_parse(&addr, name) ? "DNS" : "IP", name);
	snprintf(value, sizeof(value), "critical,DER:0420%s", km_hex(digest, sizeof(digest), hex));
	return X509_set_version(x, X509_VERSION_3) == 1 &&
	       ASN1_INTEGER_set(X509_get_serialNumber(x), 1) == 1 &&
	       X509_gmtime_adj(X509_getm_notBefore(x), -86400) &&
	       X509_gmtime_adj(X509_getm_notAfter(x), 7 * 86400) &&
	       X509_set_pubkey(x, key) == 1 && ext_add(x, "subjectAltName", san) &&
	       ext_add(x, "1.3.6.1.5.5.7.1.31", value) && X509_sign(x, key, EVP_sha256()) > 0;
}

int acme_alpn_cert(X509 **cert, EVP_PKEY **key, const char *name, const char *key_auth)
{
	*key = EVP_EC_gen("P-256");
	*cert = X509_new();
	if (*key && *cert && alpn_fill(*cert, *key, name, key_auth))
		return 0;
	X509_free(*cert);
	EVP_PKEY_free(*key);
	*cert = NULL;
	*key = NULL;
	return KM_ENOMEM;
}
