/* SPDX-License-Identifier: MIT */
/* The account at the CA: its key (cache.h), and its URL for each directory in ACME_DIR/account.json:
 * {"directory": URL, "url": the account's, "caa": [the CA's domains]}. */
#include "gatewayd/acme/manager.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX 65536

static char *account_path(const struct acme *a)
{
	return km_xasprintf("%s/" CACHE_ACCOUNT_FILE, a->dir);
}

/* The account's URL at this directory; the caller frees. NULL: unknown. */
static char *url_read(const struct acme *a)
{
	char *path = account_path(a), *text = NULL, *url = NULL;
	size_t n;
	if (!km_file_read(path, FILE_MAX, &text, &n)) {
		json_t *o = json_loadb(text, n, 0, NULL);
		const char *at = json_string_value(json_object_get(o, "directory"));
		const char *u = json_string_value(json_object_get(o, "url"));
		if (at && u && !strcmp(at, a->directory) && !strncmp(u, "https://", 8))
			url = strdup(u);
		json_decref(o);
	}
	free(text);
	free(path);
	return url;
}

static void on_account(void *arg, const char *url)
{
	struct acme *a = arg;
	char *path = account_path(a);
	json_t *o = json_pack("{ss}", "directory", a->directory);
	const char *const *issuers = NULL;
	json_t *caa = json_array();
	if (url)
		json_object_set_new(o, "url", json_string(url));
	if (a->client && acme_client_directory(a->client, NULL, &issuers, NULL) && issuers)
		while (*issuers)
			json_array_append_new(caa, json_string(*issuers++));
	json_object_set_new(o, "caa", caa);
	char *text = json_dumps(o, JSON_INDENT(1));
	if (!text || km_file_write(path, text, strlen(text), 0600))
		km_warn("cannot write", km_ks("file", path), km_ks("why", strerror(errno)));
	if (url)
		km_info("account at the CA", km_ks("url", url), km_ks("directory", a->directory));
	else
		km_warn("the CA does not know the account any more", km_ks("directory", a->directory));
	json_decref(o);
	free(text);
	free(path);
}

static void on_changed(void *arg)
{
	acme_kick(arg);
}

/* "KID KEY" from the file that the settings name. */
static int eab_read(const struct acme *a, char **kid, char **key, struct km_errtext *err)
{
	char *text = NULL;
	int rc = a->s->acme_eab_file ? km_secret_read(a->s->acme_eab_file, FILE_MAX, &text, err) : 0;
	if (rc || !text)
		return rc;
	char *end = text + strcspn(text, " \t"), *second = end + strspn(end, " \t");
	if (!*end || !*second || strpbrk(second, " \t")) {
		rc = km_errtext_set(err, KM_EINVAL,
				    "%s must hold two words, the key id and the HMAC key", a->s->acme_eab_file);
	} else {
		*end = '\0';
		*kid = km_xstrdup(text);
		*key = km_xstrdup(second);
	}
	km_wipe(text, strlen(text));
	free(text);
	return rc;
}

int account_ready(struct acme *a, struct km_errtext *err)
{
	char *kid = NULL, *eab = NULL, *url = NULL;
	int rc = 0;
	if (a->client)
		return 0;
	if ((rc = cache_open(a->dir, err)) ||
	    (!a->account_key && (rc = cache_account_key(a->dir, &a->account_key, err))) ||
	    (rc = eab_read(a, &kid, &eab, err)))
		goto out;
	url = url_read(a);
	struct acme_client_opts o = {
	    .directory = a->directory,
	    .email = a->s->acme_email,
	    .eab_kid = kid,
	    .eab_key = eab,
	    .key = a->account_key,
	    .account_url = url,
	    .account = on_account,
	    .changed = on_changed,
	    .arg = a,
	};
	rc = acme_client_new(&a->client, &o, err);
out:
	if (eab)
		km_wipe(eab, strlen(eab));
	free(eab);
	free(kid);
	free(url);
	return rc;
}

void account_free(struct acme *a)
{
	acme_client_free(a->client);
	EVP_PKEY_free(a->account_key);
	a->client = NULL;
	a->account_key = NULL;
}
