/* SPDX-License-Identifier: MIT */
/* Keys, signatures and names of ACME, by the vectors of RFC 7638, 7515, 8737 and 9773. */
#include "gatewayd/acme/chain.h"
#include "gatewayd/acme/csr.h"
#include "gatewayd/acme/jose.h"
#include "tests/unit/gatewayd/acme_ca.h"

/* ---- RFC 7638 section 3.1; RFC 7515 appendix A.3 ---- */

static EVP_PKEY *rsa_of(const char *n64, unsigned long e)
{
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
	OSSL_PARAM_BLD *bld = OSSL_PARAM_BLD_new();
	EVP_PKEY *key = NULL;
	size_t n;
	uint8_t *raw = ca_unb64url(n64, &n);
	BIGNUM *modulus = BN_bin2bn(raw, (int)n, NULL), *exponent = BN_new();
	OSSL_PARAM *params;

	BN_set_word(exponent, e);
	OSSL_PARAM_BLD_push_BN(bld, "n", modulus);
	OSSL_PARAM_BLD_push_BN(bld, "e", exponent);
	params = OSSL_PARAM_BLD_to_param(bld);
	assert_int_equal(EVP_PKEY_fromdata_init(ctx), 1);
	assert_int_equal(EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params), 1);
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(bld);
	EVP_PKEY_CTX_free(ctx);
	BN_free(modulus);
	BN_free(exponent);
	free(raw);
	return key;
}

static void thumbprints(void **state)
{
	static const char n[] =
	    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc"
	    "_"
	    "BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-"
	    "65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbIS"
	    "D08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCu"
	    "r-kEgU8awapJzKnqDKgw";
	static const char ec_jwk[] = "{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":"
				     "\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
				     "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}";
	EVP_PKEY *rsa = rsa_of(n, 65537), *ec, *other = EVP_EC_gen("P-384");
	json_t *doc = json_loads(ec_jwk, 0, NULL);
	char out[JOSE_THUMBPRINT_LEN], *text;

	(void)state;
	assert_int_equal(jose_thumbprint(rsa, out), 0);
	assert_string_equal(out, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
	ec = ca_jwk(doc);
	assert_string_equal(text = jose_jwk(ec), ec_jwk);
	free(text);
	assert_null(jose_jwk(other));
	assert_int_equal(jose_thumbprint(other, out), KM_EINVAL);
	json_decref(doc);
	EVP_PKEY_free(rsa);
	EVP_PKEY_free(ec);
	EVP_PKEY_free(other);
}

/* r and s are 32 bytes each, however short the numbers are: one in 128 signatures has one that
 * begins with 0. */
static void signatures(void **state)
{
	EVP_PKEY *ec = EVP_EC_gen("P-256"), *rsa = EVP_RSA_gen(2048);
	struct jose_head head = {
	    .key = ec, .kid = "https://ca.test/a\"b", .nonce = "n", .url = "https://ca.test/"};

	(void)state;
	for (int i = 0; i < 600; i++) {
		char *text = jose_sign(&head, i ? "{\"a\":1}" : "");
		json_t *jws = json_loads(text, 0, NULL), *protected = ca_part(jws, "protected");

		assert_true(ca_verify(jws, ec));
		assert_string_equal(json_string_value(json_object_get(protected, "kid")), head.kid);
		assert_string_equal(json_string_value(json_object_get(protected, "alg")), "ES256");
		if (!i)
			assert_string_equal(json_string_value(json_object_get(jws, "payload")), "");
		json_decref(protected);
		json_decref(jws);
		free(text);
	}
	head = (struct jose_head){.key = rsa, .url = "https://ca.test/"};
	{
		char *text = jose_sign(&head, "x");
		json_t *jws = json_loads(text, 0, NULL), *protected = ca_part(jws, "protected");

		assert_true(ca_verify(jws, rsa));
		assert_string_equal(json_string_value(json_object_get(protected, "alg")), "RS256");
		assert_null(json_object_get(protected, "nonce"));
		assert_string_equal(
		    json_string_value(json_object_get(json_object_get(protected, "jwk"), "e")),
		    "AQAB");
		json_decref(protected);
		json_decref(jws);
		free(text);
	}
	EVP_PKEY_free(ec);
	EVP_PKEY_free(rsa);
}

/* ---- names and requests ---- */

static void names(void **state)
{
	static const struct {
		const char *name;
		bool ok, ip;
	} table[] = {{"a.test", true, false},
		     {"*.a.test", true, false},
		     {"xn--bcher-kva.test", true, false},
		     {"_a.b.test", true, false},
		     {"192.0.2.1", true, true},
		     {"2001:db8::1", true, true},
		     {"test", false, false},
		     {"*.test", false, false},
		     {"*", false, false},
		     {"a.*.test", false, false},
		     {"a.test.", false, false},
		     {"A.test", false, false},
		     {"a-.test", false, false},
		     {"a/.test", false, false},
		     {"\xc3\xa9.test", false, false},
		     {"", false, false}};
	char label[70] = "", name[300] = "";

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++)
		if (csr_name_ok(table[i].name) != table[i].ok ||
		    csr_name_is_ip(table[i].name) != table[i].ip)
			fail_msg("%s", table[i].name);
	memset(label, 'a', 63);
	strcat(strcpy(name, label), ".test");
	assert_true(csr_name_ok(name));
	label[63] = 'a';
	strcat(strcpy(name, label), ".test");
	assert_false(csr_name_ok(name));
	label[60] = '\0';
	snprintf(name, sizeof(name), "%s.%s.%s.%s.aaaaaaaaa", label, label, label, label);
	assert_int_equal(strlen(name), 253);
	assert_true(csr_name_ok(name));
	strcat(name, "a");
	assert_false(csr_name_ok(name));
}

static void requests(void **state)
{
	static const char *const all[] = {"a.test", "*.a.test", "192.0.2.1", "2001:db8::1"};

	(void)state;
	for (int rsa = 0; rsa <= 1; rsa++) {
		EVP_PKEY *key = acme_key_new(rsa);
		char *text = csr_new(key, all, 4), *san;
		size_t n;
		uint8_t *der = ca_unb64url(text, &n);
		const uint8_t *p = der;
		X509_REQ *req = d2i_X509_REQ(NULL, &p, (long)n);

		assert_non_null(req);
		assert_ptr_equal(p, der + n);
		assert_int_equal(X509_NAME_entry_count(X509_REQ_get_subject_name(req)), 0);
		assert_int_equal(X509_REQ_verify(req, key), 1);
		assert_string_equal(san = ca_csr_names(req),
				    "DNS:a.test,DNS:*.a.test,IP:192.0.2.1,IP:2001:db8::1");
		assert_true(EVP_PKEY_is_a(key, rsa ? "RSA" : "EC"));
		X509_REQ_free(req);
		EVP_PKEY_free(key);
		free(san);
		free(der);
		free(text);
	}
}

/* ---- tls-alpn-01 ---- */

/* RFC 8737 section 3: the extension is critical, an OCTET STRING in it holds the digest; one name
 * only. */
static void alpn(void **state)
{
	static const uint8_t head[] = {0x30, 0x31, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07,
				       0x01, 0x1f, 0x01, 0x01, 0xff, 0x04, 0x22, 0x04, 0x20};
	static const char *const names_[] = {"app.test", "192.0.2.1", "2001:db8::1"};
	uint8_t want[sizeof(head) + 32];

	(void)state;
	memcpy(want, head, sizeof(head));
	km_sha256(want + sizeof(head), "token.print", 11);
	for (size_t i = 0; i < KM_ARRAY_LEN(names_); i++) {
		EVP_PKEY *key;
		X509 *x;
		GENERAL_NAMES *all;
		ASN1_OBJECT *oid = OBJ_txt2obj("1.3.6.1.5.5.7.1.31", 1);
		uint8_t *der = NULL;

		assert_int_equal(acme_alpn_cert(&x, &key, names_[i], "token.print"), 0);
		assert_int_equal(X509_check_private_key(x, key), 1);
		assert_int_equal(X509_verify(x, key), 1);
		assert_int_equal(
		    i2d_X509_EXTENSION(X509_get_ext(x, X509_get_ext_by_OBJ(x, oid, -1)), &der),
		    sizeof(want));
		assert_memory_equal(der, want, sizeof(want));
		all = X509_get_ext_d2i(x, NID_subject_alt_name, NULL, NULL);
		assert_int_equal(sk_GENERAL_NAME_num(all), 1);
		assert_int_equal(i ? X509_check_ip_asc(x, names_[i], 0)
				   : X509_check_host(x, "app.test", 0, 0, NULL),
				 1);
		GENERAL_NAMES_free(all);
		ASN1_OBJECT_free(oid);
		OPENSSL_free(der);
		X509_free(x);
		EVP_PKEY_free(key);
	}
}

/* ---- RFC 9773 section 4.1 and appendix A ---- */

static void ari_id(void **state)
{
	static const char pem[] =
	    "-----BEGIN CERTIFICATE-----\n"
	    "MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt\n"
	    "cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS\n"
	    "BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu\n"
	    "7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf\n"
	    "qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B\n"
	    "yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb\n"
	    "+FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK\n"
	    "-----END CERTIFICATE-----\n";
	char out[200];
	char *self = NULL;
	EVP_PKEY *key;
	X509 *x;

	(void)state;
	assert_int_equal(acme_ari_id(out, sizeof(out), pem), 0);
	assert_string_equal(out, "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
	assert_int_equal(acme_ari_id(out, 20, pem), 0); /* there is no room for it */
	assert_string_equal(out, "");
	assert_int_equal(acme_alpn_cert(&x, &key, "a.test", "t.p"),
			 0); /* names no authority's key */
	ca_append(&self, x);
	assert_int_equal(acme_ari_id(out, sizeof(out), self), 0);
	assert_string_equal(out, "");
	assert_int_equal(acme_ari_id(out, sizeof(out), "nothing"), KM_EINVAL);
	free(self);
	EVP_PKEY_free(key);
}

/* ---- Link ---- */

static void links(void **state)
{
	static const struct {
		const char *link, *first, *second;
	} table[] = {
	    {NULL, NULL, NULL},
	    {"", NULL, NULL},
	    {"<" CA "/1>;rel=\"alternate\"", CA "/1", NULL},
	    {"<" CA "/1> ; REL=alternate", CA "/1", NULL},
	    {"<" CA "/1>;rel=alternates", NULL, NULL},
	    {"<" CA "/1>;rel=\"up\"\n<" CA "/2>;rel=\"alternate\"", CA "/2", NULL},
	    {"<" CA "/1>;rel=\"alternate\", <" CA "/2>;rel=\"alternate\"", CA "/1", CA "/2"},
	    {"<" CA "/1>;title=\"; rel=alternate, <x>\";rel=\"up\"", CA "/1", NULL}, /* harmless */
	    {"<" CA "/1>;title=\"a,b\";rel=\"alternate\"\n<" CA "/2>; rel=\"alternate\"", CA "/1",
	     CA "/2"},
	    {"<http://ca.test/1>;rel=\"alternate\",<" CA "/2>;rel=\"alternate\"", CA "/2", NULL},
	    {"<" CA "/1;rel=\"alternate\"", NULL, NULL},
	    {"<" CA "/1\n<" CA "/2>;rel=\"alternate\"", CA "/2", NULL},
	    {"<>;rel=\"alternate\"", NULL, NULL},
	    {"<" CA "/1>;rel=\"alternate", NULL, NULL},
	    {"<" CA "/1>;", NULL, NULL},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(table); i++) {
		const char *want[] = {table[i].first, table[i].second};

		for (size_t k = 0; k < 2; k++) {
			char *got = chain_alternate(table[i].link, k);

			if (!got != !want[k] || (got && strcmp(got, want[k]) != 0))
				fail_msg("%s: %zu: %s", table[i].link, k, got ? got : "none");
			free(got);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(thumbprints), cmocka_unit_test(signatures), cmocka_unit_test(names),
	    cmocka_unit_test(requests),    cmocka_unit_test(alpn),       cmocka_unit_test(ari_id),
	    cmocka_unit_test(links),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
