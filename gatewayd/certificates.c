/* SPDX-License-Identifier: MIT */
#include "gatewayd/certificates.h"
#include "gatewayd/acme/cache.h"
#include "gatewayd/route/route.h"
#include "libkm/base/log.h"
#include "libkm/base/table.h"
#include "libkm/base/util.h"
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- list ---- */

struct row {
	char *domain, *path;
	bool own, rsa;
};
struct rows {
	struct row *row;
	size_t n, room;
	const char *dir;
	char *const *only;
	size_t n_only;
};

static bool wanted(const struct rows *r, const char *domain)
{
	for (size_t i = 0; i < r->n_only; i++)
		if (!strcmp(r->only[i], domain))
			return true;
	return !r->n_only;
}

static void rows_add(struct rows *r, const char *domain, const char *file, bool own, bool rsa)
{
	if (!wanted(r, domain))
		return;
	if (r->n == r->room) {
		r->room = r->room ? 2 * r->room : 64;
		struct row *more = km_xcalloc(r->room, sizeof(*more));
		if (r->n)
			memcpy(more, r->row, r->n * sizeof(*more));
		free(r->row);
		r->row = more;
	}
	r->row[r->n++] =
	    (struct row){km_xstrdup(domain), km_xasprintf("%s/%s", r->dir, file), own, rsa};
}

static bool cut(char *s, const char *ending)
{
	size_t n = strlen(s), m = strlen(ending);
	if (n < m || strcmp(s + n - m, ending) != 0)
		return false;
	s[n - m] = '\0';
	return true;
}

static int rows_own(struct rows *r, const char *dir)
{
	DIR *d = opendir(dir);
	r->dir = dir;
	if (!d && errno == ENOENT)
		return 0;
	if (!d)
		return fprintf(stderr, "gatewayd certificates: certificate_dir %s: %s\n", dir,
			       strerror(errno)),
		       1;
	for (struct dirent *e; (e = readdir(d));) {
		char name[NAME_MAX + 1];
		snprintf(name, sizeof(name), "%s", e->d_name);
		cut(name, ".pem");
		bool rsa = cut(name, "+rsa");
		if (name[0] != '.' && route_domain_ok(name))
			rows_add(r, name, e->d_name, true, rsa);
	}
	closedir(d);
	return 0;
}

static void on_obtained(void *arg, const char *domain, bool rsa)
{
	char file[NAME_MAX + 8];
	snprintf(file, sizeof(file), "%s%s", domain, rsa ? "+rsa" : "");
	rows_add(arg, domain, file, false, rsa);
}

static int rows_obtained(struct rows *r, const char *dir)
{
	struct km_errtext err;
	r->dir = dir;
	if (access(dir, F_OK) && errno == ENOENT)
		return 0;
	if (!cache_each(dir, on_obtained, r, &err))
		return 0;
	fprintf(stderr, "gatewayd certificates: %s\n", err.text);
	return 1;
}

static int by_domain(const void *a, const void *b)
{
	const struct row *x = a, *y = b;
	int c = strcmp(x->domain, y->domain);
	return c                           ? c
	       : (int)y->own - (int)x->own ? (int)y->own - (int)x->own
					   : strcmp(x->path, y->path);
}

/* What is wrong with it, or "". */
static const char *trouble(const struct cert *c, const char *domain, int64_t now_ms)
{
	if (!cert_covers(c, domain))
		return "does not name this domain";
	if (c->not_after_ms <= now_ms)
		return "expired";
	return c->not_before_ms > now_ms ? "not valid yet" : "";
}

static void row_show(struct km_table *t, const struct row *r, int64_t now_ms)
{
	char at[KM_ISO8601_LEN], until[KM_WHEN_LEN], issuer[128], fingerprint[65];
	const char *source = r->own ? "own" : "obtained";
	struct km_errtext err;
	struct cert *c;
	if (cert_load(&c, r->path, &err)) {
		km_table_row(t,
			     (const char *[]){r->domain, source, NULL, NULL, NULL, NULL, err.text});
		return;
	}
	cert_issuer(c, issuer, sizeof(issuer));
	cert_fingerprint(c, fingerprint);
	km_when(km_iso8601(c->not_after_ms, at), now_ms, until);
	km_table_row(t, (const char *[]){r->domain, source, cert_kind(c), until, issuer,
					 fingerprint, trouble(c, r->domain, now_ms)});
	cert_put(c);
}

int certificates_list(const struct gw_settings *s, char *const *domains, size_t n)
{
	static const char *const headings[] = {"DOMAIN", "SOURCE",  "KEY",     "NOT AFTER",
					       "ISSUER", "SHA-256", "TROUBLE", NULL};
	struct rows r = {.only = domains, .n_only = n};
	struct km_table *t = km_table_new(headings);
	char *acme_dir = gw_acme_dir(s);
	int status = rows_own(&r, s->certificate_dir);
	status |= rows_obtained(&r, acme_dir);
	if (r.n)
		qsort(r.row, r.n, sizeof(*r.row), by_domain);
	for (size_t i = 0; i < r.n; i++) {
		row_show(t, &r.row[i], km_wall_ms());
		free(r.row[i].domain);
		free(r.row[i].path);
	}
	km_table_print(t, "there is no certificate", stdout);
	km_table_free(t);
	free(r.row);
	free(acme_dir);
	return status;
}

/* ---- account ---- */

/* The account as it is kept, or NULL: there is none yet, or nobody can tell. */
static json_t *account_read(const char *dir)
{
	char *path = km_xasprintf("%s/" CACHE_ACCOUNT_FILE, dir), *text = NULL;
	json_t *j = NULL;
	size_t n;
	int rc = km_file_read(path, 65536, &text, &n);
	if (!rc && (!(j = json_loadb(text, n, 0, NULL)) ||
		    !json_is_string(json_object_get(j, "directory")))) {
		fprintf(stderr, "gatewayd certificates: %s is damaged\n", path);
		json_decref(j);
		j = NULL;
	} else if (rc && (rc != KM_EIO || errno != ENOENT)) {
		fprintf(stderr, "gatewayd certificates: %s: %s\n", path,
			km_why(rc));
	}
	free(text);
	free(path);
	return j;
}

/* The challenges by which the settings would prove this domain, with commas; "": none. */
static void methods(const struct gw_settings *s, bool wildcard, char out[static 128])
{
	out[0] = '\0';
	for (size_t i = 0; i < s->acme_challenges.n; i++) {
		const char *type = s->acme_challenges.items[i];
		bool dns = !strncmp(type, "dns-", 4);
		if ((wildcard && !dns) ||
		    (!strcmp(type, "dns-01") && s->dns_provider == GW_DNS_NONE) ||
		    strlen(out) + strlen(type) > 100 || strstr(out, type))
			continue;
		sprintf(out + strlen(out), "%s%s", *out ? "," : "", type);
	}
}

static int records_print(const struct gw_settings *s, const char *domain, const char *url,
			 const char *issuer)
{
	bool wildcard = domain[0] == '*';
	const char *name = domain + (wildcard ? 2 : 0);
	char how[128];
	methods(s, wildcard, how);
	if (!*how) {
		fprintf(stderr,
			"gatewayd certificates: %s: no challenge of the settings can prove it%s\n",
			domain, wildcard ? ": a wildcard needs dns-01 and a dns_provider" : "");
		return 1;
	}
	printf("%s. IN CAA 0 %s \"%s; accounturi=%s; validationmethods=%s\"\n", name,
	       wildcard ? "issuewild" : "issue", issuer, url, how);
	if (strstr(how, "dns-persist-01"))
		printf("_validation-persist.%s. IN TXT \"%s; accounturi=%s%s\"\n", name, issuer,
		       url, wildcard ? "; policy=wildcard" : "");
	return 0;
}

static bool lets_encrypt(const char *directory)
{
	static const char *const its[] = {"https://acme-v02.api.letsencrypt.org/",
					  "https://acme-staging-v02.api.letsencrypt.org/"};
	for (size_t i = 0; directory && i < KM_ARRAY_LEN(its); i++)
		if (!strncmp(directory, its[i], strlen(its[i])))
			return true;
	return false;
}

int certificates_account(const struct gw_settings *s, char *const *domains, size_t n)
{
	char *dir = gw_acme_dir(s);
	json_t *account = account_read(dir);
	const char *url = json_string_value(json_object_get(account, "url"));
	const char *directory = json_string_value(json_object_get(account, "directory"));
	json_t *caa = json_object_get(account, "caa");
	const char *issuer = json_string_value(json_array_get(caa, 0));
	int status = 0;
	if (!url) {
		fprintf(stderr,
			"gatewayd certificates: no account is known in %s: the gateway makes one "
			"with its "
			"first order\n",
			dir);
		status = 1;
		goto out;
	}
	if (!issuer && lets_encrypt(directory))
		issuer = "letsencrypt.org";
	printf("account    %s\ndirectory  %s\n", url, directory ? directory : "-");
	if (n && !issuer) {
		fprintf(stderr,
			"gatewayd certificates: the CA does not say which domain stands for it in "
			"CAA records: take it from the CA's documentation in place of ISSUER\n");
		issuer = "ISSUER";
		status = 1;
	}
	for (size_t i = 0; i < n; i++) {
		if (route_domain_ok(domains[i])) {
			status |= records_print(s, domains[i], url, issuer);
		} else {
			fprintf(stderr, "gatewayd certificates: \"%s\" is no domain\n", domains[i]);
			status = 1;
		}
	}
out:
	json_decref(account);
	free(dir);
	return status;
}

/* ---- the command ---- */

static int usage(FILE *f)
{
	fputs("usage: gatewayd certificates list [-c FILE] [DOMAIN...]\n"
	      "       gatewayd certificates import [-fn] [-c FILE] DIR|FILE...\n"
	      "       gatewayd certificates account [-c FILE] [DOMAIN...]\n"
	      "  list     the certificates of certificate_dir (own) and those obtained by ACME\n"
	      "  import   copies certificates of certbot, lego, autocert or plain PEM files into\n"
	      "           certificate_dir, one file for every name in them\n"
	      "  account  the ACME account, and the CAA records to publish for the domains\n"
	      "  -c FILE  the settings (default " KM_SYSCONF "/gateway.conf, when it exists)\n"
	      "  -f       import also in place of a certificate that lasts longer\n"
	      "  -n       only say what import would do\n",
	      f);
	return f == stderr ? 2 : 0;
}

static int run(const char *verb, const struct gw_settings *s, char **args, size_t n,
	       const struct certificates_import *how)
{
	if (!strcmp(verb, "import") && n)
		return certificates_import(s, args, n, how);
	if (!strcmp(verb, "list") && !how->force && !how->dry)
		return certificates_list(s, args, n);
	if (!strcmp(verb, "account") && !how->force && !how->dry)
		return certificates_account(s, args, n);
	return usage(stderr);
}

int certificates_main(int argc, char **argv)
{
	struct certificates_import how = {0};
	struct gw_settings s = {0};
	const char *conf = NULL;
	int c, status;
	optind = 1;
	while ((c = getopt(argc, argv, "c:fnh")) != -1) {
		if (c == 'c')
			conf = optarg;
		else if (c == 'f')
			how.force = true;
		else if (c == 'n')
			how.dry = true;
		else
			return usage(c == 'h' ? stdout : stderr);
	}
	if (optind >= argc)
		return usage(stderr);
	if (!conf && !access(KM_SYSCONF "/gateway.conf", F_OK))
		conf = KM_SYSCONF "/gateway.conf";
	km_log_init("gatewayd", KM_LOG_WARN, KM_LOG_TEXT);
	status = 2;
	if (!km_conf_load(&gw_settings_spec, conf, &s, stderr))
		status =
		    run(argv[optind], &s, argv + optind + 1, (size_t)(argc - optind - 1), &how);
	km_conf_free(&gw_settings_spec, &s);
	return status;
}
