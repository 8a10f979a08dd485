/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/cache.h"
#include "gatewayd/route/route.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RSA_ENDING "+rsa"
#define BROKEN ".broken"
#define ACCOUNT "acme_account+key"
#define ACCOUNT_OLD "acme_account.key"

/* So that what is set aside is what was found bad, not what has just taken its place. */
static pthread_mutex_t renames = PTHREAD_MUTEX_INITIALIZER;

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);
	return n >= m && !strcmp(s + n - m, end);
}

static bool domain_ok(const char *domain)
{
	return route_domain_ok(domain) && strcmp(domain, CACHE_ACCOUNT_FILE) != 0 &&
	       !ends_with(domain, BROKEN);
}

static int path_make(char out[static PATH_MAX], const char *dir, const char *domain, bool rsa,
		     struct km_errtext *err)
{
	if (!domain_ok(domain))
		return km_errtext_set(err, KM_EINVAL,
				      "\"%.300s\" cannot be the name of a file of a "
				      "certificate",
				      domain);
	if (snprintf(out, PATH_MAX, "%s/%s%s", dir, domain, rsa ? RSA_ENDING : "") >= PATH_MAX)
		return km_errtext_set(err, KM_ETOOBIG, "%.300s: the path is too long", dir);
	return 0;
}

int cache_open(const char *dir, struct km_errtext *err)
{
	struct stat st;
	if (km_mkdirs(dir, 0700) || lstat(dir, &st))
		return km_errtext_set(err, KM_EIO, "acme_dir %s: %s", dir, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return km_errtext_set(
		    err, KM_EPERM, "acme_dir %s is a symbolic link: name the folder itself", dir);
	if (st.st_uid != geteuid())
		return km_errtext_set(
		    err, KM_EPERM, "acme_dir %s belongs to another user (uid %u): it must be ours",
		    dir, (unsigned)st.st_uid);
	if (st.st_mode & 077)
		return km_errtext_set(err, KM_EPERM,
				      "acme_dir %s holds private keys but others may look into it "
				      "(mode %04o): run chmod 700 on it",
				      dir, (unsigned)st.st_mode & 07777);
	return 0;
}

/* ---- files ---- */

/* The text of a regular file and what it was at that moment. */
static int file_read(const char *path, char **text, size_t *n, struct stat *st,
		     struct km_errtext *err)
{
	if (lstat(path, st)) {
		int e = errno;
		bool none = e == ENOENT || e == ENOTDIR || e == ENAMETOOLONG;
		km_errtext_set(err, KM_EIO, "%s: %s", path, strerror(e));
		errno = e;
		return none ? KM_ENOTFOUND : KM_EIO;
	}
	if (!S_ISREG(st->st_mode))
		return km_errtext_set(err, KM_EINVAL, "%s is %s: only plain files are read here",
				      path,
				      S_ISLNK(st->st_mode) ? "a symbolic link" : "not a file");
	int rc = km_file_read(path, CERT_FILE_MAX, text, n);
	if (!rc)
		return 0;
	int e = errno;
	km_errtext_set(err, rc, "%s: %s", path, rc == KM_EIO ? strerror(e) : km_strerror(rc));
	errno = e;
	return rc;
}

/* Puts a bad file out of the way, unless it has been replaced since; adds to the sentence. */
static int set_aside(const char *path, const struct stat *was, struct km_errtext *err)
{
	char to[PATH_MAX + sizeof(BROKEN)];
	struct km_errtext why = *err;
	struct stat st;
	pthread_mutex_lock(&renames);
	snprintf(to, sizeof(to), "%s" BROKEN, path);
	if (lstat(path, &st) || st.st_ino != was->st_ino ||
	    memcmp(&st.st_ctim, &was->st_ctim, sizeof(st.st_ctim)) != 0)
		km_errtext_set(err, KM_EINVAL, "%.400s; it has been replaced since", why.text);
	else if (rename(path, to))
		km_errtext_set(err, KM_EINVAL, "%.400s; it cannot be set aside: %s", why.text,
			       strerror(errno));
	else
		km_errtext_set(err, KM_EINVAL, "%.400s; set aside as %.80s", why.text,
			       strrchr(to, '/') + 1);
	pthread_mutex_unlock(&renames);
	return KM_EINVAL;
}

static int file_write(const char *path, const char *text, struct km_errtext *err)
{
	pthread_mutex_lock(&renames);
	int rc = km_file_write(path, text, strlen(text), 0600);
	int e = errno;
	pthread_mutex_unlock(&renames);
	if (rc)
		km_errtext_set(err, rc, "%s cannot be written: %s", path, strerror(e));
	errno = e;
	return rc;
}

/* ---- certificates ---- */

/* Whether it is what its file's name says. */
static int cert_check(const struct cert *c, const char *domain, bool rsa, const char *what,
		      struct km_errtext *err)
{
	if (!cert_covers(c, domain))
		return km_errtext_set(err, KM_EINVAL, "%s: the certificate does not name %s", what,
				      domain);
	if (c->rsa != rsa)
		return km_errtext_set(err, KM_EINVAL, "%s: the key is %s, but the file is for %s",
				      what, c->rsa ? "RSA" : "not RSA", rsa ? "RSA" : "others");
	return 0;
}

static void facts_of(struct cache_facts *f, const struct cert *c)
{
	f->not_before_ms = c->not_before_ms;
	f->not_after_ms = c->not_after_ms;
	f->rsa = c->rsa;
	cert_fingerprint(c, f->fingerprint);
	cert_issuer(c, f->issuer, sizeof(f->issuer));
}

/* Text and meaning of an entry; either may be NULL. */
static int entry_read(const char *dir, const char *domain, bool rsa, char **pem, struct cert **out,
		      struct cache_facts *facts, struct km_errtext *err)
{
	char path[PATH_MAX], *text = NULL;
	struct km_errtext own = {""};
	struct cert *c = NULL;
	struct stat st;
	size_t n = 0;
	err = err ? err : &own;
	int rc = path_make(path, dir, domain, rsa, err);
	if (rc)
		return rc;
	rc = file_read(path, &text, &n, &st, err);
	if (rc == KM_ETOOBIG)
		return set_aside(path, &st, err);
	if (rc)
		return rc;
	rc = cert_parse(&c, text, n, path, err);
	if (!rc)
		rc = cert_check(c, domain, rsa, path, err);
	if (rc == KM_EINVAL)
		set_aside(path, &st, err);
	if (rc)
		goto out;
	if (facts)
		facts_of(facts, c);
	if (pem) {
		*pem = text;
		text = NULL;
	}
	if (out) {
		*out = c;
		c = NULL;
	}
out:
	cert_put(c);
	if (text)
		km_wipe(text, n);
	free(text);
	return rc;
}

int cache_get(const char *dir, const char *domain, bool rsa, char **pem, struct cache_facts *facts,
	      struct km_errtext *err)
{
	*pem = NULL;
	return entry_read(dir, domain, rsa, pem, NULL, facts, err);
}

int cache_load(const char *dir, const char *domain, bool rsa, struct cert **out,
	       struct km_errtext *err)
{
	*out = NULL;
	return entry_read(dir, domain, rsa, NULL, out, NULL, err);
}

int cache_put(const char *dir, const char *domain, bool rsa, const char *pem,
	      struct cache_facts *facts, struct km_errtext *err)
{
	char path[PATH_MAX];
	struct cert *c = NULL;
	int rc = path_make(path, dir, domain, rsa, err);
	if (!rc)
		rc = cert_parse(&c, pem, strlen(pem), domain, err);
	if (!rc)
		rc = cert_check(c, domain, rsa, domain, err);
	if (!rc)
		rc = file_write(path, pem, err);
	if (!rc && facts)
		facts_of(facts, c);
	int e = errno;
	cert_put(c);
	errno = e;
	return rc;
}

int cache_remove(const char *dir, const char *domain, bool rsa, struct km_errtext *err)
{
	char path[PATH_MAX];
	int rc = path_make(path, dir, domain, rsa, err);
	if (rc || !unlink(path) || errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG)
		return rc;
	return km_errtext_set(err, KM_EIO, "%s cannot be removed: %s", path, strerror(errno));
}

/* ---- keys ---- */

/* The rest of a memory BIO as text; its copies in the BIO are wiped with it. */
static char *bio_text(BIO *bio, const char *more)
{
	char *p = NULL;
	long n = BIO_get_mem_data(bio, &p);
	size_t m = strlen(more);
	char *out = n > 0 ? malloc((size_t)n + m + 1) : NULL;
	if (out) {
		memcpy(out, p, (size_t)n);
		memcpy(out + n, more, m + 1);
	}
	return out;
}

char *cache_pem(EVP_PKEY *key, const char *chain)
{
	BIO *bio = BIO_new(BIO_s_secmem());
	char *out = NULL;
	bool old =
	    EVP_PKEY_is_a(key, "EC") || EVP_PKEY_is_a(key, "RSA"); /* others have no such form */
	if (bio && (old ? PEM_write_bio_PrivateKey_traditional(bio, key, NULL, NULL, 0, NULL, NULL)
			: PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL)) == 1)
		out = bio_text(bio, chain);
	BIO_free(bio);
	ERR_clear_error();
	return out;
}

static int no_phrase(char *buf, int size, int rwflag, void *arg)
{
	(void)buf, (void)size, (void)rwflag, (void)arg;
	return -1;
}

/* KM_ENOTFOUND: there is none, or it is none and has been set aside. */
static int account_read(const char *dir, const char *name, EVP_PKEY **out, struct km_errtext *err)
{
	char path[PATH_MAX], *text = NULL;
	struct stat st;
	size_t n = 0;
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	int rc = file_read(path, &text, &n, &st, err);
	BIO *bio = rc ? NULL : BIO_new_mem_buf(text, (int)n);
	if (bio)
		*out = PEM_read_bio_PrivateKey(bio, NULL, no_phrase, NULL);
	BIO_free(bio);
	ERR_clear_error();
	if (text)
		km_wipe(text, n);
	free(text);
	if (rc && rc != KM_ETOOBIG)
		return rc;
	if (*out)
		return 0;
	km_errtext_set(err, KM_EINVAL, "%s: no private key that can be read", path);
	set_aside(path, &st, err);
	km_warn("account key is unusable, a new account will be made", km_ks("why", err->text));
	return KM_ENOTFOUND;
}

int cache_account_key(const char *dir, EVP_PKEY **out, struct km_errtext *err)
{
	struct km_errtext own = {""};
	err = err ? err : &own;
	*out = NULL;
	int rc = account_read(dir, ACCOUNT, out, err);
	if (rc == KM_ENOTFOUND)
		rc = account_read(dir, ACCOUNT_OLD, out, err);
	if (rc != KM_ENOTFOUND)
		return rc;
	if (!(*out = EVP_EC_gen("P-256")))
		return km_errtext_set(err, KM_ENOMEM, "no account key could be made");
	if ((rc = cache_account_key_put(dir, *out, err))) {
		EVP_PKEY_free(*out);
		*out = NULL;
	}
	return rc;
}

int cache_account_key_put(const char *dir, EVP_PKEY *key, struct km_errtext *err)
{
	char path[PATH_MAX], *pem = cache_pem(key, "");
	if (!pem)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	snprintf(path, sizeof(path), "%s/" ACCOUNT, dir);
	int rc = file_write(path, pem, err);
	km_wipe(pem, strlen(pem));
	free(pem);
	return rc;
}

/* ---- all ---- */

int cache_each(const char *dir, void (*each)(void *arg, const char *domain, bool rsa), void *arg,
	       struct km_errtext *err)
{
	DIR *d = opendir(dir);
	if (!d)
		return km_errtext_set(err, KM_EIO, "acme_dir %s: %s", dir, strerror(errno));
	for (struct dirent *e; (e = readdir(d));) {
		char name[NAME_MAX + 1];
		snprintf(name, sizeof(name), "%s", e->d_name);
		bool rsa = ends_with(name, RSA_ENDING);
		if (rsa)
			name[strlen(name) - strlen(RSA_ENDING)] = '\0';
		if (domain_ok(name) && strchr(name, '.'))
			each(arg, name, rsa);
	}
	closedir(d);
	return 0;
}
