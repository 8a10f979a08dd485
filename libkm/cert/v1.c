/* SPDX-License-Identifier: MIT */
/* Version 1: protobuf. The outer message is {1: details, 2: signature}. */
#include "libkm/cert/internal.h"
#include "libkm/cert/proto.h"
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

enum { OUTER_DETAILS = 1, OUTER_SIGNATURE = 2 };
enum {
	F_NAME = 1,
	F_NETWORKS = 2,
	F_UNSAFE = 3,
	F_GROUP = 4,
	F_NOT_BEFORE = 5,
	F_NOT_AFTER = 6,
	F_PUBLIC_KEY = 7,
	F_IS_CA = 8,
	F_ISSUER = 9,
	F_CURVE = 100,
};

/* ---- reading ---- */

/* One packed pair: address and mask as numbers. */
static int read_pair(struct km_prefix *p, struct km_cur *c, struct km_errtext *err)
{
	uint64_t addr = km_proto_varint(c), mask = km_proto_varint(c);
	uint32_t net = htonl((uint32_t)addr), host = ~(uint32_t)mask;

	if (c->bad || addr > UINT32_MAX || mask > UINT32_MAX)
		return km_errtext_set(err, KM_EINVAL,
				      "the networks are no pairs of address and mask");
	if (host & (host + 1))
		return km_errtext_set(err, KM_EINVAL, "0x%08x is no network mask", (uint32_t)mask);
	*p = (struct km_prefix){.addr.family = AF_INET};
	memcpy(p->addr.ip, &net, sizeof(net));
	p->bits = (uint8_t)__builtin_popcount((uint32_t)mask);
	return 0;
}

static int read_networks(struct km_prefix **list, size_t *n, struct km_cur c,
			 struct km_errtext *err)
{
	struct km_prefix p;
	int rc = 0;

	while (!rc && c.left) {
		rc = read_pair(&p, &c, err);
		if (rc)
			return rc;
		rc = km_cert_add_prefix(list, n, &p);
		if (rc)
			km_errtext_set(err, rc, "more than %d networks", KM_CERT_ITEMS_MAX);
	}
	return rc;
}

static int read_fixed(uint8_t *to, size_t max, size_t *len, struct km_cur c, const char *what,
		      struct km_errtext *err)
{
	if (c.left > max)
		return km_errtext_set(err, KM_EINVAL, "%s of %zu bytes, %zu are possible", what,
				      c.left, max);
	*len = c.left;
	if (c.left)
		memcpy(to, c.p, c.left);
	return 0;
}

static int read_bytes_field(struct km_cert *c, const struct km_proto_field *f,
			    struct km_errtext *err)
{
	size_t len = 0;
	int rc;

	switch (f->number) {
	case F_NAME:
		return km_cert_set_name(c, f->bytes.p, f->bytes.left, err);
	case F_NETWORKS:
		return read_networks(&c->networks, &c->n_networks, f->bytes, err);
	case F_UNSAFE:
		return read_networks(&c->unsafe_networks, &c->n_unsafe_networks, f->bytes, err);
	case F_GROUP:
		return km_cert_add_group(c, f->bytes.p, f->bytes.left, err);
	case F_PUBLIC_KEY:
		return read_fixed(c->public_key, sizeof(c->public_key), &c->public_key_len,
				  f->bytes, "a public key", err);
	case F_ISSUER:
		rc = read_fixed(c->issuer, sizeof(c->issuer), &len, f->bytes, "an issuer", err);
		if (!rc && len != sizeof(c->issuer))
			rc = km_errtext_set(err, KM_EINVAL, "an issuer of %zu bytes", len);
		c->has_issuer = true;
		return rc;
	default:
		return km_errtext_set(err, KM_EINVAL, "field %u is unknown or of another type",
				      f->number);
	}
}

static int read_number_field(struct km_cert *c, const struct km_proto_field *f,
			     struct km_errtext *err)
{
	switch (f->number) {
	case F_NOT_BEFORE:
		c->not_before = (int64_t)f->value;
		return 0;
	case F_NOT_AFTER:
		c->not_after = (int64_t)f->value;
		return 0;
	case F_IS_CA:
		c->is_ca = f->value;
		return 0;
	case F_CURVE:
		if (f->value > KM_CERT_P256)
			return km_errtext_set(err, KM_EINVAL, "an unknown curve");
		c->curve = (uint8_t)f->value;
		return 0;
	default:
		return km_errtext_set(err, KM_EINVAL, "field %u is unknown or of another type",
				      f->number);
	}
}

static int read_details(struct km_cert *c, struct km_cur cur, struct km_errtext *err)
{
	struct km_proto_field f;
	uint32_t last = 0;
	int rc = 0;

	while (!rc && km_proto_next(&cur, &f)) {
		if (f.number < last || (f.number == last && f.number != F_GROUP))
			return km_errtext_set(err, KM_EINVAL,
					      "field %u is repeated or out of order", f.number);
		last = f.number;
		rc = f.type == KM_PROTO_BYTES ? read_bytes_field(c, &f, err)
					      : read_number_field(c, &f, err);
	}
	if (!rc && cur.bad)
		rc = km_errtext_set(err, KM_EINVAL, "the details are malformed");
	return rc;
}

int km_cert_v1_read(struct km_cert *c, const uint8_t *p, size_t n, struct km_errtext *err)
{
	struct km_cur cur = km_cur_of(p, n);
	struct km_proto_field details, sig, more;
	int rc;

	if (!km_proto_next(&cur, &details) || !km_proto_next(&cur, &sig))
		return km_errtext_set(err, cur.bad ? KM_EINVAL : KM_ETRUNC,
				      "the certificate is malformed or cut short");
	if (details.number != OUTER_DETAILS || details.type != KM_PROTO_BYTES ||
	    sig.number != OUTER_SIGNATURE || sig.type != KM_PROTO_BYTES)
		return km_errtext_set(err, KM_EINVAL, "the certificate is malformed");
	if (km_proto_next(&cur, &more) || cur.bad)
		return km_errtext_set(err, KM_EINVAL, "something follows the signature");
	rc = read_details(c, details.bytes, err);
	if (!rc)
		rc = read_fixed(c->signature, sizeof(c->signature), &c->signature_len, sig.bytes,
				"a signature", err);
	if (!rc && !c->name)
		rc = km_cert_set_name(c, "", 0, err);
	return rc;
}

/* ---- writing ---- */

static uint32_t number_of(const struct km_prefix *p)
{
	uint32_t net;

	memcpy(&net, p->addr.ip, sizeof(net));
	return ntohl(net);
}

static int put_networks(struct km_buf *out, uint32_t field, const struct km_prefix *list, size_t n)
{
	struct km_buf packed;
	int rc = 0;

	if (!n)
		return 0;
	km_buf_init(&packed, KM_CERT_MAX);
	for (size_t i = 0; !rc && i < n; i++) {
		uint32_t mask = list[i].bits ? UINT32_MAX << (32 - list[i].bits) : 0;

		rc = km_proto_put_varint(&packed, number_of(&list[i]));
		if (!rc)
			rc = km_proto_put_varint(&packed, mask);
	}
	if (!rc)
		rc = km_proto_put_bytes(out, field, km_buf_head(&packed), packed.len);
	km_buf_free(&packed);
	return rc;
}

static int put_unless_empty(struct km_buf *out, uint32_t field, const void *p, size_t n)
{
	return n ? km_proto_put_bytes(out, field, p, n) : 0;
}

int km_cert_v1_tbs(struct km_buf *out, const struct km_cert *c)
{
	int rc = put_unless_empty(out, F_NAME, c->name, strlen(c->name));

	if (!rc)
		rc = put_networks(out, F_NETWORKS, c->networks, c->n_networks);
	if (!rc)
		rc = put_networks(out, F_UNSAFE, c->unsafe_networks, c->n_unsafe_networks);
	for (size_t i = 0; !rc && i < c->n_groups; i++)
		rc = km_proto_put_bytes(out, F_GROUP, c->groups[i], strlen(c->groups[i]));
	if (!rc)
		rc = km_proto_put_uint(out, F_NOT_BEFORE, (uint64_t)c->not_before);
	if (!rc)
		rc = km_proto_put_uint(out, F_NOT_AFTER, (uint64_t)c->not_after);
	if (!rc)
		rc = put_unless_empty(out, F_PUBLIC_KEY, c->public_key, c->public_key_len);
	if (!rc)
		rc = km_proto_put_uint(out, F_IS_CA, c->is_ca);
	if (!rc && c->has_issuer)
		rc = km_proto_put_bytes(out, F_ISSUER, c->issuer, sizeof(c->issuer));
	return rc ? rc : km_proto_put_uint(out, F_CURVE, c->curve);
}

int km_cert_v1_write(struct km_buf *out, const struct km_cert *c, const uint8_t *sig, size_t n)
{
	int rc = km_proto_put_bytes(out, OUTER_DETAILS, c->tbs, c->tbs_len);

	return rc ? rc : put_unless_empty(out, OUTER_SIGNATURE, sig, n);
}
