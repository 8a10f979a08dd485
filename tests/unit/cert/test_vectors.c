/* SPDX-License-Identifier: MIT */
/* Certificates and keys that other programs have made: nebula-cert 1.6.1, and the vectors published
 * with Nebula's own tests. */
#include "tests/unit/cert/fixture.h"

#define LINES(s) "-----BEGIN NEBULA CERTIFICATE-----\n" s "-----END NEBULA CERTIFICATE-----\n"

static const char root_ca[] =
    LINES("Cj4KDm5lYnVsYSByb290IGNhKM0cMM24zPCvBzogV24YEw5YiqeI/oYo8XXFsoo+\n"
	  "PBmiOafNJhLacf9rsspAARJAz9OAnh8TKAUKix1kKVMyQU4iM3LsFfZRf6ODWXIf\n"
	  "2qWMpB6fpd3PSoVYziPoOt2bIHIFLlgRLPJz3I3xBEdBCQ==\n");
static const char root_ca_01[] =
    LINES("CkEKEW5lYnVsYSByb290IGNhIDAxKM0cMM24zPCvBzogPzbWTxt8ZgXPQEwup7Br\n"
	  "BrtIt1O0q5AuTRT3+t2x1VJAARJAZ+2ib23qBXjdy49oU1YysrwuKkWWKrtJ7Jye\n"
	  "rFBQpDXikOukhQD/mfkloFwJ+Yjsfru7IpTN4ZfjXL+kN/2sCA==\n");
static const char expired_ca[] =
    LINES("CjMKB2V4cGlyZWQozRwwzRw6ICJSG94CqX8wn5I65Pwn25V6HftVfWeIySVtp2DA\n"
	  "7TY/QAESQMaAk5iJT5EnQwK524ZaaHGEJLUqqbh5yyOHhboIGiVTWkFeH3HccTW8\n"
	  "Tq5a8AyWDQdfXbtEZ1FwabeHfH5Asw0=\n");
static const char p256_ca[] =
    LINES("CmQKEG5lYnVsYSBQMjU2IHRlc3QozRwwzbjM8K8HOkEEdrmmg40zQp44AkMq6DZp\n"
	  "k+coOv04r+zh33ISyhbsafnYduN17p2eD7CmHvHuerguXD9f32gcxo/KsFCKEjMe\n"
	  "+0ABoAYBEkcwRQIgVoTg38L7uWku9xQgsr06kxZ/viQLOO/w1Qj1vFUEnhcCIQCq\n"
	  "75SjTiV92kv/1GcbT3wWpAZQQDBiUHVMVmh1822szA==\n");

static const struct vector {
	const char *pem, *name, *fingerprint;
	int curve;
	bool valid; /* at NOW */
} vectors[] = {
    {root_ca, "nebula root ca", "ce4e6c7a596996eb0d82a8875f0f0137a4b53ce22d2421c9fd7150e7a26f6300",
     KM_CERT_25519, true},
    {root_ca_01, "nebula root ca 01",
     "04c585fcd9a49b276df956a22b7ebea3bf23f1fca5a17c0b56ce2e626631969e", KM_CERT_25519, true},
    {expired_ca, "expired", "c39b35a0e8f246203fe4f32b9aa8bfd155f1ae6a6be9d78370641e43397f48f5",
     KM_CERT_25519, false},
    {p256_ca, "nebula P256 test",
     "552bf7d99bec1fc775a0e4c324bf6d8f789b3078f1919c7960d2e5e0c351ee97", KM_CERT_P256, true},
};

static void published_cas_are_read_and_trusted(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(vectors); i++) {
		const struct vector *v = &vectors[i];
		struct km_cert *c = from_pem(v->pem);
		struct km_cert_pool *pool = km_cert_pool_new();
		char fp[KM_CERT_FP_STRLEN];

		assert_int_equal(c->version, KM_CERT_V1);
		assert_int_equal(c->curve, v->curve);
		assert_true(c->is_ca);
		assert_string_equal(c->name, v->name);
		assert_string_equal(km_cert_fp_str(c, fp), v->fingerprint);
		assert_int_equal(km_cert_valid_at(c, NOW), v->valid ? 0 : KM_CERT_EEXPIRED);
		assert_int_equal(km_cert_pool_add(pool, c, NULL), 0);
		assert_ptr_equal(km_cert_pool_find(pool, c->fingerprint), km_cert_pool_at(pool, 0));
		km_cert_pool_free(pool);
		km_cert_free(c);
	}
}

/* The published P-256 signature has the higher s; the lower one is as good. */
static void p256_has_two_forms_and_one_key(void **state)
{
	struct km_cert *c = from_pem(p256_ca);
	uint8_t sig[KM_CERT_SIG_MAX], back[KM_CERT_SIG_MAX];
	size_t n, back_n;

	(void)state;
	assert_int_equal(c->public_key_len, 65);
	assert_int_equal(c->tbs_len, 100);
	assert_int_equal(c->signature_len, 71);
	assert_memory_not_equal(c->fingerprint, c->fingerprint2, KM_CERT_FP_LEN);
	assert_int_equal(km_cert_sig_other(sig, &n, c->signature, c->signature_len), 0);
	assert_int_equal(n, 70); /* no byte of 0 before the low s */
	assert_true(km_cert_sig_ok(c->curve, c->public_key, 65, c->tbs, c->tbs_len, sig, n));
	assert_int_equal(km_cert_sig_other(back, &back_n, sig, n), 0);
	assert_int_equal(back_n, 71);
	assert_memory_equal(back, c->signature, 71);
	km_cert_free(c);
}

static const char encrypted[] = "# A good key\n"
				"-----BEGIN NEBULA ED25519 ENCRYPTED PRIVATE KEY-----\n"
				"CjsKC0FFUy0yNTYtR0NNEiwIExCAgAQYAyAEKiCPoDfGQiosxNPTbPn5EsMlc2MI\n"
				"c0Bt4oz6gTrFQhX3aBJcimhHKeAuhyTGvllD0Z19fe+DFPcLH3h5VrdjVfIAajg0\n"
				"KrbV3n9UHif/Au5skWmquNJzoW1E4MTdRbvpti6o+WdQ49DxjBFhx0YH8LBqrbPU\n"
				"0BGkUHmIO7daP24=\n"
				"-----END NEBULA ED25519 ENCRYPTED PRIVATE KEY-----\n";
static const char short_key[] = "-----BEGIN NEBULA ED25519 ENCRYPTED PRIVATE KEY-----\n"
				"CjsKC0FFUy0yNTYtR0NNEiwIExCAgAQYAyAEKiAVJwdfl3r+eqi/vF6S7OMdpjfo\n"
				"hAzmTCRnr58Su4AqmBJbCv3zleYCEKYJP6UI3S8ekLMGISsgO4hm5leukCCyqT0Z\n"
				"cQ76yrberpzkJKoPLGisX8f+xdy4aXSZl7oEYWQte1+vqbtl/eY9PGZhxUQdcyq7\n"
				"hqzIyrRqfUgVuA==\n"
				"-----END NEBULA ED25519 ENCRYPTED PRIVATE KEY-----\n";
#define PASSPHRASE "DO NOT USE"

static void the_published_encrypted_key_is_opened(void **state)
{
	uint8_t sig[KM_CERT_SIG_MAX];
	struct km_cert_key k;
	size_t n;

	(void)state;
	assert_int_equal(km_cert_key_from_pem(&k, encrypted, strlen(encrypted), NULL),
			 KM_CERT_EENCRYPTED);
	assert_int_equal(km_cert_key_decrypt(&k, encrypted, strlen(encrypted), PASSPHRASE,
					     strlen(PASSPHRASE), 65536, NULL),
			 0);
	assert_int_equal(k.curve, KM_CERT_25519);
	assert_true(k.is_ca);
	assert_int_equal(k.priv_len, 64);
	assert_int_equal(km_cert_key_sign(&k, "x", 1, sig, &n), 0);
	assert_true(km_cert_sig_ok(k.curve, k.pub, k.pub_len, "x", 1, sig, n));

	assert_int_equal(
	    km_cert_key_decrypt(&k, encrypted, strlen(encrypted), "wrong", 5, 65536, NULL),
	    KM_CERT_EPASSPHRASE);
	assert_int_equal(km_cert_key_decrypt(&k, encrypted, strlen(encrypted), PASSPHRASE,
					     strlen(PASSPHRASE), 65535, NULL),
			 KM_ETOOBIG);
	assert_int_equal(km_cert_key_decrypt(&k, short_key, strlen(short_key), PASSPHRASE,
					     strlen(PASSPHRASE), 65536, NULL),
			 KM_EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(published_cas_are_read_and_trusted),
	    cmocka_unit_test(p256_has_two_forms_and_one_key),
	    cmocka_unit_test(the_published_encrypted_key_is_opened),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
