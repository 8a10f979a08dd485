/* SPDX-License-Identifier: MIT */
/* The sans-I/O parts of the engine: handshake, cookies, replay window, allowed IPs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include "libkm/wg/engine/allowed.h"
#include "libkm/wg/engine/cookie.h"
#include "libkm/wg/engine/noise.h"
#include "libkm/wg/engine/replay.h"

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

static void assert_hex(const uint8_t *got, size_t n, const char *want)
{
	char text[2 * 64 + 1];

	assert_string_equal(km_hex(got, n, text), want);
}

/* C0 and H0 of the protocol, and primitives with published values (RFC 7693, 7748, 8439). */
static void test_constants(void **state)
{
	uint8_t c0[32], h0[32], priv[32], pub[32], out[32];
	int i;

	(void)state;
	wg_hash(c, c0, "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s", 37, NULL, 0);
	assert_hex(c0, 32, "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36");
	wg_hash(c, h0, c0, 32, "WireGuard v1 zx2c4 Jason@zx2c4.com", 34);
	assert_hex(h0, 32, "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3");
	wg_hash(c, out, "abc", 3, NULL, 0);
	assert_hex(out, 32, "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982");
	/* RFC 7748, section 5.2: the iterated test. */
	memset(priv, 0, sizeof(priv));
	priv[0] = 9;
	memcpy(pub, priv, 32);
	for (i = 1; i <= 1000; i++) {
		assert_true(wg_x25519(out, priv, pub));
		memcpy(pub, priv, 32);
		memcpy(priv, out, 32);
		if (i == 1)
			assert_hex(out, 32,
				   "422c8e7a6227d7bca1350b3e2bb7279f"
				   "7897b87bb6854b783c60e80311ae3079");
	}
	assert_hex(out, 32, "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51");
	memset(pub, 0, sizeof(pub));
	assert_false(wg_x25519(out, priv, pub));
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
	struct wg_limiter *l = malloc(sizeof(*l));
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

static void test_replay(void **state)
{
	static const struct {
		uint64_t counter;
		bool ok;
	} cases[] = {
	    {0, true},
	    {0, false},
	    {1, true},
	    {1, false},
	    {9, true},
	    {8, true},
	    {7, true},
	    {7, false},
	    {WG_REPLAY_WINDOW, true},
	    {WG_REPLAY_WINDOW - 1, true},
	    {WG_REPLAY_WINDOW - 1, false},
	    {2, true},
	    {2, false},
	    {WG_REPLAY_WINDOW + 16, true},
	    {3, false},
	    {WG_REPLAY_WINDOW + 16, false},
	    {WG_REPLAY_WINDOW * 4, true},
	    {WG_REPLAY_WINDOW * 4 - (WG_REPLAY_WINDOW - 1), true},
	    {10, false},
	    {WG_REPLAY_WINDOW * 4 - WG_REPLAY_WINDOW, true},
	    {WG_REPLAY_WINDOW * 4 - (WG_REPLAY_WINDOW + 1), false},
	    {WG_REJECT_AFTER_MESSAGES + 1, false},
	    {WG_REJECT_AFTER_MESSAGES, false},
	    {WG_REJECT_AFTER_MESSAGES - 1, true},
	    {WG_REJECT_AFTER_MESSAGES - 1, false},
	    {WG_REJECT_AFTER_MESSAGES - 2, true},
	    {0, false},
	};
	struct wg_replay r;
	uint64_t i;

	(void)state;
	memset(&r, 0, sizeof(r));
	for (i = 0; i < KM_ARRAY_LEN(cases); i++)
		assert_int_equal(wg_replay_accept(&r, cases[i].counter), cases[i].ok);
	/* A window's worth backwards, then again. */
	memset(&r, 0, sizeof(r));
	for (i = WG_REPLAY_WINDOW; i > 0; i--)
		assert_true(wg_replay_accept(&r, i));
	assert_true(wg_replay_accept(&r, 0));
	for (i = 0; i <= WG_REPLAY_WINDOW; i++)
		assert_false(wg_replay_accept(&r, i));
}

/* Against a list that is searched from end to end. */
static void test_allowed(void **state)
{
	struct {
		uint8_t addr[16];
		size_t naddr;
		unsigned bits;
		char *peer;
	} model[400];
	char peers[32];
	struct wg_allowed t = {.root4 = NULL};
	uint8_t a[16];
	size_t i, j, k, n = 0, naddr;
	unsigned bits;
	int best;
	char *want, *peer;

	(void)state;
	for (i = 0; i < 4000; i++) {
		naddr = km_random_below(2) ? 4 : 16;
		km_random(a, sizeof(a));
		for (j = 0; j < naddr; j++)
			a[j] &= j < 2 ? 0x03 : 0xc1; /* so that prefixes meet */
		bits = km_random_below((uint32_t)naddr * 8 + 1);
		if (i % 10 == 0 && n < KM_ARRAY_LEN(model)) {
			peer = &peers[km_random_below(32)];
			assert_int_equal(wg_allowed_insert(&t, a, naddr, bits, peer), 0);
			for (j = 0; j < naddr; j++)
				if (j * 8 >= bits)
					a[j] = 0;
				else if (j * 8 + 8 > bits)
					a[j] &= (uint8_t)(0xff << (8 - bits % 8));
			for (k = 0; k < n; k++)
				if (model[k].naddr == naddr && model[k].bits == bits &&
				    memcmp(model[k].addr, a, naddr) == 0)
					break;
			memcpy(model[k].addr, a, naddr);
			model[k].naddr = naddr;
			model[k].bits = bits;
			model[k].peer = peer;
			n += k == n;
		} else if (i % 397 == 0) {
			peer = &peers[km_random_below(32)];
			for (k = 0; k < n;) {
				wg_allowed_remove(&t, model[k].addr, model[k].naddr, model[k].bits,
						  peer);
				if (model[k].peer == peer)
					model[k] = model[--n];
				else
					k++;
			}
		}
		for (want = NULL, best = -1, k = 0; k < n; k++) {
			if (model[k].naddr != naddr || (int)model[k].bits <= best)
				continue;
			for (j = 0; j < model[k].bits; j++)
				if ((model[k].addr[j / 8] ^ a[j / 8]) >> (7 - j % 8) & 1)
					break;
			if (j == model[k].bits) {
				want = model[k].peer;
				best = (int)j;
			}
		}
		assert_ptr_equal(wg_allowed_find(&t, a, naddr), want);
	}
	wg_allowed_free(&t);
	assert_null(wg_allowed_find(&t, a, 4));
	assert_int_equal(wg_allowed_insert(&t, a, 4, 33, peers), KM_EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_constants), cmocka_unit_test(test_handshake),
	    cmocka_unit_test(test_every_bit), cmocka_unit_test(test_cookies),
	    cmocka_unit_test(test_limiter),   cmocka_unit_test(test_replay),
	    cmocka_unit_test(test_allowed),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
