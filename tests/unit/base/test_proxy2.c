/* SPDX-License-Identifier: MIT */
#include "libkm/base/proxy2.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define SIG "\r\n\r\n\0\r\nQUIT\n"

static struct km_proxy2 full(bool v6)
{
	struct km_proxy2 h = {.proxied = true,
			      .has_addrs = true,
			      .has_tunnel = true,
			      .has_target = true,
			      .src_port = 54321,
			      .dst_port = 443};

	assert_int_equal(km_addr_parse(&h.src, v6 ? "2001:db8::7" : "203.0.113.7"), 0);
	assert_int_equal(km_addr_parse(&h.dst, v6 ? "2001:db8::1" : "198.51.100.1"), 0);
	memcpy(h.tunnel, "tunnel-012345678", 16);
	memcpy(h.target, "target-012345678", 16);
	return h;
}

static void same(const struct km_proxy2 *a, const struct km_proxy2 *b)
{
	assert_int_equal(a->proxied, b->proxied);
	assert_int_equal(a->has_addrs, b->has_addrs);
	assert_int_equal(a->datagram, b->datagram);
	if (a->has_addrs) {
		assert_true(km_addr_eq(&a->src, &b->src));
		assert_true(km_addr_eq(&a->dst, &b->dst));
		assert_int_equal(a->src_port, b->src_port);
		assert_int_equal(a->dst_port, b->dst_port);
	}
	assert_int_equal(a->has_tunnel, b->has_tunnel);
	assert_int_equal(a->has_target, b->has_target);
	assert_memory_equal(a->tunnel, b->tunnel, 16);
	assert_memory_equal(a->target, b->target, 16);
}

static void what_is_written_is_read(void **state)
{
	struct km_proxy2 cases[] = {full(false), full(true), full(false), {0}, {.proxied = true}};
	uint8_t buf[KM_PROXY2_WRITE_MAX + 4];

	(void)state;
	cases[2].datagram = true;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct km_proxy2 got;
		size_t n = km_proxy2_write(buf, &cases[i]), used = 0;

		memcpy(buf + n, "GET ", 4);
		assert_int_equal(km_proxy2_parse(&got, buf, n + 4, &used), 0);
		assert_int_equal(used, n);
		same(&got, &cases[i]);
	}
}

static void known_bytes(void **state)
{
	static const char want[] = SIG "\x21\x11\x00\x32"
				       "\xcb\x00\x71\x07\xc6\x33\x64\x01\xd4\x31\x01\xbb"
				       "\xe0\x00\x10tunnel-012345678\xe1\x00\x10target-012345678";
	struct km_proxy2 h = full(false);
	uint8_t buf[KM_PROXY2_WRITE_MAX];

	(void)state;
	assert_int_equal(km_proxy2_write(buf, &h), sizeof(want) - 1);
	assert_memory_equal(buf, want, sizeof(want) - 1);
}

/* LOCAL carries no addresses, whatever the struct says. */
static void local_has_no_addresses(void **state)
{
	struct km_proxy2 h = full(false), got;
	uint8_t buf[KM_PROXY2_WRITE_MAX];
	size_t used;

	(void)state;
	h.proxied = false;
	assert_int_equal(km_proxy2_write(buf, &h), 16 + 2 * 19);
	assert_int_equal(km_proxy2_parse(&got, buf, 16 + 2 * 19, &used), 0);
	assert_false(got.has_addrs);
	assert_true(got.has_tunnel && got.has_target);
}

struct foreign {
	const char *what;
	const char *bytes;
	size_t n;
	int want;
};
#define F(what, bytes, want)                                                                       \
	{                                                                                          \
		what, bytes, sizeof(bytes) - 1, want                                               \
	}
#define ID "0123456789abcdef"

static void foreign_headers(void **state)
{
	static const struct foreign cases[] = {
	    F("haproxy's health check", SIG "\x20\x00\x00\x00", 0),
	    F("LOCAL with addresses to skip",
	      SIG "\x20\x11\x00\x0c"
		  "123456789012",
	      0),
	    F("UNIX addresses cut",
	      SIG "\x21\x31\x00\x0c"
		  "123456789012",
	      KM_EPROTO),
	    F("another TLV is skipped", SIG "\x20\x00\x00\x05\x04\x00\x02zz", 0),
	    F("an empty TLV", SIG "\x20\x00\x00\x03\x04\x00\x00", 0),
	    F("TLV past the end", SIG "\x20\x00\x00\x05\x04\x00\x03zz", KM_EPROTO),
	    F("half a TLV head", SIG "\x20\x00\x00\x02\x04\x00", KM_EPROTO),
	    F("short tunnel id", SIG "\x20\x00\x00\x05\xe0\x00\x02zz", KM_EPROTO),
	    F("long tunnel id", SIG "\x20\x00\x00\x14\xe0\x00\x11" ID "z", KM_EPROTO),
	    F("tunnel id twice", SIG "\x20\x00\x00\x26\xe0\x00\x10" ID "\xe0\x00\x10" ID,
	      KM_EPROTO),
	    F("target id twice", SIG "\x20\x00\x00\x26\xe1\x00\x10" ID "\xe1\x00\x10" ID,
	      KM_EPROTO),
	    F("version 1", "PROXY TCP4 ", KM_EPROTO),
	    F("HTTP", "GET / HTTP/1.1\r\n", KM_EPROTO),
	    F("version 3", SIG "\x30\x00\x00\x00", KM_EPROTO),
	    F("unknown command", SIG "\x22\x00\x00\x00", KM_EPROTO),
	    F("unknown family", SIG "\x21\x41\x00\x00", KM_EPROTO),
	    F("unknown transport", SIG "\x21\x13\x00\x00", KM_EPROTO),
	    F("addresses cut",
	      SIG "\x21\x11\x00\x0b"
		  "12345678901",
	      KM_EPROTO),
	    F("v6 addresses cut",
	      SIG "\x21\x21\x00\x0c"
		  "123456789012",
	      KM_EPROTO),
	    F("too long", SIG "\x20\x00\x0f\xf1", KM_ETOOBIG),
	    F("far too long", SIG "\x20\x00\xff\xff", KM_ETOOBIG),
	    F("as long as may be, not all there", SIG "\x20\x00\x0f\xf0", KM_ETRUNC),
	    F("a CRC32C that is right", SIG "\x21\x11\x00\x17\xcb\x00\x71\x07\xc6\x33\x64\x01\xd4\x31\x01\xbb\x03\x00\x04\x64\x69\x06\xb5\x04\x00\x01\x7a", 0),
	    F("a CRC32C of another header", SIG "\x21\x11\x00\x17\xcb\x00\x71\x07\xc6\x33\x64\x01\xd4\x31\x01\xbb\x03\x00\x04\x64\x69\x06\xb5\x04\x00\x01\x79", KM_EPROTO),
	    F("a CRC32C of another length", SIG "\x20\x00\x00\x06\x03\x00\x03\x00\x00\x00",
	      KM_EPROTO),
	    F("a CRC32C and another", SIG "\x20\x00" "\x00\x0e" "\x03\x00\x04\xa9\xb8\x7e\x8f" "\x03\x00\x04\xa9\xb8\x7e\x8f",
	      KM_EPROTO),
	    F("LOCAL of an unknown family", SIG "\x20\x7f\x00\x03" "zzz", 0),
	    F("IPv4 without a transport", SIG "\x21\x10\x00\x0c" "123456789012", KM_EPROTO),
	    F("a transport without a family", SIG "\x21\x01\x00\x00", KM_EPROTO),
	    F("PROXY of unknown addresses", SIG "\x21\x00\x00\x03" "\x04\x00\x00", 0),
	    F("nothing", "", KM_ETRUNC),
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct km_proxy2 h;
		size_t used;
		int rc = km_proxy2_parse(&h, cases[i].bytes, cases[i].n, &used);

		if (rc != cases[i].want)
			fail_msg("%s: %d, not %d", cases[i].what, rc, cases[i].want);
	}
}

/* Input ends at a page that must not be touched. */
static uint8_t *guarded(size_t n, uint8_t **page)
{
	size_t size = (size_t)sysconf(_SC_PAGESIZE);

	*page = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(*page, MAP_FAILED);
	assert_int_equal(mprotect(*page + size, size, PROT_NONE), 0);
	return *page + size - n;
}

static void cut_at_every_byte(void **state)
{
	uint8_t buf[KM_PROXY2_WRITE_MAX], *page;
	struct km_proxy2 h = full(true), got;
	size_t n = km_proxy2_write(buf, &h), used;

	(void)state;
	for (size_t i = 0; i < n; i++) {
		uint8_t *p = guarded(i, &page);

		memcpy(p, buf, i);
		assert_int_equal(km_proxy2_parse(&got, p, i, &used), KM_ETRUNC);
		assert_int_equal(used, i < 16 ? 16 : n);
		munmap(page, 2 * (size_t)sysconf(_SC_PAGESIZE));
	}
}

static void every_bit_flipped(void **state)
{
	uint8_t buf[KM_PROXY2_WRITE_MAX], *page, *p;
	struct km_proxy2 h = full(false), got;
	size_t n = km_proxy2_write(buf, &h), used;

	(void)state;
	p = guarded(n, &page);
	for (size_t bit = 0; bit < n * 8; bit++) {
		memcpy(p, buf, n);
		p[bit / 8] ^= (uint8_t)(1 << bit % 8);
		int rc = km_proxy2_parse(&got, p, n, &used);

		if (bit < 12 * 8)
			assert_int_equal(rc, KM_EPROTO);
		else
			assert_true(rc == 0 || rc == KM_EPROTO || rc == KM_ETOOBIG ||
				    rc == KM_ETRUNC);
	}
	munmap(page, 2 * (size_t)sysconf(_SC_PAGESIZE));
}

/* One wrong byte of the signature is enough, however little has come. */
static void wrong_signature_early(void **state)
{
	struct km_proxy2 got;
	size_t used;

	(void)state;
	assert_int_equal(km_proxy2_parse(&got, "G", 1, &used), KM_EPROTO);
	assert_int_equal(km_proxy2_parse(&got, "\r\n\r\nX", 5, &used), KM_EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_written_is_read), cmocka_unit_test(known_bytes),
	    cmocka_unit_test(local_has_no_addresses),  cmocka_unit_test(foreign_headers),
	    cmocka_unit_test(cut_at_every_byte),       cmocka_unit_test(every_bit_flipped),
	    cmocka_unit_test(wrong_signature_early),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
