/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/message.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* An answer: www.example.test CNAME host.example.test, that A 192.0.2.1, TXT "ab" "cd"; names
 * compressed. */
static const uint8_t answer[] = {
    0x12, 0x34, 0x81, 0x80, 0, 1,   0,   3,   0,   0,   0,   0, /* 0: header */
    3,    'w',  'W',  'w',  7, 'e', 'x', 'a', 'm', 'p', 'l', 'e', 4,   't', 'e', 's', /* 12 */
    't',  0,    0,    1,    0, 1,                                                     /* 28 */
    0xc0, 12,   0,    5,    0, 1,   0,   0,   0,   60,  0,   7,   4,   'h', 'o', 's', 't', 0xc0,
    16,                                                                             /* 34 */
    0xc0, 46,   0,    1,    0, 1,   0,   0,   0,   60,  0,   4,   192, 0,   2,   1, /* 53 */
    0xc0, 46,   0,    16,   0, 1,   0,   0,   0,   60,  0,   6,   2,   'a', 'b', 2,   'c', 'd',
};

static void test_answer(void **state)
{
	struct dns_msg m;
	struct dns_rr rr;
	char name[DNS_NAME_STRLEN], text[8];

	(void)state;
	assert_int_equal(dns_msg_parse(&m, answer, sizeof(answer)), 0);
	assert_int_equal(m.id, 0x1234);
	assert_true(dns_msg_is_answer(&m));
	assert_false(dns_msg_truncated(&m));
	assert_int_equal(dns_msg_rcode(&m), 0);
	assert_string_equal(m.qname, "www.example.test");
	assert_int_equal(m.qtype, DNS_TYPE_A);
	struct dns_rrs it = dns_msg_rrs(&m);
	assert_true(dns_rr_next(&it, &rr));
	assert_string_equal(rr.name, "www.example.test");
	assert_int_equal(rr.type, DNS_TYPE_CNAME);
	assert_int_equal(dns_rr_name(&m, &rr, name), 0);
	assert_string_equal(name, "host.example.test");
	assert_true(dns_rr_next(&it, &rr));
	assert_string_equal(rr.name, "host.example.test");
	assert_int_equal(rr.n, 4);
	assert_int_equal(rr.ttl, 60);
	assert_true(dns_rr_next(&it, &rr));
	assert_true(dns_rr_txt_is(&rr, "abcd"));
	assert_false(dns_rr_txt_is(&rr, "abc"));
	assert_false(dns_rr_txt_is(&rr, "abcde"));
	dns_rr_txt(&rr, text, sizeof(text));
	assert_string_equal(text, "abcd");
	dns_rr_txt(&rr, text, 4);
	assert_string_equal(text, "abc");
	assert_false(dns_rr_next(&it, &rr));
}

static unsigned walk(const uint8_t *p, size_t n)
{
	struct dns_msg m;
	struct dns_rr rr;
	char name[DNS_NAME_STRLEN];
	unsigned seen = 0;

	if (dns_msg_parse(&m, p, n))
		return 0;
	struct dns_rrs it = dns_msg_rrs(&m);
	while (dns_rr_next(&it, &rr)) {
		seen++;
		if (dns_rr_name(&m, &rr, name) == 0)
			assert_true(strlen(name) < DNS_NAME_STRLEN);
		dns_rr_txt_is(&rr, "abcd");
		dns_rr_txt(&rr, name, sizeof(name));
	}
	return seen;
}

/* Cut at every byte and with every bit turned, on the heap's edge. */
static void test_damage(void **state)
{
	(void)state;
	for (size_t n = 0; n <= sizeof(answer); n++) {
		uint8_t *copy = malloc(n ? n : 1);
		memcpy(copy, answer, n);
		assert_int_equal(walk(copy, n) == 3, n == sizeof(answer));
		free(copy);
	}
	uint8_t *copy = malloc(sizeof(answer));
	for (size_t bit = 0; bit < sizeof(answer) * 8; bit++) {
		memcpy(copy, answer, sizeof(answer));
		copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
		walk(copy, sizeof(answer));
	}
	free(copy);
}

/* Names that lead forwards, round about, or into what no name has. */
static void test_bad_names(void **state)
{
	static const struct {
		size_t n;
		uint8_t name[8];
	} rows[] = {
	    {2, {0xc0, 12}},         /* itself */
	    {2, {0xc0, 40}},         /* forwards */
	    {4, {1, 'a', 0xc0, 12}}, /* its own beginning */
	    {2, {0x40, 0}},          /* another kind of label */
	    {3, {1, '.', 0}},        {3, {1, ' ', 0}},   {3, {1, '\\', 0}},
	    {3, {1, 0x80, 0}},       {3, {5, 'a', 'b'}}, /* longer than there is */
	};
	uint8_t msg[64] = {0, 0, 0x80, 0, 0, 1};
	struct dns_msg m;

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(rows); i++) {
		memcpy(msg + 12, rows[i].name, rows[i].n);
		memcpy(msg + 12 + rows[i].n, "\0\1\0\1", 4);
		size_t n = i + 1 == KM_ARRAY_LEN(rows) ? 12 + rows[i].n : 16 + rows[i].n;
		assert_int_equal(dns_msg_parse(&m, msg, n), KM_EPROTO);
	}
	msg[5] = 2; /* questions */
	assert_int_equal(dns_msg_parse(&m, msg, sizeof(msg)), KM_EPROTO);
}

static void test_longest_name(void **state)
{
	char name[DNS_NAME_STRLEN + 2];
	uint8_t q[DNS_QUERY_MAX];
	struct dns_msg m;
	size_t n;

	(void)state;
	memset(name, 'a', sizeof(name));
	for (size_t i = 63; i < 253; i += 64)
		name[i] = '.';
	name[253] = '\0';
	assert_int_equal(dns_query_make(q, &n, 7, name, DNS_TYPE_TXT, false), 0);
	assert_int_equal(dns_msg_parse(&m, q, n), 0);
	assert_string_equal(m.qname, name);
	assert_int_equal(m.qtype, DNS_TYPE_TXT);
	assert_int_equal(m.count[2], 1);
	assert_int_equal(m.id, 7);
	assert_int_equal(m.flags, 0);
	name[253] = 'a';
	name[254] = '\0';
	assert_int_equal(dns_query_make(q, &n, 7, name, DNS_TYPE_TXT, false), KM_EINVAL);
	memset(name, 'a', 64);
	name[64] = '\0';
	assert_int_equal(dns_query_make(q, &n, 7, name, DNS_TYPE_TXT, false), KM_EINVAL);
	assert_int_equal(dns_query_make(q, &n, 7, "a..b", DNS_TYPE_TXT, false), KM_EINVAL);
	assert_int_equal(dns_query_make(q, &n, 7, "", DNS_TYPE_SOA, true), 0);
}

static void test_names(void **state)
{
	(void)state;
	assert_true(dns_name_eq("A.test", "a.TEST"));
	assert_string_equal(dns_name_parent("a.b.c"), "b.c");
	assert_string_equal(dns_name_parent("c"), "");
	assert_string_equal(dns_name_parent(""), "");
	assert_true(dns_name_below("a.b.test", "B.test"));
	assert_true(dns_name_below("b.test", "b.test"));
	assert_true(dns_name_below("b.test", ""));
	assert_false(dns_name_below("ab.test", "b.test"));
	assert_false(dns_name_below("test", "b.test"));
	assert_string_equal(dns_rcode_str(9), "NOTAUTH");
	assert_string_equal(dns_rcode_str(15), "an unknown error");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_answer),    cmocka_unit_test(test_damage),
	    cmocka_unit_test(test_bad_names), cmocka_unit_test(test_longest_name),
	    cmocka_unit_test(test_names),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
