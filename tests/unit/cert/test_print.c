/* SPDX-License-Identifier: MIT */
/* What is shown, to the letter. The encodings are fixed ones with a signature of zeros: reading
 * does not ask whether it holds. */
#include "libkm/cert/print.h"
#include "tests/unit/cert/assemble.h"

#define KEY "b0a2a5c5aa9fe1f4f5301f9faa6638355e6afbc82c200e3ca275dd686c200f15"
#define ISSUER "d198f1266bb4ff9547c9e9bc4655cefd37a473de8f915bf50fa504656163fbb7"
#define ZEROS_32 "0000000000000000000000000000000000000000000000000000000000000000"
#define SIG ZEROS_32 ZEROS_32

/* The CA that nebula-cert 1.6.1 made, as version 1. */
#define CA_1                                                                                       \
	"0a(0a('km-test CA') 12(8080b452 8080fcff0f) 1a(8080a0850c 8080fcff0f) 22('gw') "          \
	"22('agent') 289cdd84d806 309cc489e706 3a(" KEY ") 4001) 12(" SIG ")"
#define HOST_2                                                                                     \
	"30(a0(80('a\"b') a1(04(0a4d010510)) a3(0c('x')) 85(6b012e9c) 86(6ce2621c) 87(" ISSUER     \
	")) 82(" KEY ") 83(" SIG "))"

static struct km_cert *read_text(int version, const char *text)
{
	struct assembler *a = calloc(1, sizeof(*a));
	struct km_errtext err = {""};
	struct km_cert *c;
	struct bytes *b;

	assert_non_null(a);
	a->der = version == 2;
	b = assembled(a, text);
	if (km_cert_parse(&c, version, b->b, b->n, &err))
		fail_msg("%s", err.text);
	free(b);
	free(a);
	return c;
}

/* The text that is appended, to be freed. */
static char *shown(const struct km_cert *c, bool json)
{
	struct km_buf b;
	char *text;

	km_buf_init(&b, 1 << 16);
	assert_int_equal(json ? km_cert_print_json(&b, c) : km_cert_print(&b, c), 0);
	text = strndup((char *)km_buf_head(&b), b.len);
	assert_non_null(text);
	km_buf_free(&b);
	return text;
}

static void version_1_as_nebula_cert_shows_it(void **state)
{
	struct km_cert *c = read_text(1, CA_1);
	char fp[KM_CERT_FP_STRLEN], *text = shown(c, false), *json = shown(c, true), *want;

	(void)state;
	km_cert_fp_str(c, fp);
	want = km_xasprintf("NebulaCertificate {\n\tDetails {\n\t\tName: km-test CA\n"
			    "\t\tIps: [\n\t\t\t10.77.0.0/16\n\t\t]\n"
			    "\t\tSubnets: [\n\t\t\t192.168.0.0/16\n\t\t]\n"
			    "\t\tGroups: [\n\t\t\t\"gw\"\n\t\t\t\"agent\"\n\t\t]\n"
			    "\t\tNot before: 2026-11-21 05:39:40 +0000 UTC\n"
			    "\t\tNot After: 2027-11-21 05:39:40 +0000 UTC\n"
			    "\t\tIs CA: true\n\t\tIssuer: \n\t\tPublic key: " KEY "\n\t}\n"
			    "\tFingerprint: %s\n\tSignature: " SIG "\n}\n",
			    fp);
	assert_string_equal(text, want);
	free(want);
	want =
	    km_xasprintf("{\"details\":{\"groups\":[\"gw\",\"agent\"],\"ips\":[\"10.77.0.0/16\"],"
			 "\"isCa\":true,\"issuer\":\"\",\"name\":\"km-test CA\","
			 "\"notAfter\":\"2027-11-21T05:39:40Z\","
			 "\"notBefore\":\"2026-11-21T05:39:40Z\",\"publicKey\":\"" KEY "\","
			 "\"subnets\":[\"192.168.0.0/16\"]},\"fingerprint\":\"%s\","
			 "\"signature\":\"" SIG "\"}\n",
			 fp);
	assert_string_equal(json, want);
	free(want);
	free(text);
	free(json);
	km_cert_free(c);
}

static void version_2_says_more(void **state)
{
	struct km_cert *c = read_text(2, HOST_2);
	char fp[KM_CERT_FP_STRLEN], *text = shown(c, false), *json = shown(c, true), *want;

	(void)state;
	want = km_xasprintf("{\"curve\":\"CURVE25519\",\"details\":{\"groups\":[\"x\"],"
			    "\"isCa\":false,\"issuer\":\"" ISSUER "\",\"name\":\"a\\\"b\","
			    "\"networks\":[\"10.77.1.5/16\"],\"notAfter\":\"2027-11-21T05:39:40Z\","
			    "\"notBefore\":\"2026-11-21T05:39:40Z\",\"unsafeNetworks\":[]},"
			    "\"fingerprint\":\"%s\",\"publicKey\":\"" KEY "\","
			    "\"signature\":\"" SIG "\",\"version\":2}\n",
			    km_cert_fp_str(c, fp));
	assert_string_equal(json, want);
	assert_non_null(strstr(text, "\t\tNetworks: [\n\t\t\t10.77.1.5/16\n\t\t]\n"
				     "\t\tUnsafe networks: []\n"));
	assert_non_null(strstr(text, "\t\tCurve: CURVE25519\n\t\tVersion: 2\n"));
	free(want);
	free(text);
	free(json);
	km_cert_free(c);
}

/* Times at the ends of their type are shown, and judged, without harm. */
static void any_time_is_shown(void **state)
{
	struct km_cert *c = read_text(1, "0a(28ffffffffffffffff7f 3080808080808080808001 3a(" KEY
					 ") 4001) 12(" SIG ")");
	char *text = shown(c, false), *json = shown(c, true);

	(void)state;
	assert_int_equal(c->not_before, INT64_MAX);
	assert_int_equal(c->not_after, INT64_MIN);
	assert_non_null(strstr(text, "Not before: 9223372036854775807\n"));
	assert_non_null(strstr(json, "\"notAfter\":\"-9223372036854775808\""));
	assert_int_equal(km_cert_valid_at(c, NOW), KM_CERT_EEARLY);
	assert_int_equal(km_cert_valid_at(c, KM_CERT_ANY_TIME), 0);
	free(text);
	free(json);
	km_cert_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(version_1_as_nebula_cert_shows_it),
	    cmocka_unit_test(version_2_says_more),
	    cmocka_unit_test(any_time_is_shown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
