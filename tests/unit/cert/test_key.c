/* SPDX-License-Identifier: MIT */
/* Keys as PEM, encrypted keys, and the PEM text itself. */
#include "libkm/cert/pem.h"
#include "tests/unit/cert/fixture.h"
#include <stdio.h>

#define SMALL ((struct km_cert_kdf){.memory_kib = 64, .passes = 2, .lanes = 4})
#define MAX_KIB 64

static const struct kind {
	int curve;
	bool is_ca;
	const char *priv, *pub;
	size_t priv_len, pub_len;
} kinds[] = {
    {KM_CERT_25519, false, "NEBULA X25519 PRIVATE KEY", "NEBULA X25519 PUBLIC KEY", 32, 32},
    {KM_CERT_25519, true, "NEBULA ED25519 PRIVATE KEY", "NEBULA ED25519 PUBLIC KEY", 64, 32},
    {KM_CERT_P256, false, "NEBULA P256 PRIVATE KEY", "NEBULA P256 PUBLIC KEY", 32, 65},
    {KM_CERT_P256, true, "NEBULA ECDSA P256 PRIVATE KEY", "NEBULA ECDSA P256 PUBLIC KEY", 32, 65},
};

static void same_key(const struct km_cert_key *a, const struct km_cert_key *b)
{
	assert_int_equal(a->curve, b->curve);
	assert_int_equal(a->is_ca, b->is_ca);
	assert_int_equal(a->priv_len, b->priv_len);
	assert_memory_equal(a->priv, b->priv, a->priv_len);
	assert_int_equal(a->pub_len, b->pub_len);
	assert_memory_equal(a->pub, b->pub, a->pub_len);
}

static int from_text(struct km_cert_key *k, const struct km_buf *b)
{
	return km_cert_key_from_pem(k, (const char *)km_buf_head(b), b->len, NULL);
}

static int decrypt(struct km_cert_key *k, const struct km_buf *b, const char *passphrase)
{
	return km_cert_key_decrypt(k, (const char *)km_buf_head(b), b->len, passphrase,
				   strlen(passphrase), MAX_KIB, NULL);
}

static void keys_survive_pem(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(kinds); i++) {
		struct km_cert_key k, again, pub;
		struct km_buf b;
		char banner[80];

		km_buf_init(&b, 4096);
		assert_int_equal(km_cert_key_new(&k, kinds[i].curve, kinds[i].is_ca), 0);
		assert_int_equal(k.priv_len, kinds[i].priv_len);
		assert_int_equal(k.pub_len, kinds[i].pub_len);
		assert_int_equal(km_cert_key_to_pem(&b, &k), 0);
		snprintf(banner, sizeof(banner), "-----BEGIN %s-----\n", kinds[i].priv);
		assert_memory_equal(km_buf_head(&b), banner, strlen(banner));
		assert_int_equal(from_text(&again, &b), 0);
		same_key(&again, &k);
		assert_int_equal(km_cert_pub_from_pem(&pub, (char *)km_buf_head(&b), b.len, NULL),
				 KM_EINVAL);

		km_buf_clear(&b);
		assert_int_equal(km_cert_pub_to_pem(&b, &k), 0);
		snprintf(banner, sizeof(banner), "-----BEGIN %s-----\n", kinds[i].pub);
		assert_memory_equal(km_buf_head(&b), banner, strlen(banner));
		assert_int_equal(km_cert_pub_from_pem(&pub, (char *)km_buf_head(&b), b.len, NULL),
				 0);
		assert_int_equal(pub.is_ca, kinds[i].is_ca);
		assert_memory_equal(pub.pub, k.pub, k.pub_len);
		assert_int_equal(pub.priv_len, 0);
		assert_int_equal(from_text(&again, &b), KM_EINVAL);
		km_buf_free(&b);
	}
}

static void a_key_that_is_none_is_refused(void **state)
{
	static const uint8_t zero[64];
	uint8_t high[32];
	struct km_cert_key k, other;
	struct km_buf b;

	(void)state;
	km_buf_init(&b, 4096);
	memset(high, 0xff, sizeof(high)); /* over the order of P-256 */
	for (size_t i = 0; i < KM_ARRAY_LEN(kinds); i++)
		for (size_t n = 0; n <= 64; n++) {
			int rc;

			km_buf_clear(&b);
			assert_int_equal(km_pem_write(&b, kinds[i].priv, zero, n), 0);
			rc = from_text(&k, &b);
			/* Of zeros, only X25519 makes a key. */
			assert_int_equal(rc, i == 0 && n == 32 ? 0 : KM_EINVAL);
		}
	km_buf_clear(&b);
	assert_int_equal(km_pem_write(&b, kinds[3].priv, high, sizeof(high)), 0);
	assert_int_equal(from_text(&k, &b), KM_EINVAL);

	/* The public half at the end must be the seed's. */
	assert_int_equal(km_cert_key_new(&k, KM_CERT_25519, true), 0);
	assert_int_equal(km_cert_key_new(&other, KM_CERT_25519, true), 0);
	memcpy(k.priv + 32, other.pub, 32);
	km_buf_clear(&b);
	assert_int_equal(km_cert_key_to_pem(&b, &k), 0);
	assert_int_equal(from_text(&k, &b), KM_EINVAL);
	km_buf_free(&b);
}

static void signatures_hold_for_their_bytes_alone(void **state)
{
	(void)state;
	for (size_t i = 1; i < KM_ARRAY_LEN(kinds); i += 2) {
		uint8_t sig[KM_CERT_SIG_MAX], text[] = "signed";
		struct km_cert_key k, host;
		size_t n, n2;

		assert_int_equal(km_cert_key_new(&k, kinds[i].curve, true), 0);
		for (int round = 0; round < 32; round++) {
			uint8_t other[KM_CERT_SIG_MAX];

			assert_int_equal(km_cert_key_sign(&k, text, sizeof(text), sig, &n), 0);
			assert_true(
			    km_cert_sig_ok(k.curve, k.pub, k.pub_len, text, sizeof(text), sig, n));
			if (k.curve != KM_CERT_P256)
				continue;
			/* The low s is below 2^255: no byte of 0 goes before it. */
			assert_int_equal(km_cert_sig_other(other, &n2, sig, n), 0);
			assert_true(n2 >= n && sig[5 + sig[3]] <= 32);
		}
		text[0] ^= 1;
		assert_false(km_cert_sig_ok(k.curve, k.pub, k.pub_len, text, sizeof(text), sig, n));
		text[0] ^= 1;
		assert_false(
		    km_cert_sig_ok(k.curve, k.pub, k.pub_len, text, sizeof(text), sig, n - 1));
		assert_false(
		    km_cert_sig_ok(k.curve, k.pub, k.pub_len - 1, text, sizeof(text), sig, n));
		assert_false(
		    km_cert_sig_ok(!k.curve, k.pub, k.pub_len, text, sizeof(text), sig, n));
		assert_int_equal(km_cert_key_new(&host, kinds[i].curve, false), 0);
		assert_int_equal(km_cert_key_sign(&host, text, sizeof(text), sig, &n), KM_EINVAL);
	}
}

static void only_minimal_pairs_are_signatures(void **state)
{
	static const struct {
		const char *hex;
		bool ok;
	} cases[] = {
	    {"3006020101020101", true},
	    {"300702020001020101", false}, /* padded r */
	    {"3006020100020101", false},   /* r = 0 */
	    {"3006020101020100", false},
	    {"3006020181020101", false}, /* negative */
	    {"30060201010201", false},
	    {"300602010102010100", false},
	    {"308106020101020101", false}, /* long length */
	    {"30080201010201010500", false},
	    {"3106020101020101", false},
	    {"", false},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		uint8_t sig[KM_CERT_SIG_MAX], other[KM_CERT_SIG_MAX];
		size_t n = strlen(cases[i].hex) / 2, n2;
		uint8_t *p;

		assert_int_equal(km_unhex(sig, n, cases[i].hex), 0);
		p = guarded(sig, n);
		assert_int_equal(km_cert_sig_other(other, &n2, p, n), cases[i].ok ? 0 : KM_EINVAL);
		unguard(p, n);
	}
}

static void encrypted_keys_open_with_their_passphrase(void **state)
{
	(void)state;
	for (size_t i = 1; i < KM_ARRAY_LEN(kinds); i += 2) {
		struct km_cert_key k, again;
		struct km_buf b;

		km_buf_init(&b, 4096);
		assert_int_equal(km_cert_key_new(&k, kinds[i].curve, true), 0);
		assert_int_equal(km_cert_key_encrypt(&b, &k, "pass phrase", 11, &SMALL, NULL), 0);
		assert_int_equal(from_text(&again, &b), KM_CERT_EENCRYPTED);
		assert_int_equal(decrypt(&again, &b, "pass phrase"), 0);
		same_key(&again, &k);
		assert_int_equal(decrypt(&again, &b, "pass phras"), KM_CERT_EPASSPHRASE);
		assert_int_equal(decrypt(&again, &b, ""), KM_CERT_EPASSPHRASE);
		assert_int_equal(again.priv_len, 0);
		km_buf_free(&b);
	}
}

static void every_bit_of_an_encrypted_key_counts(void **state)
{
	const char *at;
	struct km_cert_key k, again;
	struct km_pem pem;
	struct km_buf b;
	size_t left;

	(void)state;
	km_buf_init(&b, 4096);
	assert_int_equal(km_cert_key_new(&k, KM_CERT_25519, true), 0);
	assert_int_equal(km_cert_key_encrypt(&b, &k, "x", 1, &SMALL, NULL), 0);
	at = (const char *)km_buf_head(&b);
	left = b.len;
	assert_int_equal(km_pem_next(&pem, &at, &left, 1024, NULL), 0);
	for (size_t bit = 0; bit < pem.len * 8; bit++) {
		pem.body[bit / 8] ^= (uint8_t)(1 << bit % 8);
		km_buf_clear(&b);
		assert_int_equal(km_pem_write(&b, pem.banner, pem.body, pem.len), 0);
		assert_true(decrypt(&again, &b, "x") < 0);
		pem.body[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t n = 0; n < pem.len; n++) {
		km_buf_clear(&b);
		assert_int_equal(km_pem_write(&b, pem.banner, pem.body, n), 0);
		assert_true(decrypt(&again, &b, "x") < 0);
	}
	km_pem_free(&pem);
	km_buf_free(&b);
}

/* {1: {1: "AES-256-GCM", 2: {1: version, 2: memory, 3: passes, 4: lanes, 5: salt}}, 2: 92 bytes} */
static void a_file_cannot_ask_for_more_than_the_limit(void **state)
{
	static const struct {
		const char *kdf; /* in hex, before the salt */
		size_t salt;
		int rc;
		const char *named;
	} cases[] = {
	    {"0813 1040 1801 2004", 32, KM_CERT_EPASSPHRASE, "passphrase"},
	    {"0813 1040 1808 2004", 16, KM_CERT_EPASSPHRASE, "passphrase"},
	    {"0813 1041 1801 2004", 32, KM_ETOOBIG, "65 KiB"},
	    {"0813 1040 1809 2004", 32, KM_ETOOBIG, "9 passes"},
	    {"0813 10ffffffff0f 1801 2004", 32, KM_ETOOBIG, "4294967295 KiB"},
	    {"0813 1040 18ffffffff0f 2004", 32, KM_ETOOBIG, "4294967295 passes"},
	    {"0813 10ffffffff1f 1801 2004", 32, KM_EINVAL, "malformed"},
	    {"0813 101f 1801 2004", 32, KM_EINVAL, "31 KiB"},
	    {"0813 1801 2004", 32, KM_EINVAL, "0 KiB"},
	    {"0813 1040 2004", 32, KM_EINVAL, "0 passes"},
	    {"0813 1040 1801", 32, KM_EINVAL, "0 lanes"},
	    {"0813 1040 1801 208002", 32, KM_EINVAL, "256 lanes"},
	    {"0810 1040 1801 2004", 32, KM_EINVAL, "version"},
	    {"1040 1801 2004", 32, KM_EINVAL, "version"},
	    {"0813 1040 1801 2004", 15, KM_EINVAL, "salt"},
	    {"0813 1040 1801 2004", 65, KM_EINVAL, "malformed"},
	    {"1040 0813 1801 2004", 32, KM_EINVAL, "malformed"},
	    {"0813 10c000 1801 2004", 32, KM_EINVAL, "malformed"},
	    {"0813 1040 1801 2004 3001", 32, KM_EINVAL, "malformed"},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		uint8_t body[512] = {0}, kdf[128], *to = body;
		struct km_errtext err = {""};
		struct km_cert_key k;
		size_t n = 0;
		struct km_buf b;
		int rc;

		for (const char *s = cases[i].kdf; *s; s += *s == ' ' ? 1 : 2)
			if (*s != ' ') {
				char two[] = {s[0], s[1], 0};

				assert_int_equal(km_unhex(&kdf[n++], 1, two), 0);
			}
		kdf[n++] = 0x2a;
		kdf[n++] = (uint8_t)cases[i].salt;
		memset(kdf + n, 's', cases[i].salt);
		n += cases[i].salt;
		assert_true(n < 110);
		*to++ = 0x0a;
		*to++ = (uint8_t)(13 + 2 + n);
		to = mempcpy(to,
			     "\x0a\x0b"
			     "AES-256-GCM\x12",
			     14);
		*to++ = (uint8_t)n;
		to = mempcpy(to, kdf, n);
		to = mempcpy(to, "\x12\x5c", 2);
		memset(to, 'c', 92);
		to += 92;
		km_buf_init(&b, 4096);
		assert_int_equal(km_pem_write(&b, "NEBULA ED25519 ENCRYPTED PRIVATE KEY", body,
					      (size_t)(to - body)),
				 0);
		rc = km_cert_key_decrypt(&k, (char *)km_buf_head(&b), b.len, "x", 1, MAX_KIB, &err);
		if (rc != cases[i].rc || !strstr(err.text, cases[i].named))
			fail_msg("case %zu: %d, %s", i, rc, err.text);
		km_buf_free(&b);
	}
}

static void what_is_not_encrypted_says_so(void **state)
{
	struct km_cert_kdf bad[] = {{31, 1, 4}, {64, 0, 4}, {64, 1, 0}, {UINT32_MAX, 1, 256}};
	struct km_cert_key k, host;
	struct km_buf b;

	(void)state;
	km_buf_init(&b, 4096);
	assert_int_equal(km_cert_key_new(&k, KM_CERT_25519, true), 0);
	assert_int_equal(km_cert_key_new(&host, KM_CERT_25519, false), 0);
	assert_int_equal(km_cert_key_encrypt(&b, &host, "x", 1, &SMALL, NULL), KM_EINVAL);
	assert_int_equal(km_cert_key_encrypt(&b, &k, "", 0, &SMALL, NULL), KM_EINVAL);
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++)
		assert_int_equal(km_cert_key_encrypt(&b, &k, "x", 1, &bad[i], NULL), KM_EINVAL);
	assert_int_equal(km_cert_key_to_pem(&b, &k), 0);
	assert_int_equal(decrypt(&k, &b, "x"), KM_EINVAL);
	km_buf_clear(&b);
	assert_int_equal(decrypt(&k, &b, "x"), KM_ENOTFOUND);
	km_buf_free(&b);
}

static void pem_is_read_strictly(void **state)
{
	static const struct {
		const char *text;
		int rc;
		size_t len;
	} cases[] = {
	    {"-----BEGIN A-----\nAAAA\n-----END A-----\n", 0, 3},
	    {"-----BEGIN A-----\r\nAAAA\r\n-----END A-----\r\n", 0, 3},
	    {"-----BEGIN A-----\n AAAA \nAA==\n-----END A-----", 0, 4},
	    {"-----BEGIN A-----\nAA\nAA\n\n-----END A-----", 0, 3},
	    {"-----BEGIN A-----\n-----END A-----", 0, 0},
	    {"hello\n#-----BEGIN A-----\n-----BEGIN B-----\nAAAA\n-----END B-----\n", 0, 3},
	    {"", KM_ENOTFOUND, 0},
	    {"hello", KM_ENOTFOUND, 0},
	    {" -----BEGIN A-----\nAAAA\n-----END A-----", KM_ENOTFOUND, 0},
	    {"-----BEGIN A-----\nAAAA\n", KM_EINVAL, 0},
	    {"-----BEGIN A-----\nAAAA\n-----END B-----\n", KM_EINVAL, 0},
	    {"-----BEGIN A-----\nAAAA\n-----BEGIN A-----\nAAAA\n-----END A-----\n", KM_EINVAL, 0},
	    {"-----BEGIN A----\nAAAA\n-----END A-----\n", KM_EINVAL, 0},
	    {"-----BEGIN -----\nAAAA\n-----END -----\n", KM_EINVAL, 0},
	    {"-----BEGIN A-----\nAAA\n-----END A-----\n", KM_EINVAL, 0},
	    {"-----BEGIN A-----\nAAA=AAAA\n-----END A-----\n", KM_EINVAL, 0},
	    {"-----BEGIN A-----\nAA*A\n-----END A-----\n", KM_EINVAL, 0},
	    {"-----BEGIN A-----\nAAB=\n-----END A-----\n", KM_EINVAL, 0}, /* bits left over */
	    {"-----BEGIN A-----\n====\n-----END A-----\n", KM_EINVAL, 0},
	    {"-----BEGIN A-----\nX: y\n\nAAAA\n-----END A-----\n", KM_EINVAL, 0},
	    {"-----BEGIN A-----\nAAAAAAAAAAAA\n-----END A-----\n", KM_ETOOBIG, 0},
	    {"-----BEGIN A-----\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n-----END A-----\n", KM_ETOOBIG,
	     0},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		size_t n = strlen(cases[i].text), left = n;
		uint8_t *p = guarded(cases[i].text, n);
		const char *at = (const char *)p;
		struct km_errtext err = {""};
		struct km_pem pem;
		int rc = km_pem_next(&pem, &at, &left, 6, &err);

		if (rc != cases[i].rc || pem.len != cases[i].len)
			fail_msg("case %zu: %d, %s", i, rc, err.text);
		assert_int_equal(left, n - (size_t)(at - (const char *)p));
		km_pem_free(&pem);
		unguard(p, n);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(keys_survive_pem),
	    cmocka_unit_test(a_key_that_is_none_is_refused),
	    cmocka_unit_test(signatures_hold_for_their_bytes_alone),
	    cmocka_unit_test(only_minimal_pairs_are_signatures),
	    cmocka_unit_test(encrypted_keys_open_with_their_passphrase),
	    cmocka_unit_test(every_bit_of_an_encrypted_key_counts),
	    cmocka_unit_test(a_file_cannot_ask_for_more_than_the_limit),
	    cmocka_unit_test(what_is_not_encrypted_says_so),
	    cmocka_unit_test(pem_is_read_strictly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
