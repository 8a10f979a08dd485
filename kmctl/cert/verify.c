/* SPDX-License-Identifier: MIT */
/* kmctl cert verify: silent and 0 when every certificate of the file is vouched for by one of the
 * CAs. */
#include "kmctl/cert/cert.h"
#include "kmctl/file.h"
#include "libkm/base/util.h"
#include "libkm/cert/pool.h"
#include <stdlib.h>

static struct flag flags[] = {
    {.name = "ca", .help = "Required: path to a file containing one or more ca certificates"},
    {.name = "crt", .help = "Required: path to a file containing the certificate"},
};

static int read_pool(struct km_cert_pool **pool, struct cert_mode *m, struct km_errtext *err)
{
	struct km_errtext why = {""};
	char *text;
	size_t n;
	int rc;

	*pool = NULL;
	if (file_read(cert_text(m, "ca"), CERT_FILE_MAX, &text, &n, &why))
		return km_errtext_set(err, 1, "error while reading ca: %s", why.text);
	*pool = km_cert_pool_new();
	rc = *pool ? km_cert_pool_add_pem(*pool, text, n, &why)
		   : km_errtext_set(&why, KM_ENOMEM, "no memory");
	free(text);
	return rc ? km_errtext_set(err, 1, "error while adding ca cert to pool: %s", why.text) : 0;
}

static int verify_all(const struct km_cert_pool *pool, const char *at, size_t n,
		      struct km_errtext *err)
{
	struct km_cert_when when = {.now = cert_now_ns() / 1000000000};
	struct km_errtext why = {""};
	struct km_cert *c;
	size_t seen = 0;
	int rc;

	while (!(rc = km_cert_from_pem(&c, &at, &n, &why))) {
		rc = km_cert_verify(pool, c, when, err);
		km_cert_free(c);
		if (rc)
			return 1;
		seen++;
	}
	if (rc == KM_ENOTFOUND && seen)
		return 0;
	return km_errtext_set(err, 1, "error while parsing crt: %s", why.text);
}

static int run(struct cert_mode *m, struct km_errtext *err)
{
	static const char *const inputs[] = {"ca", "crt", NULL};
	struct km_errtext why = {""};
	struct km_cert_pool *pool;
	char *text = NULL;
	size_t n;
	int rc = cert_must(m, "ca", err);

	if (!rc)
		rc = cert_must(m, "crt", err);
	if (!rc)
		rc = cert_one_std(m, inputs, err);
	if (rc)
		return rc;
	rc = read_pool(&pool, m, err);
	if (!rc && file_read(cert_text(m, "crt"), CERT_FILE_MAX, &text, &n, &why))
		rc = km_errtext_set(err, 1, "unable to read crt; %s", why.text);
	if (!rc)
		rc = verify_all(pool, text, n, err);
	free(text);
	km_cert_pool_free(pool);
	return rc;
}

struct cert_mode cert_mode_verify = {
    .name = "verify",
    .summary = "<flags>: verifies a certificate isn't expired and was signed by a trusted "
	       "authority.",
    .flags = flags,
    .n_flags = KM_ARRAY_LEN(flags),
    .run = run,
};
