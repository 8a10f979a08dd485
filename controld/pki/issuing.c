/* SPDX-License-Identifier: MIT */
#include "controld/pki/authority_priv.h"
#include "libkm/cert/sign.h"
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DAY 86400
#define EARLY_S 3600 /* hosts' clocks differ */
#define APART_S 1800 /* how much later than that a certificate may begin */
#define TRIES 8
#define CA_NAME "kakuremichi"
#define AGENT_NUMBERS 256 /* agents' begin here */

/* ---- addresses ---- */

static struct km_prefix address(const struct authority *a, uint32_t offset, uint8_t bits)
{
	struct km_prefix p = a->network;
	uint32_t ip;

	memcpy(&ip, p.addr.ip, sizeof(ip));
	ip = htonl(ntohl(ip) + offset);
	memcpy(p.addr.ip, &ip, sizeof(ip));
	p.bits = bits;
	return p;
}

int authority_place(const struct authority *a, bool gateway, int64_t number,
		    struct authority_place *out)
{
	int64_t end = gateway ? 255 : (int64_t)1 << (24 - a->network.bits);

	if (number < (gateway ? 1 : AGENT_NUMBERS) || number >= end)
		return KM_EINVAL;
	out->has_subnet = !gateway;
	if (gateway) {
		out->network = address(a, (uint32_t)number, a->network.bits);
		return 0;
	}
	out->network = address(a, (uint32_t)number * 256 + 100, a->network.bits);
	out->subnet = address(a, (uint32_t)number * 256, 24);
	return 0;
}

/* ---- what was issued ---- */

static int describe(struct issued *out, const struct km_cert *c)
{
	char hex[KM_CERT_FP_STRLEN];

	out->pem = km_cert_text(c);
	km_cert_fp_str(c, out->fingerprint);
	snprintf(out->authority, sizeof(out->authority), "%s",
		 km_hex(c->issuer, KM_CERT_FP_LEN, hex));
	if (c->public_key_len == KM_WG_KEY_LEN)
		km_wg_key_str(c->public_key, out->key);
	km_iso8601(c->not_before * 1000, out->not_before);
	km_iso8601(c->not_after * 1000, out->not_after);
	return out->pem ? 0 : KM_ENOMEM;
}

void issued_free(struct issued *i)
{
	free(i->pem);
	i->pem = NULL;
}

struct store_stmt issued_insert(const struct issued *i, bool gateway, const char *id)
{
	return (struct store_stmt){
	    .sql = "INSERT INTO host_certificates (fingerprint, authority, kind, host_id, "
		   "public_key, certificate, not_before, not_after) VALUES ($1, $2, $3, $4::uuid, "
		   "$5, $6, $7::timestamptz, $8::timestamptz) ON CONFLICT (fingerprint) DO NOTHING",
	    .n = 8,
	    .params = {i->fingerprint, i->authority, gateway ? "gateway" : "agent", id, i->key,
		       i->pem, i->not_before, i->not_after}};
}

/* ---- signing ---- */

/* Certificates have no serial number: two for one host that begin and end in the same seconds would be
 * one and the same, and a host that was revoked and let in again would have the one that is blocked, or
 * is about to be. So each begins at another second. Main loop only. */
static int64_t other_beginning(void)
{
	static uint32_t n;

	if (!n)
		n = 1 + km_random_below(APART_S);
	return n++ % APART_S;
}

/* Validity within the CA's own; a clock that stands before the CA's beginning is behind. */
static void validity(const struct km_cert *ca, int64_t lifetime_s, struct km_cert_spec *spec)
{
	int64_t now = km_wall_ms() / 1000, apart = other_beginning();

	if (now < ca->not_before)
		now = ca->not_before;
	spec->not_before = now - EARLY_S + apart;
	if (spec->not_before < ca->not_before)
		spec->not_before = ca->not_before + apart % (lifetime_s / 2 + 1);
	spec->not_after = now + lifetime_s;
	if (spec->not_after > ca->not_after)
		spec->not_after = ca->not_after;
}

/* Whether it is refused by the newest bundle. */
static bool is_blocked(const struct authority *a, const struct km_cert *c)
{
	return a->obeyed && km_bundle_blocks(a->obeyed, c->fingerprint);
}

static int sign(const struct authority *a, struct issued *out, struct km_cert_spec *spec,
		struct km_errtext *err)
{
	const struct ca *ca = authority_active(a);
	struct km_cert *c = NULL;
	int rc = 0;

	memset(out, 0, sizeof(*out));
	if (!ca || !ca->has_key)
		return km_errtext_set(err, KM_EUNSUPPORTED, "the CA's key is not here");
	spec->version = KM_CERT_V2;
	spec->curve = KM_CERT_25519;
	spec->public_key_len = KM_WG_KEY_LEN;
	for (int i = 0; i < TRIES; i++) {
		km_cert_free(c);
		c = NULL;
		validity(ca->cert, a->lifetime_s, spec);
		rc = km_cert_sign(&c, spec, ca->cert, &ca->key, err);
		if (rc || !is_blocked(a, c))
			break;
	}
	if (!rc)
		rc = describe(out, c);
	km_cert_free(c);
	return rc;
}

static const char *group_of(bool gateway)
{
	return gateway ? "gateway" : "agent";
}

int authority_issue(const struct authority *a, struct issued *out, const struct authority_host *h,
		    struct km_errtext *err)
{
	const char *group = group_of(h->gateway);
	struct authority_place place;
	struct km_cert_spec spec;

	memset(out, 0, sizeof(*out));
	if (authority_place(a, h->gateway, h->number, &place))
		return km_errtext_set(err, KM_EINVAL, "%s number %lld has no place in the network",
				      group, (long long)h->number);
	spec = (struct km_cert_spec){.name = h->name,
				     .networks = &place.network,
				     .n_networks = 1,
				     .unsafe_networks = &place.subnet,
				     .n_unsafe_networks = place.has_subnet,
				     .groups = &group,
				     .n_groups = 1,
				     .public_key = h->key};
	return sign(a, out, &spec, err);
}

/* Whether one of our CAs has signed it for this key and kind. */
static int ours(const struct authority *a, const struct km_cert *c, bool gateway,
		const uint8_t *key, struct km_errtext *err)
{
	int rc = km_cert_verify(a->cas.pool, c, KM_CERT_ANY_TIME, err);

	if (rc)
		return KM_EAUTH;
	if (c->public_key_len != KM_WG_KEY_LEN || memcmp(c->public_key, key, KM_WG_KEY_LEN) != 0)
		return km_errtext_set(err, KM_EAUTH,
				      "the certificate is for another WireGuard key");
	if (c->n_groups != 1 || strcmp(c->groups[0], group_of(gateway)) != 0)
		return km_errtext_set(err, KM_EAUTH, "the certificate's groups are not just \"%s\"",
				      group_of(gateway));
	return 0;
}

/* One that is blocked stays so for longer than this. */
static int renewable(const struct authority *a, const struct km_cert *c, struct km_errtext *err)
{
	if (a->obeyed && (km_bundle_blocks(a->obeyed, c->fingerprint) ||
			  km_bundle_blocks(a->obeyed, c->fingerprint2)))
		return km_errtext_set(err, KM_EAUTH, "the certificate is revoked");
	if (km_wall_ms() / 1000 > c->not_after + (int64_t)AUTHORITY_LATE_DAYS * DAY)
		return km_errtext_set(err, KM_EAUTH,
				      "the certificate has ended long ago; let the host join anew");
	return 0;
}

int authority_reissue(const struct authority *a, struct issued *out, const char *pem, bool gateway,
		      const char *name, const uint8_t key[static KM_WG_KEY_LEN],
		      struct km_errtext *err)
{
	struct km_cert *c = NULL;
	struct km_cert_spec spec;
	int rc;

	memset(out, 0, sizeof(*out));
	rc = km_cert_from_text(&c, pem, err);
	if (!rc)
		rc = ours(a, c, gateway, key, err);
	if (!rc)
		rc = renewable(a, c, err);
	if (!rc) {
		spec = (struct km_cert_spec){.name = name,
					     .networks = c->networks,
					     .n_networks = c->n_networks,
					     .unsafe_networks = c->unsafe_networks,
					     .n_unsafe_networks = c->n_unsafe_networks,
					     .groups = (const char *const *)c->groups,
					     .n_groups = c->n_groups,
					     .public_key = key};
		rc = sign(a, out, &spec, err);
	}
	km_cert_free(c);
	return rc;
}

static bool same_place(const struct km_cert *c, const struct authority_place *p)
{
	if (c->n_networks != 1 || !km_addr_eq(&c->networks[0].addr, &p->network.addr))
		return false;
	return c->n_unsafe_networks == p->has_subnet &&
	       (!p->has_subnet || km_prefix_eq(&c->unsafe_networks[0], &p->subnet));
}

/* Whether hosts have been told of its CA: nobody would believe it before. */
static int told_of(const struct authority *a, const struct km_cert *c, struct km_errtext *err)
{
	struct km_bundle *told;
	int rc = authority_last_signed(&told, a, err);

	if (!rc && told && !km_bundle_find(told, c->issuer))
		rc = km_errtext_set(err, KM_EAUTH,
				    "hosts have not been told of its CA yet: kmctl trust sign, with "
				    "the key of a CA that they trust");
	km_bundle_free(told);
	return rc;
}

int authority_take(const struct authority *a, struct issued *out, const char *pem,
		   const struct authority_host *h, struct km_errtext *err)
{
	struct authority_place place;
	struct km_cert *c = NULL;
	int rc;

	memset(out, 0, sizeof(*out));
	rc = km_cert_from_text(&c, pem, err);
	if (!rc)
		rc = ours(a, c, h->gateway, h->key, err);
	if (!rc && (authority_place(a, h->gateway, h->number, &place) || !same_place(c, &place)))
		rc = km_errtext_set(err, KM_EAUTH,
				    "the certificate's networks are not those of the host");
	if (!rc && km_cert_valid_at(c, (struct km_cert_when){km_wall_ms() / 1000, DAY, 0}))
		rc = km_errtext_set(err, KM_EAUTH, "the certificate is not valid now");
	if (!rc && is_blocked(a, c))
		rc = km_errtext_set(err, KM_EAUTH,
				    "this very certificate has been revoked: sign anew");
	if (!rc)
		rc = told_of(a, c, err);
	if (!rc)
		rc = describe(out, c);
	km_cert_free(c);
	return rc;
}

/* ---- new CAs ---- */

static char *seal_key(const struct authority *a, const struct km_cert *ca,
		      const struct km_cert_key *key)
{
	char what[16 + KM_CERT_FP_STRLEN], fp[KM_CERT_FP_STRLEN];

	snprintf(what, sizeof(what), "ca_key %s", km_cert_fp_str(ca, fp));
	return master_seal(&a->vault->master, what, key->priv, key->priv_len);
}

static int describe_ca(struct new_authority *out, const struct km_cert *c)
{
	out->pem = km_cert_text(c);
	km_cert_fp_str(c, out->fingerprint);
	km_iso8601(c->not_after * 1000, out->not_after);
	return out->pem ? 0 : KM_ENOMEM;
}

int authority_make(const struct authority *a, struct new_authority *out, struct km_errtext *err)
{
	int64_t now = km_wall_ms() / 1000;
	struct km_cert_spec spec = {.version = KM_CERT_V2,
				    .curve = KM_CERT_25519,
				    .name = CA_NAME,
				    .networks = &a->network,
				    .n_networks = 1,
				    .unsafe_networks = &a->network,
				    .n_unsafe_networks = 1,
				    .not_before = now - EARLY_S,
				    .not_after = now + (int64_t)AUTHORITY_CA_DAYS * DAY};
	struct km_cert *c = NULL;
	struct km_cert_key key;
	int rc;

	memset(out, 0, sizeof(*out));
	rc = km_cert_key_new(&key, KM_CERT_25519, true);
	if (rc)
		return km_errtext_set(err, rc, "a CA's key cannot be made: %s", km_strerror(rc));
	rc = km_cert_self_sign(&c, &spec, &key, err);
	if (!rc)
		rc = describe_ca(out, c);
	if (!rc) {
		out->sealed = seal_key(a, c, &key);
		rc = out->sealed ? 0 : km_errtext_set(err, KM_EIO, "a CA's key cannot be sealed");
	}
	km_wipe(&key, sizeof(key));
	km_cert_free(c);
	if (rc)
		new_authority_free(out);
	return rc;
}

int authority_adopt(const struct authority *a, struct new_authority *out, const char *pem,
		    struct km_errtext *err)
{
	struct km_cert_pool *pool = km_cert_pool_new();
	struct km_cert *c = NULL;
	int rc;

	(void)a;
	memset(out, 0, sizeof(*out));
	rc = pool ? km_cert_from_text(&c, pem, err) : KM_ENOMEM;
	if (!rc)
		rc = km_cert_pool_add(pool, c, err);
	if (!rc && km_cert_valid_at(c, (struct km_cert_when){km_wall_ms() / 1000, DAY, 0}))
		rc = km_errtext_set(err, KM_EINVAL, "the CA \"%s\" is not valid now", c->name);
	if (!rc && c->curve != KM_CERT_25519)
		rc = km_errtext_set(err, KM_EINVAL,
				    "the CA \"%s\" is on P-256, where WireGuard keys are not",
				    c->name);
	if (!rc)
		rc = describe_ca(out, c);
	km_cert_free(c);
	km_cert_pool_free(pool);
	return rc;
}

void new_authority_free(struct new_authority *n)
{
	free(n->pem);
	free(n->sealed);
	n->pem = n->sealed = NULL;
}
