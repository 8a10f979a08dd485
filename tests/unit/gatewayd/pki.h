/* SPDX-License-Identifier: MIT */
/* Keys, certificates and a folder of its own for a test. */
#ifndef TESTS_UNIT_GATEWAYD_PKI_H
#define TESTS_UNIT_GATEWAYD_PKI_H

#include <ftw.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/km-certs-XXXXXX";

static inline int folder_make(void **state)
{
	(void)state;
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static inline int folder_remove_one(const char *path, const struct stat *st, int type,
				    struct FTW *at)
{
	(void)st, (void)type, (void)at;
	return remove(path);
}

static inline int folder_remove(void **state)
{
	(void)state;
	return nftw(dir, folder_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* What a certificate says; 0 means the usual. */
struct pki {
	const char *san;    /* "DNS:a.test,DNS:b.test" */
	const char *issuer; /* common name: "test CA" */
	long from, to;      /* seconds from now: -60, a day */
};

/* Signed by its own key, whatever the issuer's name: nobody looks at that here. */
static inline X509 *pki_cert(EVP_PKEY *key, const struct pki *p)
{
	static long serial;
	X509 *x = X509_new();
	X509_NAME *issuer = X509_get_issuer_name(x);
	const char *cn = p->issuer ? p->issuer : "test CA";
	ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
	X509_set_version(x, 2);
	X509_gmtime_adj(X509_getm_notBefore(x), p->from ? p->from : -60);
	X509_gmtime_adj(X509_getm_notAfter(x), p->to ? p->to : 86400);
	X509_NAME_add_entry_by_txt(issuer, "CN", MBSTRING_ASC, (const unsigned char *)cn, -1, -1,
				   0);
	X509_set_pubkey(x, key);
	X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, p->san);
	assert_non_null(e);
	X509_add_ext(x, e, -1);
	X509_EXTENSION_free(e);
	assert_true(X509_sign(x, key, EVP_sha256()) > 0);
	return x;
}

static inline EVP_PKEY *pki_key(bool rsa)
{
	EVP_PKEY *k = rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256");
	assert_non_null(k);
	return k;
}

/* PEM of parts: k the key (traditional form), p the key in PKCS#8, c a certificate of it, o one of
 * another key. The caller frees. */
static inline char *pki_pem(const struct pki *p, bool rsa, const char *parts)
{
	EVP_PKEY *key = pki_key(rsa), *other = pki_key(false);
	X509 *x = pki_cert(key, p), *o = pki_cert(other, &(struct pki){.san = "DNS:ca.test"});
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);
	BIO *bio = BIO_new_fp(f, BIO_NOCLOSE);
	for (; *parts; parts++) {
		if (*parts == 'k')
			PEM_write_bio_PrivateKey_traditional(bio, key, NULL, NULL, 0, NULL, NULL);
		else if (*parts == 'p')
			PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
		else
			PEM_write_bio_X509(bio, *parts == 'c' ? x : o);
	}
	BIO_free(bio);
	fclose(f);
	X509_free(x);
	X509_free(o);
	EVP_PKEY_free(key);
	EVP_PKEY_free(other);
	return text;
}

/* Writes DIR/file through a rename, so that it never looks half written. */
static inline void pki_write(const char *file, const char *text)
{
	char path[512], temp[512];
	snprintf(path, sizeof(path), "%s/%s", dir, file);
	snprintf(temp, sizeof(temp), "%s/~new", dir);
	FILE *f = fopen(temp, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(rename(temp, path), 0);
}

static inline void pki_put(const char *file, const struct pki *p, bool rsa, const char *parts)
{
	char *text = pki_pem(p, rsa, parts);
	pki_write(file, text);
	free(text);
}

#endif
