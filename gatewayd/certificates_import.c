/* SPDX-License-Identifier: MIT */
/* Certificates of other programs become files of certificate_dir: first everything is read and the
 * best is chosen for every name, then it is written. What is looked for in a folder, and in those
 * below:
 *
 *     privkey.pem with fullchain.pem     certbot's live/NAME (links into archive/)
 *     NAME.key with NAME.crt             lego's certificates/
 *     any file with a key and a chain    autocert's folder, HAProxy's, our own
 */
#include "gatewayd/acme/cache.h"
#include "gatewayd/certificates.h"
#include "gatewayd/route/route.h"
#include "libkm/base/util.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uthash.h>

#define DEPTH_MAX 6

/* The best that was found for a name. */
struct name {
	char domain[ROUTE_DOMAIN_MAX + 1];
	char *path;
	struct cert *cert;
	UT_hash_handle hh;
};
struct import {
	const char *dir; /* certificate_dir */
	const struct certificates_import *how;
	int64_t now_ms;
	struct name *names;
	size_t seen; /* files that held a certificate and a key, good or not */
	int status;
};

__attribute__((format(printf, 2, 3))) static void complain(struct import *m, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fputs("gatewayd certificates: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	m->status = 1;
}

/* ---- what there is ---- */

static void name_take(struct import *m, const char *domain, struct cert *c, const char *path)
{
	struct name *n;
	HASH_FIND_STR(m->names, domain, n);
	if (n && n->cert->not_after_ms >= c->not_after_ms)
		return;
	if (!n) {
		n = km_xcalloc(1, sizeof(*n));
		snprintf(n->domain, sizeof(n->domain), "%s", domain);
		HASH_ADD_STR(m->names, domain, n);
	}
	cert_put(n->cert);
	free(n->path);
	n->cert = cert_ref(c);
	n->path = km_xstrdup(path);
}

/* Every DNS name of the certificate that can be a tunnel's domain. */
static void names_take(struct import *m, struct cert *c, const char *path)
{
	GENERAL_NAMES *all = X509_get_ext_d2i(c->leaf, NID_subject_alt_name, NULL, NULL);
	int good = 0;
	for (int i = 0; i < sk_GENERAL_NAME_num(all); i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(all, i);
		char domain[ROUTE_DOMAIN_MAX + 2];
		if (g->type != GEN_DNS)
			continue;
		snprintf(domain, sizeof(domain), "%.*s", ASN1_STRING_length(g->d.dNSName),
			 (const char *)ASN1_STRING_get0_data(g->d.dNSName));
		for (char *p = domain; *p; p++)
			*p = (char)tolower((unsigned char)*p);
		if (strlen(domain) == (size_t)ASN1_STRING_length(g->d.dNSName) &&
		    route_domain_ok(domain)) {
			name_take(m, domain, c, path);
			good++;
		}
	}
	GENERAL_NAMES_free(all);
	if (!good)
		complain(m, "%s: left out: it names no domain (in its subjectAltName)", path);
}

static void text_take(struct import *m, const char *text, size_t n, const char *path)
{
	struct km_errtext err;
	char at[KM_ISO8601_LEN];
	struct cert *c = NULL;
	m->seen++;
	if (cert_parse(&c, text, n, path, &err))
		complain(m, "%s", err.text);
	else if (c->not_after_ms <= m->now_ms)
		complain(m, "%s: left out: it expired on %.10s", path,
			 km_iso8601(c->not_after_ms, at));
	else if (c->not_before_ms > m->now_ms)
		complain(m, "%s: left out: it is valid only from %.16s on", path,
			 km_iso8601(c->not_before_ms, at));
	else
		names_take(m, c, path);
	cert_put(c);
}

/* A plain file's text; NULL: it is none, or cannot be read (then said, unless quiet). */
static char *text_read(struct import *m, const char *path, size_t *n, bool quiet)
{
	struct stat st;
	char *text = NULL;
	int rc;
	errno = 0;
	if (stat(path, &st))
		rc = KM_EIO;
	else if (!S_ISREG(st.st_mode))
		rc = KM_EINVAL;
	else
		rc = km_file_read(path, CERT_FILE_MAX, &text, n);
	if (rc && !quiet)
		complain(m, "%s: %s", path,
			 rc == KM_EIO      ? strerror(errno)
			 : rc == KM_EINVAL ? "not a plain file"
					   : km_strerror(rc));
	return text;
}

static void text_free(char *text, size_t n)
{
	if (text)
		km_wipe(text, n);
	free(text);
}

/* Key and chain in two files. */
static void pair_take(struct import *m, const char *key, const char *chain)
{
	size_t nk = 0, nc = 0;
	char *k = text_read(m, key, &nk, false), *c = text_read(m, chain, &nc, false);
	if (k && c) {
		char *both = km_xasprintf("%s\n%s", k, c);
		text_take(m, both, strlen(both), chain);
		text_free(both, strlen(both));
	}
	text_free(k, nk);
	text_free(c, nc);
}

static bool ends(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);
	return n > m && !strcmp(s + n - m, end);
}

/* The key's file that goes with a chain's, NULL: it goes with none. The caller frees. */
static char *key_beside(const char *path, bool named)
{
	const char *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
	int folder = (int)(file - path);
	char *key = NULL;
	if (!strcmp(file, "fullchain.pem") || !strcmp(file, "cert.pem"))
		key = km_xasprintf("%.*sprivkey.pem", folder, path);
	else if (ends(file, ".crt") && !ends(file, ".issuer.crt"))
		key = km_xasprintf("%.*s.key", (int)strlen(path) - 4, path);
	/* A fullchain.pem goes with a key, though it may be missing. */
	if (key && access(key, F_OK) && (named || strcmp(file, "fullchain.pem") != 0)) {
		free(key);
		key = NULL;
	}
	return key;
}

/* One file. In a folder much else lies around, which is passed over without a word. */
static void file_take(struct import *m, const char *path, bool named)
{
	char *key = key_beside(path, named);
	size_t n = 0;
	if (key) {
		if (named || !ends(path, "/cert.pem")) /* fullchain.pem lies beside it */
			pair_take(m, key, path);
		free(key);
		return;
	}
	char *text = text_read(m, path, &n, !named);
	if (text && (named || (strstr(text, "-----BEGIN CERTIFICATE-----") &&
			       strstr(text, "PRIVATE KEY-----"))))
		text_take(m, text, n, path);
	text_free(text, n);
}

static void path_take(struct import *m, const char *path, int depth, bool named);

static void folder_take(struct import *m, const char *path, int depth)
{
	struct dirent **e = NULL;
	int n = scandir(path, &e, NULL, alphasort);
	if (n < 0)
		complain(m, "%s: %s", path, strerror(errno));
	for (int i = 0; i < n; i++) {
		const char *name = e[i]->d_name;
		if (name[0] != '.' && !ends(name, ".broken")) {
			char *below = km_xasprintf("%s/%s", path, name);
			path_take(m, below, depth + 1, false);
			free(below);
		}
		free(e[i]);
	}
	free(e);
}

static void path_take(struct import *m, const char *path, int depth, bool named)
{
	struct stat st;
	/* Links to folders are followed only when they were named, so that there is an end. */
	bool folder = !(named ? stat(path, &st) : lstat(path, &st)) && S_ISDIR(st.st_mode);
	if (!folder)
		file_take(m, path, named);
	else if (depth < DEPTH_MAX)
		folder_take(m, path, depth);
}

/* ---- what becomes of it ---- */

static char *pem_of(const struct cert *c)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *chain, *pem = NULL;
	bool ok = bio && PEM_write_bio_X509(bio, c->leaf) == 1;
	for (int i = 0; ok && i < sk_X509_num(c->chain); i++)
		ok = PEM_write_bio_X509(bio, sk_X509_value(c->chain, i)) == 1;
	if (ok && BIO_write(bio, "", 1) == 1 && BIO_get_mem_data(bio, &chain) > 0)
		pem = cache_pem(c->key, chain);
	BIO_free(bio);
	return pem;
}

/* Where a domain's certificate lies or would lie. False: not there yet. */
static bool place(const struct import *m, const char *domain, char path[static PATH_MAX],
		  struct stat *st)
{
	snprintf(path, PATH_MAX, "%s/%s", m->dir, domain);
	if (!lstat(path, st))
		return true;
	snprintf(path, PATH_MAX, "%s/%s.pem", m->dir, domain);
	if (!lstat(path, st))
		return true;
	snprintf(path, PATH_MAX, "%s/%s", m->dir, domain);
	return false;
}

/* Why what is there stays, or NULL. */
static const char *keep(const struct import *m, const char *path, const struct stat *st,
			const struct cert *c, char text[static 128])
{
	struct km_errtext err;
	struct cert *is;
	char at[KM_ISO8601_LEN];
	const char *why = NULL;
	if (S_ISLNK(st->st_mode) && !m->how->force)
		return "kept: it is a symbolic link; -f puts a file in its place";
	if (!S_ISREG(st->st_mode) && !S_ISLNK(st->st_mode))
		return "kept: it is not a file";
	if (S_ISLNK(st->st_mode) || cert_load(&is, path, &err))
		return NULL;
	if (!X509_cmp(is->leaf, c->leaf)) {
		why = "unchanged";
	} else if (is->not_after_ms > c->not_after_ms && !m->how->force) {
		snprintf(text, 128, "kept: what is there lasts longer, until %.10s; -f replaces it",
			 km_iso8601(is->not_after_ms, at));
		why = text;
	}
	cert_put(is);
	return why;
}

static int name_write(const struct import *m, const char *path, const struct cert *c)
{
	char *pem = pem_of(c);
	struct stat st;
	int rc = pem ? km_file_write(path, pem, strlen(pem), 0600) : KM_ENOMEM;
	int e = errno;
	/* The folder's owner is who reads it. */
	if (!rc && !stat(m->dir, &st) && st.st_uid != geteuid() &&
	    chown(path, st.st_uid, st.st_gid)) {
		rc = KM_EIO;
		e = errno;
	}
	text_free(pem, pem ? strlen(pem) : 0);
	errno = e;
	return rc;
}

static void name_put(struct import *m, const struct name *n)
{
	char path[PATH_MAX], text[128], at[KM_ISO8601_LEN], issuer[128];
	const char *done = m->how->dry ? "would be imported" : "imported";
	struct stat st;
	const char *why = place(m, n->domain, path, &st) ? keep(m, path, &st, n->cert, text) : NULL;
	int rc;
	if (why) {
		printf("%s: %s\n", n->domain, why);
		return;
	}
	if (!m->how->dry && (rc = name_write(m, path, n->cert))) {
		complain(m, "%s: %s cannot be written: %s", n->domain, path,
			 km_why(rc));
		return;
	}
	cert_issuer(n->cert, issuer, sizeof(issuer));
	printf("%s: %s from %s (%s, until %.10s, issuer %s)\n", n->domain, done, n->path,
	       cert_kind(n->cert), km_iso8601(n->cert->not_after_ms, at), issuer);
	if (!sk_X509_num(n->cert->chain) && X509_NAME_cmp(X509_get_subject_name(n->cert->leaf),
							  X509_get_issuer_name(n->cert->leaf)) != 0)
		printf("%s: note: no intermediate certificate came with it; most clients will not "
		       "trust "
		       "it\n",
		       n->domain);
}

static int name_order(const struct name *a, const struct name *b)
{
	return strcmp(a->domain, b->domain);
}

int certificates_import(const struct gw_settings *s, char *const *paths, size_t n,
			const struct certificates_import *how)
{
	struct import m = {.dir = s->certificate_dir, .how = how, .now_ms = km_wall_ms()};
	struct name *name, *next;
	for (size_t i = 0; i < n; i++) {
		size_t seen = m.seen;
		int status = m.status;
		m.status = 0;
		path_take(&m, paths[i], 0, true);
		if (m.seen == seen && !m.status)
			complain(&m, "%s: there is no certificate with its private key", paths[i]);
		m.status |= status;
	}
	if (m.names && !how->dry && km_mkdirs(m.dir, 0700))
		complain(&m, "certificate_dir %s: %s", m.dir, strerror(errno));
	HASH_SORT(m.names, name_order);
	HASH_ITER (hh, m.names, name, next) {
		name_put(&m, name);
		HASH_DEL(m.names, name);
		cert_put(name->cert);
		free(name->path);
		free(name);
	}
	return m.status;
}
