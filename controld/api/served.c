/* SPDX-License-Identifier: MIT */
#include "controld/api/served.h"
#include "controld/api/server.h"
#include "libkm/base/log.h"
#include "libkm/base/metrics.h"
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define LOOK_S 2
#define FILE_MAX_BYTES (256 * 1024)
#define SOON_S (14 * 86400)

/* What tells one state of a file from another. */
struct look {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec written;
};
struct served {
	const char *cert_file, *key_file; /* the same when there is one file */
	char *cert, *key;		  /* PEM */
	struct look looks[2];
	struct event *tick;
	served_changed_cb *changed;
	void *arg;
};

static void wipe(char *text)
{
	if (text)
		km_wipe(text, strlen(text));
	free(text);
}

/* ---- reading ---- */

/* All zero when there is none. */
static struct look look_at(const char *path)
{
	struct look l = {0};
	struct stat st;
	if (stat(path, &st) != 0)
		return l;
	l.dev = st.st_dev;
	l.ino = st.st_ino;
	l.size = st.st_size;
	l.written.tv_sec = st.st_mtim.tv_sec;
	l.written.tv_nsec = st.st_mtim.tv_nsec;
	return l;
}

static int read_one(char **out, const char *path, bool secret, struct km_errtext *err)
{
	struct stat st;
	size_t n;
	*out = NULL;
	int rc = stat(path, &st) == 0 ? 0 : KM_EIO;
	if (!rc && secret && (st.st_mode & S_IROTH))
		return km_errtext_set(err, KM_EPERM,
				      "%s: everybody may read this private key; chmod 600 it", path);
	if (!rc)
		rc = km_file_read(path, FILE_MAX_BYTES, out, &n);
	if (rc)
		return km_errtext_set(err, rc, "%s: %s", path,
				      km_why(rc));
	return 0;
}

/* Says when it ends, and complains of one that has ended or soon will. */
static void note_end(const struct served *s, SSL_CTX *tls)
{
	struct tm tm;
	char at[KM_ISO8601_LEN];
	const X509 *x = SSL_CTX_get0_certificate(tls);
	if (!x || ASN1_TIME_to_tm(X509_get0_notAfter(x), &tm) != 1)
		return;
	int64_t end = (int64_t)timegm(&tm), left = end - km_wall_ms() / 1000;
	km_metric_set(km_metric(KM_METRIC_GAUGE, "kakuremichi_rest_certificate_not_after_seconds", "",
				"When the operator's certificate of the REST interface ends (Unix "
				"time)"),
		      end);
	km_iso8601(end * 1000, at);
	if (left < SOON_S)
		km_warn(left < 0 ? "the certificate of the REST interface has expired"
				 : "the certificate of the REST interface expires soon",
			km_ks("file", s->cert_file), km_ks("not_after", at));
	else
		km_info("certificate of the operator's on the REST interface",
			km_ks("file", s->cert_file), km_ks("not_after", at));
}

/* Files that are being replaced may not belong together yet: then nothing changes. */
static int read_both(struct served *s, struct km_errtext *err)
{
	bool one = s->key_file == s->cert_file;
	char *cert = NULL, *key = NULL;
	struct km_errtext why = {""};
	SSL_CTX *tls = NULL;
	int rc = read_one(&cert, s->cert_file, one, err);
	if (!rc)
		rc = read_one(&key, s->key_file, true, err);
	if (rc)
		goto out;
	tls = conn_tls(cert, key, &why);
	if (!tls) {
		rc = one ? km_errtext_set(err, KM_EINVAL, "%s: %s", s->cert_file, why.text)
			 : km_errtext_set(err, KM_EINVAL, "%s with %s: %s", s->cert_file,
					  s->key_file, why.text);
		goto out;
	}
	if (s->changed)
		rc = s->changed(s->arg, cert, key, err);
	if (rc)
		goto out;
	note_end(s, tls);
	free(s->cert);
	wipe(s->key);
	s->cert = cert;
	s->key = key;
	cert = key = NULL;
out:
	SSL_CTX_free(tls);
	wipe(cert);
	wipe(key);
	return rc;
}

/* ---- looking ---- */

/* Whether the file is another than before. */
static bool differs(struct look *was, const char *path)
{
	struct look is = look_at(path);
	bool same = is.dev == was->dev && is.ino == was->ino && is.size == was->size &&
		    is.written.tv_sec == was->written.tv_sec &&
		    is.written.tv_nsec == was->written.tv_nsec;
	*was = is;
	return !same;
}

static bool look_again(struct served *s)
{
	bool cert = differs(&s->looks[0], s->cert_file), key = differs(&s->looks[1], s->key_file);
	return cert || key;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct served *s = arg;
	struct km_errtext err = {""};
	(void)fd, (void)what;
	if (look_again(s) && read_both(s, &err))
		km_error("certificate of the REST interface not taken, the one before goes on",
			 km_ks("why", err.text));
}

int served_open(struct served **out, struct event_base *base, const char *cert_file,
		const char *key_file, struct km_errtext *err)
{
	struct served *s = km_xcalloc(1, sizeof(*s));
	struct timeval every = {LOOK_S, 0};
	int rc;
	s->cert_file = cert_file;
	s->key_file = key_file ? key_file : cert_file;
	s->tick = event_new(base, -1, EV_PERSIST, on_tick, s);
	look_again(s);
	if (!s->tick || event_add(s->tick, &every) != 0)
		rc = km_errtext_set(err, KM_ENOMEM, "no memory");
	else
		rc = read_both(s, err);
	if (rc) {
		served_free(s);
		s = NULL;
	}
	*out = s;
	return rc;
}

const char *served_cert_pem(const struct served *s)
{
	return s->cert;
}

const char *served_key_pem(const struct served *s)
{
	return s->key;
}

void served_watch(struct served *s, served_changed_cb *changed, void *arg)
{
	s->changed = changed;
	s->arg = arg;
}

void served_free(struct served *s)
{
	if (!s)
		return;
	if (s->tick)
		event_free(s->tick);
	free(s->cert);
	wipe(s->key);
	free(s);
}
