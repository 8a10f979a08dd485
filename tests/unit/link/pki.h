/* SPDX-License-Identifier: MIT */
/* Certificates for the link's tests: a root and a server certificate that it signed. */
#ifndef TESTS_UNIT_LINK_PKI_H
#define TESTS_UNIT_LINK_PKI_H

#include "libkm/base/util.h"
#include "libkm/link/pin.h"
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

struct pki {
	X509 *root, *leaf;
	EVP_PKEY *root_key, *leaf_key;
	char *chain_pem; /* leaf, then root */
	char *key_pem;
	char pin[KM_PIN_STRLEN];
};

static inline void pki_ext(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	X509_add_ext(cert, e, -1);
	X509_EXTENSION_free(e);
}

struct pki_opts {
	bool root_is_no_ca, leaf_expired, client_only;
};

static inline X509 *pki_cert(EVP_PKEY *key, const char *cn, X509 *issuer, EVP_PKEY *issuer_key,
			     const struct pki_opts *o)
{
	X509 *c = X509_new();
	X509_NAME *name = X509_get_subject_name(c);
	bool leaf = issuer != NULL;

	X509_set_version(c, X509_VERSION_3);
	ASN1_INTEGER_set_uint64(X509_get_serialNumber(c), 1 + km_random_below(1u << 30));
	X509_gmtime_adj(X509_getm_notBefore(c), -7200);
	X509_gmtime_adj(X509_getm_notAfter(c), leaf && o->leaf_expired ? -3600 : 3600);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)cn, -1, -1, 0);
	X509_set_pubkey(c, key);
	X509_set_issuer_name(c, leaf ? X509_get_subject_name(issuer) : name);
	if (leaf) {
		pki_ext(c, issuer, NID_basic_constraints, "critical,CA:FALSE");
		pki_ext(c, issuer, NID_ext_key_usage, o->client_only ? "clientAuth" : "serverAuth");
	} else {
		pki_ext(c, c, NID_basic_constraints,
			o->root_is_no_ca ? "critical,CA:FALSE" : "critical,CA:TRUE");
	}
	X509_sign(c, leaf ? issuer_key : key, EVP_sha256());
	return c;
}

static inline char *pki_pem(BIO *b)
{
	char *p;
	long n = BIO_get_mem_data(b, &p);
	char *s = calloc(1, (size_t)n + 1);
	memcpy(s, p, (size_t)n);
	BIO_free(b);
	return s;
}

static inline struct pki pki_make(struct pki_opts o)
{
	struct pki p = {0};
	uint8_t pin[KM_PIN_LEN];
	BIO *b = BIO_new(BIO_s_mem()), *k = BIO_new(BIO_s_mem());

	p.root_key = EVP_EC_gen("P-256");
	p.leaf_key = EVP_EC_gen("P-256");
	p.root = pki_cert(p.root_key, "kakuremichi test root", NULL, NULL, &o);
	p.leaf = pki_cert(p.leaf_key, "kakuremichi test control", p.root, p.root_key, &o);
	PEM_write_bio_X509(b, p.leaf);
	PEM_write_bio_X509(b, p.root);
	PEM_write_bio_PrivateKey(k, p.leaf_key, NULL, NULL, 0, NULL, NULL);
	p.chain_pem = pki_pem(b);
	p.key_pem = pki_pem(k);
	if (km_pin_of(pin, p.root))
		abort();
	km_pin_str(pin, p.pin);
	return p;
}

static inline void pki_free(struct pki *p)
{
	X509_free(p->root);
	X509_free(p->leaf);
	EVP_PKEY_free(p->root_key);
	EVP_PKEY_free(p->leaf_key);
	free(p->chain_pem);
	free(p->key_pem);
}

#endif
