/* SPDX-License-Identifier: MIT */
/* Keys, the table of configured peers, and the choice of a backend. */
#include "libkm/base/util.h"
#include "libkm/wg/internal.h"
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
/* after the standard headers */
#include <cmocka.h>

static struct km_prefix prefix(const char *s)
{
	struct km_prefix p;

	assert_int_equal(km_prefix_parse(&p, s), 0);
	return p;
}

static struct km_wg_peer peer(uint8_t id, const char *allowed)
{
	struct km_wg_peer p = {.n_allowed = 1};

	memset(p.key, id, sizeof(p.key));
	p.allowed[0] = prefix(allowed);
	return p;
}

static void set_endpoint(struct km_wg_peer *p, const char *ip, uint16_t port)
{
	struct km_addr a;

	assert_int_equal(km_addr_parse(&a, ip), 0);
	p->has_endpoint = true;
	km_addr_to_sa(&p->endpoint, &a, port);
}

/* ---- keys ---- */

/* RFC 7748 section 6.1 */
static void test_public_key(void **state)
{
	static const char priv_hex[] =
	    "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
	static const char pub_hex[] =
	    "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
	uint8_t priv[KM_WG_KEY_LEN], pub[KM_WG_KEY_LEN];
	char hex[2 * KM_WG_KEY_LEN + 1];

	(void)state;
	assert_int_equal(km_unhex(priv, sizeof(priv), priv_hex), 0);
	assert_int_equal(km_wg_public(pub, priv), 0);
	assert_string_equal(km_hex(pub, sizeof(pub), hex), pub_hex);
}

static void test_key_text(void **state)
{
	static const char *const bad[] = {"",
					  "AAAA",
					  "not a key at all, although it is 44 chars",
					  "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
					  "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=",
					  "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="};
	uint8_t key[KM_WG_KEY_LEN], back[KM_WG_KEY_LEN];
	char text[KM_WG_KEY_STRLEN];

	(void)state;
	km_wg_private_new(key);
	assert_int_equal(key[0] & 7, 0);
	assert_int_equal(key[31] & 192, 64);
	assert_int_equal(strlen(km_wg_key_str(key, text)), 44);
	assert_int_equal(km_wg_key_parse(back, text), 0);
	assert_memory_equal(key, back, sizeof(key));
	for (size_t i = 0; i < KM_ARRAY_LEN(bad); i++)
		assert_int_equal(km_wg_key_parse(back, bad[i]), KM_EINVAL);
}

/* ---- differences ---- */

static bool change(const struct km_wg_known *k, const struct km_wg_peer *p, struct km_wg_change *c)
{
	return km_wg_known_change(k, p, c);
}

/* Worked out by another program. */
static void test_key_code(void **state)
{
	uint8_t pub[KM_WG_KEY_LEN];
	char code[KM_WG_CODE_STRLEN];

	(void)state;
	for (size_t i = 0; i < sizeof(pub); i++)
		pub[i] = (uint8_t)i;
	assert_string_equal(km_wg_key_code(pub, code), "CC6W-TAB6-RGSP");
}

static void test_new_peer(void **state)
{
	struct km_wg_known *k = km_wg_known_new();
	struct km_wg_peer p = peer(1, "10.1.0.7/24");
	struct km_wg_change c;
	struct km_prefix net = prefix("10.1.0.0/24");

	(void)state;
	p.allowed[p.n_allowed++] = prefix("10.1.0.9/24"); /* the same network */
	assert_true(change(k, &p, &c));
	assert_true(c.replace_allowed);
	assert_int_equal(c.n_allowed, 1);
	assert_true(km_prefix_eq(&c.allowed[0], &net));
	assert_false(c.set_endpoint);
	assert_false(c.set_keepalive);
	km_wg_known_set(k, &p);
	assert_false(change(k, &p, &c));
	km_wg_known_remove(k, p.key);
	assert_true(change(k, &p, &c));
	km_wg_known_free(k);
}

static void test_endpoint_only_when_it_changes(void **state)
{
	struct km_wg_known *k = km_wg_known_new();
	struct km_wg_peer p = peer(1, "10.1.0.1/32");
	struct km_wg_change c;

	(void)state;
	set_endpoint(&p, "192.0.2.1", 51820);
	km_wg_known_set(k, &p);
	assert_false(change(k, &p, &c));
	p.has_endpoint = false; /* what was learned stays */
	assert_false(change(k, &p, &c));
	km_wg_known_set(k, &p);
	set_endpoint(&p, "192.0.2.1", 51820); /* as configured before: still no news */
	assert_false(change(k, &p, &c));
	set_endpoint(&p, "192.0.2.1", 51821);
	assert_true(change(k, &p, &c));
	assert_true(c.set_endpoint);
	assert_false(c.replace_allowed);
	assert_int_equal(c.n_allowed, 0);
	set_endpoint(&p, "2001:db8::1", 51820);
	assert_true(change(k, &p, &c));
	assert_true(c.set_endpoint);
	km_wg_known_free(k);
}

static void test_keepalive(void **state)
{
	struct km_wg_known *k = km_wg_known_new();
	struct km_wg_peer p = peer(1, "10.1.0.1/32");
	struct km_wg_change c;

	(void)state;
	km_wg_known_set(k, &p);
	p.keepalive_s = 25;
	assert_true(change(k, &p, &c));
	assert_true(c.set_keepalive);
	assert_int_equal(c.keepalive_s, 25);
	km_wg_known_set(k, &p);
	p.keepalive_s = 0;
	assert_true(change(k, &p, &c));
	assert_true(c.set_keepalive);
	km_wg_known_free(k);
}

static void test_allowed_ips(void **state)
{
	struct km_wg_known *k = km_wg_known_new();
	struct km_wg_peer p = peer(1, "10.1.0.0/24"), q;
	struct km_wg_change c;

	(void)state;
	p.allowed[p.n_allowed++] = prefix("10.2.0.0/24");
	km_wg_known_set(k, &p);
	p.allowed[0] = prefix("10.2.0.0/24"); /* another order */
	p.allowed[1] = prefix("10.1.0.0/24");
	assert_false(change(k, &p, &c));
	p.allowed[p.n_allowed++] = prefix("fd00::/64"); /* one more: the others are not touched */
	assert_true(change(k, &p, &c));
	assert_false(c.replace_allowed);
	assert_int_equal(c.n_allowed, 1);
	assert_int_equal(c.allowed[0].addr.family, AF_INET6);
	km_wg_known_set(k, &p);
	p.n_allowed = 1; /* fewer */
	assert_true(change(k, &p, &c));
	assert_true(c.replace_allowed);
	assert_int_equal(c.n_allowed, 1);
	km_wg_known_set(k, &p);
	/* given to another peer, it is gone from the first, and comes back when asked for again */
	q = peer(2, "10.2.0.0/24");
	km_wg_known_set(k, &q);
	assert_false(change(k, &q, &c));
	assert_true(change(k, &p, &c));
	assert_int_equal(c.n_allowed, 1);
	km_wg_known_set(k, &p);
	assert_true(change(k, &q, &c));
	km_wg_known_remove(k, q.key);
	assert_false(change(k, &p, &c));
	km_wg_known_free(k);
}

/* ---- what the device has ---- */

static struct km_wg_peer_status as_configured(const struct km_wg_peer *p)
{
	struct km_wg_peer_status s = {.keepalive_s = p->keepalive_s, .n_allowed = p->n_allowed};

	memcpy(s.key, p->key, sizeof(s.key));
	memcpy(s.allowed, p->allowed, sizeof(s.allowed));
	return s;
}

static void test_device_differs(void **state)
{
	struct km_wg_known *k = km_wg_known_new();
	struct km_wg_peer p = peer(1, "10.1.0.0/24"), q = peer(2, "10.2.0.0/24");
	struct km_wg_peer_status s;
	struct km_wg_change c;

	(void)state;
	p.keepalive_s = 25;
	p.allowed[p.n_allowed++] = prefix("fd00::/64");
	km_wg_known_set(k, &p);
	km_wg_known_look(k);
	s = as_configured(&q);
	assert_false(km_wg_known_has(k, q.key));
	assert_false(km_wg_known_differs(k, &s, &c)); /* not ours to judge */
	s = as_configured(&p);
	assert_false(km_wg_known_differs(k, &s, &c));
	s.allowed[0] = p.allowed[1]; /* another order */
	s.allowed[1] = p.allowed[0];
	s.has_endpoint = true; /* learned */
	assert_false(km_wg_known_differs(k, &s, &c));
	s.has_psk = true;
	assert_true(km_wg_known_differs(k, &s, &c));
	assert_true(c.clear_psk);
	assert_false(c.set_endpoint || c.set_keepalive || c.replace_allowed);
	s = as_configured(&p);
	s.keepalive_s = 0;
	assert_true(km_wg_known_differs(k, &s, &c));
	assert_true(c.set_keepalive);
	assert_int_equal(c.keepalive_s, 25);
	s = as_configured(&p);
	s.n_allowed = 1;
	assert_true(km_wg_known_differs(k, &s, &c));
	assert_true(c.replace_allowed);
	assert_int_equal(c.n_allowed, 2);
	s = as_configured(&p);
	s.allowed[1] = q.allowed[0];
	assert_true(km_wg_known_differs(k, &s, &c));
	s = as_configured(&p);
	s.more_allowed = true;
	assert_true(km_wg_known_differs(k, &s, &c));
	km_wg_known_free(k);
}

static void test_device_lacks(void **state)
{
	struct km_wg_known *k = km_wg_known_new();
	struct km_wg_peer list[3] = {peer(1, "10.1.0.0/24"), peer(2, "10.2.0.0/24"),
				     peer(3, "10.3.0.0/24")};
	struct km_wg_peer_status s;
	struct km_wg_change c;
	struct km_wg_peer last;
	uint8_t(*keys)[KM_WG_KEY_LEN];

	(void)state;
	set_endpoint(&list[0], "192.0.2.1", 1);
	list[0].keepalive_s = 25;
	for (int i = 0; i < 3; i++)
		km_wg_known_set(k, &list[i]);
	assert_int_equal(km_wg_known_keys(k, &keys), 3);
	free(keys);
	km_wg_known_look(k);
	s = as_configured(&list[1]);
	assert_false(km_wg_known_differs(k, &s, &c));
	assert_true(km_wg_known_missing(k, &c));
	assert_int_equal(c.key[0], 1);
	assert_true(c.set_endpoint && c.set_keepalive && c.replace_allowed);
	assert_int_equal(c.n_allowed, 1);
	assert_true(km_wg_known_missing(k, &c));
	assert_int_equal(c.key[0], 3);
	assert_false(c.set_endpoint);
	assert_false(km_wg_known_missing(k, &c));
	/* the endpoint that was seen last is better than the configured one */
	last = list[0];
	set_endpoint(&last, "192.0.2.7", 7);
	km_wg_known_look(k);
	s = as_configured(&list[0]);
	s.has_endpoint = true;
	s.endpoint = last.endpoint;
	assert_false(km_wg_known_differs(k, &s, &c));
	km_wg_known_look(k);
	assert_true(km_wg_known_missing(k, &c));
	assert_int_equal(c.key[0], 1);
	assert_memory_equal(&c.endpoint, &last.endpoint, sizeof(c.endpoint));
	km_wg_known_free(k);
	k = km_wg_known_new();
	km_wg_known_look(k);
	assert_false(km_wg_known_missing(k, &c));
	km_wg_known_free(k);
}

static void test_network(void **state)
{
	static const struct {
		const char *in, *out;
	} cases[] = {{"10.1.2.3/32", "10.1.2.3/32"},         {"10.1.2.3/24", "10.1.2.0/24"},
		     {"10.255.2.3/9", "10.128.0.0/9"},       {"10.1.2.3/0", "0.0.0.0/0"},
		     {"fd00:1:2::ffff/65", "fd00:1:2::/65"}, {"::1/128", "::1/128"}};

	(void)state;
	for (size_t i = 0; i < KM_ARRAY_LEN(cases); i++) {
		struct km_prefix in = prefix(cases[i].in), want = prefix(cases[i].out);
		struct km_prefix out = km_wg_network(&in);

		assert_true(km_prefix_eq(&out, &want));
	}
}

/* ---- backends ---- */

static void test_kernel_refuses(void **state)
{
	struct km_errtext err = {""}, why = {""};
	uint8_t key[KM_WG_KEY_LEN];
	struct km_wg_device *d;

	(void)state;
	km_wg_private_new(key);
	if (geteuid() || !access("/sys/module/wireguard", F_OK))
		skip();
	assert_int_equal(km_wg_open(&d, KM_WG_KERNEL, -1, key, 0, &why, &err), KM_EUNSUPPORTED);
	assert_null(d);
	assert_non_null(strstr(err.text, "this kernel has no WireGuard"));
	assert_non_null(strstr(err.text, "Ways out: modprobe wireguard; or a kernel"));
	assert_int_equal(km_wg_open(&d, KM_WG_NONE, -1, key, 0, &why, &err), KM_EINVAL);
}

static void test_kernel_without_privilege(void **state)
{
	struct km_errtext err = {""}, why = {""};
	uint8_t key[KM_WG_KEY_LEN];
	struct km_wg_device *d;
	int status;
	pid_t pid = geteuid() ? -1 : fork();

	(void)state;
	if (pid < 0)
		skip();
	if (!pid) {
		km_wg_private_new(key);
		if (setgid(65534) || setuid(65534))
			_exit(2);
		_exit(km_wg_open(&d, KM_WG_KERNEL, -1, key, 0, &why, &err) != KM_EPERM);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_public_key),
	    cmocka_unit_test(test_key_text),
	    cmocka_unit_test(test_key_code),
	    cmocka_unit_test(test_new_peer),
	    cmocka_unit_test(test_endpoint_only_when_it_changes),
	    cmocka_unit_test(test_keepalive),
	    cmocka_unit_test(test_allowed_ips),
	    cmocka_unit_test(test_network),
	    cmocka_unit_test(test_device_differs),
	    cmocka_unit_test(test_device_lacks),
	    cmocka_unit_test(test_kernel_refuses),
	    cmocka_unit_test(test_kernel_without_privilege),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
