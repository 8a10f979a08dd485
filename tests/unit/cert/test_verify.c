/* SPDX-License-Identifier: MIT */
/* What is signed is verified, and each rule refuses with its own code and names the value. */
#include "libkm/base/util.h"
#include "tests/unit/cert/fixture.h"

static const struct kind {
	int version, curve;
} kinds[] = {
    {KM_CERT_V1, KM_CERT_25519},
    {KM_CERT_V1, KM_CERT_P256},
    {KM_CERT_V2, KM_CERT_25519},
    {KM_CERT_V2, KM_CERT_P256},
};

static const struct says limits = {.name = "limited",
				   .networks = "10.77.0.0/16 10.99.3.4/24",
				   .unsafe = "192.168.0.0/16",
				   .groups = "agent gateway"};

static void what_is_signed_is_verified(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(kinds); i++) {
		struct authority a = authority_new(kinds[i].version, kinds[i].curve, limits);
		struct km_cert_pool *pool = pool_of(&a);
		struct km_cert *c = host_new(&a, kinds[i].version,
					     (struct says){.name = "agent1",
							   .networks = "10.77.1.5/16",
							   .unsafe = "192.168.7.0/24",
							   .groups = "agent"});
		struct km_errtext err = {""};

		if (km_cert_verify(pool, c, NOW, &err))
			fail_msg("%s", err.text);
		assert_true(km_cert_has_group(c, "agent"));
		assert_false(km_cert_has_group(c, "gateway"));
		assert_int_equal(c->networks[0].bits, 16);
		assert_int_equal(c->networks[0].addr.ip[3], 5);
		km_cert_free(c);
		km_cert_pool_free(pool);
		authority_free(&a);
	}
}

static void the_ca_limits_what_it_signs(void **state)
{
	static const struct {
		struct says says;
		int verdict;
		const char *named;
	} cases[] = {
	    {{.networks = "10.77.0.1/8"}, KM_CERT_ENETWORK, "10.77.0.1/8"},
	    {{.networks = "10.78.0.1/16"}, KM_CERT_ENETWORK, "10.78.0.1/16"},
	    {{.networks = "10.77.0.1/16", .groups = "agent admin"}, KM_CERT_EGROUP, "admin"},
	    {{.networks = "10.77.0.1/16", .groups = "Agent"}, KM_CERT_EGROUP, "Agent"},
	    {{.networks = "10.77.0.1/16", .unsafe = "8.8.8.0/24"}, KM_CERT_EUNSAFE, "8.8.8.0/24"},
	    {{.networks = "10.77.0.1/16", .unsafe = "192.168.0.0/15"},
	     KM_CERT_EUNSAFE,
	     "192.168.0.0/15"},
	    {{.networks = "10.77.0.1/16", .to = TO + 1}, KM_CERT_EOUTLIVES, "limited"},
	    {{.networks = "10.77.0.1/16", .from = FROM - 1}, KM_CERT_EPREDATES, "limited"},
	    {{.networks = "10.99.3.200/24"}, 0, NULL}, /* the limit's host bits do not count */
	    {{.networks = "10.77.0.1/32", .groups = "agent gateway"}, 0, NULL},
	};

	(void)state;
	for (size_t k = 0; k < KM_ARRAY_LEN(kinds); k++) {
		int version = kinds[k].version;
		struct authority a = authority_new(version, kinds[k].curve, limits);
		struct authority open = authority_new(
		    version, kinds[k].curve, (struct says){.from = FROM - 9, .to = TO + 9});

		for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
			struct km_errtext err = {""};
			struct km_cert *c = NULL;

			/* Refused where it is signed… */
			assert_int_equal(host_try(&c, &a, version, cases[i].says, &err),
					 cases[i].verdict);
			if (cases[i].verdict)
				assert_non_null(strstr(err.text, cases[i].named));
			km_cert_free(c);
			/* …and where it is judged: an unlimited CA signs it, the limited one does
			 * not bear it. */
			c = host_new(&open, version, cases[i].says);
			assert_int_equal(km_cert_constraints(a.cert, c, &err), cases[i].verdict);
			km_cert_free(c);
		}
		authority_free(&a);
		authority_free(&open);
	}
}

static void time_is_judged_last_and_with_margins(void **state)
{
	struct authority a = authority_new(KM_CERT_V1, KM_CERT_25519, (struct says){.name = NULL});
	struct km_cert_pool *pool = pool_of(&a);
	struct km_cert *c =
	    host_new(&a, KM_CERT_V1,
		     (struct says){.networks = "10.0.0.1/8", .from = FROM + 100, .to = TO - 100});
	const struct {
		struct km_cert_when when;
		int verdict;
	} cases[] = {
	    {{FROM + 100, 0, 0}, 0},
	    {{TO - 100, 0, 0}, 0},
	    {{FROM + 99, 0, 0}, KM_CERT_EEARLY},
	    {{TO - 99, 0, 0}, KM_CERT_EEXPIRED},
	    {{FROM - 1, 0, 0}, KM_CERT_ECA_EARLY},
	    {{TO + 1, 0, 0}, KM_CERT_ECA_EXPIRED},
	    {{TO - 100 + 30, 0, 30}, 0},
	    {{TO - 100 + 31, 0, 30}, KM_CERT_EEXPIRED},
	    {{FROM + 70, 30, 0}, 0},
	    {{FROM + 69, 30, 0}, KM_CERT_EEARLY},
	    {{TO - 99, -5, -5}, KM_CERT_EEXPIRED},
	    {{INT64_MAX, 0, 30}, KM_CERT_ECA_EXPIRED},
	    {{INT64_MIN, 30, 0}, KM_CERT_ECA_EARLY},
	    {KM_CERT_ANY_TIME, 0},
	    {{INT64_MAX, 0, INT64_MAX}, 0},
	    {{INT64_MIN, INT64_MAX, 0}, 0},
	};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		assert_int_equal(km_cert_verify(pool, c, cases[i].when, NULL), cases[i].verdict);
		assert_int_equal(km_cert_verify_time(pool, c, cases[i].when, NULL),
				 cases[i].verdict);
	}
	/* Something else is wrong as well: that is what is said. */
	assert_int_equal(km_cert_pool_block(pool, c->fingerprint), 0);
	assert_int_equal(km_cert_verify(pool, c, (struct km_cert_when){TO + 1, 0, 0}, NULL),
			 KM_CERT_EBLOCKED);
	km_cert_free(c);
	km_cert_pool_free(pool);
	authority_free(&a);
}

/* A CA of the same name, limits and validity, but another key, is another CA. */
static void only_the_issuer_in_the_pool_counts(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(kinds); i++) {
		struct authority a = authority_new(kinds[i].version, kinds[i].curve, limits);
		struct authority b = authority_new(kinds[i].version, kinds[i].curve, limits);
		struct km_cert_pool *pool = pool_of(&b);
		struct km_errtext err = {""};
		struct km_cert *c =
		    host_new(&a, kinds[i].version,
			     (struct says){.name = "agent1", .networks = "10.77.1.5/16"});

		assert_int_equal(km_cert_verify(pool, c, NOW, &err), KM_CERT_EISSUER);
		assert_non_null(strstr(err.text, "agent1"));
		assert_int_equal(km_cert_pool_add(pool, a.cert, NULL), 0);
		assert_int_equal(km_cert_verify(pool, c, NOW, &err), 0);
		assert_int_equal(km_cert_verify(pool, a.cert, NOW, &err), KM_CERT_EISCA);
		/* A host is no CA. */
		assert_int_equal(km_cert_pool_add(pool, c, &err), KM_CERT_ENOTCA);
		/* A blocked CA takes along what it signed. */
		assert_int_equal(km_cert_pool_block(pool, a.cert->fingerprint), 0);
		assert_int_equal(km_cert_verify(pool, c, NOW, &err), KM_CERT_EISSUER);
		assert_non_null(strstr(err.text, "blocked"));
		km_cert_free(c);
		km_cert_pool_free(pool);
		authority_free(&a);
		authority_free(&b);
	}
}

/* A certificate of one curve that names a CA of the other. */
static void the_issuer_has_the_same_curve(void **state)
{
	(void)state;
	for (int curve = KM_CERT_25519; curve <= KM_CERT_P256; curve++) {
		struct authority a = authority_new(KM_CERT_V1, curve, limits);
		struct authority other = authority_new(KM_CERT_V1, !curve, limits);
		struct km_cert_pool *pool = pool_of(&other);
		struct km_cert *c =
		    host_new(&a, KM_CERT_V1, (struct says){.networks = "10.77.1.5/16"});
		uint8_t *issuer = memmem(c->raw, c->raw_len, c->issuer, KM_CERT_FP_LEN);
		struct km_cert *moved;

		assert_non_null(issuer);
		memcpy(issuer, other.cert->fingerprint, KM_CERT_FP_LEN);
		assert_int_equal(km_cert_parse(&moved, KM_CERT_V1, c->raw, c->raw_len, NULL), 0);
		assert_int_equal(km_cert_verify(pool, moved, NOW, NULL), KM_CERT_ECURVE);
		km_cert_free(moved);
		km_cert_free(c);
		km_cert_pool_free(pool);
		authority_free(&a);
		authority_free(&other);
	}
}

/* The certificate with the other of P-256's two signatures is the same one for the blocklist. */
static void both_forms_of_a_p256_signature_are_blocked(void **state)
{
	(void)state;
	for (int version = KM_CERT_V1; version <= KM_CERT_V2; version++) {
		struct authority a = authority_new(version, KM_CERT_P256, limits);
		struct km_cert *c =
		    host_new(&a, version, (struct says){.networks = "10.77.1.5/16"});
		struct km_cert_pool *pool = pool_of(&a), *pool2 = pool_of(&a);
		uint8_t sig[KM_CERT_SIG_MAX];
		struct km_cert *high;
		size_t n;
		uint8_t *raw, *at;
		size_t raw_len;

		assert_int_equal(km_cert_sig_other(sig, &n, c->signature, c->signature_len), 0);
		assert_true(n >= c->signature_len); /* what we sign has the low s */
		/* Put it in place of the other, which ends the encoding; lengths are single bytes,
		 * but for the outermost ones of version 2. */
		raw_len = c->raw_len - c->signature_len + n;
		raw = malloc(raw_len);
		assert_non_null(raw);
		memcpy(raw, c->raw, c->raw_len - c->signature_len);
		at = raw + c->raw_len - c->signature_len;
		memcpy(at, sig, n);
		at[-1] = (uint8_t)n;
		if (version == KM_CERT_V2) {
			assert_int_equal(raw[1], 0x81);
			raw[2] = (uint8_t)(raw[2] + n - c->signature_len);
		}
		assert_int_equal(km_cert_parse(&high, version, raw, raw_len, NULL), 0);
		assert_memory_equal(high->fingerprint, c->fingerprint2, KM_CERT_FP_LEN);
		assert_memory_equal(high->fingerprint2, c->fingerprint, KM_CERT_FP_LEN);
		assert_int_equal(km_cert_verify(pool, high, NOW, NULL), 0);

		assert_int_equal(km_cert_pool_block(pool, c->fingerprint), 0);
		assert_int_equal(km_cert_pool_block(pool2, c->fingerprint2), 0);
		assert_int_equal(km_cert_verify(pool, c, NOW, NULL), KM_CERT_EBLOCKED);
		assert_int_equal(km_cert_verify(pool, high, NOW, NULL), KM_CERT_EBLOCKED);
		assert_int_equal(km_cert_verify(pool2, c, NOW, NULL), KM_CERT_EBLOCKED);
		assert_int_equal(km_cert_verify(pool2, high, NOW, NULL), KM_CERT_EBLOCKED);
		free(raw);
		km_cert_free(high);
		km_cert_free(c);
		km_cert_pool_free(pool);
		km_cert_pool_free(pool2);
		authority_free(&a);
	}
}

static void what_a_version_cannot_say_is_not_signed(void **state)
{
	static const struct {
		int version;
		struct says says;
		int rc;
		const char *named;
	} cases[] = {
	    {KM_CERT_V1, {.networks = "fd00::1/64"}, KM_EINVAL, "IPv6"},
	    {KM_CERT_V1, {.networks = "10.0.0.1/8", .unsafe = "fd00::/8"}, KM_EINVAL, "IPv6"},
	    {KM_CERT_V1, {.networks = ""}, KM_EINVAL, "without a network"},
	    {KM_CERT_V1, {.networks = "0.0.0.0/0"}, KM_EINVAL, "zero address"},
	    {KM_CERT_V1, {.networks = "10.0.0.1/8", .name = "a\nb"}, KM_EINVAL, "control"},
	    {KM_CERT_V1, {.networks = "10.0.0.1/8", .name = "a\xff"}, KM_EINVAL, "UTF-8"},
	    {KM_CERT_V1, {.networks = "10.0.0.1/8", .name = "\xc2\x85"}, KM_EINVAL, "control"},
	    {KM_CERT_V1, {.networks = "10.0.0.1/8", .groups = "a\x1b[31m"}, KM_EINVAL, "control"},
	    {KM_CERT_V1, {.networks = "10.0.0.1/8", .name = ""}, 0, NULL},
	    {KM_CERT_V2, {.networks = "10.0.0.1/8", .name = ""}, KM_EINVAL, "name"},
	    {KM_CERT_V2, {.networks = "10.0.0.1/8 10.0.0.1/8"}, KM_EINVAL, "twice"},
	    {KM_CERT_V2,
	     {.networks = "10.0.0.1/8", .unsafe = "1.0.0.0/8 1.0.0.0/8"},
	     KM_EINVAL,
	     "twice"},
	    {KM_CERT_V2, {.networks = "::/0"}, KM_EINVAL, "zero address"},
	    {KM_CERT_V2, {.networks = "::ffff:10.0.0.1/104"}, KM_EINVAL, "written as IPv6"},
	    {KM_CERT_V2, {.networks = "10.0.0.1/8", .unsafe = "fd00::/8"}, KM_EINVAL, "fd00::/8"},
	    {KM_CERT_V2, {.networks = "fd00::1/8", .unsafe = "1.0.0.0/8"}, KM_EINVAL, "1.0.0.0/8"},
	    {KM_CERT_V2, {.networks = "fd00::1/8 10.0.0.1/8", .unsafe = "1.0.0.0/8"}, 0, NULL},
	};
	struct authority a = authority_new(KM_CERT_V1, KM_CERT_25519, (struct says){.name = NULL});

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		struct km_errtext err = {""};
		struct km_cert *c;

		assert_int_equal(host_try(&c, &a, cases[i].version, cases[i].says, &err),
				 cases[i].rc);
		if (cases[i].rc && !strstr(err.text, cases[i].named))
			fail_msg("case %zu: %s", i, err.text);
		km_cert_free(c);
	}
	authority_free(&a);
}

static void a_foreign_key_signs_nothing(void **state)
{
	struct authority a = authority_new(KM_CERT_V1, KM_CERT_25519, limits);
	struct authority b = authority_new(KM_CERT_V1, KM_CERT_25519, limits);
	struct authority p = authority_new(KM_CERT_V1, KM_CERT_P256, limits);
	struct km_cert *c,
	    *host = host_new(&a, KM_CERT_V1, (struct says){.networks = "10.77.0.1/32"});
	struct authority mixed = {.key = b.key, .cert = a.cert};
	struct km_errtext err = {""};
	struct km_cert_key k;

	(void)state;
	assert_int_equal(
	    host_try(&c, &mixed, KM_CERT_V1, (struct says){.networks = "10.77.0.1/32"}, &err),
	    KM_CERT_EKEY);
	mixed.key = p.key;
	assert_int_equal(
	    host_try(&c, &mixed, KM_CERT_V1, (struct says){.networks = "10.77.0.1/32"}, &err),
	    KM_CERT_ECURVE);
	mixed = (struct authority){.key = a.key, .cert = host};
	assert_int_equal(
	    host_try(&c, &mixed, KM_CERT_V1, (struct says){.networks = "10.77.0.1/32"}, &err),
	    KM_CERT_ENOTCA);
	assert_int_equal(km_cert_key_new(&k, KM_CERT_25519, false), 0);
	assert_int_equal(km_cert_key_fits(&k, host, &err), KM_CERT_EKEY);
	km_cert_free(host);
	authority_free(&a);
	authority_free(&b);
	authority_free(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_signed_is_verified),
	    cmocka_unit_test(the_ca_limits_what_it_signs),
	    cmocka_unit_test(time_is_judged_last_and_with_margins),
	    cmocka_unit_test(only_the_issuer_in_the_pool_counts),
	    cmocka_unit_test(the_issuer_has_the_same_curve),
	    cmocka_unit_test(both_forms_of_a_p256_signature_are_blocked),
	    cmocka_unit_test(what_a_version_cannot_say_is_not_signed),
	    cmocka_unit_test(a_foreign_key_signs_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
