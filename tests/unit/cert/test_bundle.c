/* SPDX-License-Identifier: MIT */
/* Trust bundles: one encoding, one signature, and what a host takes over from which. */
#include "libkm/cert/bundle.h"
#include "libkm/cert/pem.h"
#include "tests/unit/cert/fixture.h"
#include <sodium.h>

#define CAS 4
#define FPS 4

/* CAs a, b, c, d (d on P-256) and fingerprints 1 to 4 are named by letters and digits. */
struct desk {
	struct authority ca[CAS];
	uint8_t fp[FPS][KM_CERT_FP_LEN];
};

static int setup(void **state)
{
	struct desk *d = calloc(1, sizeof(*d));

	assert_non_null(d);
	for (size_t i = 0; i < CAS; i++)
		d->ca[i] =
		    authority_new(i % 2 ? 2 : 1, i == 3 ? KM_CERT_P256 : KM_CERT_25519,
				  (struct says){.name = (const char *[]){"a", "b", "c", "d"}[i]});
	for (size_t i = 0; i < FPS; i++)
		memset(d->fp[i], (int)(0x11 * (i + 1)), KM_CERT_FP_LEN);
	*state = d;
	return 0;
}

static int teardown(void **state)
{
	struct desk *d = *state;

	for (size_t i = 0; i < CAS; i++)
		authority_free(&d->ca[i]);
	free(d);
	return 0;
}

/* "ab1": CAs a and b, fingerprint 1 blocked. signer 0: unsigned. */
static struct km_bundle *bundle(struct desk *d, uint64_t number, const char *content, char signer)
{
	const struct km_cert *cas[CAS];
	uint8_t fps[FPS][KM_CERT_FP_LEN];
	struct km_errtext err = {""};
	size_t n = 0, n_fps = 0;
	struct km_bundle *b;

	for (; *content; content++) {
		if (*content >= 'a')
			cas[n++] = d->ca[*content - 'a'].cert;
		else
			memcpy(fps[n_fps++], d->fp[*content - '1'], KM_CERT_FP_LEN);
	}
	if (km_bundle_new(&b, number, cas, n, (const uint8_t(*)[KM_CERT_FP_LEN])fps, n_fps, &err))
		fail_msg("%s", err.text);
	if (signer) {
		struct authority *a = &d->ca[signer - 'a'];

		assert_int_equal(km_bundle_sign(b, a->cert, &a->key, &err), 0);
	}
	return b;
}

static char *content_of(const struct desk *d, const struct km_bundle *b, char out[static 16])
{
	char *to = out;

	for (size_t i = 0; i < CAS; i++)
		for (size_t k = 0; k < b->n_cas; k++)
			if (!memcmp(b->cas[k]->fingerprint, d->ca[i].cert->fingerprint, 32))
				*to++ = (char)('a' + i);
	for (size_t i = 0; i < FPS; i++)
		for (size_t k = 0; k < b->n_blocked; k++)
			if (!memcmp(b->blocked[k], d->fp[i], 32))
				*to++ = (char)('1' + i);
	*to = '\0';
	return out;
}

static char *text_of(const struct km_bundle *b, size_t *n)
{
	struct km_buf buf;
	char *text;

	km_buf_init(&buf, KM_BUNDLE_PEM_MAX);
	assert_int_equal(km_bundle_format(&buf, b), 0);
	text = strndup((char *)km_buf_head(&buf), buf.len);
	assert_non_null(text);
	*n = buf.len;
	km_buf_free(&buf);
	return text;
}

static void what_is_written_is_read(void **state)
{
	static const char *const contents[] = {"a", "ab", "dcba4321", "a12", "d4"};
	struct desk *d = *state;

	for (size_t i = 0; i < KM_ARRAY_LEN(contents) * 3; i++) {
		const char *content = contents[i / 3];
		char signer = "\0ad"[i % 3], was[16], is[16];
		struct km_bundle *b = bundle(d, 0x0102030405060708 + i, content, signer), *again;
		struct km_errtext err = {""};
		size_t n, n2;
		char *text = text_of(b, &n), *text2;

		if (km_bundle_parse(&again, text, n, &err))
			fail_msg("%s", err.text);
		text2 = text_of(again, &n2);
		assert_string_equal(text, text2);
		assert_int_equal(again->number, 0x0102030405060708 + i);
		assert_string_equal(content_of(d, again, is), content_of(d, b, was));
		assert_int_equal(again->is_signed, signer != 0);
		if (signer) {
			struct km_bundle *trusted = bundle(d, 1, "ad", 0);

			assert_int_equal(km_bundle_check(again, trusted, NOW, &err), 0);
			km_bundle_free(trusted);
		}
		km_bundle_free(again);
		km_bundle_free(b);
		free(text);
		free(text2);
	}
}

/* Whatever bit is turned over, the bundle is refused, or at least no longer signed by a trusted CA.
 */
static void every_bit_and_byte_counts(void **state)
{
	struct desk *d = *state;
	struct km_bundle *b = bundle(d, 7, "ab12", 'a'), *trusted = bundle(d, 1, "ab", 0), *c;
	const char *at;
	struct km_pem pem;
	struct km_buf buf;
	size_t n, left;
	char *text = text_of(b, &n);

	at = text;
	left = n;
	assert_int_equal(km_pem_next(&pem, &at, &left, KM_BUNDLE_MAX, NULL), 0);
	assert_string_equal(pem.banner, KM_BUNDLE_BANNER);
	km_buf_init(&buf, KM_BUNDLE_PEM_MAX);
	for (size_t bit = 0; bit < pem.len * 8; bit++) {
		pem.body[bit / 8] ^= (uint8_t)(1 << bit % 8);
		km_buf_clear(&buf);
		assert_int_equal(km_pem_write(&buf, KM_BUNDLE_BANNER, pem.body, pem.len), 0);
		if (!km_bundle_parse(&c, (char *)km_buf_head(&buf), buf.len, NULL)) {
			assert_true(km_bundle_check(c, trusted, NOW, NULL) < 0);
			km_bundle_free(c);
		}
		pem.body[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t len = 0; len < pem.len; len++) {
		uint8_t *p;

		km_buf_clear(&buf);
		assert_int_equal(km_pem_write(&buf, KM_BUNDLE_BANNER, pem.body, len), 0);
		p = guarded(km_buf_head(&buf), buf.len);
		assert_true(km_bundle_parse(&c, (char *)p, buf.len, NULL) < 0);
		unguard(p, buf.len);
	}
	km_buf_free(&buf);
	km_pem_free(&pem);
	km_bundle_free(b);
	km_bundle_free(trusted);
	free(text);
}

static void what_a_host_makes_of_an_offer(void **state)
{
	static const struct {
		const char *what;
		uint64_t number; /* offered; current is 5, signed by a */
		const char *current, *offered;
		char signer;
		int rc;
		const char *merged; /* NULL: nothing changes */
		uint64_t merged_number;
	} cases[] = {
	    /* signed by a trusted CA */
	    {"a CA comes", 6, "a", "ab", 'a', 0, "ab", 6},
	    {"a CA goes", 6, "ab", "b", 'a', 0, "b", 6},
	    {"a CA replaces itself", 6, "a", "b", 'a', 0, "b", 6},
	    {"by the P-256 CA", 6, "ad", "abd", 'd', 0, "abd", 6},
	    {"blocked and unblocked", 9, "a12", "a23", 'a', 0, "a23", 9},
	    {"the same under a higher number", 6, "a1", "a1", 'a', 0, "a1", 6},
	    {"the same again", 5, "a1", "a1", 'a', 0, NULL, 0},
	    {"an older one", 4, "a", "ab", 'a', KM_EINVAL, NULL, 0},
	    {"an older one that only blocks", 4, "a", "a1", 'a', KM_EINVAL, NULL, 0},
	    {"another with this number", 5, "a", "ab", 'a', KM_EEXIST, NULL, 0},
	    {"fewer with this number", 5, "ab", "a", 'a', KM_EEXIST, NULL, 0},
	    /* unsigned: only removals */
	    {"blocks", 6, "a1", "a12", 0, 0, "a12", 5},
	    {"blocks, under this number", 5, "a1", "a12", 0, 0, "a12", 5},
	    {"blocks, under the last number", UINT64_MAX, "a1", "a12", 0, 0, "a12", 5},
	    {"blocks, under an older one", 4, "a1", "a12", 0, KM_EINVAL, NULL, 0},
	    {"a CA goes", 6, "ab", "b", 0, 0, "b", 5},
	    {"nothing new", 6, "ab1", "ab1", 0, 0, NULL, 0},
	    {"a CA comes", 6, "a", "ab", 0, KM_EAUTH, NULL, 0},
	    {"unblocks", 6, "a1", "a", 0, KM_EAUTH, NULL, 0},
	    {"comes, goes and blocks", 6, "ab", "ac1", 0, KM_EAUTH, "a1", 5},
	    {"another CA alone", 6, "a", "b", 0, KM_EPERM, NULL, 0},
	    {"another CA alone, and blocks", 6, "ac1", "b2", 0, KM_EPERM, "ac12", 5},
	    /* signed by somebody: as unsigned */
	    {"its own CA, by itself", 6, "a", "ab", 'b', KM_EAUTH, NULL, 0},
	    {"blocks, by another CA", 6, "a", "a1", 'b', 0, "a1", 5},
	};
	struct desk *d = *state;

	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		struct km_bundle *current = bundle(d, 5, cases[i].current, 'a'), *merged;
		struct km_bundle *offered =
		    bundle(d, cases[i].number, cases[i].offered, cases[i].signer);
		struct km_bundle_change change;
		struct km_errtext err = {""};
		char is[16];
		int rc = km_bundle_accept(current, offered, NOW, &merged, &change, &err);

		if (rc != cases[i].rc || !merged != !cases[i].merged)
			fail_msg("%zu, %s: %d, %s", i, cases[i].what, rc, err.text);
		if (rc && !*err.text)
			fail_msg("%s: no sentence", cases[i].what);
		if (merged) {
			assert_string_equal(content_of(d, merged, is), cases[i].merged);
			assert_int_equal(merged->number, cases[i].merged_number);
			/* Only what a CA has signed as it stands keeps its signature. */
			assert_int_equal(merged->is_signed,
					 merged->number == cases[i].number && cases[i].signer);
		}
		assert_int_equal(change.refused > 0, rc == KM_EAUTH || rc == KM_EPERM);
		km_bundle_free(merged);
		km_bundle_free(current);
		km_bundle_free(offered);
	}
}

static void the_first_bundle_is_taken_whole(void **state)
{
	struct desk *d = *state;
	struct km_bundle *offered = bundle(d, 3, "ab1", 'a'), *merged;
	struct km_bundle_change change;
	char is[16];

	assert_int_equal(km_bundle_accept(NULL, offered, NOW, &merged, &change, NULL), 0);
	assert_string_equal(content_of(d, merged, is), "ab1");
	assert_int_equal(merged->number, 3);
	assert_int_equal(km_bundle_check(merged, offered, NOW, NULL), 0);
	assert_int_equal(change.cas_added, 2);
	assert_int_equal(change.blocked, 1);
	km_bundle_free(merged);
	km_bundle_free(offered);
}

/* After an unsigned removal the old signed bundle does not bring back what went, a newer one may.
 */
static void a_removal_stays_until_a_newer_signature(void **state)
{
	struct desk *d = *state;
	struct km_bundle *signed5 = bundle(d, 5, "ab", 'a'), *cut = bundle(d, 5, "a1", 0);
	struct km_bundle *signed6 = bundle(d, 6, "ab", 'a'), *now, *merged;
	char is[16];

	assert_int_equal(km_bundle_accept(signed5, cut, NOW, &now, NULL, NULL), 0);
	assert_string_equal(content_of(d, now, is), "a1");
	assert_int_equal(km_bundle_accept(now, signed5, NOW, &merged, NULL, NULL), KM_EEXIST);
	assert_null(merged);
	assert_int_equal(km_bundle_accept(now, signed6, NOW, &merged, NULL, NULL), 0);
	assert_string_equal(content_of(d, merged, is), "ab");
	km_bundle_free(merged);
	km_bundle_free(now);
	km_bundle_free(signed5);
	km_bundle_free(signed6);
	km_bundle_free(cut);
}

static void who_may_sign(void **state)
{
	struct desk *d = *state;
	struct km_bundle *offered = bundle(d, 6, "ab", 'a'), *trusted = bundle(d, 5, "a", 0);
	struct km_bundle *without = bundle(d, 5, "b", 0), *blocking;
	const struct km_cert *a = d->ca[0].cert;
	struct km_errtext err = {""};
	const struct km_cert_when late = {TO + 100, 0, 0}, grace = {TO + 100, 0, 100};

	assert_int_equal(km_bundle_check(offered, trusted, NOW, &err), 0);
	assert_int_equal(km_bundle_check(offered, without, NOW, &err), KM_EAUTH);
	assert_int_equal(km_bundle_check(trusted, trusted, NOW, &err), KM_EAUTH);
	assert_int_equal(km_bundle_check(offered, trusted, late, &err), KM_CERT_EEXPIRED);
	assert_int_equal(km_bundle_check(offered, trusted, grace, &err), 0);
	assert_int_equal(km_bundle_new(&blocking, 5, &a, 1,
				       (const uint8_t(*)[KM_CERT_FP_LEN])a->fingerprint, 1, &err),
			 0);
	assert_int_equal(km_bundle_check(offered, blocking, NOW, &err), KM_EAUTH);
	offered->number++;
	assert_int_equal(km_bundle_check(offered, trusted, NOW, &err), KM_CERT_ESIGNATURE);
	offered->number--;
	/* Another's name on the signature. */
	memcpy(offered->signer, d->ca[1].cert->fingerprint, KM_CERT_FP_LEN);
	assert_int_equal(km_bundle_check(offered, without, NOW, &err), KM_CERT_ESIGNATURE);
	assert_int_equal(km_bundle_sign(offered, a, &d->ca[1].key, &err), KM_CERT_EKEY);
	km_bundle_free(offered);
	km_bundle_free(trusted);
	km_bundle_free(without);
	km_bundle_free(blocking);
}

/* The signed bytes as the header says them, made and signed by hand with libsodium. */
static void the_signature_is_over_the_documented_bytes(void **state)
{
	static const char domain[] = "kakuremichi trust bundle";
	struct desk *d = *state;
	struct km_bundle *b = bundle(d, 0x0102030405060708, "a12", 'a');
	const struct km_cert *a = d->ca[0].cert;
	uint8_t bytes[1024], *to = bytes, sig[crypto_sign_BYTES];

	to = mempcpy(to, domain, sizeof(domain));
	to = mempcpy(to, "kmtrust1\1\2\3\4\5\6\7\10\0\1\1\0\0\0", 22);
	*to++ = (uint8_t)a->raw_len;
	to = mempcpy(to, a->raw, a->raw_len);
	to = mempcpy(to, "\0\0\0\2", 4);
	to = mempcpy(to, d->fp[0], KM_CERT_FP_LEN);
	to = mempcpy(to, d->fp[1], KM_CERT_FP_LEN);
	assert_int_equal(
	    crypto_sign_detached(sig, NULL, bytes, (size_t)(to - bytes), d->ca[0].key.priv), 0);
	assert_int_equal(b->signature_len, sizeof(sig));
	assert_memory_equal(b->signature, sig, sizeof(sig)); /* Ed25519 has no randomness */
	assert_memory_equal(b->signer, a->fingerprint, KM_CERT_FP_LEN);
	km_bundle_free(b);
}

static void what_is_no_bundle(void **state)
{
	struct desk *d = *state;
	struct km_bundle *b = bundle(d, 6, "ab", 0), *c;
	struct km_cert *host = host_new(&d->ca[0], 1, (struct says){.networks = "10.0.0.1/8"});
	const struct km_cert *cas[] = {d->ca[0].cert, host};
	struct km_errtext err = {""};
	struct km_buf two;
	size_t n;
	char *text = text_of(b, &n);

	assert_int_equal(km_bundle_new(&c, 1, NULL, 0, NULL, 0, &err), KM_EINVAL);
	assert_int_equal(km_bundle_new(&c, 1, cas, 2, NULL, 0, &err), KM_CERT_ENOTCA);
	assert_int_equal(km_bundle_parse(&c, "", 0, &err), KM_ENOTFOUND);
	km_buf_init(&two, KM_BUNDLE_PEM_MAX);
	assert_int_equal(km_buf_addf(&two, "%s%s", text, text), 0);
	assert_int_equal(km_bundle_parse(&c, (char *)km_buf_head(&two), two.len, &err), KM_EINVAL);
	km_buf_clear(&two);
	assert_int_equal(km_cert_to_pem(&two, host), 0);
	assert_int_equal(km_bundle_parse(&c, (char *)km_buf_head(&two), two.len, &err), KM_EINVAL);
	km_buf_clear(&two);
	/* A comment before it does no harm. */
	assert_int_equal(km_buf_addf(&two, "# of today\n%s", text), 0);
	assert_int_equal(km_bundle_parse(&c, (char *)km_buf_head(&two), two.len, &err), 0);
	km_bundle_free(c);
	km_buf_free(&two);
	km_cert_free(host);
	km_bundle_free(b);
	free(text);
}

/* The pool of a bundle trusts its CAs and blocks what it blocks. */
static void a_pool_of_it(void **state)
{
	struct desk *d = *state;
	struct km_cert *host = host_new(&d->ca[0], 1, (struct says){.networks = "10.0.0.1/8"});
	struct km_cert *other = host_new(&d->ca[2], 1, (struct says){.networks = "10.0.0.1/8"});
	struct km_bundle *b = bundle(d, 1, "ab", 0), *blocking;
	struct km_cert_pool *pool = km_bundle_pool(b), *pool2;
	const struct km_cert *cas[] = {d->ca[0].cert};

	assert_int_equal(km_cert_pool_size(pool), 2);
	assert_int_equal(km_cert_verify(pool, host, NOW, NULL), 0);
	assert_int_equal(km_cert_verify(pool, other, NOW, NULL), KM_CERT_EISSUER);
	assert_int_equal(km_bundle_new(&blocking, 2, cas, 1,
				       (const uint8_t(*)[KM_CERT_FP_LEN])host->fingerprint, 1,
				       NULL),
			 0);
	pool2 = km_bundle_pool(blocking);
	assert_int_equal(km_cert_verify(pool2, host, NOW, NULL), KM_CERT_EBLOCKED);
	km_cert_pool_free(pool);
	km_cert_pool_free(pool2);
	km_bundle_free(b);
	km_bundle_free(blocking);
	km_cert_free(host);
	km_cert_free(other);
}

/* What is blocked may be named twice without counting twice. */
static void how_many_are_blocked(void **state)
{
	struct desk *d = *state;
	const struct km_cert *ca = d->ca[0].cert;
	size_t n = 2 * (KM_CERT_BLOCKED_MAX + 1);
	uint8_t(*fps)[KM_CERT_FP_LEN] = calloc(n, sizeof(*fps));
	struct km_bundle *b;

	assert_non_null(fps);
	for (size_t i = 0; i < n; i++)
		memcpy(fps[i], &(uint32_t){(uint32_t)(i / 2)}, sizeof(uint32_t));
	assert_int_equal(
	    km_bundle_new(&b, 1, &ca, 1, (const uint8_t(*)[KM_CERT_FP_LEN])fps, n - 2, NULL), 0);
	assert_int_equal(b->n_blocked, KM_CERT_BLOCKED_MAX);
	km_bundle_free(b);
	assert_int_equal(km_bundle_new(&b, 1, &ca, 1, (const uint8_t(*)[KM_CERT_FP_LEN])fps, n, NULL),
			 KM_EFULL);
	assert_null(b);
	free(fps);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_written_is_read),
	    cmocka_unit_test(every_bit_and_byte_counts),
	    cmocka_unit_test(what_a_host_makes_of_an_offer),
	    cmocka_unit_test(the_first_bundle_is_taken_whole),
	    cmocka_unit_test(a_removal_stays_until_a_newer_signature),
	    cmocka_unit_test(who_may_sign),
	    cmocka_unit_test(the_signature_is_over_the_documented_bytes),
	    cmocka_unit_test(what_is_no_bundle),
	    cmocka_unit_test(a_pool_of_it),
	    cmocka_unit_test(how_many_are_blocked),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
