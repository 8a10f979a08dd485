/* SPDX-License-Identifier: MIT */
/* kmctl cert sign: a host's certificate, for a new key or for a public key that was made elsewhere.
 */
#include "libkm/cert/sign.h"
#include "kmctl/cert/cert.h"
#include "kmctl/cert/enrol.h"
#include "kmctl/cert/signer.h"
#include "kmctl/control.h"
#include "kmctl/file.h"
#include "libkm/base/util.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct flag flags[] = {
    {.name = "name", .help = "Required: name of the cert, usually a hostname"},
    {.name = "networks",
     .help = "Required: comma separated list of addresses with prefix length to assign to the "
	     "cert; version 1 takes one, IPv4"},
    {.name = "ip", .help = "The same as -networks, as older versions of nebula-cert have it"},
    {.name = "unsafe-networks",
     .help = "Optional: comma separated list of networks that this host can route for"},
    {.name = "subnets", .help = "The same as -unsafe-networks, likewise"},
    {.name = "groups", .help = "Optional: comma separated list of groups"},
    {.name = "ca-crt", .text = "ca.crt", .help = "Optional: path to the signing CA cert"},
    {.name = "ca-key", .text = "ca.key", .help = "Optional: path to the signing CA key"},
    {.name = "version",
     .kind = FLAG_NUMBER,
     .text = "0",
     .help = "Optional: version of the certificate format, 1 or 2; 0 is that of the CA"},
    {.name = "duration",
     .kind = FLAG_DURATION,
     .text = "0s",
     .help = "Optional: how long the cert should be valid for; 0 is until 1 second before the "
	     "signing cert expires (of requests: 2160h). Units are \"s\", \"m\", \"h\""},
    {.name = "in-pub",
     .help = "Optional (if out-key not set): path to read a previously generated public key"},
    {.name = "out-key",
     .help = "Optional (if in-pub not set): path to write the private key to; NAME.key"},
    {.name = "out-crt", .help = "Optional: path to write the certificate to; NAME.crt"},
    {.name = "all",
     .kind = FLAG_BOOL,
     .help = "In place of -name: go through every request that waits at control"},
    {.name = "id", .help = "Likewise: a comma separated list of requests, or of hosts' names"},
    {.name = "yes", .kind = FLAG_BOOL, .help = "Optional: sign them without asking"},
    CONTROL_FLAGS,
};

struct signing {
	struct cert_mode *m;
	char *out_key, *out_crt; /* the paths when they follow from the name */
	struct cert_signer by;
	struct km_cert_key host; /* with -in-pub its public half alone */
	struct cert_list groups;
	struct km_prefix *networks, *unsafe;
	size_t n_networks, n_unsafe;
	struct km_cert *cert;
};

static bool has_pub(struct signing *s)
{
	return *cert_text(s->m, "in-pub");
}

/* ---- what is asked for ---- */

static int check_options(struct signing *s, struct km_errtext *err)
{
	static const char *const inputs[] = {"ca-key", "ca-crt", "in-pub", NULL};
	static const char *const outputs[] = {"out-key", "out-crt", NULL};
	static const char *const needed[] = {"ca-key", "ca-crt", "name"};
	struct cert_mode *m = s->m;
	int rc = 0;

	for (size_t i = 0; !rc && i < KM_ARRAY_LEN(needed); i++)
		rc = cert_must(m, needed[i], err);
	if (rc)
		return rc;
	if (has_pub(s) && *cert_text(m, "out-key"))
		return km_errtext_set(err, CERT_USAGE, "cannot set both -in-pub and -out-key");
	if (!*cert_text(m, "networks") && !*cert_text(m, "ip"))
		return km_errtext_set(err, CERT_USAGE, "-networks (or -ip) is required");
	if (cert_flag(m, "version")->number > KM_CERT_V2)
		return km_errtext_set(err, CERT_USAGE, "-version must be either 1 or 2");
	s->out_key = km_xasprintf("%s.key", cert_text(m, "name"));
	s->out_crt = km_xasprintf("%s.crt", cert_text(m, "name"));
	cert_default(m, "out-key", s->out_key);
	cert_default(m, "out-crt", s->out_crt);
	rc = cert_one_std(m, inputs, err);
	if (!rc)
		rc = cert_one_std(m, outputs, err);
	if (!rc)
		rc = cert_split(&s->groups, cert_text(m, "groups"), err);
	if (!rc)
		rc = cert_networks(&s->networks, &s->n_networks, m, "networks", "ip", false, err);
	if (!rc)
		rc = cert_networks(&s->unsafe, &s->n_unsafe, m, "unsafe-networks", "subnets", true,
				   err);
	return rc;
}

static bool all_v4(const struct km_prefix *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (list[i].addr.family != AF_INET)
			return false;
	return true;
}

static int check_v1(struct signing *s, struct km_errtext *err)
{
	if (!all_v4(s->networks, s->n_networks))
		return km_errtext_set(err, CERT_USAGE,
				      "invalid -networks definition: v1 certificates can only "
				      "contain ipv4 addresses");
	if (s->n_networks != 1)
		return km_errtext_set(err, CERT_USAGE,
				      "invalid -networks definition: v1 certificates can only have "
				      "a single ipv4 address");
	if (!all_v4(s->unsafe, s->n_unsafe))
		return km_errtext_set(err, CERT_USAGE,
				      "invalid -unsafe-networks definition: v1 certificates can "
				      "only contain ipv4 addresses");
	return 0;
}

/* ---- the host ---- */

static int read_pub(struct signing *s, struct km_errtext *err)
{
	struct km_errtext why = {""};
	char *text;
	size_t n;
	int rc = file_read(cert_text(s->m, "in-pub"), CERT_FILE_MAX, &text, &n, &why);

	if (rc)
		return km_errtext_set(err, 1, "error while reading in-pub: %s", why.text);
	rc = km_cert_pub_from_pem(&s->host, text, n, &why);
	free(text);
	if (rc)
		return km_errtext_set(err, 1, "error while parsing in-pub: %s", why.text);
	if (s->host.is_ca)
		return km_errtext_set(err, 1, "error while parsing in-pub: it is a CA's key");
	if (s->host.curve != s->by.ca->curve)
		return km_errtext_set(err, 1, "curve of in-pub does not match ca");
	return 0;
}

static int get_host_key(struct signing *s, struct km_errtext *err)
{
	int rc;

	if (has_pub(s))
		return read_pub(s, err);
	rc = km_cert_key_new(&s->host, s->by.ca->curve, false);
	return rc ? km_errtext_set(err, 1, "error while generating keys: %s", km_strerror(rc)) : 0;
}

static int sign(struct signing *s, struct km_errtext *err)
{
	int version = (int)cert_flag(s->m, "version")->number;
	int64_t now = cert_now_ns(), duration = cert_flag(s->m, "duration")->ns, end;
	struct km_errtext why = {""};
	struct km_cert_spec spec = {
	    .version = version ? version : s->by.ca->version,
	    .curve = s->by.ca->curve,
	    .name = cert_text(s->m, "name"),
	    .networks = s->networks,
	    .n_networks = s->n_networks,
	    .unsafe_networks = s->unsafe,
	    .n_unsafe_networks = s->n_unsafe,
	    .groups = s->groups.items,
	    .n_groups = s->groups.n,
	    .not_before = now / 1000000000,
	    .not_after = s->by.ca->not_after - 1,
	    .public_key = s->host.pub,
	    .public_key_len = s->host.pub_len,
	};
	int rc = spec.version == KM_CERT_V1 ? check_v1(s, err) : 0;

	if (rc)
		return rc;
	if (duration > 0) {
		if (__builtin_add_overflow(now, duration, &end))
			return km_errtext_set(err, CERT_USAGE, "-duration is too long");
		spec.not_after = end / 1000000000;
	}
	rc = km_cert_sign(&s->cert, &spec, s->by.ca, &s->by.key, &why);
	if (!rc)
		return 0;
	if (rc <= KM_CERT_EOUTLIVES && rc >= KM_CERT_EUNSAFE)
		return km_errtext_set(err, 1,
				      "refusing to sign, root certificate constraints violated: %s",
				      why.text);
	return km_errtext_set(err, 1, "error while signing: %s", why.text);
}

/* ---- the files ---- */

static int write_files(struct signing *s, struct km_errtext *err)
{
	struct km_errtext why = {""};
	struct km_buf key, crt;
	int rc;

	km_buf_init(&key, CERT_FILE_MAX);
	km_buf_init(&crt, CERT_FILE_MAX);
	rc = km_cert_to_pem(&crt, s->cert);
	if (!rc && !has_pub(s))
		rc = km_cert_key_to_pem(&key, &s->host);
	if (rc) {
		km_errtext_set(err, 1, "error while marshalling certificate: %s", km_strerror(rc));
		goto out;
	}
	if (!has_pub(s)) {
		rc = file_write_new(cert_text(s->m, "out-key"), km_buf_head(&key), key.len, &why);
		if (rc) {
			km_errtext_set(err, 1, "error while writing out-key: %s", why.text);
			goto out;
		}
	}
	rc = file_write_new(cert_text(s->m, "out-crt"), km_buf_head(&crt), crt.len, &why);
	if (rc)
		km_errtext_set(err, 1, "error while writing out-crt: %s", why.text);
out:
	km_buf_wipe(&key);
	km_buf_free(&crt);
	return rc ? 1 : 0;
}

/* A host is named by hand, or the requests that wait at control are answered. */
static bool by_hand(struct cert_mode *m)
{
	static const char *const hand[] = {"name",    "networks", "ip",     "unsafe-networks",
					   "subnets", "groups",   "in-pub", "out-key",
					   "out-crt"};

	if (cert_flag(m, "all")->on || *cert_text(m, "id"))
		return false;
	for (size_t i = 0; i < KM_ARRAY_LEN(hand); i++)
		if (cert_flag(m, hand[i])->given)
			return true;
	return !control_named(m->flags, m->n_flags);
}

static int run(struct cert_mode *m, struct km_errtext *err)
{
	struct signing s = {.m = m};
	int rc;

	if (!by_hand(m))
		return cert_enrolments(m, err);
	rc = check_options(&s, err);

	if (!rc)
		rc = cert_signer_open(&s.by, cert_text(m, "ca-crt"), cert_text(m, "ca-key"), err);
	if (!rc)
		rc = get_host_key(&s, err);
	if (!rc)
		rc = cert_refuse_existing(m, "out-crt", "cert", err);
	if (!rc && !has_pub(&s))
		rc = cert_refuse_existing(m, "out-key", "key", err);
	if (!rc)
		rc = sign(&s, err);
	if (!rc)
		rc = write_files(&s, err);
	cert_signer_close(&s.by);
	km_wipe(&s.host, sizeof(s.host));
	km_cert_free(s.cert);
	cert_list_free(&s.groups);
	free(s.networks);
	free(s.unsafe);
	free(s.out_key);
	free(s.out_crt);
	return rc;
}

struct cert_mode cert_mode_sign = {
    .name = "sign",
    .summary = "<flags>: create and sign a certificate",
    .flags = flags,
    .n_flags = KM_ARRAY_LEN(flags),
    .run = run,
};
