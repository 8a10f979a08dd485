/* SPDX-License-Identifier: MIT */
#include "libkm/cert/print.h"
#include "libkm/base/util.h"
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <time.h>

#define TIME_LEN 64
#define HEX_LEN (2 * KM_CERT_SIG_MAX + 1)

/* By strftime's format; the bare number where the calendar has no such year. */
static char *time_str(int64_t t, const char *format, char out[static TIME_LEN])
{
	time_t unix_s = (time_t)t;
	struct tm tm;

	if (!gmtime_r(&unix_s, &tm) || !strftime(out, TIME_LEN, format, &tm))
		snprintf(out, TIME_LEN, "%" PRId64, t);
	return out;
}

static const char *curve_str(const struct km_cert *c)
{
	return c->curve == KM_CERT_P256 ? "P256" : "CURVE25519";
}

static char *issuer_str(const struct km_cert *c, char out[static KM_CERT_FP_STRLEN])
{
	return km_hex(c->issuer, c->has_issuer ? sizeof(c->issuer) : 0, out);
}

/* ---- text ---- */

static int print_networks(struct km_buf *out, const char *what, const struct km_prefix *list,
			  size_t n)
{
	char text[KM_PREFIX_STRLEN];
	int rc;

	if (!n)
		return km_buf_addf(out, "\t\t%s: []\n", what);
	rc = km_buf_addf(out, "\t\t%s: [\n", what);
	for (size_t i = 0; !rc && i < n; i++)
		rc = km_buf_addf(out, "\t\t\t%s\n", km_prefix_str(&list[i], text));
	return rc ? rc : km_buf_adds(out, "\t\t]\n");
}

static int print_groups(struct km_buf *out, const struct km_cert *c)
{
	int rc;

	if (!c->n_groups)
		return km_buf_adds(out, "\t\tGroups: []\n");
	rc = km_buf_adds(out, "\t\tGroups: [\n");
	for (size_t i = 0; !rc && i < c->n_groups; i++)
		rc = km_buf_addf(out, "\t\t\t\"%s\"\n", c->groups[i]);
	return rc ? rc : km_buf_adds(out, "\t\t]\n");
}

int km_cert_print(struct km_buf *out, const struct km_cert *c)
{
	static const char format[] = "%Y-%m-%d %H:%M:%S +0000 UTC";
	char from[TIME_LEN], to[TIME_LEN], hex[HEX_LEN], hex2[HEX_LEN];
	bool v1 = c->version == KM_CERT_V1;
	int rc = km_buf_addf(out, "NebulaCertificate {\n\tDetails {\n\t\tName: %s\n", c->name);

	if (!rc)
		rc = print_networks(out, v1 ? "Ips" : "Networks", c->networks, c->n_networks);
	if (!rc)
		rc = print_networks(out, v1 ? "Subnets" : "Unsafe networks", c->unsafe_networks,
				    c->n_unsafe_networks);
	if (!rc)
		rc = print_groups(out, c);
	if (!rc)
		rc =
		    km_buf_addf(out,
				"\t\tNot before: %s\n\t\tNot After: %s\n\t\tIs CA: %s\n"
				"\t\tIssuer: %s\n\t\tPublic key: %s\n",
				time_str(c->not_before, format, from),
				time_str(c->not_after, format, to), c->is_ca ? "true" : "false",
				issuer_str(c, hex), km_hex(c->public_key, c->public_key_len, hex2));
	if (!rc && !(v1 && c->curve == KM_CERT_25519))
		rc = km_buf_addf(out, "\t\tCurve: %s\n", curve_str(c));
	if (!rc && !v1)
		rc = km_buf_addf(out, "\t\tVersion: %d\n", c->version);
	return rc ? rc
		  : km_buf_addf(out, "\t}\n\tFingerprint: %s\n\tSignature: %s\n}\n",
				km_cert_fp_str(c, hex),
				km_hex(c->signature, c->signature_len, hex2));
}

/* ---- JSON ---- */

static json_t *json_networks(const struct km_prefix *list, size_t n)
{
	json_t *a = json_array();
	char text[KM_PREFIX_STRLEN];

	for (size_t i = 0; a && i < n; i++)
		json_array_append_new(a, json_string(km_prefix_str(&list[i], text)));
	return a;
}

static json_t *json_groups(const struct km_cert *c)
{
	json_t *a = json_array();

	for (size_t i = 0; a && i < c->n_groups; i++)
		json_array_append_new(a, json_string(c->groups[i]));
	return a;
}

static json_t *json_of(const struct km_cert *c)
{
	static const char format[] = "%Y-%m-%dT%H:%M:%SZ";
	char from[TIME_LEN], to[TIME_LEN], fp[KM_CERT_FP_STRLEN], issuer[KM_CERT_FP_STRLEN],
	    pub[HEX_LEN], sig[HEX_LEN];
	bool v1 = c->version == KM_CERT_V1;
	json_t *details, *all;

	km_hex(c->public_key, c->public_key_len, pub);
	details = json_pack(
	    "{s:s, s:o, s:o, s:o, s:b, s:s, s:s, s:s}", "name", c->name, v1 ? "ips" : "networks",
	    json_networks(c->networks, c->n_networks), v1 ? "subnets" : "unsafeNetworks",
	    json_networks(c->unsafe_networks, c->n_unsafe_networks), "groups", json_groups(c),
	    "isCa", c->is_ca, "issuer", issuer_str(c, issuer), "notBefore",
	    time_str(c->not_before, format, from), "notAfter", time_str(c->not_after, format, to));
	all = json_pack("{s:o, s:s, s:s}", "details", details, "fingerprint", km_cert_fp_str(c, fp),
			"signature", km_hex(c->signature, c->signature_len, sig));
	if (!all)
		return NULL;
	/* Where version 2 signs the key apart from the details, it stands apart. */
	json_object_set_new(v1 ? details : all, "publicKey", json_string(pub));
	if (!v1 || c->curve != KM_CERT_25519)
		json_object_set_new(v1 ? details : all, "curve", json_string(curve_str(c)));
	if (!v1)
		json_object_set_new(all, "version", json_integer(c->version));
	return all;
}

int km_cert_print_json(struct km_buf *out, const struct km_cert *c)
{
	json_t *j = json_of(c);
	char *text = j ? json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	int rc = text ? km_buf_adds(out, text) : KM_ENOMEM;

	if (!rc)
		rc = km_buf_adds(out, "\n");
	free(text);
	json_decref(j);
	return rc;
}
