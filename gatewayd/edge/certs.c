/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/certs.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <uthash.h>
#include <utlist.h>

/* ---- one certificate ---- */

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

bool cert_covers(const struct cert *c, const char *host)
{
	return X509_check_host(c->leaf, host, strlen(host), 0, NULL) == 1;
}

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

int cert_load(struct cert **out, const char *path, struct km_errtext *err)
{
	char *text = NULL;
	size_t n = 0;
	struct cert *c = NULL;
	*out = NULL;
	int rc = km_file_read(path, CERTS_FILE_MAX, &text, &n);
	if (rc) {
		int e = errno;
		km_errtext_set(err, rc, "%s: %s", path,
			       rc == KM_EIO ? strerror(e) : km_strerror(rc));
		errno = e;
		return rc;
	}
	if (!(c = calloc(1, sizeof(*c)))) {
		rc = KM_ENOMEM;
		goto out;
	}
	atomic_store(&c->refs, 1);
	if ((rc = pem_read(c, text, n)))
		goto out;
	if (!c->key) {
		rc = km_errtext_set(err, KM_EINVAL, "%s: no private key that can be read", path);
		goto out;
	}
	leaf_take(c);
	if (!c->leaf) {
		rc = km_errtext_set(err, KM_EINVAL, "%s: no certificate of its private key", path);
		goto out;
	}
	c->not_after_ms = time_ms(X509_get0_notAfter(c->leaf));
	*out = c;
	c = NULL;
out:
	cert_put(c);
	km_wipe(text, n);
	free(text);
	return rc;
}

/* ---- the cache ---- */

struct slot {
	char *domain;
	struct cert *cert; /* NULL: there is none, or it is bad */
	int rc;            /* then: why */
	char *why;
	struct timespec mtime;
	off_t size;
	ino_t inode;
	int64_t checked_ms;
	struct slot *prev, *next; /* least recently used first */
	UT_hash_handle hh;
};

struct certs {
	char *dir;
	size_t max;
	pthread_mutex_t lock;
	struct slot *slots, *lru;
};

struct certs *certs_new(const char *dir, size_t max)
{
	struct certs *c = calloc(1, sizeof(*c));
	if (!c || !(c->dir = strdup(dir))) {
		free(c);
		return NULL;
	}
	c->max = max ? max : CERTS_MAX;
	pthread_mutex_init(&c->lock, NULL);
	return c;
}

static void slot_drop(struct certs *c, struct slot *s)
{
	/* A full cache has an oldest. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
	HASH_DEL(c->slots, s);
	DL_DELETE(c->lru, s);
	cert_put(s->cert);
	free(s->why);
	free(s->domain);
	free(s);
}

void certs_free(struct certs *c)
{
	if (!c)
		return;
	while (c->lru)
		slot_drop(c, c->lru);
	pthread_mutex_destroy(&c->lock);
	free(c->dir);
	free(c);
}

/* What is found on disk; made without the lock. */
struct found {
	int rc;
	bool same; /* as the slot has it */
	struct cert *cert;
	struct km_errtext err;
	struct stat st;
};

static void find_file(struct found *f, const char *dir, const char *domain,
		      const struct slot *known)
{
	static const char *const endings[] = {"", ".pem"};
	char path[4096];
	f->rc = KM_ENOTFOUND;
	for (size_t i = 0; i < KM_ARRAY_LEN(endings); i++) {
		snprintf(path, sizeof(path), "%s/%s%s", dir, domain, endings[i]);
		if (stat(path, &f->st))
			continue;
		if (known && f->st.st_ino == known->inode && f->st.st_size == known->size &&
		    !memcmp(&f->st.st_mtim, &known->mtime, sizeof(known->mtime))) {
			f->same = true;
			f->rc = known->rc;
			return;
		}
		f->rc = cert_load(&f->cert, path, &f->err);
		return;
	}
	memset(&f->st, 0, sizeof(f->st));
	km_errtext_set(&f->err, KM_ENOTFOUND, "%s/%s: no such file", dir, domain);
}

static struct slot *slot_new(struct certs *c, const char *domain)
{
	struct slot *s = calloc(1, sizeof(*s));
	if (!s || !(s->domain = strdup(domain))) {
		free(s);
		return NULL;
	}
	while (HASH_COUNT(c->slots) >= c->max)
		slot_drop(c, c->lru);
	HASH_ADD_KEYPTR(hh, c->slots, s->domain, strlen(s->domain), s);
	DL_APPEND(c->lru, s);
	return s;
}

static void slot_take(struct slot *s, struct found *f)
{
	s->mtime = f->st.st_mtim;
	s->size = f->st.st_size;
	s->inode = f->st.st_ino;
	free(s->why);
	s->why = f->rc ? strdup(f->err.text) : NULL;
	s->rc = f->rc;
	if (f->cert || f->rc == KM_ENOTFOUND) {
		cert_put(s->cert);
		s->cert = f->cert;
		f->cert = NULL;
	}
}

static int slot_give(struct certs *c, struct slot *s, struct cert **out, struct km_errtext *err)
{
	DL_DELETE(c->lru, s);
	DL_APPEND(c->lru, s);
	if (s->cert) {
		*out = cert_ref(s->cert);
		return 0;
	}
	return km_errtext_set(err, s->rc, "%s", s->why ? s->why : km_strerror(s->rc));
}

int certs_get(struct certs *c, const char *domain, int64_t now_ms, struct cert **out,
	      struct km_errtext *err)
{
	struct slot *s, known = {0};
	struct found f = {0};
	bool have = false;
	int rc;

	*out = NULL;
	pthread_mutex_lock(&c->lock);
	HASH_FIND_STR(c->slots, domain, s);
	if (s && now_ms - s->checked_ms < CERTS_RECHECK_MS) {
		rc = slot_give(c, s, out, err);
		pthread_mutex_unlock(&c->lock);
		return rc;
	}
	if (s) {
		s->checked_ms = now_ms; /* others go on with what there is meanwhile */
		known = *s;
		have = true;
	}
	pthread_mutex_unlock(&c->lock);

	find_file(&f, c->dir, domain, have ? &known : NULL);

	pthread_mutex_lock(&c->lock);
	HASH_FIND_STR(c->slots, domain, s);
	if (!s && f.same) /* dropped meanwhile, with what f compared to */
		find_file(&f, c->dir, domain, NULL);
	if (!s && !(s = slot_new(c, domain))) {
		rc = KM_ENOMEM;
		goto out;
	}
	s->checked_ms = now_ms;
	if (!f.same)
		slot_take(s, &f);
	rc = slot_give(c, s, out, err);
out:
	pthread_mutex_unlock(&c->lock);
	cert_put(f.cert);
	return rc;
}

int certs_for_host(struct certs *c, const char *host, bool wildcard, int64_t now_ms,
		   struct cert **out, struct km_errtext *err)
{
	char star[256];
	struct km_errtext star_err;
	const char *parent = strchr(host, '.');
	int rc = KM_ENOTFOUND;
	*out = NULL;
	if (!wildcard && (rc = certs_get(c, host, now_ms, out, err)) != KM_ENOTFOUND)
		return rc;
	if (!parent)
		return rc;
	snprintf(star, sizeof(star), "*%s", parent);
	rc = certs_get(c, star, now_ms, out, &star_err);
	if (rc && (wildcard || rc != KM_ENOTFOUND) && err)
		*err = star_err;
	return rc;
}
