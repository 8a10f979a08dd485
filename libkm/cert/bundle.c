/* SPDX-License-Identifier: MIT */
/* Trust bundles: made, written, read, signed. What a host makes of one is in accept.c. */
#include "libkm/cert/bundle.h"
#include "libkm/base/util.h"
#include "libkm/cert/internal.h"
#include "libkm/cert/pem.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC "kmtrust1"
#define DOMAIN "kakuremichi trust bundle" /* signed with its NUL before the body */

/* ---- making ---- */

static int by_fingerprint(const void *a, const void *b)
{
	const struct km_cert *const *x = a, *const *y = b;

	return memcmp((*x)->fingerprint, (*y)->fingerprint, KM_CERT_FP_LEN);
}

static int by_bytes(const void *a, const void *b)
{
	return memcmp(a, b, KM_CERT_FP_LEN);
}

/* Takes ca over, unless it fails. */
static int take_ca(struct km_bundle *b, struct km_cert *ca, struct km_errtext *err)
{
	int rc = 0;

	if (!ca->is_ca)
		rc = KM_CERT_ENOTCA;
	else if (!km_cert_sig_ok(ca->curve, ca->public_key, ca->public_key_len, ca->tbs,
				 ca->tbs_len, ca->signature, ca->signature_len))
		rc = KM_CERT_ENOTSELF;
	else if (b->n_cas >= KM_CERT_POOL_MAX)
		rc = KM_EFULL;
	if (rc) {
		km_errtext_set(err, rc, "%s: %s", ca->name, km_cert_strerror(rc));
		return rc;
	}
	b->cas[b->n_cas++] = ca;
	return 0;
}

static struct km_bundle *empty(uint64_t number, size_t n_blocked)
{
	struct km_bundle *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->number = number;
	b->cas = calloc(KM_CERT_POOL_MAX, sizeof(struct km_cert *));
	b->blocked = calloc(n_blocked ? n_blocked : 1, KM_CERT_FP_LEN);
	if (!b->cas || !b->blocked) {
		km_bundle_free(b);
		return NULL;
	}
	return b;
}

static void normalize(struct km_bundle *b)
{
	size_t kept = 0;

	qsort(b->cas, b->n_cas, sizeof(struct km_cert *), by_fingerprint);
	for (size_t i = 0; i < b->n_cas; i++) {
		if (kept && !by_fingerprint(&b->cas[kept - 1], &b->cas[i]))
			km_cert_free(b->cas[i]);
		else
			b->cas[kept++] = b->cas[i];
	}
	b->n_cas = kept;
	kept = 0;
	qsort(b->blocked, b->n_blocked, KM_CERT_FP_LEN, by_bytes);
	for (size_t i = 0; i < b->n_blocked; i++)
		if (!kept || by_bytes(b->blocked[kept - 1], b->blocked[i]) != 0)
			memmove(b->blocked[kept++], b->blocked[i], KM_CERT_FP_LEN);
	b->n_blocked = kept;
}

int km_bundle_new(struct km_bundle **out, uint64_t number, const struct km_cert *const *cas,
		  size_t n_cas, const uint8_t (*blocked)[KM_CERT_FP_LEN], size_t n_blocked,
		  struct km_errtext *err)
{
	struct km_bundle *b;
	int rc = 0;

	*out = NULL;
	if (!n_cas)
		return km_errtext_set(err, KM_EINVAL, "a trust bundle without a CA");
	b = empty(number, n_blocked);
	if (!b)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	for (size_t i = 0; !rc && i < n_cas; i++) {
		struct km_cert *copy = km_cert_copy(cas[i]);

		rc = copy ? take_ca(b, copy, err) : km_errtext_set(err, KM_ENOMEM, "no memory");
		if (rc)
			km_cert_free(copy);
	}
	if (rc) {
		km_bundle_free(b);
		return rc;
	}
	if (n_blocked)
		memcpy(b->blocked, blocked, n_blocked * KM_CERT_FP_LEN);
	b->n_blocked = n_blocked;
	normalize(b);
	if (b->n_blocked > KM_CERT_BLOCKED_MAX) {
		km_bundle_free(b);
		return km_errtext_set(err, KM_EFULL, "more than %d blocked certificates",
				      KM_CERT_BLOCKED_MAX);
	}
	*out = b;
	return 0;
}

void km_bundle_free(struct km_bundle *b)
{
	if (!b)
		return;
	for (size_t i = 0; i < b->n_cas; i++)
		km_cert_free(b->cas[i]);
	free(b->cas);
	free(b->blocked);
	free(b);
}

/* ---- writing ---- */

static int put_number(struct km_buf *out, uint64_t v, size_t bytes)
{
	uint8_t be[8];

	for (size_t i = 0; i < bytes; i++)
		be[i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
	return km_buf_add(out, be, bytes);
}

static int write_body(struct km_buf *out, const struct km_bundle *b)
{
	int rc = km_buf_add(out, MAGIC, strlen(MAGIC));

	if (!rc)
		rc = put_number(out, b->number, 8);
	if (!rc)
		rc = put_number(out, b->n_cas, 2);
	for (size_t i = 0; !rc && i < b->n_cas; i++) {
		rc = put_number(out, b->cas[i]->version, 1);
		if (!rc)
			rc = put_number(out, b->cas[i]->raw_len, 4);
		if (!rc)
			rc = km_buf_add(out, b->cas[i]->raw, b->cas[i]->raw_len);
	}
	if (!rc)
		rc = put_number(out, b->n_blocked, 4);
	return rc ? rc : km_buf_add(out, b->blocked, b->n_blocked * KM_CERT_FP_LEN);
}

static int write_signature(struct km_buf *out, const struct km_bundle *b)
{
	int rc = put_number(out, b->is_signed, 1);

	if (rc || !b->is_signed)
		return rc;
	rc = km_buf_add(out, b->signer, sizeof(b->signer));
	if (!rc)
		rc = put_number(out, b->signature_len, 2);
	return rc ? rc : km_buf_add(out, b->signature, b->signature_len);
}

int km_bundle_format(struct km_buf *out, const struct km_bundle *b)
{
	struct km_buf body;
	int rc;

	km_buf_init(&body, KM_BUNDLE_MAX);
	rc = write_body(&body, b);
	if (!rc)
		rc = write_signature(&body, b);
	if (!rc)
		rc = km_pem_write(out, KM_BUNDLE_BANNER, km_buf_head(&body), body.len);
	km_buf_free(&body);
	return rc;
}

/* ---- reading ---- */

static int read_cas(struct km_bundle *b, struct km_cur *c, struct km_errtext *err)
{
	size_t n = km_cur_be16(c);

	if (c->bad || !n || n > KM_CERT_POOL_MAX)
		return km_errtext_set(err, KM_EINVAL,
				      "a trust bundle of %zu CAs, 1 to %d are "
				      "possible",
				      n, KM_CERT_POOL_MAX);
	for (size_t i = 0; i < n; i++) {
		uint8_t version = km_cur_u8(c);
		struct km_cur raw = km_cur_sub(c, km_cur_be32(c));
		struct km_cert *ca;
		int rc;

		if (c->bad)
			return km_errtext_set(err, KM_EINVAL, "the trust bundle is cut short");
		rc = km_cert_parse(&ca, version, raw.p, raw.left, err);
		if (rc)
			return rc == KM_ENOMEM ? rc : KM_EINVAL;
		rc = take_ca(b, ca, err);
		if (rc) {
			km_cert_free(ca);
			return KM_EINVAL;
		}
		if (i && by_fingerprint(&b->cas[i - 1], &b->cas[i]) >= 0)
			return km_errtext_set(err, KM_EINVAL,
					      "the trust bundle's CAs are not in order");
	}
	return 0;
}

static int read_blocked(struct km_bundle *b, struct km_cur *c, struct km_errtext *err)
{
	size_t n = km_cur_be32(c);
	const uint8_t *p;
	uint8_t(*all)[KM_CERT_FP_LEN];

	if (c->bad || n > KM_CERT_BLOCKED_MAX)
		return km_errtext_set(err, KM_EINVAL,
				      "a trust bundle with %zu blocked "
				      "certificates, %d are possible",
				      n, KM_CERT_BLOCKED_MAX);
	p = km_cur_take(c, n * KM_CERT_FP_LEN);
	if (!p)
		return km_errtext_set(err, KM_EINVAL, "the trust bundle is cut short");
	if (!n)
		return 0;
	all = reallocarray(b->blocked, n, KM_CERT_FP_LEN);
	if (!all)
		return km_errtext_set(err, KM_ENOMEM, "no memory");
	b->blocked = all;
	memcpy(all, p, n * KM_CERT_FP_LEN);
	b->n_blocked = n;
	for (size_t i = 1; i < n; i++)
		if (by_bytes(all[i - 1], all[i]) >= 0)
			return km_errtext_set(err, KM_EINVAL,
					      "the blocked certificates are not in order");
	return 0;
}

static int read_signature(struct km_bundle *b, struct km_cur *c, struct km_errtext *err)
{
	uint8_t is_signed = km_cur_u8(c);
	const uint8_t *signer, *sig;

	b->is_signed = is_signed == 1;
	if (b->is_signed) {
		signer = km_cur_take(c, KM_CERT_FP_LEN);
		b->signature_len = km_cur_be16(c);
		sig = km_cur_take(c, b->signature_len);
		if (!c->bad && b->signature_len <= KM_CERT_SIG_MAX) {
			memcpy(b->signer, signer, KM_CERT_FP_LEN);
			memcpy(b->signature, sig, b->signature_len);
		} else {
			c->bad = true;
		}
	}
	if (is_signed > 1 || c->bad || c->left)
		return km_errtext_set(err, KM_EINVAL, "the trust bundle's signature is malformed");
	return 0;
}

static int read_body(struct km_bundle *b, struct km_cur c, struct km_errtext *err)
{
	const uint8_t *magic = km_cur_take(&c, strlen(MAGIC));
	int rc;

	if (!magic || memcmp(magic, MAGIC, strlen(MAGIC)) != 0)
		return km_errtext_set(err, KM_EINVAL, "a trust bundle of an unknown form");
	b->number = (uint64_t)km_cur_be32(&c) << 32;
	b->number |= km_cur_be32(&c);
	rc = read_cas(b, &c, err);
	if (!rc)
		rc = read_blocked(b, &c, err);
	return rc ? rc : read_signature(b, &c, err);
}

int km_bundle_parse(struct km_bundle **out, const char *text, size_t n, struct km_errtext *err)
{
	struct km_bundle *b = NULL;
	struct km_pem pem, more;
	int rc;

	*out = NULL;
	rc = km_pem_next(&pem, &text, &n, KM_BUNDLE_MAX, err);
	if (rc)
		return rc;
	if (strcmp(pem.banner, KM_BUNDLE_BANNER) != 0) {
		rc = km_errtext_set(err, KM_EINVAL, "no trust bundle: %s", pem.banner);
		goto out;
	}
	b = empty(0, 0);
	rc = b ? read_body(b, km_cur_of(pem.body, pem.len), err)
	       : km_errtext_set(err, KM_ENOMEM, "no memory");
	if (!rc && km_pem_next(&more, &text, &n, KM_BUNDLE_MAX, NULL) != KM_ENOTFOUND) {
		km_pem_free(&more);
		rc = km_errtext_set(err, KM_EINVAL, "something follows the trust bundle");
	}
	if (!rc) {
		*out = b;
		b = NULL;
	}
out:
	km_bundle_free(b);
	km_pem_free(&pem);
	return rc;
}

/* ---- signatures ---- */

static int signed_bytes(struct km_buf *out, const struct km_bundle *b)
{
	int rc;

	km_buf_init(out, KM_BUNDLE_MAX + sizeof(DOMAIN));
	rc = km_buf_add(out, DOMAIN, sizeof(DOMAIN));
	if (!rc)
		rc = write_body(out, b);
	if (rc)
		km_buf_free(out);
	return rc;
}

int km_bundle_sign(struct km_bundle *b, const struct km_cert *ca, const struct km_cert_key *ca_key,
		   struct km_errtext *err)
{
	struct km_buf bytes;
	int rc;

	if (!ca->is_ca)
		return km_errtext_set(err, KM_CERT_ENOTCA, "%s: %s", ca->name,
				      km_cert_strerror(KM_CERT_ENOTCA));
	rc = km_cert_key_fits(ca_key, ca, err);
	if (rc)
		return rc;
	rc = signed_bytes(&bytes, b);
	if (!rc)
		rc = km_cert_key_sign(ca_key, km_buf_head(&bytes), bytes.len, b->signature,
				      &b->signature_len);
	km_buf_free(&bytes);
	b->is_signed = !rc;
	if (rc)
		return km_errtext_set(err, rc, "the trust bundle could not be signed: %s",
				      km_strerror(rc));
	memcpy(b->signer, ca->fingerprint, sizeof(b->signer));
	return 0;
}

const struct km_cert *km_bundle_find(const struct km_bundle *b,
				     const uint8_t fp[static KM_CERT_FP_LEN])
{
	for (size_t i = 0; i < b->n_cas; i++)
		if (!memcmp(b->cas[i]->fingerprint, fp, KM_CERT_FP_LEN))
			return b->cas[i];
	return NULL;
}

bool km_bundle_blocks(const struct km_bundle *b, const uint8_t fp[static KM_CERT_FP_LEN])
{
	return b->n_blocked && bsearch(fp, b->blocked, b->n_blocked, KM_CERT_FP_LEN, by_bytes);
}

/* The CA that may have signed, if it is trusted. */
static const struct km_cert *signer_in(const struct km_bundle *trusted, const uint8_t *fp)
{
	const struct km_cert *ca = km_bundle_find(trusted, fp);

	if (!ca || km_bundle_blocks(trusted, ca->fingerprint) ||
	    km_bundle_blocks(trusted, ca->fingerprint2))
		return NULL;
	return ca;
}

int km_bundle_check(const struct km_bundle *b, const struct km_bundle *trusted,
		    struct km_cert_when when, struct km_errtext *err)
{
	const struct km_cert *ca = b->is_signed ? signer_in(trusted, b->signer) : NULL;
	char hex[KM_CERT_FP_STRLEN];
	struct km_buf bytes;
	bool ok;
	int rc;

	if (!b->is_signed)
		return km_errtext_set(err, KM_EAUTH, "trust bundle %" PRIu64 " is not signed",
				      b->number);
	if (!ca)
		return km_errtext_set(err, KM_EAUTH,
				      "trust bundle %" PRIu64 " is signed by %s, which is not "
				      "trusted",
				      b->number, km_hex(b->signer, sizeof(b->signer), hex));
	rc = signed_bytes(&bytes, b);
	if (rc)
		return km_errtext_set(err, rc, "no memory");
	ok = km_cert_sig_ok(ca->curve, ca->public_key, ca->public_key_len, km_buf_head(&bytes),
			    bytes.len, b->signature, b->signature_len);
	km_buf_free(&bytes);
	if (!ok)
		return km_errtext_set(err, KM_CERT_ESIGNATURE,
				      "the signature of trust bundle %" PRIu64 " is not that of "
				      "CA %s",
				      b->number, ca->name);
	rc = km_cert_valid_at(ca, when);
	return rc ? km_errtext_set(err, rc, "trust bundle %" PRIu64 " is signed by CA %s: %s",
				   b->number, ca->name, km_cert_strerror(rc))
		  : 0;
}

struct km_cert_pool *km_bundle_pool(const struct km_bundle *b)
{
	struct km_cert_pool *pool = km_cert_pool_new();
	int rc = pool ? 0 : KM_ENOMEM;

	for (size_t i = 0; !rc && i < b->n_cas; i++)
		rc = km_cert_pool_add(pool, b->cas[i], NULL);
	for (size_t i = 0; !rc && i < b->n_blocked; i++)
		rc = km_cert_pool_block(pool, b->blocked[i]);
	if (rc) {
		km_cert_pool_free(pool);
		return NULL;
	}
	return pool;
}
