/* SPDX-License-Identifier: MIT */
/* One certificate, one encoding: what the published layouts say is read, every deviation refused.
 */
#include "tests/unit/cert/assemble.h"

#define V1_OUTER "0a($D) 12($S)"
#define V1_TIMES "28 9cdd84d806 30 9cc489e706 "
#define V1_CA "0a('ca') " V1_TIMES "3a($P) 4001"
#define V1_REST V1_TIMES "3a($P) 4a($I)"
#define V1_IPS "12(8582b452 8080fcff0f) " /* 10.77.1.5/16 */
#define V2_OUTER "30($D 82($P) 83($S))"
#define V2_TIMES "85(6b012e9c) 86(6ce2621c) "

static struct assembler *make_assembler(bool der, uint8_t sk[static crypto_sign_SECRETKEYBYTES])
{
	struct assembler *a = calloc(1, sizeof(*a));

	assert_non_null(a);
	a->der = der;
	a->var['P'].n = crypto_sign_PUBLICKEYBYTES;
	crypto_sign_keypair(a->var['P'].b, sk);
	return a;
}

/* The CA in version 1 or 2, trusted; sets $I to its fingerprint. */
static struct km_cert_pool *make_ca(struct assembler *a, const uint8_t *sk, const char *details,
				    const char *outer)
{
	struct bytes *b = signed_by(a, details, outer, sk);
	struct km_cert_pool *pool = km_cert_pool_new();
	struct km_errtext err = {""};
	struct km_cert *ca;

	if (km_cert_parse(&ca, a->der ? 2 : 1, b->b, b->n, &err))
		fail_msg("%s", err.text);
	assert_int_equal(ca->raw_len, b->n);
	assert_memory_equal(ca->raw, b->b, b->n);
	assert_int_equal(km_cert_pool_add(pool, ca, &err), 0);
	a->var['I'].n = KM_CERT_FP_LEN;
	if (a->der) {
		struct bytes *over = assembled(a, "$D 00 $P $S");

		crypto_hash_sha256(a->var['I'].b, over->b, over->n);
		free(over);
	} else {
		crypto_hash_sha256(a->var['I'].b, b->b, b->n);
	}
	assert_memory_equal(a->var['I'].b, ca->fingerprint, KM_CERT_FP_LEN);
	km_cert_free(ca);
	free(b);
	return pool;
}

struct deviation {
	const char *what, *details, *outer; /* outer NULL: the usual one */
	bool taken;
};

static void try_all(struct assembler *a, struct km_cert_pool *pool, const uint8_t *sk,
		    const char *usual, const struct deviation *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const struct deviation *d = &list[i];
		struct bytes *b = signed_by(a, d->details, d->outer ? d->outer : usual, sk);
		uint8_t *p = guarded(b->b, b->n);
		struct km_errtext err = {""};
		struct km_cert *c;
		int rc = km_cert_parse(&c, a->der ? 2 : 1, p, b->n, &err);

		if (!rc)
			rc = km_cert_verify(pool, c, NOW, &err);
		if (d->taken != !rc)
			fail_msg("%s: %d, %s", d->what, rc, err.text);
		/* Refused for its form: were it read, it would verify. */
		if (!d->taken && rc < KM_EGAP)
			fail_msg("%s: read, then %s", d->what, err.text);
		km_cert_free(c);
		unguard(p, b->n);
		free(b);
	}
}

static const struct deviation v1_list[] = {
    {"canonical", "0a('agent1') " V1_IPS "22('agent') " V1_REST, NULL, true},
    {"two groups", "0a('a') " V1_IPS "22('x') 22('y') " V1_REST, NULL, true},
    {"no name", V1_IPS V1_REST, NULL, true},
    {"subnets", "0a('a') " V1_IPS "1a(808ea0850c 80feffff0f) " V1_REST, NULL, true},
    {"several networks", "0a('a') 12(8582b452 8080fcff0f 01 00) " V1_REST, NULL, true},

    {"name after networks", V1_IPS "0a('a') " V1_REST, NULL, false},
    {"times swapped", "0a('a') " V1_IPS "30 9cc489e706 28 9cdd84d806 3a($P) 4a($I)", NULL, false},
    {"issuer before key", "0a('a') " V1_IPS V1_TIMES "4a($I) 3a($P)", NULL, false},
    {"unpacked networks", "0a('a') 10 8582b452 10 8080fcff0f " V1_REST, NULL, false},
    {"networks in two fields", "0a('a') 12(8582b452) 12(8080fcff0f) " V1_REST, NULL, false},
    {"networks twice", "0a('a') " V1_IPS V1_IPS V1_REST, NULL, false},
    {"name twice", "0a('a') 0a('a') " V1_IPS V1_REST, NULL, false},
    {"time twice", "0a('a') " V1_IPS "28 9cdd84d806 " V1_REST, NULL, false},
    {"key twice", "0a('a') " V1_IPS V1_TIMES "3a($P) 3a($P) 4a($I)", NULL, false},
    {"padded length", "0a 8100 'a' " V1_IPS V1_REST, NULL, false},
    {"padded tag", "8a00 ('a') " V1_IPS V1_REST, NULL, false},
    {"padded number", "0a('a') " V1_IPS "28 9cdd84d88600 30 9cc489e706 3a($P) 4a($I)", NULL, false},
    {"padded address", "0a('a') 12(8582b4d200 8080fcff0f) " V1_REST, NULL, false},
    {"eleven byte number",
     "0a('a') " V1_IPS "28 8080808080808080808000 30 9cc489e706 3a($P) 4a($I)", NULL, false},
    {"ten byte number over 64 bits",
     "0a('a') " V1_IPS "28 ffffffffffffffffff02 30 9cc489e706 3a($P) 4a($I)", NULL, false},
    {"unknown field", "0a('a') " V1_IPS V1_REST " 5001", NULL, false},
    {"unknown field 50", "0a('a') " V1_IPS V1_REST " 920301'x'", NULL, false},
    {"field 0", "0a('a') " V1_IPS V1_REST " 0001", NULL, false},
    {"not a CA, said", "0a('a') " V1_IPS V1_TIMES "3a($P) 4000 4a($I)", NULL, false},
    {"is a CA, by 2", "0a('a') " V1_IPS V1_TIMES "3a($P) 4002", NULL, false},
    {"curve 0, said", "0a('a') " V1_IPS V1_REST " a00600", NULL, false},
    {"curve 2", "0a('a') " V1_IPS V1_REST " a00602", NULL, false},
    {"curve 1 with these keys", "0a('a') " V1_IPS V1_REST " a00601", NULL, false},
    {"time 0, said", "0a('a') " V1_IPS "28 00 30 9cc489e706 3a($P) 4a($I)", NULL, false},
    {"empty name, said", "0a00 " V1_IPS V1_REST, NULL, false},
    {"no subnets, said", "0a('a') " V1_IPS "1a00 " V1_REST, NULL, false},
    {"odd networks", "0a('a') 12(8582b452 8080fcff0f 8582b452) " V1_REST, NULL, false},
    {"a mask with holes", "0a('a') 12(8582b452 80fe83f80f) " V1_REST, NULL, false},
    {"an address over 32 bits", "0a('a') 12(8582b4d210 8080fcff0f) " V1_REST, NULL, false},
    {"a mask over 32 bits", "0a('a') 12(8582b452 8080fcff1f) " V1_REST, NULL, false},
    {"zero address", "0a('a') 12(00 00) " V1_REST, NULL, false},
    {"no network", "0a('a') " V1_REST, NULL, false},
    {"another wire type", "0d 61616161 " V1_IPS V1_REST, NULL, false},
    {"a group begins", "0b " V1_IPS V1_REST, NULL, false},
    {"name as a number", "08 05 " V1_IPS V1_REST, NULL, false},
    {"time as bytes", "0a('a') " V1_IPS "2a('x') 30 9cc489e706 3a($P) 4a($I)", NULL, false},
    {"empty group", "0a('a') " V1_IPS "2200 " V1_REST, NULL, false},
    {"NUL in a group", "0a('a') " V1_IPS "22('a' 00) " V1_REST, NULL, false},
    {"NUL in the name", "0a('a' 00) " V1_IPS V1_REST, NULL, false},
    {"newline in the name", "0a('a' 0a) " V1_IPS V1_REST, NULL, false},
    {"no UTF-8", "0a(c3) " V1_IPS V1_REST, NULL, false},
    {"overlong UTF-8", "0a(c0af) " V1_IPS V1_REST, NULL, false},
    {"surrogate", "0a(eda080) " V1_IPS V1_REST, NULL, false},
    {"short issuer", "0a('a') " V1_IPS V1_TIMES "3a($P) 4a('0123456789012345678901234567890')",
     NULL, false},
    {"no issuer", "0a('a') " V1_IPS V1_TIMES "3a($P)", NULL, false},
    {"short key", "0a('a') " V1_IPS V1_TIMES "3a('0123456789012345678901234567890') 4a($I)", NULL,
     false},
    {"long key", "0a('a') " V1_IPS V1_TIMES "3a($P 00) 4a($I)", NULL, false},
    {"no key", "0a('a') " V1_IPS V1_TIMES "4a($I)", NULL, false},
    {"length beyond the end", "0a('a') " V1_IPS V1_TIMES "3a($P) 4a21 $I", NULL, false},

#define GOOD "0a('a') " V1_IPS V1_REST
    {"signature first", GOOD, "12($S) 0a($D)", false},
    {"signature twice", GOOD, "0a($D) 12($S) 12($S)", false},
    {"details twice", GOOD, "0a($D) 0a($D) 12($S)", false},
    {"details in two parts", GOOD, "0a() 0a($D) 12($S)", false},
    {"something behind", GOOD, "0a($D) 12($S) 1800", false},
    {"a byte behind", GOOD, "0a($D) 12($S) 00", false},
    {"no signature", GOOD, "0a($D)", false},
    {"empty signature", GOOD, "0a($D) 1200", false},
    {"long signature", GOOD, "0a($D) 12($S 00)", false},
    {"no details", GOOD, "12($S)", false},
    {"padded outer length", GOOD, "0a($D) 12 c000 $S", false},
};

static void version_1_has_one_encoding(void **state)
{
	uint8_t sk[crypto_sign_SECRETKEYBYTES];
	struct assembler *a = make_assembler(false, sk);
	struct km_cert_pool *pool = make_ca(a, sk, V1_CA, V1_OUTER);

	(void)state;
	try_all(a, pool, sk, V1_OUTER, v1_list, KM_ARRAY_LEN(v1_list));
	km_cert_pool_free(pool);
	free(a);
}

#define V2_IPS "a1(04(0a4d0105 10)) "
#define V2_HOST "a0(80('a') " V2_IPS V2_TIMES "87($I))"
static const struct deviation v2_list[] = {
    {"canonical", V2_HOST, NULL, true},
    {"groups", "a0(80('a') " V2_IPS "a3(0c('x') 0c('y')) " V2_TIMES "87($I))", NULL, true},
    {"both families, unsafe networks",
     "a0(80('a') a1(04(0a4d0105 10) 04(fd00000000000000000000000000000140)) "
     "a2(04(01000000 08) 04(fe80000000000000000000000000000040)) " V2_TIMES "87($I))",
     NULL, true},
    {"the order of lengths", "a0(80('a') a1(04(0a4d0105 10) 04(0a4d0105 11)) " V2_TIMES "87($I))",
     NULL, true},

    {"length of two bytes", "a0(80 8101 'a' " V2_IPS V2_TIMES "87($I))", NULL, false},
    {"length with a zero", "a0(80 820001 'a' " V2_IPS V2_TIMES "87($I))", NULL, false},
    {"length of four bytes", V2_HOST, "30($D 82($P) 83 8400000040 $S)", false},
    {"indefinite length", "a0 80 80('a') " V2_IPS V2_TIMES "87($I) 0000", NULL, false},
    {"curve 0, said", V2_HOST, "30($D 810100 82($P) 83($S))", false},
    {"curve 2", V2_HOST, "30($D 810102 82($P) 83($S))", false},
    {"curve of two bytes", V2_HOST, "30($D 81020001 82($P) 83($S))", false},
    {"curve 1 with these keys", V2_HOST, "30($D 810101 82($P) 83($S))", false},
    {"is a CA, by 1", "a0(80('a') " V2_IPS "840101 " V2_TIMES ")", NULL, false},
    {"not a CA, said", "a0(80('a') " V2_IPS "840100 " V2_TIMES "87($I))", NULL, false},
    {"a CA with an issuer", "a0(80('a') " V2_IPS "8401ff " V2_TIMES "87($I))", NULL, false},
    {"padded time", "a0(80('a') " V2_IPS "85(006b012e9c) 86(6ce2621c) 87($I))", NULL, false},
    {"time of nine bytes", "a0(80('a') " V2_IPS "85(010000000000000000) 86(6ce2621c) 87($I))", NULL,
     false},
    {"empty time", "a0(80('a') " V2_IPS "8500 86(6ce2621c) 87($I))", NULL, false},
    {"no end", "a0(80('a') " V2_IPS "85(6b012e9c) 87($I))", NULL, false},
    {"networks out of order", "a0(80('a') a1(04(0a4d0105 11) 04(0a4d0105 10)) " V2_TIMES "87($I))",
     NULL, false},
    {"IPv6 before IPv4",
     "a0(80('a') a1(04(fd00000000000000000000000000000140) 04(0a4d0105 10)) " V2_TIMES "87($I))",
     NULL, false},
    {"a network twice", "a0(80('a') a1(04(0a4d0105 10) 04(0a4d0105 10)) " V2_TIMES "87($I))", NULL,
     false},
    {"no networks, said", "a0(80('a') a100 " V2_TIMES "8401ff)", NULL, false},
    {"no groups, said", "a0(80('a') " V2_IPS "a300 " V2_TIMES "87($I))", NULL, false},
    {"empty group", "a0(80('a') " V2_IPS "a3(0c00) " V2_TIMES "87($I))", NULL, false},
    {"a group of another type", "a0(80('a') " V2_IPS "a3(04('x')) " V2_TIMES "87($I))", NULL,
     false},
    {"no name", "a0(8000 " V2_IPS V2_TIMES "87($I))", NULL, false},
    {"name left out", "a0(" V2_IPS V2_TIMES "87($I))", NULL, false},
    {"33 bits", "a0(80('a') a1(04(0a4d0105 21)) " V2_TIMES "87($I))", NULL, false},
    {"129 bits", "a0(80('a') a1(04(fd00000000000000000000000000000181)) " V2_TIMES "87($I))", NULL,
     false},
    {"a network of six bytes", "a0(80('a') a1(04(0a4d0105 1000)) " V2_TIMES "87($I))", NULL, false},
    {"an empty network", "a0(80('a') a1(0400) " V2_TIMES "87($I))", NULL, false},
    {"IPv4 as IPv6", "a0(80('a') a1(04(00000000000000000000ffff0a4d010570)) " V2_TIMES "87($I))",
     NULL, false},
    {"zero address", "a0(80('a') a1(04(00000000 00)) " V2_TIMES "87($I))", NULL, false},
    {"unsafe IPv6 without an address",
     "a0(80('a') " V2_IPS "a2(04(fe80000000000000000000000000000040)) " V2_TIMES "87($I))", NULL,
     false},
    {"groups before networks", "a0(80('a') a3(0c('x')) " V2_IPS V2_TIMES "87($I))", NULL, false},
    {"something behind the issuer", "a0(80('a') " V2_IPS V2_TIMES "87($I) 880100)", NULL, false},
    {"short issuer", "a0(80('a') " V2_IPS V2_TIMES "87('0123456789012345'))", NULL, false},
    {"no issuer", "a0(80('a') " V2_IPS V2_TIMES ")", NULL, false},
    {"something behind the signature", V2_HOST, "30($D 82($P) 83($S) 840100)", false},
    {"a byte behind", V2_HOST, "30($D 82($P) 83($S)) 00", false},
    {"signature before key", V2_HOST, "30($D 83($S) 82($P))", false},
    {"no key", V2_HOST, "30($D 83($S))", false},
    {"empty key", V2_HOST, "30($D 8200 83($S))", false},
    {"no signature", V2_HOST, "30($D 82($P))", false},
    {"empty signature", V2_HOST, "30($D 82($P) 8300)", false},
    {"a set", V2_HOST, "31($D 82($P) 83($S))", false},
    {"details as octets", V2_HOST, "30(04($D) 82($P) 83($S))", false},
};

static void version_2_has_one_encoding(void **state)
{
	uint8_t sk[crypto_sign_SECRETKEYBYTES];
	struct assembler *a = make_assembler(true, sk);
	struct km_cert_pool *pool = make_ca(a, sk, "a0(80('ca') 8401ff " V2_TIMES ")", V2_OUTER);

	(void)state;
	try_all(a, pool, sk, V2_OUTER, v2_list, KM_ARRAY_LEN(v2_list));
	km_cert_pool_free(pool);
	free(a);
}

/* The assembler itself, by the details that Nebula's tests publish (unsorted, with half an issuer).
 */
static void the_assembler_knows_the_published_layout(void **state)
{
	static const char published[] =
	    "a070800774657374696e67a10e04050a0101021004050a01010118a20e0405090101031004050901010218"
	    "a3270c0b746573742d67726f7570310c0b746573742d67726f7570320c0b746573742d67726f7570338504"
	    "318bef808604318befbc87101234567890abcdef1234567890abcdef";
	struct assembler *a = calloc(1, sizeof(*a));
	struct bytes *b;
	char hex[2 * 200 + 1];

	(void)state;
	assert_non_null(a);
	a->der = true;
	b = assembled(a, "a0(80('testing') a1(04(0a01010210) 04(0a01010118)) "
			 "a2(04(0901010310) 04(0901010218)) "
			 "a3(0c('test-group1') 0c('test-group2') 0c('test-group3')) "
			 "85(318bef80) 86(318befbc) 87(1234567890abcdef1234567890abcdef))");
	assert_true(b->n <= 200);
	assert_string_equal(km_hex(b->b, b->n, hex), published);
	free(b);
	free(a);
}

/* ---- bounds ---- */

static void repeat(char *to, const char *item, size_t n)
{
	*to = '\0';
	for (size_t i = 0; i < n; i++)
		to = stpcpy(to, item);
}

static void lengths_and_counts_have_bounds(void **state)
{
	static const struct {
		const char *item, *format;
		size_t most; /* repetitions that are taken */
	} cases[] = {
	    {"'n'", "0a(%s) " V1_IPS V1_REST, KM_CERT_NAME_MAX},
	    {"'g'", "0a('a') " V1_IPS "22(%s) " V1_REST, KM_CERT_GROUP_MAX},
	    {"22('g')", "0a('a') " V1_IPS "%s " V1_REST, KM_CERT_ITEMS_MAX},
	    {"8582b452 8080fcff0f", "0a('a') 12(%s) " V1_REST, KM_CERT_ITEMS_MAX},
	    {"01 00", "0a('a') " V1_IPS "1a(%s) " V1_REST, KM_CERT_ITEMS_MAX},
	};
	uint8_t sk[crypto_sign_SECRETKEYBYTES];
	struct assembler *a = make_assembler(false, sk);
	struct km_cert_pool *pool = make_ca(a, sk, V1_CA, V1_OUTER);

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		char *list = malloc((cases[i].most + 2) * 32);

		assert_non_null(list);
		for (size_t n = cases[i].most; n <= cases[i].most + 1; n++) {
			struct deviation d = {"as many as possible, or one more", NULL, NULL,
					      n == cases[i].most};
			char *details;

			repeat(list, cases[i].item, n);
			assert_true(asprintf(&details, cases[i].format, list) > 0);
			d.details = details;
			try_all(a, pool, sk, V1_OUTER, &d, 1);
			free(details);
		}
		free(list);
	}
	km_cert_pool_free(pool);
	free(a);
}

static void nothing_too_short_or_long_is_looked_at(void **state)
{
	uint8_t *p = calloc(1, KM_CERT_MAX + 1);
	struct km_cert *c;

	(void)state;
	assert_non_null(p);
	for (int version = 1; version <= 2; version++) {
		assert_int_equal(km_cert_parse(&c, version, p, 0, NULL), KM_ETRUNC);
		assert_int_equal(km_cert_parse(&c, version, p, KM_CERT_MAX + 1, NULL), KM_ETOOBIG);
		assert_true(km_cert_parse(&c, version, p, KM_CERT_MAX, NULL) < 0);
		assert_null(c);
	}
	assert_int_equal(km_cert_parse(&c, 0, p, 1, NULL), KM_EUNSUPPORTED);
	assert_int_equal(km_cert_parse(&c, 3, p, 1, NULL), KM_EUNSUPPORTED);
	free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(version_1_has_one_encoding),
	    cmocka_unit_test(version_2_has_one_encoding),
	    cmocka_unit_test(the_assembler_knows_the_published_layout),
	    cmocka_unit_test(lengths_and_counts_have_bounds),
	    cmocka_unit_test(nothing_too_short_or_long_is_looked_at),
	};

	return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
