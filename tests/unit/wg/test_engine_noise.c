/* SPDX-License-Identifier: MIT */
/* Handshake messages, cookies and the limiter, with random keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libkm/base/util.h"
#include "libkm/wg/engine/cookie.h"
#include "libkm/wg/engine/noise.h"

static struct wg_crypto *c;

static int setup(void **state)
{
	(void)state;
	return (c = wg_crypto_new()) == NULL;
}

static int teardown(void **state)
{
	(void)state;
	wg_crypto_free(c);
	return 0;
}

struct pair {
	struct wg_self a, b;
	struct wg_remote a_of_b, b_of_a; /* a as b sees it, b as a sees it */
};

static void pair_init(struct pair *p, bool psk)
{
	uint8_t key[32], secret[32];

	wg_x25519_private(key);
	wg_self_init(c, &p->a, key);
	wg_x25519_private(key);
	wg_self_init(c, &p->b, key);
	memset(secret, 0x5a, sizeof(secret));
	assert_true(wg_remote_init(c, &p->b_of_a, &p->a, p->b.pub, psk ? secret : NULL));
	assert_true(wg_remote_init(c, &p->a_of_b, &p->b, p->a.pub, psk ? secret : NULL));
}

static void test_handshake(void **state)
{
	struct pair p;
	struct wg_handshake ha, hb;
	struct wg_keys ka, kb;
	uint8_t init[WG_INITIATION_LEN], resp[WG_RESPONSE_LEN], eph[32], pub[32];
	uint8_t stamp[WG_TIMESTAMP_LEN], got[WG_TIMESTAMP_LEN];
	int psk;

	(void)state;
	for (psk = 0; psk < 2; psk++) {
		pair_init(&p, psk);
		wg_timestamp(stamp, 1700000000, 123456789);
		wg_x25519_private(eph);
		wg_initiation_make(c, &ha, &p.a, &p.b_of_a, 0x11223344, eph, stamp, init);
		wg_macs(c, &p.b_of_a, NULL, init, sizeof(init));
		assert_true(wg_mac1_ok(c, &p.b, init, sizeof(init)));
		assert_false(wg_mac1_ok(c, &p.a, init, sizeof(init)));
		assert_true(wg_initiation_who(c, &hb, &p.b, init, pub));
		assert_memory_equal(pub, p.a.pub, 32);
		assert_true(wg_initiation_prove(c, &hb, &p.a_of_b, init, got));
		assert_memory_equal(got, stamp, sizeof(stamp));
		wg_x25519_private(eph);
		assert_true(wg_response_make(c, &hb, &p.a_of_b, 0x55667788, eph, resp, &kb));
		wg_macs(c, &p.a_of_b, NULL, resp, sizeof(resp));
		assert_true(wg_mac1_ok(c, &p.a, resp, sizeof(resp)));
		assert_true(wg_response_take(c, &ha, &p.a, &p.b_of_a, resp, &ka));
		assert_memory_equal(ka.send, kb.recv, 32);
		assert_memory_equal(ka.recv, kb.send, 32);
		assert_memory_not_equal(ka.send, ka.recv, 32);
		assert_int_equal(ka.remote_index, 0x55667788);
		assert_int_equal(kb.remote_index, 0x11223344);
	}
}

/* Every bit of an initiation and of a response counts (but for the reserved bytes and MACs, which
 * the MAC check and the caller's look at the type cover). */
static void test_every_bit(void **state)
{
	struct pair p;
	struct wg_handshake ha, hb, h;
	struct wg_keys ka, kb;
	uint8_t init[WG_INITIATION_LEN], resp[WG_RESPONSE_LEN], bad[WG_INITIATION_LEN], eph[32],
	    pub[32];
	uint8_t stamp[WG_TIMESTAMP_LEN];
	size_t i;

	(void)state;
	pair_init(&p, true);
	wg_timestamp(stamp, 1700000000, 0);
	wg_x25519_private(eph);
	wg_initiation_make(c, &ha, &p.a, &p.b_of_a, 7, eph, stamp, init);
	wg_macs(c, &p.b_of_a, NULL, init, sizeof(init));
	for (i = 0; i < (WG_INITIATION_LEN - 16) * 8; i++) {
		memcpy(bad, init, sizeof(init));
		bad[i / 8] ^= 1 << i % 8;
		assert_false(wg_mac1_ok(c, &p.b, bad, sizeof(init)));
		/* bit 255 of a public key is ignored by X25519, but it is hashed */
		if (i / 8 >= 8 && i / 8 < 116)
			assert_false(wg_initiation_who(c, &hb, &p.b, bad, pub) &&
				     wg_initiation_prove(c, &hb, &p.a_of_b, bad, stamp));
	}
	assert_true(wg_initiation_who(c, &hb, &p.b, init, pub));
	assert_true(wg_initiation_prove(c, &hb, &p.a_of_b, init, stamp));
	wg_x25519_private(eph);
	assert_true(wg_response_make(c, &hb, &p.a_of_b, 8, eph, resp, &kb));
	for (i = 8 * 8; i < 60 * 8; i++) {
		memcpy(bad, resp, sizeof(resp));
		bad[i / 8] ^= 1 << i % 8;
		h = ha;
		assert_false(wg_response_take(c, &h, &p.a, &p.b_of_a, bad, &ka));
		assert_memory_equal(&h, &ha, sizeof(h)); /* not spoilt */
	}
	assert_true(wg_response_take(c, &ha, &p.a, &p.b_of_a, resp, &ka));
}

static void test_cookies(void **state)
{
	struct pair p;
	struct wg_handshake h;
	struct wg_cookie_jar jar = {{0}, 0};
	struct wg_cookie k;
	uint8_t init[WG_INITIATION_LEN], eph[32], stamp[WG_TIMESTAMP_LEN],
	    reply[WG_COOKIE_REPLY_LEN];
	const uint8_t source[6] = {192, 0, 2, 1, 0x30, 0x39}, other[6] = {192, 0, 2, 1, 0x30, 0x40};

	(void)state;
	memset(&k, 0, sizeof(k));
	pair_init(&p, false);
	wg_timestamp(stamp, 1, 0);
	wg_x25519_private(eph);
	wg_initiation_make(c, &h, &p.a, &p.b_of_a, 9, eph, stamp, init);
	wg_macs(c, &p.b_of_a, NULL, init, sizeof(init));
	assert_false(wg_mac2_ok(c, &jar, init, sizeof(init), source, 6, 1000));
	memcpy(k.last_mac1, init + 116, 16);
	k.sent = true;
	wg_cookie_reply(c, &jar, &p.b, init, sizeof(init), source, 6, 1000, reply);
	assert_int_equal(reply[4], 9);
	reply[40] ^= 1;
	assert_false(wg_cookie_take(&p.b_of_a, &k, reply, 1001));
	reply[40] ^= 1;
	assert_true(wg_cookie_take(&p.b_of_a, &k, reply, 1001));
	assert_false(wg_cookie_take(&p.b_of_a, &k, reply, 1002)); /* unasked now */
	wg_macs(c, &p.b_of_a, wg_cookie_use(&k, 1003), init, sizeof(init));
	assert_true(wg_mac2_ok(c, &jar, init, sizeof(init), source, 6, 1003));
	assert_false(wg_mac2_ok(c, &jar, init, sizeof(init), other, 6, 1003));
	assert_false(
	    wg_mac2_ok(c, &jar, init, sizeof(init), source, 6, 1000 + WG_COOKIE_SECRET_MS));
	assert_null(wg_cookie_use(&k, 1001 + WG_COOKIE_USE_MS));
}

static void test_limiter(void **state)
{
	struct wg_limiter *l = calloc(1, sizeof(*l));
	uint8_t a[4] = {192, 0, 2, 1}, six[16] = {0x20, 1, 0xd, 0xb8},
		six2[16] = {0x20, 1, 0xd, 0xb8};
	int i, passed = 0;

	(void)state;
	assert_non_null(l);
	wg_limiter_init(l);
	for (i = 0; i < 100; i++)
		passed += wg_limiter_allow(l, a, 4, 1000000);
	assert_int_equal(passed, 5);
	for (passed = 0, i = 0; i < 1000; i++)
		passed += wg_limiter_allow(l, a, 4, 1000000 + i * 1000);
	assert_in_range(passed, 18, 20);
	six2[15] = 1; /* one /64 */
	for (passed = 0, i = 0; i < 100; i++)
		passed += wg_limiter_allow(l, i % 2 ? six : six2, 16, 1000000);
	assert_int_equal(passed, 5);
	free(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_handshake),
	    cmocka_unit_test(test_every_bit),
	    cmocka_unit_test(test_cookies),
	    cmocka_unit_test(test_limiter),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
