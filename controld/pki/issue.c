/* SPDX-License-Identifier: MIT */
#include "controld/pki/issue.h"
#include "libkm/base/addr.h"
#include "libkm/base/buf.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SKEW_S 3600 /* clocks of clients may be behind */

EVP_PKEY *issue_key(void)
{
	return EVP_EC_gen("P-256");
}

static bool set_serial(X509 *c)
{
	uint8_t raw[16];
	BIGNUM *bn;
	bool ok;

	km_random(raw, sizeof(raw));
	raw[0] &= 0x7f; /* positive in at most 16 octets */
	bn = BN_bin2bn(raw, sizeof(raw), NULL);
	ok = bn && BN_to_ASN1_INTEGER(bn, X509_get_serialNumber(c));
	BN_free(bn);
	return ok;
}

static bool set_name(X509_NAME *n, const char *cn)
{
	return X509_NAME_add_entry_by_txt(n, "O", MBSTRING_UTF8, (const uint8_t *)"kakuremichi", -1,
					  -1, 0) == 1 &&
	       X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_UTF8, (const uint8_t *)cn, -1, -1, 0) ==
		   1;
}

static bool add_ext(X509 *c, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *e;
	bool ok;

	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer, c, NULL, NULL, 0);
	e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	ok = e && X509_add_ext(c, e, -1) == 1;
	X509_EXTENSION_free(e);
	return ok;
}

/* Version 3, serial, times, key, subject. */
static X509 *begin(EVP_PKEY *key, const char *cn, int64_t wall_s, int days)
{
	X509 *c = X509_new();
	time_t now = (time_t)wall_s;

	if (c && X509_set_version(c, X509_VERSION_3) == 1 && set_serial(c) &&
	    X509_time_adj_ex(X509_getm_notBefore(c), 0, -SKEW_S, &now) &&
	    X509_time_adj_ex(X509_getm_notAfter(c), days, 0, &now) &&
	    X509_set_pubkey(c, key) == 1 && set_name(X509_get_subject_name(c), cn))
		return c;
	X509_free(c);
	return NULL;
}

X509 *issue_root(EVP_PKEY *key, int64_t wall_s)
{
	X509 *c = begin(key, "kakuremichi control root", wall_s, ISSUE_ROOT_DAYS);

	if (c && X509_set_issuer_name(c, X509_get_subject_name(c)) == 1 &&
	    add_ext(c, c, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
	    add_ext(c, c, NID_key_usage, "critical,keyCertSign,cRLSign") &&
	    add_ext(c, c, NID_subject_key_identifier, "hash") &&
	    X509_sign(c, key, EVP_sha256()) > 0)
		return c;
	X509_free(c);
	return NULL;
}

bool issue_host_name_ok(const char *s)
{
	size_t n = strlen(s);

	if (!n || n > 253 || s[0] == '-' || s[0] == '.')
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && *s != '-' && *s != '.' && *s != '_')
			return false;
	return true;
}

/* "DNS:a,IP:1.2.3.4" */
static int alt_names(struct km_buf *out, const struct km_strlist *names, struct km_errtext *err)
{
	struct km_addr a;
	int rc = 0;

	for (size_t i = 0; !rc && i < names->n; i++) {
		const char *name = names->items[i];
		bool is_addr = !km_addr_parse(&a, name);

		if (!is_addr && !issue_host_name_ok(name))
			return km_errtext_set(err, KM_EINVAL,
					      "names: %s is neither a host name nor an address",
					      name);
		rc = km_buf_addf(out, "%s%s:%s", i ? "," : "", is_addr ? "IP" : "DNS", name);
	}
	return rc ? rc : km_buf_add(out, "", 1);
}

int issue_server(X509 **out, EVP_PKEY *key, X509 *root, EVP_PKEY *root_key,
		 const struct km_strlist *names, int64_t wall_s, struct km_errtext *err)
{
	struct km_buf alt;
	X509 *c = NULL;
	int rc;

	*out = NULL;
	km_buf_init(&alt, 65536);
	rc = alt_names(&alt, names, err);
	if (rc)
		goto out;
	c = begin(key, "kakuremichi control", wall_s, ISSUE_SERVER_DAYS);
	if (c && X509_set_issuer_name(c, X509_get_subject_name(root)) == 1 &&
	    add_ext(c, root, NID_basic_constraints, "critical,CA:FALSE") &&
	    add_ext(c, root, NID_key_usage, "critical,digitalSignature") &&
	    add_ext(c, root, NID_ext_key_usage, "serverAuth") &&
	    add_ext(c, root, NID_subject_alt_name, (const char *)km_buf_head(&alt)) &&
	    add_ext(c, root, NID_subject_key_identifier, "hash") &&
	    add_ext(c, root, NID_authority_key_identifier, "keyid:always") &&
	    X509_sign(c, root_key, EVP_sha256()) > 0) {
		*out = c;
		c = NULL;
	} else {
		rc = km_errtext_set(err, KM_EIO, "the server certificate cannot be made");
	}
out:
	X509_free(c);
	km_buf_free(&alt);
	return rc;
}

/* Takes b over. */
static char *bio_text(BIO *b, int ok)
{
	char *p, *text = NULL;
	long n = b && ok == 1 ? BIO_get_mem_data(b, &p) : 0;

	if (n > 0)
		text = strndup(p, (size_t)n);
	BIO_free(b);
	return text;
}

char *issue_cert_pem(X509 *cert)
{
	BIO *b = BIO_new(BIO_s_mem());

	return bio_text(b, b ? PEM_write_bio_X509(b, cert) : 0);
}

char *issue_key_pem(EVP_PKEY *key)
{
	BIO *b = BIO_new(BIO_s_secmem());

	return bio_text(b,
			b ? PEM_write_bio_PKCS8PrivateKey(b, key, NULL, NULL, 0, NULL, NULL) : 0);
}

X509 *issue_cert_parse(const char *pem)
{
	BIO *b = BIO_new_mem_buf(pem, -1);
	X509 *c = b ? PEM_read_bio_X509(b, NULL, NULL, NULL) : NULL;

	BIO_free(b);
	return c;
}

char *issue_pin(X509 *cert)
{
	uint8_t *der = NULL, hash[32];
	char b64[KM_B64_LEN(32)];
	int n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der);

	if (n <= 0)
		return NULL;
	km_sha256(hash, der, (size_t)n);
	OPENSSL_free(der);
	return km_xasprintf("sha256//%s", km_b64(hash, sizeof(hash), b64));
}
