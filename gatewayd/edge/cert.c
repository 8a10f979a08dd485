/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/cert.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct cert *cert_ref(struct cert *c)
{
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return c;
}

void cert_put(struct cert *c)
{
	if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
		return;
	X509_free(c->leaf);
	EVP_PKEY_free(c->key);
	sk_X509_pop_free(c->chain, X509_free);
	free(c);
}

/* ---- what it says ---- */

bool cert_covers(const struct cert *c, const char *host)
{
	return X509_check_host(c->leaf, host, strlen(host), 0, NULL) == 1 ||
	       X509_check_ip_asc(c->leaf, host, 0) == 1;
}

bool cert_in_time(const struct cert *c, int64_t wall_ms)
{
	return c->not_before_ms <= wall_ms && wall_ms < c->not_after_ms;
}

const char *cert_kind(const struct cert *c)
{
	return c->rsa ? "rsa" : EVP_PKEY_is_a(c->key, "EC") == 1 ? "ecdsa" : "other";
}

void cert_fingerprint(const struct cert *c, char out[static 65])
{
	unsigned char md[EVP_MAX_MD_SIZE];
	unsigned n = 0;
	out[0] = '\0';
	if (X509_digest(c->leaf, EVP_sha256(), md, &n) == 1 && n == 32)
		km_hex(md, n, out);
}

void cert_issuer(const struct cert *c, char *out, size_t size)
{
	X509_NAME *name = X509_get_issuer_name(c->leaf);
	out[0] = '\0';
	if (X509_NAME_get_text_by_NID(name, NID_commonName, out, (int)size) < 0 &&
	    X509_NAME_get_text_by_NID(name, NID_organizationName, out, (int)size) < 0)
		out[0] = '\0';
	for (char *p = out; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p > 0x7e)
			*p = '?';
}

/* ---- reading ---- */

#define KEY_BITS 112 /* of security, as Debian's OpenSSL demands: RSA of 2048 */

/* Intermediates are the same in most files: parsed once, they are shared, which halves what a
 * certificate costs. */
#define SHARED 64
static struct {
	pthread_mutex_t lock;
	X509 *x[SHARED];
	uint8_t digest[SHARED][32];
	unsigned next; /* to be replaced */
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER};

static X509 *shared_find(const uint8_t digest[static 32])
{
	X509 *x = NULL;
	pthread_mutex_lock(&shared.lock);
	for (unsigned i = 0; !x && i < SHARED; i++)
		if (shared.x[i] && !memcmp(shared.digest[i], digest, 32) &&
		    X509_up_ref(shared.x[i]))
			x = shared.x[i];
	pthread_mutex_unlock(&shared.lock);
	return x;
}

static void shared_add(X509 *x, const uint8_t digest[static 32])
{
	pthread_mutex_lock(&shared.lock);
	if (X509_up_ref(x)) {
		X509_free(shared.x[shared.next]);
		shared.x[shared.next] = x;
		memcpy(shared.digest[shared.next], digest, 32);
		shared.next = (shared.next + 1) % SHARED;
	}
	pthread_mutex_unlock(&shared.lock);
}

/* The first of a file is most likely the leaf, which nobody else has. */
static X509 *x509_read(const uint8_t *der, long n, bool first)
{
	uint8_t digest[32];
	const uint8_t *p = der;
	X509 *x;
	if (first)
		return d2i_X509(NULL, &p, n);
	km_sha256(digest, der, (size_t)n);
	if (!(x = shared_find(digest)) && (x = d2i_X509(NULL, &p, n)))
		shared_add(x, digest);
	return x;
}

/* By the block's name: OpenSSL's way of finding out costs three times as much. */
static EVP_PKEY *key_read(const char *name, const uint8_t *der, long n)
{
	const uint8_t *p = der;
	PKCS8_PRIV_KEY_INFO *info;
	EVP_PKEY *key = NULL;
	if (!strcmp(name, PEM_STRING_ECPRIVATEKEY))
		return d2i_PrivateKey(EVP_PKEY_EC, NULL, &p, n);
	if (!strcmp(name, PEM_STRING_RSA))
		return d2i_PrivateKey(EVP_PKEY_RSA, NULL, &p, n);
	if (!strcmp(name, PEM_STRING_PKCS8INF) && (info = d2i_PKCS8_PRIV_KEY_INFO(NULL, &p, n))) {
		key = EVP_PKCS82PKEY(info);
		PKCS8_PRIV_KEY_INFO_free(info);
	}
	return key;
}

/* Returns what is wrong with a block, or NULL. */
static const char *block_take(struct cert *c, const char *name, const char *header,
			      const uint8_t *der, long n)
{
	bool is_key = strstr(name, "PRIVATE KEY") != NULL;
	if (is_key && (!strcmp(name, PEM_STRING_PKCS8) || strstr(header, "ENCRYPTED")))
		return "the private key is encrypted: take the pass phrase off";
	if (is_key && !c->key && !(c->key = key_read(name, der, n)))
		return "no private key that can be read";
	if (strcmp(name, PEM_STRING_X509) != 0 && strcmp(name, PEM_STRING_X509_OLD) != 0)
		return NULL; /* curves' parameters, and what else programs put there */
	X509 *x = x509_read(der, n, !sk_X509_num(c->chain));
	if (x && sk_X509_push(c->chain, x))
		return NULL;
	X509_free(x);
	return "a certificate in it is malformed";
}

/* All blocks of the text, one key and any number of certificates. */
static const char *pem_read(struct cert *c, BIO *bio)
{
	const char *bad = NULL;
	char *name, *header;
	unsigned char *der;
	long n;
	while (!bad && PEM_read_bio(bio, &name, &header, &der, &n) == 1) {
		bad = block_take(c, name, header, der, n);
		OPENSSL_free(name);
		OPENSSL_free(header);
		OPENSSL_clear_free(der, (size_t)n);
	}
	unsigned long e = ERR_peek_last_error();
	if (!bad && ERR_GET_LIB(e) == ERR_LIB_PEM && ERR_GET_REASON(e) != PEM_R_NO_START_LINE)
		bad = "it is cut off or damaged";
	ERR_clear_error();
	return bad ? bad : c->key ? NULL : "no private key that can be read";
}

/* The certificate of the key leaves the chain and becomes the leaf. */
static void leaf_take(struct cert *c)
{
	for (int i = 0; !c->leaf && i < sk_X509_num(c->chain); i++)
		if (X509_check_private_key(sk_X509_value(c->chain, i), c->key) == 1)
			c->leaf = sk_X509_delete(c->chain, i);
	ERR_clear_error();
}

static int64_t time_ms(const ASN1_TIME *t)
{
	struct tm tm;
	return t && ASN1_TIME_to_tm(t, &tm) ? (int64_t)timegm(&tm) * 1000 : 0;
}

int cert_parse(struct cert **out, const char *text, size_t n, const char *what,
	       struct km_errtext *err)
{
	struct cert *c = calloc(1, sizeof(*c));
	BIO *bio = n <= CERT_FILE_MAX ? BIO_new_mem_buf(text, (int)n) : NULL;
	const char *bad;
	int rc;
	*out = NULL;
	if (c)
		atomic_store(&c->refs, 1);
	if (!c || !bio || !(c->chain = sk_X509_new_null())) {
		rc = n > CERT_FILE_MAX ? KM_ETOOBIG : KM_ENOMEM;
		km_errtext_set(err, rc, "%s: %s", what, km_strerror(rc));
		goto out;
	}
	ERR_clear_error();
	if ((bad = pem_read(c, bio))) {
		rc = km_errtext_set(err, KM_EINVAL, "%s: %s", what, bad);
		goto out;
	}
	if (EVP_PKEY_get_security_bits(c->key) < KEY_BITS) {
		rc = km_errtext_set(err, KM_EINVAL, "%s: the private key is too weak (%d bits)",
				    what, EVP_PKEY_get_bits(c->key));
		goto out;
	}
	leaf_take(c);
	if (!c->leaf) {
		rc = km_errtext_set(err, KM_EINVAL, "%s: no certificate of its private key", what);
		goto out;
	}
	c->not_before_ms = time_ms(X509_get0_notBefore(c->leaf));
	c->not_after_ms = time_ms(X509_get0_notAfter(c->leaf));
	c->rsa = EVP_PKEY_is_a(c->key, "RSA") == 1;
	*out = c;
	c = NULL;
	rc = 0;
out:
	BIO_free(bio);
	cert_put(c);
	return rc;
}

int cert_load(struct cert **out, const char *path, struct km_errtext *err)
{
	char *text = NULL;
	size_t n = 0;
	*out = NULL;
	int rc = km_file_read(path, CERT_FILE_MAX, &text, &n);
	if (rc) {
		int e = errno;
		km_errtext_set(err, rc, "%s: %s", path,
			       rc == KM_EIO ? strerror(e) : km_strerror(rc));
		errno = e;
		return rc;
	}
	rc = cert_parse(out, text, n, path, err);
	km_wipe(text, n);
	free(text);
	return rc;
}
