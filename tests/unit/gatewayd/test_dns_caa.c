/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/caa.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ACCOUNT "https://ca.test/acct/7"

/* Records as "FLAGS TAG VALUE". */
struct row {
	const char *records[4];
	bool wildcard;
	const char *why; /* NULL: allowed */
};

static const struct row rows[] = {
    {{NULL}, false, NULL},
    {{"0 issue ca.test"}, false, NULL},
    {{"0 issue CA.Test"}, false, NULL},
    {{"0 ISSUE ca.test"}, false, NULL},
    {{"0 issue \t ca.test  ; "}, false, NULL},
    {{"0 issue other.test", "0 issue second.test"}, false, NULL},
    {{"0 issue other.test"}, false, "allows only other.test"},
    {{"0 issue other.test", "0 issue ca.test"}, false, NULL},
    {{"0 issue ;"}, false, "allows nobody"},
    {{"0 issue "}, false, "allows nobody"},
    {{"0 issue ;", "0 issue other.test"}, false, "allows only other.test"},
    {{"0 iodef mailto:a@example.org"}, false, NULL},
    {{"128 iodef mailto:a@example.org"}, false, NULL},
    {{"128 issue ca.test"}, false, NULL},
    {{"0 tbs unknown"}, false, NULL},
    {{"128 tbs unknown"}, false, "has a critical property that no CA may pass over: tbs"},
    {{"0 issue ca.test", "128 tbs unknown"},
     false,
     "has a critical property that no CA may pass over: tbs"},
    /* wildcards */
    {{"0 issue ca.test"}, true, NULL},
    {{"0 issue other.test"}, true, "allows only other.test"},
    {{"0 issue ca.test", "0 issuewild ;"}, true, "allows nobody"},
    {{"0 issue ca.test", "0 issuewild ;"}, false, NULL},
    {{"0 issue ;", "0 issuewild ca.test"}, true, NULL},
    {{"0 issue ;", "0 issuewild ca.test"}, false, "allows nobody"},
    {{"0 issuewild ;"}, false, NULL},
    /* RFC 8657 */
    {{"0 issue ca.test; accounturi=" ACCOUNT}, false, NULL},
    {{"0 issue ca.test;accounturi = " ACCOUNT " ;"}, false, NULL},
    {{"0 issue ca.test; accounturi=" ACCOUNT "0"},
     false,
     "wants the account " ACCOUNT "0, which is not this gateway's"},
    {{"0 issue ca.test; accounturi=https://CA.test/acct/7"},
     false,
     "wants the account https://CA.test/acct/7, which is not this gateway's"},
    {{"0 issue ca.test; accounturi="}, false, "wants the account , which is not this gateway's"},
    {{"0 issue ca.test; accounturi=" ACCOUNT "; accounturi=" ACCOUNT},
     false,
     "names one parameter twice for ca.test"},
    {{"0 issue ca.test; accounturi=https://ca.test/acct/8", "0 issue ca.test; accounturi=" ACCOUNT},
     false,
     NULL},
    {{"0 issue ca.test; validationmethods=dns-01"}, false, NULL},
    {{"0 issue ca.test; validationmethods=http-01,dns-01"}, false, NULL},
    {{"0 issue ca.test; validationmethods=http-01"}, false, "allows only validation by http-01"},
    {{"0 issue ca.test; validationmethods="}, false, "allows only validation by "},
    {{"0 issue ca.test; accounturi=" ACCOUNT "; validationmethods=tls-alpn-01"},
     false,
     "allows only validation by tls-alpn-01"},
    {{"0 issue ca.test; policy=ev"}, false, NULL},
    /* malformed: nobody is allowed by it */
    {{"0 issue ca.test policy=ev"}, false, "is malformed: ca.test policy=ev"},
    {{"0 issue ca.test; policy"}, false, "is malformed: ca.test; policy"},
    {{"0 issue ca.test;; a=b"}, false, "is malformed: ca.test;; a=b"},
    {{"0 issue ca.test; a=b c"}, false, "is malformed: ca.test; a=b c"},
    {{"0 issue %%%%%"}, false, "is malformed: %%%%%"},
    {{"0 issue \x01\xff"}, false, "is malformed: ??"},
};

static size_t wire(uint8_t *out, const char *text)
{
	char tag[32];
	int flags, value = 0;

	assert_int_equal(sscanf(text, "%d %31s%n", &flags, tag, &value), 2);
	const char *v = text + value + 1;
	out[0] = (uint8_t)flags;
	out[1] = (uint8_t)strlen(tag);
	memcpy(out + 2, tag, strlen(tag));
	memcpy(out + 2 + strlen(tag), v, strlen(v));
	return 2 + strlen(tag) + strlen(v);
}

static void test_table(void **state)
{
	static const char *const issuers[] = {"ca.test", "second.test", NULL};
	static const char *const methods[] = {"tls-sni-01", "dns-01", NULL};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(rows); i++) {
		struct caa_question q = {rows[i].wildcard, issuers, ACCOUNT, methods};
		struct caa_record set[4];
		uint8_t data[4][256];
		char why[300];
		size_t n = 0;

		for (; n < 4 && rows[i].records[n]; n++)
			set[n] = (struct caa_record){data[n], wire(data[n], rows[i].records[n])};
		bool ok = caa_allows(set, n, &q, why, sizeof(why));
		if (ok != !rows[i].why || (!ok && strcmp(why, rows[i].why)))
			fail_msg("row %zu (%s): %s, \"%s\"", i, rows[i].records[0],
				 ok ? "allowed" : "forbidden", why);
	}
}

/* What is not known is not held against the CA. */
static void test_unknown(void **state)
{
	static const char *const issuers[] = {"ca.test", NULL};
	struct caa_question q = {false, issuers, NULL, NULL};
	uint8_t data[256];
	char why[300];
	struct caa_record r = {data, wire(data, "0 issue ca.test; accounturi=https://ca.test/1; "
						"validationmethods=x")};

	(void)state;
	assert_true(caa_allows(&r, 1, &q, why, sizeof(why)));
}

/* Cut at every byte, on the heap's edge; the reason is cut, too. */
static void test_cut(void **state)
{
	static const char *const issuers[] = {"ca.test", NULL};
	struct caa_question q = {false, issuers, ACCOUNT, NULL};
	uint8_t data[256];
	size_t n = wire(data, "128 issue ca.test; accounturi=https://ca.test/acct/8; x=y");
	char why[20];

	(void)state;
	for (size_t k = 0; k <= n; k++) {
		uint8_t *copy = malloc(k ? k : 1);
		memcpy(copy, data, k);
		struct caa_record r = {copy, k};
		caa_allows(&r, 1, &q, why, sizeof(why));
		assert_true(strlen(why) < sizeof(why));
		free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_table),
	    cmocka_unit_test(test_unknown),
	    cmocka_unit_test(test_cut),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
