/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/proxy_in.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SIG "\r\n\r\n\0\r\nQUIT\n"
#define V4 "\xcb\x00\x71\x07\xc6\x33\x64\x01\xd4\x31\x01\xbb"
#define MAPPED "\0\0\0\0\0\0\0\0\0\0\xff\xff"

struct case_ {
	const char *what, *bytes;
	size_t n;
	int want;
	const char *src, *dst; /* endpoints; NULL: unknown */
};
#define OK(what, bytes, src, dst)                                                                  \
	{                                                                                          \
		what, bytes, sizeof(bytes) - 1, 0, src, dst                                        \
	}
#define BAD(what, bytes, want)                                                                     \
	{                                                                                          \
		what, bytes, sizeof(bytes) - 1, want, NULL, NULL                                   \
	}
/* 105 bytes. */
#define X32 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
#define LONG "PROXY UNKNOWN " X32 X32 "xxxxxxxxxxxxxxxxxxxxxxxxxxx"

static const struct case_ cases[] = {
    OK("v1 TCP4", "PROXY TCP4 203.0.113.7 198.51.100.1 54321 443\r\n", "203.0.113.7:54321",
       "198.51.100.1:443"),
    OK("v1 TCP6", "PROXY TCP6 2001:db8::7 2001:DB8:0:0::1 0 65535\r\n", "[2001:db8::7]:0",
       "[2001:db8::1]:65535"),
    OK("v1 the longest address",
       "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
       "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
       "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
       "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
    OK("v1 mapped", "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n", "192.0.2.1:1",
       "192.0.2.2:2"),
    OK("v1 UNKNOWN", "PROXY UNKNOWN\r\n", NULL, NULL),
    OK("v1 UNKNOWN and something", "PROXY UNKNOWN whatever  it is\r\n", NULL, NULL),
    OK("v1 as long as may be", LONG "\r\n", NULL, NULL),
    BAD("v1 too long", LONG "x\r\n", KM_ETOOBIG),
    BAD("v1 too long, no end", LONG "xxxxxxxxxxxxxxxxxxx", KM_ETOOBIG),
    BAD("v1 not yet too long", LONG "\r", KM_ETRUNC),
    BAD("v1 too long for its end", LONG "x\r", KM_ETOOBIG),
    BAD("v1 UNKNOWNER", "PROXY UNKNOWNER\r\n", KM_EPROTO),
    BAD("v1 lower case", "proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n", KM_EPROTO),
    BAD("v1 tcp4", "PROXY tcp4 1.2.3.4 1.2.3.4 1 1\r\n", KM_EPROTO),
    BAD("v1 UDP4", "PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", KM_EPROTO),
    BAD("v1 nothing", "PROXY \r\n", KM_EPROTO),
    BAD("v1 bare LF", "PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", KM_EPROTO),
    BAD("v1 bare CR", "PROXY TCP4 1.2.3.4 1.2.3.4 1 1\rGET", KM_EPROTO),
    BAD("v1 CR within", "PROXY UNKNOWN \r \r\n", KM_EPROTO),
    BAD("v1 LF within", "PROXY UNKNOWN \n \r\n", KM_EPROTO),
    BAD("v1 two spaces", "PROXY TCP4  1.2.3.4 1.2.3.4 1 1\r\n", KM_EPROTO),
    BAD("v1 space at the end", "PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", KM_EPROTO),
    BAD("v1 a word more", "PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n", KM_EPROTO),
    BAD("v1 a word less", "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", KM_EPROTO),
    BAD("v1 tab", "PROXY\tTCP4 1.2.3.4 1.2.3.4 1 1\r\n", KM_EPROTO),
    BAD("v1 NUL", "PROXY TCP4 1.2.3.4\0 1.2.3.4 1 1\r\n", KM_EPROTO),
    BAD("v1 port out of range", "PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n", KM_EPROTO),
    BAD("v1 port with zero", "PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", KM_EPROTO),
    BAD("v1 port with sign", "PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n", KM_EPROTO),
    BAD("v1 port far out of range", "PROXY TCP4 1.2.3.4 1.2.3.4 1 4294967297\r\n", KM_EPROTO),
    BAD("v1 wrong family", "PROXY TCP4 ::1 ::1 1 1\r\n", KM_EPROTO),
    BAD("v1 mixed families", "PROXY TCP6 ::1 1.2.3.4 1 1\r\n", KM_EPROTO),
    BAD("v1 name", "PROXY TCP4 localhost 1.2.3.4 1 1\r\n", KM_EPROTO),
    BAD("v1 octal", "PROXY TCP4 01.2.3.4 1.2.3.4 1 1\r\n", KM_EPROTO),
    BAD("v1 brackets", "PROXY TCP6 [::1] [::1] 1 1\r\n", KM_EPROTO),
    BAD("v1 zone", "PROXY TCP6 fe80::1%lo ::1 1 1\r\n", KM_EPROTO),
    OK("v2 TCP4", SIG "\x21\x11\x00\x0c" V4, "203.0.113.7:54321", "198.51.100.1:443"),
    OK("v2 mapped",
       SIG "\x21\x21\x00\x24" MAPPED "\xcb\x00\x71\x07" MAPPED "\xc6\x33\x64\x01\xd4\x31\x01\xbb",
       "203.0.113.7:54321", "198.51.100.1:443"),
    OK("v2 other TLVs", SIG "\x21\x11\x00\x16" V4 "\x01\x00\x02h2\xee\x00\x02zz",
       "203.0.113.7:54321", "198.51.100.1:443"),
    OK("v2 LOCAL", SIG "\x20\x00\x00\x00", NULL, NULL),
    OK("v2 LOCAL with addresses", SIG "\x20\x11\x00\x0c" V4, NULL, NULL),
    OK("v2 UNSPEC", SIG "\x21\x00\x00\x00", NULL, NULL),
    BAD("v2 UDP", SIG "\x21\x12\x00\x0c" V4, KM_EPROTO),
    BAD("v2 TLV past the end", SIG "\x21\x11\x00\x0f" V4 "\x04\x00\x01", KM_EPROTO),
    BAD("v2 too long", SIG "\x21\x11\xff\xff", KM_ETOOBIG),
    BAD("v2 version 3", SIG "\x31\x11\x00\x0c", KM_EPROTO),
    BAD("TLS", "\x16\x03\x01", KM_EPROTO),
    BAD("HTTP", "GET / HTTP/1.1\r\n", KM_EPROTO),
    BAD("PUT", "PUT / HTTP/1.1\r\n", KM_EPROTO),
    BAD("the end of the line of v2's signature", "\r\n\r\nX", KM_EPROTO),
    BAD("nothing", "", KM_ETRUNC),
};

static void endpoint_is(const struct km_addr *a, uint16_t port, const char *want)
{
	char text[KM_ENDPOINT_STRLEN];
	assert_string_equal(km_endpoint_str(a, port, text), want);
}

/* Memory of its own, so that a byte read behind the end is seen. */
static int parse(struct proxy_in *h, const char *bytes, size_t n, size_t *used)
{
	char *copy = malloc(n ? n : 1);
	assert_non_null(copy);
	memcpy(copy, bytes, n);
	int rc = proxy_in_parse(h, copy, n, used);
	free(copy);
	return rc;
}

static void headers(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		const struct case_ *c = &cases[i];
		struct proxy_in h;
		size_t used = 0;
		int rc = parse(&h, c->bytes, c->n, &used);
		if (rc != c->want)
			fail_msg("%s: %d, not %d", c->what, rc, c->want);
		if (rc == 0 && (used != c->n || h.known != !!c->src))
			fail_msg("%s: %zu bytes, known %d", c->what, used, h.known);
		if (rc == 0 && h.known) {
			endpoint_is(&h.src, h.src_port, c->src);
			endpoint_is(&h.dst, h.dst_port, c->dst);
		}
	}
}

/* A good header comes in whatever pieces, and what follows it is not its own. */
static void cut_at_every_byte(void **state)
{
	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		const struct case_ *c = &cases[i];
		char more[PROXY_IN_MAX];
		struct proxy_in h;
		size_t used = 0;
		if (c->want)
			continue;
		for (size_t n = 0; n < c->n; n++)
			if (parse(&h, c->bytes, n, &used) != KM_ETRUNC)
				fail_msg("%s: cut at %zu", c->what, n);
		memcpy(more, c->bytes, c->n);
		memcpy(more + c->n, "\x16\x03\x01\r\n", 5);
		assert_int_equal(parse(&h, more, c->n + 5, &used), 0);
		assert_int_equal(used, c->n);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(headers),
	    cmocka_unit_test(cut_at_every_byte),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
