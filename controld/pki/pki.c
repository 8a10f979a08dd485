/* SPDX-License-Identifier: MIT */
#include "controld/pki/pki.h"
#include "controld/pki/issue.h"
#include "controld/store/store.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <utlist.h>

#define LOCK_KEY "4710102" /* while the root is looked for and made */
#define LOOK_S 3600        /* how often the certificate's age is looked at */
#define RENEW_S ((int64_t)ISSUE_SERVER_DAYS * 2 / 3 * 86400)

struct pki {
	struct vault vault;
	struct event *timer;
	X509 *root;
	EVP_PKEY *root_key;
	struct km_strlist names; /* all that the certificate is for */
	char *root_pem, *pin, *chain_pem, *key_pem;
	int64_t issued_s;
	struct pki_watch *watches;
};

/* ---- names ---- */

static void add_name(struct km_strlist *l, const char *name)
{
	for (size_t i = 0; i < l->n; i++)
		if (!strcasecmp(l->items[i], name))
			return;
	l->items[l->n++] = km_xstrdup(name);
}

static void collect_names(struct km_strlist *l, const struct km_strlist *given)
{
	char host[254] = "";

	l->items = km_xcalloc((given ? given->n : 0) + 4, sizeof(char *));
	for (size_t i = 0; given && i < given->n; i++)
		add_name(l, given->items[i]);
	/* A machine that was never given a name is called "(none)". */
	if (gethostname(host, sizeof(host) - 1) == 0 && issue_host_name_ok(host))
		add_name(l, host);
	add_name(l, "localhost");
	add_name(l, "127.0.0.1");
	add_name(l, "::1");
}

/* ---- the root in the database ---- */

static int db_failed(PGconn *db, const PGresult *r, struct km_errtext *err)
{
	struct store_error e;

	store_error_from(&e, r, db);
	return km_errtext_set(err, e.err == KM_ECLOSED ? KM_ECLOSED : KM_EIO,
			      "control's root in the database: %s", e.message);
}

static int exec(PGconn *db, const char *sql, struct km_errtext *err)
{
	PGresult *r = PQexec(db, sql);
	ExecStatusType st = PQresultStatus(r);
	int rc = st == PGRES_COMMAND_OK || st == PGRES_TUPLES_OK ? 0 : db_failed(db, r, err);

	PQclear(r);
	return rc;
}

/* *out: malloc'd, NULL when there is no such row. */
static int setting_get(PGconn *db, const char *key, char **out, struct km_errtext *err)
{
	const char *params[] = {key};
	PGresult *r = PQexecParams(db, "SELECT value FROM settings WHERE key = $1", 1, NULL, params,
				   NULL, NULL, 0);
	int rc = 0;

	*out = NULL;
	if (PQresultStatus(r) != PGRES_TUPLES_OK)
		rc = db_failed(db, r, err);
	else if (PQntuples(r) == 1)
		*out = km_xstrdup(PQgetvalue(r, 0, 0));
	PQclear(r);
	return rc;
}

static int setting_put(PGconn *db, const char *key, const char *value, struct km_errtext *err)
{
	const char *params[] = {key, value};
	PGresult *r = PQexecParams(db, "INSERT INTO settings (key, value) VALUES ($1, $2)", 2, NULL,
				   params, NULL, NULL, 0);
	int rc = PQresultStatus(r) == PGRES_COMMAND_OK ? 0 : db_failed(db, r, err);

	PQclear(r);
	return rc;
}

static int open_root(struct pki *p, const struct master_key *k, const char *pem, const char *sealed,
		     struct km_errtext *err)
{
	uint8_t *der = NULL;
	const unsigned char *at;
	size_t n = 0;
	int rc = master_open(k, "pki_root_key", sealed, &der, &n);

	if (rc)
		return rc == KM_EAUTH
			   ? km_errtext_set(err, rc,
					    "the master key is not the one that this database was "
					    "sealed with")
			   : km_errtext_set(err, rc,
					    "control's root key in the database is damaged");
	at = der;
	p->root = issue_cert_parse(pem);
	p->root_key = d2i_AutoPrivateKey(NULL, &at, (long)n);
	if (!p->root || !p->root_key || X509_check_private_key(p->root, p->root_key) != 1)
		rc = km_errtext_set(err, KM_EINVAL, "control's root in the database is damaged");
	km_wipe(der, n);
	free(der);
	return rc;
}

/* Makes key, certificate, and their rows. */
static int make_root(struct pki *p, PGconn *db, const struct master_key *k, struct km_errtext *err)
{
	unsigned char *der = NULL;
	char *pem = NULL, *sealed = NULL;
	int n = 0, rc = 0;

	p->root_key = issue_key();
	p->root = p->root_key ? issue_root(p->root_key, km_wall_ms() / 1000) : NULL;
	n = p->root ? i2d_PrivateKey(p->root_key, &der) : 0;
	pem = n > 0 ? issue_cert_pem(p->root) : NULL;
	sealed = pem ? master_seal(k, "pki_root_key", der, (size_t)n) : NULL;
	if (!sealed)
		rc = km_errtext_set(err, KM_EIO, "control's root cannot be made");
	if (!rc)
		rc = setting_put(db, "pki_root_certificate", pem, err);
	if (!rc)
		rc = setting_put(db, "pki_root_key", sealed, err);
	OPENSSL_clear_free(der, n > 0 ? (size_t)n : 0);
	free(pem);
	free(sealed);
	return rc;
}

/* Under the lock. A master key is made only when there is nothing yet that another has sealed. */
static int find_root(struct pki *p, PGconn *db, const char *key_file, struct km_errtext *err)
{
	struct master_key *k = &p->vault.master;
	char *pem = NULL, *sealed = NULL;
	struct km_errtext why;
	int rc = setting_get(db, "pki_root_certificate", &pem, err);

	if (!rc)
		rc = setting_get(db, "pki_root_key", &sealed, err);
	if (rc)
		goto out;
	rc = master_key_read(k, key_file, &why);
	if (rc == KM_ENOTFOUND && sealed)
		rc = km_errtext_set(
		    err, rc,
		    "%s; the database is sealed with a master key: copy it there from "
		    "the controld that made it, or from the backup",
		    why.text);
	else if (rc == KM_ENOTFOUND)
		rc = master_key_make(k, key_file, err);
	else if (rc)
		km_errtext_set(err, rc, "%s", why.text);
	if (!rc && sealed && pem) {
		rc = open_root(p, k, pem, sealed, &why);
		if (rc)
			km_errtext_set(err, rc, "%s: %s", key_file, why.text);
	} else if (!rc) {
		rc = make_root(p, db, k, err);
	}
out:
	free(pem);
	free(sealed);
	return rc;
}

static int load_root(struct pki *p, PGconn *db, const char *key_file, struct km_errtext *err)
{
	int rc = exec(db, "BEGIN; SELECT pg_advisory_xact_lock(" LOCK_KEY ")", err);

	if (!rc)
		rc = find_root(p, db, key_file, err);
	if (!rc)
		rc = exec(db, "COMMIT", err);
	else
		PQclear(PQexec(db, "ROLLBACK"));
	return rc;
}

/* ---- files ---- */

static int write_file(const char *dir, const char *name, const char *text, struct km_errtext *err)
{
	char *path = km_xasprintf("%s/%s", dir, name);
	int rc = km_file_write(path, text, strlen(text), 0644);

	if (rc)
		km_errtext_set(err, rc, "%s: %s", path, strerror(errno));
	free(path);
	return rc;
}

static int publish_root(struct pki *p, const char *dir, struct km_errtext *err)
{
	char *line;
	int rc;

	p->root_pem = issue_cert_pem(p->root);
	p->pin = issue_pin(p->root);
	if (!p->root_pem || !p->pin)
		return km_errtext_set(err, KM_EIO, "control's root cannot be written");
	line = km_xasprintf("%s\n", p->pin);
	rc = write_file(dir, "root.crt", p->root_pem, err);
	if (!rc)
		rc = write_file(dir, "root.pin", line, err);
	free(line);
	return rc;
}

/* ---- the server certificate ---- */

static void free_secret(char *s)
{
	if (s)
		km_wipe(s, strlen(s));
	free(s);
}

int pki_renew(struct pki *p, struct km_errtext *err)
{
	EVP_PKEY *key = issue_key();
	X509 *cert = NULL;
	char *pem = NULL, *key_pem = NULL, *old_chain = p->chain_pem, *old_key = p->key_pem;
	struct pki_watch *w, *tmp;
	int rc = KM_EIO;

	if (key)
		rc = issue_server(&cert, key, p->root, p->root_key, &p->names, km_wall_ms() / 1000,
				  err);
	if (rc)
		goto out;
	pem = issue_cert_pem(cert);
	key_pem = issue_key_pem(key);
	if (!pem || !key_pem) {
		rc = km_errtext_set(err, KM_EIO, "the server certificate cannot be written");
		goto out;
	}
	p->chain_pem = km_xasprintf("%s%s", pem, p->root_pem);
	p->key_pem = key_pem;
	p->issued_s = km_wall_ms() / 1000;
	key_pem = NULL;
	DL_FOREACH_SAFE (p->watches, w, tmp)
		w->renewed(w->arg, p->chain_pem, p->key_pem);
	free(old_chain);
	free_secret(old_key);
out:
	free_secret(key_pem);
	free(pem);
	X509_free(cert);
	EVP_PKEY_free(key);
	return rc;
}

/* A clock that jumps is followed: the age is looked at every hour, in wall time. */
static void on_look(evutil_socket_t fd, short what, void *arg)
{
	struct pki *p = arg;
	int64_t now = km_wall_ms() / 1000;
	struct km_errtext err;

	(void)fd;
	(void)what;
	if (now < p->issued_s + RENEW_S && now > p->issued_s - LOOK_S)
		return;
	if (pki_renew(p, &err))
		km_error("server certificate not renewed", km_ks("why", err.text));
	else
		km_info("server certificate renewed", km_ki("days", ISSUE_SERVER_DAYS));
}

/* ---- what others call ---- */

int pki_open(struct pki **out, struct event_base *base, PGconn *db, const struct pki_opts *opts,
	     struct km_errtext *err)
{
	struct pki *p = km_xcalloc(1, sizeof(*p));
	char *key_file = opts->master_key_file ? km_xstrdup(opts->master_key_file)
					       : km_xasprintf("%s/master.key", opts->state_dir);
	struct timeval tv = {LOOK_S, 0};
	int rc;

	collect_names(&p->names, opts->names);
	rc = load_root(p, db, key_file, err);
	if (!rc)
		rc = publish_root(p, opts->state_dir, err);
	if (!rc)
		rc = pki_renew(p, err);
	if (rc)
		goto out;
	p->timer = event_new(base, -1, EV_PERSIST, on_look, p);
	if (!p->timer || event_add(p->timer, &tv) != 0)
		rc = km_errtext_set(err, KM_ENOMEM, "no memory");
out:
	free(key_file);
	if (rc) {
		pki_free(p);
		p = NULL;
	}
	*out = p;
	return rc;
}

void pki_free(struct pki *p)
{
	if (!p)
		return;
	if (p->timer)
		event_free(p->timer);
	km_strlist_free(&p->names);
	X509_free(p->root);
	EVP_PKEY_free(p->root_key);
	free(p->root_pem);
	free(p->pin);
	free(p->chain_pem);
	free_secret(p->key_pem);
	km_wipe(&p->vault, sizeof(p->vault));
	free(p);
}

const struct vault *pki_vault(const struct pki *p)
{
	return &p->vault;
}

const char *pki_chain_pem(const struct pki *p)
{
	return p->chain_pem;
}

const char *pki_key_pem(const struct pki *p)
{
	return p->key_pem;
}

const char *pki_root_pem(const struct pki *p)
{
	return p->root_pem;
}

const char *pki_pin(const struct pki *p)
{
	return p->pin;
}

void pki_watch(struct pki *p, struct pki_watch *w)
{
	DL_APPEND(p->watches, w);
}

void pki_unwatch(struct pki *p, struct pki_watch *w)
{
	DL_DELETE(p->watches, w);
}
