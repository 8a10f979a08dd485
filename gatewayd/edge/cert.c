/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/cert.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
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

/* What PEM_read asks for a pass phrase: none, so that an encrypted key is an error and no prompt.
 */
static int no_phrase(char *buf, int size, int rwflag, void *arg)
{
	(void)buf, (void)size, (void)rwflag, (void)arg;
	return -1;
}

/* The first private key and all certificates of the text. */
static int pem_read(struct cert *c, const char *text, size_t n)
{
	BIO *bio = BIO_new_mem_buf(text, (int)n);
	if (!bio)
		return KM_ENOMEM;
	c->key = PEM_read_bio_PrivateKey(bio, NULL, no_phrase, NULL);
	BIO_free(bio);
	bio = BIO_new_mem_buf(text, (int)n);
	c->chain = sk_X509_new_null();
	if (!bio || !c->chain) {
		BIO_free(bio);
		return KM_ENOMEM;
	}
	X509 *x;
	while ((x = PEM_read_bio_X509(bio, NULL, no_phrase, NULL)))
		if (!sk_X509_push(c->chain, x)) {
			X509_free(x);
			break;
		}
	BIO_free(bio);
	ERR_clear_error();
	return 0;
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

static int key_check(const struct cert *c, const char *text, size_t n, const char *what,
		     struct km_errtext *err)
{
	static const char encrypted[] = "ENCRYPTED";
	if (!c->key)
		return km_errtext_set(err, KM_EINVAL, "%s: no private key that can be read%s", what,
				      memmem(text, n, encrypted, sizeof(encrypted) - 1)
					  ? ": it is encrypted, take the pass phrase off"
					  : "");
	if (EVP_PKEY_get_security_bits(c->key) < KEY_BITS)
		return km_errtext_set(err, KM_EINVAL, "%s: the private key is too weak (%d bits)",
				      what, EVP_PKEY_get_bits(c->key));
	return 0;
}

int cert_parse(struct cert **out, const char *text, size_t n, const char *what,
	       struct km_errtext *err)
{
	struct cert *c = calloc(1, sizeof(*c));
	int rc;
	*out = NULL;
	if (!c)
		return km_errtext_set(err, KM_ENOMEM, "%s: no memory", what);
	atomic_store(&c->refs, 1);
	if ((rc = n > CERT_FILE_MAX ? KM_ETOOBIG : pem_read(c, text, n))) {
		km_errtext_set(err, rc, "%s: %s", what, km_strerror(rc));
		goto out;
	}
	if ((rc = key_check(c, text, n, what, err)))
		goto out;
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
out:
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
