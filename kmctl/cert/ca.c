/* SPDX-License-Identifier: MIT */
/* kmctl cert ca: a certificate authority that is signed by itself. */
#include "kmctl/cert/cert.h"
#include "kmctl/file.h"
#include "libkm/base/util.h"
#include "libkm/cert/sign.h"
#include <stdlib.h>
#include <string.h>

static struct flag flags[] = {
    {.name = "name", .help = "Required: name of the certificate authority"},
    {.name = "version",
     .kind = FLAG_NUMBER,
     .text = "1",
     .help = "Optional: version of the certificate format, 1 or 2"},
    {.name = "duration",
     .kind = FLAG_DURATION,
     .text = "8760h",
     .help = "Optional: amount of time the certificate should be valid for. Units are \"s\", "
	     "\"m\", \"h\""},
    {.name = "out-key", .text = "ca.key", .help = "Optional: path to write the private key to"},
    {.name = "out-crt", .text = "ca.crt", .help = "Optional: path to write the certificate to"},
    {.name = "groups",
     .help = "Optional: comma separated list of groups. This will limit which groups subordinate "
	     "certs can use"},
    {.name = "networks",
     .help = "Optional: comma separated list of addresses with prefix length. This will limit "
	     "which networks subordinate certs can use"},
    {.name = "unsafe-networks",
     .help = "Optional: comma separated list of networks. This will limit which unsafe networks "
	     "subordinate certs can use"},
    {.name = "ips", .help = "The same as -networks, as older versions of nebula-cert have it"},
    {.name = "subnets", .help = "The same as -unsafe-networks, likewise"},
    {.name = "curve", .text = "25519", .help = "Optional: 25519 or P256"},
    {.name = "encrypt",
     .kind = FLAG_BOOL,
     .help = "Optional: ask for a passphrase and write out-key encrypted"},
    {.name = "argon-memory",
     .kind = FLAG_NUMBER,
     .text = "2097152",
     .help = "Optional: KiB of memory that a guess of the passphrase costs"},
    {.name = "argon-iterations",
     .kind = FLAG_NUMBER,
     .text = "1",
     .help = "Optional: passes over that memory"},
    {.name = "argon-parallelism",
     .kind = FLAG_NUMBER,
     .text = "4",
     .help = "Optional: lanes of that memory, at most 255"},
};

struct ca {
	struct cert_mode *m;
	int curve;
	struct cert_list groups;
	struct km_prefix *networks, *unsafe;
	size_t n_networks, n_unsafe;
	struct km_cert_kdf kdf;
	char *passphrase; /* NULL: not encrypted */
	struct km_cert_key key;
	struct km_cert *cert;
};

static int check_options(struct ca *ca, struct km_errtext *err)
{
	static const char *const outputs[] = {"out-key", "out-crt", NULL};
	struct cert_mode *m = ca->m;
	uint32_t version = cert_flag(m, "version")->number;
	int rc = cert_must(m, "name", err);

	if (!rc)
		rc = cert_must(m, "out-key", err);
	if (!rc)
		rc = cert_must(m, "out-crt", err);
	if (!rc)
		rc = cert_one_std(m, outputs, err);
	if (rc)
		return rc;
	if (cert_flag(m, "duration")->ns <= 0)
		return km_errtext_set(err, CERT_USAGE, "-duration must be greater than 0");
	if (version != KM_CERT_V1 && version != KM_CERT_V2)
		return km_errtext_set(err, CERT_USAGE, "-version must be either 1 or 2");
	ca->kdf = (struct km_cert_kdf){.memory_kib = cert_flag(m, "argon-memory")->number,
				       .passes = cert_flag(m, "argon-iterations")->number,
				       .lanes = cert_flag(m, "argon-parallelism")->number};
	rc = cert_curve(&ca->curve, m, err);
	if (!rc)
		rc = cert_split(&ca->groups, cert_text(m, "groups"), err);
	if (!rc)
		rc =
		    cert_networks(&ca->networks, &ca->n_networks, m, "networks", "ips", false, err);
	if (!rc)
		rc = cert_networks(&ca->unsafe, &ca->n_unsafe, m, "unsafe-networks", "subnets",
				   true, err);
	if (!rc)
		rc = cert_refuse_existing(m, "out-key", "CA key", err);
	if (!rc)
		rc = cert_refuse_existing(m, "out-crt", "CA cert", err);
	return rc;
}

static int make(struct ca *ca, struct km_errtext *err)
{
	int64_t now = cert_now_ns(), end;
	struct km_cert_spec spec = {
	    .version = (int)cert_flag(ca->m, "version")->number,
	    .curve = ca->curve,
	    .name = cert_text(ca->m, "name"),
	    .networks = ca->networks,
	    .n_networks = ca->n_networks,
	    .unsafe_networks = ca->unsafe,
	    .n_unsafe_networks = ca->n_unsafe,
	    .groups = ca->groups.items,
	    .n_groups = ca->groups.n,
	    .not_before = now / 1000000000,
	};
	struct km_errtext why = {""};
	int rc;

	if (__builtin_add_overflow(now, cert_flag(ca->m, "duration")->ns, &end))
		return km_errtext_set(err, CERT_USAGE, "-duration is too long");
	spec.not_after = end / 1000000000;
	rc = km_cert_key_new(&ca->key, ca->curve, true);
	if (rc)
		return km_errtext_set(err, 1, "error while generating keys: %s", km_strerror(rc));
	rc = km_cert_self_sign(&ca->cert, &spec, &ca->key, &why);
	return rc ? km_errtext_set(err, 1, "error while signing: %s", why.text) : 0;
}

static int write_key(struct ca *ca, struct km_errtext *err)
{
	struct km_errtext why = {""};
	struct km_buf pem;
	int rc;

	km_buf_init(&pem, CERT_FILE_MAX);
	if (ca->passphrase)
		rc = km_cert_key_encrypt(&pem, &ca->key, ca->passphrase, strlen(ca->passphrase),
					 &ca->kdf, &why);
	else
		rc = km_cert_key_to_pem(&pem, &ca->key);
	if (rc)
		rc = km_errtext_set(err, 1, "error while encrypting out-key: %s", why.text);
	else if (file_write_new(cert_text(ca->m, "out-key"), km_buf_head(&pem), pem.len, &why))
		rc = km_errtext_set(err, 1, "error while writing out-key: %s", why.text);
	km_buf_wipe(&pem);
	return rc;
}

static int write_cert(struct ca *ca, struct km_errtext *err)
{
	struct km_errtext why = {""};
	struct km_buf pem;
	int rc;

	km_buf_init(&pem, CERT_FILE_MAX);
	rc = km_cert_to_pem(&pem, ca->cert);
	if (rc)
		rc = km_errtext_set(err, 1, "error while marshalling certificate: %s",
				    km_strerror(rc));
	else if (file_write_new(cert_text(ca->m, "out-crt"), km_buf_head(&pem), pem.len, &why))
		rc = km_errtext_set(err, 1, "error while writing out-crt: %s", why.text);
	km_buf_free(&pem);
	return rc;
}

static int run(struct cert_mode *m, struct km_errtext *err)
{
	struct ca ca = {.m = m};
	int rc = check_options(&ca, err);

	if (!rc && cert_flag(m, "encrypt")->on)
		rc = cert_passphrase(&ca.passphrase, "out-key must be encrypted interactively",
				     "no passphrase specified, remove -encrypt flag to write "
				     "out-key in plaintext",
				     err);
	if (!rc)
		rc = make(&ca, err);
	if (!rc)
		rc = write_key(&ca, err);
	if (!rc)
		rc = write_cert(&ca, err);
	if (ca.passphrase)
		km_wipe(ca.passphrase, strlen(ca.passphrase));
	free(ca.passphrase);
	km_wipe(&ca.key, sizeof(ca.key));
	km_cert_free(ca.cert);
	cert_list_free(&ca.groups);
	free(ca.networks);
	free(ca.unsafe);
	return rc;
}

struct cert_mode cert_mode_ca = {
    .name = "ca",
    .summary = "<flags>: create a self signed certificate authority",
    .flags = flags,
    .n_flags = KM_ARRAY_LEN(flags),
    .run = run,
};
