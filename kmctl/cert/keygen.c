/* SPDX-License-Identifier: MIT */
/* kmctl cert keygen: a host's key pair, whose public half goes to `kmctl cert sign -in-pub`. */
#include "kmctl/cert/cert.h"
#include "kmctl/file.h"
#include "libkm/base/util.h"

static struct flag flags[] = {
    {.name = "out-key", .help = "Required: path to write the private key to"},
    {.name = "out-pub", .help = "Required: path to write the public key to"},
    {.name = "curve", .text = "25519", .help = "Optional: 25519 or P256"},
};

static int write_pair(struct cert_mode *m, const struct km_cert_key *k, struct km_errtext *err)
{
	struct km_errtext why = {""};
	struct km_buf priv, pub;
	int rc;

	km_buf_init(&priv, CERT_FILE_MAX);
	km_buf_init(&pub, CERT_FILE_MAX);
	rc = km_cert_key_to_pem(&priv, k);
	if (!rc)
		rc = km_cert_pub_to_pem(&pub, k);
	if (rc) {
		km_errtext_set(err, 1, "%s", km_strerror(rc));
		goto out;
	}
	rc = file_write_new(cert_text(m, "out-key"), km_buf_head(&priv), priv.len, &why);
	if (rc) {
		km_errtext_set(err, 1, "error while writing out-key: %s", why.text);
		goto out;
	}
	rc = file_write_new(cert_text(m, "out-pub"), km_buf_head(&pub), pub.len, &why);
	if (rc)
		km_errtext_set(err, 1, "error while writing out-pub: %s", why.text);
out:
	km_buf_wipe(&priv);
	km_buf_free(&pub);
	return rc ? 1 : 0;
}

static int run(struct cert_mode *m, struct km_errtext *err)
{
	static const char *const outputs[] = {"out-key", "out-pub", NULL};
	struct km_cert_key k;
	int curve, rc;

	rc = cert_must(m, "out-key", err);
	if (!rc)
		rc = cert_must(m, "out-pub", err);
	if (!rc)
		rc = cert_one_std(m, outputs, err);
	if (!rc)
		rc = cert_curve(&curve, m, err);
	if (!rc)
		rc = cert_refuse_existing(m, "out-key", "key", err);
	if (!rc)
		rc = cert_refuse_existing(m, "out-pub", "public key", err);
	if (rc)
		return rc;
	rc = km_cert_key_new(&k, curve, false);
	rc = rc ? km_errtext_set(err, 1, "error while generating keys: %s", km_strerror(rc))
		: write_pair(m, &k, err);
	km_wipe(&k, sizeof(k));
	return rc;
}

struct cert_mode cert_mode_keygen = {
    .name = "keygen",
    .summary = "<flags>: create a public/private key pair. the public key can be passed to "
	       "`kmctl cert sign`",
    .flags = flags,
    .n_flags = KM_ARRAY_LEN(flags),
    .run = run,
};
