/* SPDX-License-Identifier: MIT */
/* What the APIs of companies need: signatures, XML, pauses. */
#include "gatewayd/acme/dns/api.h"
#include "gatewayd/acme/dns/sigv4.h"
#include "gatewayd/acme/dns/xml.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Published with the specification: AWS's test suite (service "service") and its worked example
 * (IAM). */
#define ID "AKIDEXAMPLE"
#define SECRET "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
#define WHEN "20150830T123600Z"
#define FORM "application/x-www-form-urlencoded"

static const struct {
	const char *service;
	struct sigv4_request request;
	const char *names, *signature;
} vectors[] = {
    {"service",
     {"GET", "example.amazonaws.com", "/", "", NULL, ""},
     "host;x-amz-date",
     "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"service",
     {"GET", "example.amazonaws.com", "/", "Param1=value1&Param2=value2", NULL, ""},
     "host;x-amz-date",
     "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
    {"service",
     {"POST", "example.amazonaws.com", "/", "", NULL, ""},
     "host;x-amz-date",
     "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
    {"service",
     {"POST", "example.amazonaws.com", "/", "", FORM, "Param1=value1"},
     "content-type;host;x-amz-date",
     "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
    {"iam",
     {"GET", "iam.amazonaws.com", "/", "Action=ListUsers&Version=2010-05-08",
      FORM "; charset=utf-8", ""},
     "content-type;host;x-amz-date",
     "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"},
};

static void test_signatures(void **state)
{
	int64_t when;

	(void)state;
	assert_int_equal(km_iso8601_parse(&when, "2015-08-30T12:36:00Z"), 0);
	for (size_t i = 0; i < KM_ARRAY_LEN(vectors); i++) {
		struct sigv4_key k = {ID, SECRET, "us-east-1", vectors[i].service};
		char date[SIGV4_DATE_STRLEN], got[400], want[400];
		assert_int_equal(sigv4_sign(&k, &vectors[i].request, when, date, got, sizeof(got)),
				 0);
		snprintf(want, sizeof(want),
			 "AWS4-HMAC-SHA256 Credential=" ID "/20150830/us-east-1/%s/aws4_request, "
			 "SignedHeaders=%s, Signature=%s",
			 vectors[i].service, vectors[i].names, vectors[i].signature);
		assert_string_equal(date, WHEN);
		assert_string_equal(got, want);
		assert_int_equal(sigv4_sign(&k, &vectors[i].request, when, date, got, strlen(want)),
				 KM_ETOOBIG);
	}
}

static void test_xml(void **state)
{
	static const char doc[] =
	    "<?xml version=\"1.0\"?>\n<R xmlns=\"x\"><Things><Thing a=\"b\"><Name>one &amp; "
	    "&quot;two&quot;</Name>"
	    "</Thing><Thing "
	    "><Name/></Thing><Thing><Name><b>x</b></Name></Thing></Things><Th>&#65;&#x42;</Th></R>";
	struct xml x = {doc, strlen(doc)}, in;
	char text[64];

	(void)state;
	assert_true(xml_next(&x, "Thing", &in));
	assert_true(xml_text(in, "Name", text, sizeof(text)));
	assert_string_equal(text, "one & \"two\"");
	assert_false(xml_text(in, "Name", text, 5));
	assert_true(xml_next(&x, "Thing", &in));
	assert_true(xml_text(in, "Name", text, sizeof(text)));
	assert_string_equal(text, "");
	assert_true(xml_next(&x, "Thing", &in));
	assert_false(xml_text(in, "Name", text, sizeof(text)));
	assert_false(xml_next(&x, "Thing", &in));
	assert_true(xml_text(x, "Th", text, sizeof(text)));
	assert_string_equal(text, "AB");
	assert_false(xml_text((struct xml){doc, strlen(doc)}, "Nothing", text, sizeof(text)));
	/* cut anywhere, on the heap's edge */
	for (size_t n = 0; n < strlen(doc); n++) {
		char *copy = malloc(n + 1);
		memcpy(copy, doc, n);
		struct xml cut = {copy, n};
		while (xml_next(&cut, "Thing", &in))
			xml_text(in, "Name", text, sizeof(text));
		xml_text((struct xml){copy, n}, "Th", text, sizeof(text));
		free(copy);
	}
	static const char *const bad[] = {"<T>&nope;</T>", "<T>&#0;</T>", "<T>&#200;</T>",
					  "<T>&",          "<T>&#x;</T>", "<T>a<b</T>"};
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++)
		assert_false(
		    xml_text((struct xml){bad[i], strlen(bad[i])}, "T", text, sizeof(text)));
}

static void test_escape(void **state)
{
	char out[32];

	(void)state;
	assert_true(xml_escape("\"a<b>&'", out, sizeof(out)));
	assert_string_equal(out, "&quot;a&lt;b&gt;&amp;&apos;");
	assert_false(xml_escape("\"\"\"\"\"\"", out, sizeof(out)));
	assert_true(xml_escape("", out, 1));
	assert_false(xml_escape("a", out, 1));
}

static void test_pauses(void **state)
{
	(void)state;
	assert_int_equal(dns_api_pause_ms(NULL, 0), 1000);
	assert_int_equal(dns_api_pause_ms(NULL, 2), 4000);
	assert_int_equal(dns_api_pause_ms(NULL, 40), 60000);
	assert_int_equal(dns_api_pause_ms("7", 0), 7000);
	assert_int_equal(dns_api_pause_ms("0", 2), 0);
	assert_int_equal(dns_api_pause_ms("100000", 0), 60000);
	assert_int_equal(dns_api_pause_ms("-1", 1), 2000);
	assert_int_equal(dns_api_pause_ms("Wed, 21 Oct 2026 07:28:00 GMT", 1), 2000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_signatures),
	    cmocka_unit_test(test_xml),
	    cmocka_unit_test(test_escape),
	    cmocka_unit_test(test_pauses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
