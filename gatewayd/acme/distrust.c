/* SPDX-License-Identifier: MIT */
/* Certificates whose key a revoked gateway knew: kept in STATE/revoke (FINGERPRINT.pem, key and chain) from
 * when they are replaced until the CA has revoked them, for the reason keyCompromise, which the
 * certificate's own key asks for, so that it matters not which gateway's account had obtained it. */
#include "gatewayd/acme/manager.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AGAIN_MS 600000
#define FILE_MAX 524288
#define KEY_COMPROMISE 1

int revoke_keep(struct acme *a, const char *domain, bool rsa)
{
	struct cache_facts f;
	char *pem = NULL, *path = NULL;
	int rc = cache_get(a->dir, domain, rsa, &pem, &f, NULL);
	if (rc == KM_ENOTFOUND || rc == KM_EINVAL)
		return 0; /* nothing is left of it */
	if (!rc && !(rc = km_mkdirs(a->revoke_dir, 0700))) {
		path = km_xasprintf("%s/%s.pem", a->revoke_dir, f.fingerprint);
		rc = km_file_write(path, pem, strlen(pem), 0600);
		a->revoke_again_ms = 1;
	}
	int saved = errno;
	if (pem)
		km_wipe(pem, strlen(pem));
	free(pem);
	free(path);
	errno = saved;
	return rc;
}

/* The first file of the folder; the caller frees. NULL: none. */
static char *first_file(const struct acme *a)
{
	DIR *d = opendir(a->revoke_dir);
	char *path = NULL;
	for (struct dirent *e; d && !path && (e = readdir(d));)
		if (strlen(e->d_name) == 68 && !strcmp(e->d_name + 64, ".pem"))
			path = km_xasprintf("%s/%s", a->revoke_dir, e->d_name);
	if (d)
		closedir(d);
	return path;
}

/* Begins with one file; false: it cannot be used and is gone, or (again set) not now. */
static bool begin(struct acme *a, char *path)
{
	struct km_errtext err = {""};
	struct cert *c = NULL;
	char *text = NULL;
	size_t n;
	bool begun = false;
	struct attempt *t = NULL;
	int rc = km_file_read(path, FILE_MAX, &text, &n);
	if (!rc && (cert_parse(&c, text, n, path, &err) || c->not_after_ms < km_wall_ms())) {
		if (unlink(path)) /* over, or damaged: there is nothing to revoke */
			a->revoke_again_ms = km_now_ms() + AGAIN_MS;
		goto out;
	}
	if (rc || account_ready(a, &err) || !outage_may(&a->outage, km_now_ms()) ||
	    !(t = attempt_new(a, NULL, STEP_REVOKE)) ||
	    acme_revoke_new(&t->job, a->client, strstr(text, "-----BEGIN CERTIFICATE"), KEY_COMPROMISE,
			    c->key, &err)) {
		attempt_drop(t);
		a->revoke_again_ms = km_now_ms() + AGAIN_MS;
		goto out;
	}
	t->file = km_xstrdup(path);
	a->revoking = begun = true;
	attempt_pump(t);
out:
	cert_put(c);
	if (text)
		km_wipe(text, n);
	free(text);
	return begun;
}

void revoke_go(struct acme *a)
{
	bool begun = false;
	a->revoke_again_ms = 0;
	for (char *path; !begun && !a->revoking && !a->revoke_again_ms && (path = first_file(a)); free(path))
		begun = begin(a, path);
}

void revoke_over(struct attempt *t, bool ok)
{
	struct acme *a = t->a;
	const struct acme_problem *p = ok ? NULL : acme_job_problem(t->job);
	char *failed = km_xasprintf("%s.failed", t->file);
	if (ok) {
		km_info("certificate revoked, its key was known to a revoked gateway", km_ks("file", t->file));
		km_metric_add(a->m_revoked, 1);
		ok = !unlink(t->file);
	} else if (p->cause == ACME_NETWORK || p->cause == ACME_RATE_LIMITED || p->cause == ACME_LOCAL) {
		km_warn("a certificate cannot be revoked now, tried again", km_ks("file", t->file),
			km_ks("why", p->text));
	} else {
		km_error("a certificate cannot be revoked, set aside as *.failed", km_ks("file", t->file),
			 km_ks("why", p->text));
		ok = !rename(t->file, failed);
	}
	free(failed);
	a->revoking = false;
	attempt_drop(t);
	if (ok)
		revoke_go(a);
	else
		a->revoke_again_ms = km_now_ms() + AGAIN_MS;
}

/* No tunnel wants it any more: it is not replaced, only revoked. False: it could not be kept for that. */
static bool withdraw(struct acme *a, struct ledger_entry *e)
{
	char domain[256];
	size_t n = strcspn(e->name, "+");
	bool rsa = e->name[n] == '+';
	snprintf(domain, sizeof(domain), "%.*s", (int)n, e->name);
	if (revoke_keep(a, domain, rsa) || cache_remove(a->dir, domain, rsa, NULL))
		return false;
	ledger_no_certificate(e);
	return true;
}

static void distrust(void *arg, struct ledger_entry *e)
{
	struct acme *a = ((void **)arg)[0];
	const uint8_t *gateway = ((void **)arg)[1];
	size_t *count = ((void **)arg)[2];
	if (!e->not_after_ms || e->distrusted || !ledger_held_by(e, gateway))
		return;
	e->distrusted = e->used || !withdraw(a, e);
	(*count)++;
	(void)ledger_save(a->ledger, e, false);
}

void acme_gateway_revoked(struct acme *a, const uint8_t gateway[static 16])
{
	char id[KM_UUID_STRLEN];
	struct name *n, *tmp;
	size_t count = 0;
	if (!a)
		return;
	ledger_each(a->ledger, distrust, (void *[]){a, (void *)gateway, &count});
	if (!count)
		return;
	km_warn("a revoked gateway knew keys: the certificates are obtained anew, then revoked",
		km_ks("gateway", km_uuid_str(gateway, id)), km_ki("certificates", (int64_t)count));
	HASH_ITER (hh, a->names, n, tmp)
		if (n->e->distrusted && n->phase != NAME_BUSY) {
			n->phase = NAME_IDLE;
			name_hold(n, km_wall_ms() + km_random_below(5000), NULL);
		}
	if (a->revoke_again_ms)
		revoke_go(a);
}
