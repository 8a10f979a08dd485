/* SPDX-License-Identifier: MIT */
/* The verdict on a certificate: what its CA may give, when it is valid, whether it is blocked. */
#include "libkm/base/util.h"
#include "libkm/cert/key.h"
#include "libkm/cert/pool.h"
#include <inttypes.h>
#include <string.h>

/* ---- validity ---- */

int km_cert_valid_at(const struct km_cert *c, struct km_cert_when when)
{
	int64_t early = when.early > 0 ? when.early : 0, late = when.late > 0 ? when.late : 0;
	int64_t first, last;

	if (__builtin_sub_overflow(c->not_before, early, &first))
		first = INT64_MIN;
	if (__builtin_add_overflow(c->not_after, late, &last))
		last = INT64_MAX;
	if (when.now < first && early != INT64_MAX)
		return KM_CERT_EEARLY;
	if (when.now > last && late != INT64_MAX)
		return KM_CERT_EEXPIRED;
	return 0;
}

/* KM_ISO8601_LEN, or a number where a year has more than four digits. */
static const char *time_str(int64_t t, char out[static KM_ISO8601_LEN])
{
	const int64_t limit = 253402300799; /* the end of 9999 */

	if (t < -limit || t > limit)
		return t < 0 ? "long ago" : "a far day";
	return km_iso8601(t * 1000, out);
}

static int check_validity(const struct km_cert *ca, const struct km_cert *c,
			  struct km_cert_when when, struct km_errtext *err)
{
	char at[KM_ISO8601_LEN];
	int rc = km_cert_valid_at(ca, when);

	if (rc == KM_CERT_EEARLY)
		return km_errtext_set(err, KM_CERT_ECA_EARLY, "%s: CA %s begins at %s",
				      km_cert_strerror(KM_CERT_ECA_EARLY), ca->name,
				      time_str(ca->not_before, at));
	if (rc)
		return km_errtext_set(err, KM_CERT_ECA_EXPIRED, "%s: CA %s ended at %s",
				      km_cert_strerror(KM_CERT_ECA_EXPIRED), ca->name,
				      time_str(ca->not_after, at));
	rc = km_cert_valid_at(c, when);
	if (rc == KM_CERT_EEARLY)
		return km_errtext_set(err, rc, "%s: %s begins at %s", km_cert_strerror(rc), c->name,
				      time_str(c->not_before, at));
	if (rc)
		return km_errtext_set(err, rc, "%s: %s ended at %s", km_cert_strerror(rc), c->name,
				      time_str(c->not_after, at));
	return 0;
}

/* ---- what a CA may give ---- */

static bool allowed(const struct km_prefix *limits, size_t n, const struct km_prefix *p)
{
	for (size_t i = 0; i < n; i++)
		if (limits[i].bits <= p->bits && km_prefix_has(&limits[i], &p->addr))
			return true;
	return !n;
}

static int check_networks(const struct km_prefix *limits, size_t n_limits,
			  const struct km_prefix *list, size_t n, int verdict,
			  const struct km_cert *ca, struct km_errtext *err)
{
	char text[KM_PREFIX_STRLEN];

	for (size_t i = 0; i < n; i++)
		if (!allowed(limits, n_limits, &list[i]))
			return km_errtext_set(err, verdict, "%s: %s (CA %s)",
					      km_cert_strerror(verdict),
					      km_prefix_str(&list[i], text), ca->name);
	return 0;
}

int km_cert_constraints(const struct km_cert *ca, const struct km_cert *c, struct km_errtext *err)
{
	char at[KM_ISO8601_LEN], limit[KM_ISO8601_LEN];
	int rc;

	if (c->not_after > ca->not_after)
		return km_errtext_set(err, KM_CERT_EOUTLIVES, "%s: %s is after %s (CA %s)",
				      km_cert_strerror(KM_CERT_EOUTLIVES),
				      time_str(c->not_after, at), time_str(ca->not_after, limit),
				      ca->name);
	if (c->not_before < ca->not_before)
		return km_errtext_set(err, KM_CERT_EPREDATES, "%s: %s is before %s (CA %s)",
				      km_cert_strerror(KM_CERT_EPREDATES),
				      time_str(c->not_before, at), time_str(ca->not_before, limit),
				      ca->name);
	for (size_t i = 0; ca->n_groups && i < c->n_groups; i++)
		if (!km_cert_has_group(ca, c->groups[i]))
			return km_errtext_set(err, KM_CERT_EGROUP, "%s: %s (CA %s)",
					      km_cert_strerror(KM_CERT_EGROUP), c->groups[i],
					      ca->name);
	rc = check_networks(ca->networks, ca->n_networks, c->networks, c->n_networks,
			    KM_CERT_ENETWORK, ca, err);
	return rc ? rc
		  : check_networks(ca->unsafe_networks, ca->n_unsafe_networks, c->unsafe_networks,
				   c->n_unsafe_networks, KM_CERT_EUNSAFE, ca, err);
}

int km_cert_verify_time(const struct km_cert_pool *pool, const struct km_cert *c,
			struct km_cert_when when, struct km_errtext *err)
{
	const struct km_cert *ca = km_cert_pool_find(pool, c->issuer);

	return ca ? check_validity(ca, c, when, err)
		  : km_errtext_set(err, KM_CERT_EISSUER, "%s: %s",
				   km_cert_strerror(KM_CERT_EISSUER), c->name);
}

/* ---- all of it ---- */

int km_cert_verify(const struct km_cert_pool *pool, const struct km_cert *c,
		   struct km_cert_when when, struct km_errtext *err)
{
	char hex[KM_CERT_FP_STRLEN];
	const struct km_cert *ca;
	int rc;

	if (km_cert_pool_is_blocked(pool, c))
		return km_errtext_set(err, KM_CERT_EBLOCKED, "%s: %s, fingerprint %s",
				      km_cert_strerror(KM_CERT_EBLOCKED), c->name,
				      km_cert_fp_str(c, hex));
	if (c->is_ca)
		return km_errtext_set(err, KM_CERT_EISCA, "%s: %s is a CA",
				      km_cert_strerror(KM_CERT_EISCA), c->name);
	ca = km_cert_pool_find(pool, c->issuer);
	if (!ca || km_cert_pool_is_blocked(pool, ca))
		return km_errtext_set(err, KM_CERT_EISSUER, "%s: %s with issuer %s%s",
				      km_cert_strerror(KM_CERT_EISSUER), c->name,
				      km_hex(c->issuer, sizeof(c->issuer), hex),
				      ca ? ", which is blocked" : "");
	if (ca->curve != c->curve)
		return km_errtext_set(err, KM_CERT_ECURVE, "%s: %s, CA %s",
				      km_cert_strerror(KM_CERT_ECURVE), c->name, ca->name);
	if (!km_cert_sig_ok(ca->curve, ca->public_key, ca->public_key_len, c->tbs, c->tbs_len,
			    c->signature, c->signature_len))
		return km_errtext_set(err, KM_CERT_ESIGNATURE, "%s: %s, CA %s",
				      km_cert_strerror(KM_CERT_ESIGNATURE), c->name, ca->name);
	rc = km_cert_constraints(ca, c, err);
	return rc ? rc : check_validity(ca, c, when, err);
}
