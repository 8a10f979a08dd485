/* SPDX-License-Identifier: MIT */
/* Version 2: DER with context tags. Certificate ::= SEQUENCE { [0] details, [1] curve, [2] public
 * key, [3] signature }; signed are the details with tag and length, then curve and key as plain
 * bytes. */
#include "libkm/cert/internal.h"
#include <stdlib.h>
#include <string.h>

enum { DER_OCTETS = 0x04, DER_UTF8 = 0x0c, DER_SEQUENCE = 0x30 };
enum { OUTER_DETAILS = 0xa0, OUTER_CURVE = 0x81, OUTER_PUBLIC_KEY = 0x82, OUTER_SIGNATURE = 0x83 };
enum {
	D_NAME = 0x80,
	D_NETWORKS = 0xa1,
	D_UNSAFE = 0xa2,
	D_GROUPS = 0xa3,
	D_IS_CA = 0x84,
	D_NOT_BEFORE = 0x85,
	D_NOT_AFTER = 0x86,
	D_ISSUER = 0x87,
};

/* ---- reading ---- */

/* A length in its shortest form (X.690 section 10.1), at most three bytes of it. */
static size_t read_len(struct km_cur *c)
{
	uint8_t first = km_cur_u8(c);
	size_t len = 0, bytes = first & 0x7f;

	if (first < 0x80)
		return first;
	if (!bytes || bytes > 3) {
		c->bad = true;
		return 0;
	}
	for (size_t i = 0; i < bytes; i++)
		len = len << 8 | km_cur_u8(c);
	if (len < 0x80 || len >> (8 * (bytes - 1)) == 0)
		c->bad = true;
	return len;
}

/* The element with this tag, which c skips; nothing (and not bad) when another one is next. */
static bool read_optional(struct km_cur *c, uint8_t tag, struct km_cur *content)
{
	*content = (struct km_cur){0};
	if (c->bad || !c->left || c->p[0] != tag)
		return false;
	km_cur_u8(c);
	*content = km_cur_sub(c, read_len(c));
	return !c->bad;
}

static struct km_cur read_needed(struct km_cur *c, uint8_t tag)
{
	struct km_cur content;

	if (!read_optional(c, tag, &content))
		c->bad = true;
	return content;
}

static int64_t read_time(struct km_cur *c, uint8_t tag)
{
	struct km_cur content = read_needed(c, tag);
	uint64_t v;

	if (c->bad || !content.left || content.left > 8) {
		c->bad = true;
		return 0;
	}
	v = content.p[0] & 0x80 ? UINT64_MAX : 0;
	while (content.left)
		v = v << 8 | km_cur_u8(&content);
	return (int64_t)v;
}

static int read_networks(struct km_prefix **list, size_t *n, struct km_cur *c, uint8_t tag,
			 struct km_errtext *err)
{
	struct km_cur all, one;
	int rc = 0;

	if (!read_optional(c, tag, &all))
		return 0;
	while (!rc && all.left) {
		struct km_prefix p = {0};
		size_t len;

		one = read_needed(&all, DER_OCTETS);
		len = one.left;
		if (all.bad || (len != 5 && len != 17))
			return km_errtext_set(err, KM_EINVAL, "a malformed network");
		p.addr.family = len == 5 ? AF_INET : AF_INET6;
		memcpy(p.addr.ip, one.p, len - 1);
		p.bits = one.p[len - 1];
		if (p.bits > (len - 1) * 8)
			return km_errtext_set(err, KM_EINVAL, "a network of %u bits", p.bits);
		rc = km_cert_add_prefix(list, n, &p);
		if (rc)
			km_errtext_set(err, rc, "more than %d networks", KM_CERT_ITEMS_MAX);
	}
	return rc;
}

static int read_groups(struct km_cert *cert, struct km_cur *c, struct km_errtext *err)
{
	struct km_cur all, one;
	int rc = 0;

	if (!read_optional(c, D_GROUPS, &all))
		return 0;
	while (!rc && all.left) {
		one = read_needed(&all, DER_UTF8);
		if (all.bad)
			return km_errtext_set(err, KM_EINVAL, "a malformed group");
		rc = km_cert_add_group(cert, one.p, one.left, err);
	}
	return rc;
}

static int read_details(struct km_cert *cert, struct km_cur c, struct km_errtext *err)
{
	struct km_cur name = read_needed(&c, D_NAME), content;
	int rc;

	if (c.bad)
		return km_errtext_set(err, KM_EINVAL, "the details are malformed");
	rc = km_cert_set_name(cert, name.p, name.left, err);
	if (!rc)
		rc = read_networks(&cert->networks, &cert->n_networks, &c, D_NETWORKS, err);
	if (!rc)
		rc = read_networks(&cert->unsafe_networks, &cert->n_unsafe_networks, &c, D_UNSAFE,
				   err);
	if (!rc)
		rc = read_groups(cert, &c, err);
	if (rc)
		return rc;
	cert->is_ca = read_optional(&c, D_IS_CA, &content);
	cert->not_before = read_time(&c, D_NOT_BEFORE);
	cert->not_after = read_time(&c, D_NOT_AFTER);
	cert->has_issuer = read_optional(&c, D_ISSUER, &content);
	if (c.bad || c.left)
		return km_errtext_set(err, KM_EINVAL, "the details are malformed or too long");
	if (cert->has_issuer && content.left != sizeof(cert->issuer))
		return km_errtext_set(err, KM_EINVAL, "an issuer of %zu bytes", content.left);
	if (cert->has_issuer)
		memcpy(cert->issuer, content.p, sizeof(cert->issuer));
	return 0;
}

int km_cert_v2_read(struct km_cert *cert, const uint8_t *p, size_t n, struct km_errtext *err)
{
	struct km_cur outer = km_cur_of(p, n);
	struct km_cur c = read_needed(&outer, DER_SEQUENCE), details, curve, key, sig;

	if (outer.bad || outer.left)
		return km_errtext_set(err, KM_EINVAL, "the certificate is malformed or cut short");
	details = read_needed(&c, OUTER_DETAILS);
	if (read_optional(&c, OUTER_CURVE, &curve)) {
		if (curve.left != 1 || curve.p[0] != KM_CERT_P256)
			return km_errtext_set(err, KM_EINVAL, "an unknown curve");
		cert->curve = KM_CERT_P256;
	}
	key = read_needed(&c, OUTER_PUBLIC_KEY);
	sig = read_needed(&c, OUTER_SIGNATURE);
	if (c.bad || c.left)
		return km_errtext_set(err, KM_EINVAL, "the certificate is malformed");
	if (key.left > sizeof(cert->public_key) || sig.left > sizeof(cert->signature))
		return km_errtext_set(err, KM_EINVAL, "the key or the signature is too long");
	cert->public_key_len = key.left;
	memcpy(cert->public_key, key.p, key.left);
	cert->signature_len = sig.left;
	memcpy(cert->signature, sig.p, sig.left);
	return read_details(cert, details, err);
}

/* ---- writing ---- */

static int put(struct km_buf *out, uint8_t tag, const void *p, size_t n)
{
	uint8_t head[5] = {tag};
	size_t len = 2;
	int rc;

	if (n < 0x80) {
		head[1] = (uint8_t)n;
	} else {
		for (size_t v = n; v; v >>= 8)
			len++;
		head[1] = (uint8_t)(0x80 | (len - 2));
		for (size_t i = 2; i < len; i++)
			head[i] = (uint8_t)(n >> (8 * (len - 1 - i)));
	}
	rc = km_buf_add(out, head, len);
	return rc ? rc : km_buf_add(out, p, n);
}

/* An element of what `inner` holds, which is freed; nothing if there was an error before. */
static int put_inner(struct km_buf *out, uint8_t tag, struct km_buf *inner, int rc)
{
	if (!rc)
		rc = put(out, tag, km_buf_head(inner), inner->len);
	km_buf_free(inner);
	return rc;
}

static int put_time(struct km_buf *out, uint8_t tag, int64_t t)
{
	uint8_t bytes[8];
	size_t skip = 0;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)((uint64_t)t >> (8 * (7 - i)));
	/* X.690 section 8.3.2: the first nine bits are not all alike. */
	while (skip < 7 && ((bytes[skip] == 0 && !(bytes[skip + 1] & 0x80)) ||
			    (bytes[skip] == 0xff && (bytes[skip + 1] & 0x80))))
		skip++;
	return put(out, tag, bytes + skip, sizeof(bytes) - skip);
}

static int put_networks(struct km_buf *out, uint8_t tag, const struct km_prefix *list, size_t n)
{
	struct km_buf inner;
	int rc = 0;

	if (!n)
		return 0;
	km_buf_init(&inner, KM_CERT_MAX);
	for (size_t i = 0; !rc && i < n; i++) {
		size_t len = list[i].addr.family == AF_INET ? 4 : 16;
		uint8_t bytes[17];

		memcpy(bytes, list[i].addr.ip, len);
		bytes[len] = list[i].bits;
		rc = put(&inner, DER_OCTETS, bytes, len + 1);
	}
	return put_inner(out, tag, &inner, rc);
}

static int put_groups(struct km_buf *out, const struct km_cert *c)
{
	struct km_buf inner;
	int rc = 0;

	if (!c->n_groups)
		return 0;
	km_buf_init(&inner, KM_CERT_MAX);
	for (size_t i = 0; !rc && i < c->n_groups; i++)
		rc = put(&inner, DER_UTF8, c->groups[i], strlen(c->groups[i]));
	return put_inner(out, D_GROUPS, &inner, rc);
}

static int put_details(struct km_buf *out, const struct km_cert *c)
{
	static const uint8_t yes = 0xff;
	struct km_buf inner;
	int rc;

	km_buf_init(&inner, KM_CERT_MAX);
	rc = put(&inner, D_NAME, c->name, strlen(c->name));
	if (!rc)
		rc = put_networks(&inner, D_NETWORKS, c->networks, c->n_networks);
	if (!rc)
		rc = put_networks(&inner, D_UNSAFE, c->unsafe_networks, c->n_unsafe_networks);
	if (!rc)
		rc = put_groups(&inner, c);
	if (!rc && c->is_ca)
		rc = put(&inner, D_IS_CA, &yes, 1);
	if (!rc)
		rc = put_time(&inner, D_NOT_BEFORE, c->not_before);
	if (!rc)
		rc = put_time(&inner, D_NOT_AFTER, c->not_after);
	if (!rc && c->has_issuer)
		rc = put(&inner, D_ISSUER, c->issuer, sizeof(c->issuer));
	return put_inner(out, OUTER_DETAILS, &inner, rc);
}

int km_cert_v2_tbs(struct km_buf *out, const struct km_cert *c)
{
	int rc = put_details(out, c);

	if (!rc)
		rc = km_buf_add(out, &c->curve, 1);
	return rc ? rc : km_buf_add(out, c->public_key, c->public_key_len);
}

int km_cert_v2_write(struct km_buf *out, const struct km_cert *c, const uint8_t *sig, size_t n)
{
	struct km_buf inner;
	int rc;

	km_buf_init(&inner, KM_CERT_MAX + KM_CERT_SIG_MAX); /* out has the bound */
	rc = km_buf_add(&inner, c->tbs, c->tbs_len - 1 - c->public_key_len);
	if (!rc && c->curve != KM_CERT_25519)
		rc = put(&inner, OUTER_CURVE, &c->curve, 1);
	if (!rc)
		rc = put(&inner, OUTER_PUBLIC_KEY, c->public_key, c->public_key_len);
	if (!rc)
		rc = put(&inner, OUTER_SIGNATURE, sig, n);
	return put_inner(out, DER_SEQUENCE, &inner, rc);
}
