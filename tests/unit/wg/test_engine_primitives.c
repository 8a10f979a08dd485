/* SPDX-License-Identifier: MIT */
/* The primitives against the values of their RFCs, in the forms that WireGuard uses, and the
 * protocol's own constants. Forms for which no RFC has values are held against recorded.txt. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sodium.h>

#include "libkm/wg/engine/crypto.h"
#include "tests/unit/wg/recorded.h"

static struct wg_crypto *c;

static int setup(void **state)
{
	(void)state;
	return (c = wg_crypto_new()) == NULL;
}

static int teardown(void **state)
{
	(void)state;
	wg_crypto_free(c);
	return 0;
}

static void assert_hex(const uint8_t *got, size_t n, const char *want)
{
	char *text = km_xcalloc(1, 2 * n + 1);

	assert_string_equal(km_hex(got, n, text), want);
	free(text);
}

static void from_hex(uint8_t *out, size_t n, const char *text)
{
	assert_int_equal(km_unhex(out, n, text), 0);
}

/* C0 and H0: the chaining key and hash with which every handshake begins. */
static void test_constants(void **state)
{
	uint8_t c0[WG_HASH], h0[WG_HASH];

	(void)state;
	wg_hash(c, c0, "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s", 37, NULL, 0);
	assert_hex(c0, 32, "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36");
	wg_hash(c, h0, c0, 32, "WireGuard v1 zx2c4 Jason@zx2c4.com", 34);
	assert_hex(h0, 32, "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3");
}

/* RFC 7693, appendix E: the input of its self-test. */
static void sequence(uint8_t *out, size_t n, uint32_t seed)
{
	uint32_t a = 0xdead4bad * seed, b = 1, t;

	for (size_t i = 0; i < n; i++) {
		t = a + b;
		a = b;
		b = t;
		out[i] = (uint8_t)(t >> 24);
	}
}

/* RFC 7693: appendix B, and the part of appendix E that our two forms (32 bytes without a key, 16
 * with one) have in it. */
static void test_blake2s(void **state)
{
	static const size_t len[] = {0, 3, 64, 65, 255, 1024};
	uint8_t in[1024], key[WG_MAC], all[2 * KM_ARRAY_LEN(len) * WG_HASH], out[WG_HASH],
	    want[WG_HASH];
	size_t at = 0, i;

	(void)state;
	wg_hash(c, out, "abc", 3, NULL, 0);
	assert_hex(out, 32, "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
	wg_hash(c, out, "a", 1, "bc", 2);
	assert_hex(out, 32, "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
	sequence(key, sizeof(key), WG_MAC);
	for (i = 0; i < KM_ARRAY_LEN(len); i++, at += WG_MAC) {
		sequence(in, len[i], (uint32_t)len[i]);
		wg_mac16(c, all + at, key, sizeof(key), in, len[i]);
	}
	for (i = 0; i < KM_ARRAY_LEN(len); i++, at += WG_HASH) {
		sequence(in, len[i], (uint32_t)len[i]);
		wg_hash(c, all + at, in, len[i] / 3, in + len[i] / 3, len[i] - len[i] / 3);
	}
	wg_hash(c, out, all, at, NULL, 0);
	recorded("blake2s_sequence", want, sizeof(want));
	assert_memory_equal(out, want, sizeof(want));
}

static void test_mac_and_kdf(void **state)
{
	uint8_t key[WG_HASH], text[1024], want[3 * WG_HASH], got[3 * WG_HASH];
	static const size_t len[] = {0, 3, 64, 65, 1024};
	char name[16];
	size_t i, k;

	(void)state;
	wg_hash(c, key, "key", 3, NULL, 0);
	for (i = 0; i < KM_ARRAY_LEN(len); i++) {
		for (k = 0; k < len[i]; k++)
			text[k] = i == 1 ? (uint8_t) "abc"[k] : i == 2 ? 0 : (uint8_t)k;
		snprintf(name, sizeof(name), "mac16_%zu", i);
		recorded(name, want, WG_MAC);
		wg_mac16(c, got, key, i & 1 ? 32 : 16, text, len[i]);
		assert_memory_equal(got, want, WG_MAC);
	}
	wg_hash(c, key, "chaining key", 12, NULL, 0);
	recorded("kdf", want, sizeof(want));
	wg_kdf(c, got, got + WG_HASH, got + 2 * WG_HASH, key, "input", 5);
	assert_memory_equal(got, want, sizeof(want));
	memset(got, 0, sizeof(got));
	wg_kdf(c, got, NULL, NULL, key, "input", 5);
	assert_memory_equal(got, want, WG_HASH);
	recorded("kdf_empty", want, 2 * WG_HASH);
	wg_kdf(c, got, got + WG_HASH, NULL, key, "", 0);
	assert_memory_equal(got, want, 2 * WG_HASH);
	wg_kdf(c, key, NULL, NULL, key, "", 0); /* in place */
	assert_memory_equal(key, want, WG_HASH);
}

/* RFC 7748: section 5.2 (single and iterated) and 6.1. */
static void test_x25519(void **state)
{
	static const char *const vectors[][3] = {
	    {"a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
	     "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
	     "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"},
	    {"4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
	     "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
	     "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957"},
	    {"5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
	     "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
	     "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"},
	};
	uint8_t priv[WG_KEY], pub[WG_KEY], out[WG_KEY];
	size_t i;

	(void)state;
	for (i = 0; i < KM_ARRAY_LEN(vectors); i++) {
		from_hex(priv, WG_KEY, vectors[i][0]);
		from_hex(pub, WG_KEY, vectors[i][1]);
		assert_true(wg_x25519(out, priv, pub));
		assert_hex(out, WG_KEY, vectors[i][2]);
	}
	memset(priv, 0, sizeof(priv));
	priv[0] = 9;
	memcpy(pub, priv, WG_KEY);
	for (i = 1; i <= 1000; i++) {
		assert_true(wg_x25519(out, priv, pub));
		memcpy(pub, priv, WG_KEY);
		memcpy(priv, out, WG_KEY);
		if (i == 1)
			assert_hex(out, WG_KEY,
				   "422c8e7a6227d7bca1350b3e2bb7279f"
				   "7897b87bb6854b783c60e80311ae3079");
	}
	assert_hex(out, WG_KEY, "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51");
	from_hex(priv, WG_KEY, vectors[2][0]);
	wg_x25519_public(pub, priv);
	assert_hex(pub, WG_KEY, "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
	/* A fresh one is clamped. */
	for (i = 0; i < 100; i++) {
		wg_x25519_private(priv);
		assert_true((priv[0] & 7) == 0 && (priv[31] & 0xc0) == 0x40);
	}
}

/* RFC 8439, appendix A.5: its nonce has the form that ours have. Every bit of all that goes in
 * counts. */
static void test_chacha20_poly1305(void **state)
{
	static const char text[] =
	    "Internet-Drafts are draft documents valid for a maximum of six months and may be "
	    "updated, "
	    "replaced, or obsoleted by other documents at any time. It is inappropriate to use "
	    "Internet-Drafts as reference material or to cite them other than as "
	    "/\xe2\x80\x9cwork in progress./\xe2\x80\x9d";
	static const char want[] =
	    "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb2"
	    "4c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100d4f03b7f355894cf"
	    "332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855"
	    "9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4"
	    "b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523e"
	    "af4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a"
	    "0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10"
	    "49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29"
	    "a6ad5cb4022b02709beead9d67890cbb22392336fea1851f38";
	const uint64_t counter = 0x0807060504030201;
	uint8_t key[WG_KEY], ad[12], sealed[265 + WG_TAG], plain[265];
	size_t i;

	(void)state;
	from_hex(key, WG_KEY, "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0");
	from_hex(ad, sizeof(ad), "f33388860000000000004e91");
	assert_int_equal(strlen(text), sizeof(plain));
	wg_seal(c, sealed, key, counter, text, sizeof(plain), ad, sizeof(ad));
	assert_hex(sealed, sizeof(sealed), want);
	assert_true(wg_open(c, plain, key, counter, sealed, sizeof(sealed), ad, sizeof(ad)));
	assert_memory_equal(plain, text, sizeof(plain));
	for (i = 0; i < sizeof(sealed) * 8; i++) {
		sealed[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_false(
		    wg_open(c, plain, key, counter, sealed, sizeof(sealed), ad, sizeof(ad)));
		sealed[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (i = 0; i < sizeof(ad) * 8; i++) {
		ad[i / 8] ^= (uint8_t)(1 << i % 8);
		assert_false(
		    wg_open(c, plain, key, counter, sealed, sizeof(sealed), ad, sizeof(ad)));
		ad[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (i = 0; i < 64; i++)
		assert_false(wg_open(c, plain, key, counter ^ 1ULL << i, sealed, sizeof(sealed), ad,
				     sizeof(ad)));
	for (i = 0; i < sizeof(sealed); i++)
		assert_false(wg_open(c, plain, key, counter, sealed, i, ad, sizeof(ad)));
	assert_true(wg_open(c, plain, key, counter, sealed, sizeof(sealed), ad, sizeof(ad)));
}

/* draft-irtf-cfrg-xchacha-03: section 2.2.1 and appendix A.3.1; what cookie replies are sealed
 * with. */
static void test_xchacha20_poly1305(void **state)
{
	static const char text[] =
	    "Ladies and Gentlemen of the class of '99: If I could offer you only "
	    "one tip for the future, sunscreen would be it.";
	static const char want[] =
	    "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
	    "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
	    "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
	    "21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780a"
	    "cf49";
	uint8_t key[32], in[16], out[32], nonce[24], ad[12], sealed[114 + WG_TAG];
	unsigned long long n;

	(void)state;
	for (int i = 0; i < 32; i++)
		key[i] = (uint8_t)i;
	from_hex(in, sizeof(in), "000000090000004a0000000031415927");
	assert_int_equal(crypto_core_hchacha20(out, in, key, NULL), 0);
	assert_hex(out, 32, "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc");
	for (int i = 0; i < 32; i++)
		key[i] = (uint8_t)(0x80 + i);
	for (int i = 0; i < 24; i++)
		nonce[i] = (uint8_t)(0x40 + i);
	from_hex(ad, sizeof(ad), "50515253c0c1c2c3c4c5c6c7");
	assert_int_equal(strlen(text), 114);
	crypto_aead_xchacha20poly1305_ietf_encrypt(sealed, &n, (const uint8_t *)text, strlen(text),
						   ad, sizeof(ad), NULL, nonce, key);
	assert_int_equal(n, sizeof(sealed));
	assert_hex(sealed, sizeof(sealed), want);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_constants),         cmocka_unit_test(test_blake2s),
	    cmocka_unit_test(test_mac_and_kdf),       cmocka_unit_test(test_x25519),
	    cmocka_unit_test(test_chacha20_poly1305), cmocka_unit_test(test_xchacha20_poly1305),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
