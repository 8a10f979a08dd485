/* SPDX-License-Identifier: MIT */
/* kmctl cert print: every certificate of a file, as text or a line of JSON each. */
#include "libkm/cert/print.h"
#include "kmctl/cert/cert.h"
#include "kmctl/file.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>

static struct flag flags[] = {
    {.name = "path", .help = "Required: path to the certificate"},
    {.name = "json", .kind = FLAG_BOOL, .help = "Optional: outputs certificates in json format"},
};

static int print_one(struct cert_mode *m, const struct km_cert *c, struct km_errtext *err)
{
	struct km_buf b;
	int rc;

	km_buf_init(&b, CERT_FILE_MAX);
	rc = cert_flag(m, "json")->on ? km_cert_print_json(&b, c) : km_cert_print(&b, c);
	if (rc)
		rc = km_errtext_set(err, 1, "the certificate cannot be shown: %s", km_strerror(rc));
	else
		fwrite(km_buf_head(&b), 1, b.len, stdout);
	km_buf_free(&b);
	return rc;
}

static int run(struct cert_mode *m, struct km_errtext *err)
{
	struct km_errtext why = {""};
	struct km_cert *c;
	const char *at;
	size_t n, seen = 0;
	char *text;
	int rc = cert_must(m, "path", err);

	if (rc)
		return rc;
	if (file_read(cert_text(m, "path"), CERT_FILE_MAX, &text, &n, &why))
		return km_errtext_set(err, 1, "unable to read cert; %s", why.text);
	at = text;
	while (!(rc = km_cert_from_pem(&c, &at, &n, &why))) {
		rc = print_one(m, c, err);
		km_cert_free(c);
		if (rc)
			break;
		seen++;
	}
	if (rc == KM_ENOTFOUND && seen)
		rc = 0;
	else if (rc < 0)
		rc = km_errtext_set(err, 1, "error while unmarshaling cert: %s", why.text);
	free(text);
	return rc;
}

struct cert_mode cert_mode_print = {
    .name = "print",
    .summary = "<flags>: prints details about a certificate",
    .flags = flags,
    .n_flags = KM_ARRAY_LEN(flags),
    .run = run,
};
