/* SPDX-License-Identifier: MIT */
/* Which key has a peer's addresses while the key changes, and when a handshake with another gateway
 * begins anew, on a device that is played here. */
#include "gatewayd/peers.h"
#include "libkm/base/util.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ID "3f8d2c1e-5b6a-4c7d-8e9f-0a1b2c3d4e5f"
#define OLD "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
#define NEW "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
#define PEERS 4

/* ---- the device: an address belongs to the peer that had it set last ---- */

static struct {
	struct km_wg_peer_status status;
	struct km_wg_peer set; /* as it was set last */
	bool there, has_address;
	int kicks;
} device[PEERS];

static struct km_prefix routes[8];
static size_t n_routes;

static int at(const uint8_t *key)
{
	for (int i = 0; i < PEERS; i++)
		if (device[i].there && memcmp(device[i].status.key, key, KM_WG_KEY_LEN) == 0)
			return i;
	return -1;
}

int km_privnet_peer_set(struct km_privnet *p, const struct km_wg_peer *peer, struct km_errtext *err)
{
	int i = at(peer->key);

	(void)p, (void)err;
	for (int k = 0; i < 0; k++)
		if (!device[k].there)
			i = k;
	for (int k = 0; k < PEERS && peer->n_allowed; k++)
		device[k].has_address = false;
	device[i].there = true;
	device[i].has_address = peer->n_allowed > 0;
	device[i].set = *peer;
	memcpy(device[i].status.key, peer->key, KM_WG_KEY_LEN);
	return 0;
}

int km_privnet_peer_remove(struct km_privnet *p, const uint8_t key[static KM_WG_KEY_LEN],
			   struct km_errtext *err)
{
	int i = at(key);

	(void)p, (void)err;
	if (i >= 0)
		memset(&device[i], 0, sizeof(device[i]));
	return 0;
}

int km_privnet_peer_kick(struct km_privnet *p, const struct km_wg_peer *peer,
			 struct km_errtext *err)
{
	int rc = km_privnet_peer_set(p, peer, err);

	device[at(peer->key)].kicks++;
	return rc;
}

int km_privnet_peers(struct km_privnet *p, struct km_wg_peer_status **out, size_t *n,
		     struct km_errtext *err)
{
	(void)p, (void)err;
	*out = calloc(PEERS, sizeof(**out));
	*n = 0;
	for (int i = 0; i < PEERS; i++)
		if (device[i].there)
			(*out)[(*n)++] = device[i].status;
	return 0;
}

int km_privnet_peers_keep(struct km_privnet *p, const uint8_t (*keys)[KM_WG_KEY_LEN], size_t n,
			  struct km_errtext *err)
{
	(void)p, (void)keys, (void)n, (void)err;
	return 0;
}

int km_privnet_routes(struct km_privnet *p, const struct km_prefix *prefixes, size_t n,
		      struct km_errtext *err)
{
	(void)p, (void)err;
	n_routes = n;
	for (size_t i = 0; i < n && i < KM_ARRAY_LEN(routes); i++)
		routes[i] = prefixes[i];
	return 0;
}

int km_privnet_addresses(struct km_privnet *p, const struct km_prefix *own, size_t n,
			 struct km_errtext *err)
{
	(void)p, (void)own, (void)n, (void)err;
	return 0;
}

int km_privnet_key_next(struct km_privnet *p, uint8_t pub[static KM_WG_KEY_LEN],
			struct km_errtext *err)
{
	(void)p, (void)err;
	memset(pub, 0, KM_WG_KEY_LEN);
	return KM_EUNSUPPORTED;
}

int km_privnet_key_switch(struct km_privnet *p, const uint8_t pub[static KM_WG_KEY_LEN],
			  struct km_errtext *err)
{
	(void)p, (void)pub, (void)err;
	return 0;
}

/* ---- helpers ---- */

static const char *owner(void)
{
	static char text[KM_WG_KEY_STRLEN];

	for (int i = 0; i < PEERS; i++)
		if (device[i].has_address)
			return km_wg_key_str(device[i].status.key, text);
	return "nobody";
}

static int of(const char *key)
{
	uint8_t k[KM_WG_KEY_LEN];

	assert_int_equal(km_wg_key_parse(k, key), 0);
	return at(k);
}

static void handshake(const char *key)
{
	static int64_t ms = 1000;

	assert_true(of(key) >= 0);
	device[of(key)].status.last_handshake_ms = ms += 1000;
}

static void agent(struct peers *p, const char *name, const char *key, const char *next)
{
	const struct km_msg_agent a = {.id = (char *)ID,
				       .name = (char *)name,
				       .virtual_ip = (char *)"10.1.0.100",
				       .subnet = (char *)"10.1.0.0/24",
				       .wireguard_public_key = (char *)key,
				       .next_public_key = (char *)next};
	struct km_errtext err = {""};

	assert_int_equal(peers_agent(p, NULL, &a, &err), 0);
}

static struct peers *begun(char dir[static 32])
{
	struct peers *p;

	memset(device, 0, sizeof(device));
	strcpy(dir, "/tmp/km-peers-XXXXXX");
	assert_non_null(mkdtemp(dir));
	p = peers_new(dir, NULL);
	peers_net(p, (struct km_privnet *)device); /* only passed on */
	agent(p, "home", OLD, NULL);
	handshake(OLD);
	peers_look(p, 1);
	assert_string_equal(owner(), OLD);
	agent(p, "home", OLD, NEW);
	peers_look(p, 2);
	assert_string_equal(owner(), OLD); /* it waits */
	return p;
}

static void ended(struct peers *p, const char *dir)
{
	static const char *const names[] = {"endpoints.json", "neighbours.json"};
	char file[64];

	peers_free(p);
	for (size_t i = 0; i < KM_ARRAY_LEN(names); i++) {
		snprintf(file, sizeof(file), "%s/%s", dir, names[i]);
		remove(file);
	}
	assert_int_equal(remove(dir), 0);
}

/* ---- tests ---- */

static void the_next_key_becomes_the_present_one(void **state)
{
	char dir[32];
	struct peers *p = begun(dir);

	(void)state;
	agent(p, "home", NEW, NULL);
	assert_string_equal(owner(), NEW);
	assert_int_equal(of(OLD), -1);
	ended(p, dir);
}

/* Control is away, or late: what it says of the agent meanwhile names the key before. */
static void an_adopted_key_keeps_the_addresses(void **state)
{
	char dir[32];
	struct peers *p = begun(dir);
	uint8_t pub[KM_WG_KEY_LEN] = {0};
	struct km_errtext err;

	(void)state;
	handshake(NEW);
	peers_look(p, 3);
	assert_string_equal(owner(), NEW);
	agent(p, "renamed", OLD, NEW);
	assert_string_equal(owner(), NEW);
	assert_int_equal(peers_key_switch(p, pub, &err), 0); /* knocks at everybody */
	assert_string_equal(owner(), NEW);
	peers_look(p, INT64_MAX); /* and knocks no more */
	assert_string_equal(owner(), NEW);
	agent(p, "renamed", NEW, NULL);
	assert_string_equal(owner(), NEW);
	ended(p, dir);
}

static void a_key_that_is_given_up_gives_them_back(void **state)
{
	char dir[32];
	struct peers *p = begun(dir);

	(void)state;
	handshake(NEW);
	peers_look(p, 3);
	assert_string_equal(owner(), NEW);
	agent(p, "home", OLD, NULL);
	assert_string_equal(owner(), OLD);
	ended(p, dir);
}

/* ---- another gateway ---- */

static void gateway(struct peers *p, const char *key, const char *next)
{
	char *const ips[] = {(char *)"10.0.0.2", (char *)"10.0.1.2"}, *const at_[] = {
									  (char *)"192.0.2.7"};
	const struct km_msg_gateway g = {.id = (char *)ID,
					 .name = (char *)"gw",
					 .virtual_ips = (char **)ips,
					 .n_virtual_ips = 2,
					 .public_ip = (char **)at_,
					 .n_public_ip = 1,
					 .has_wireguard_port = true,
					 .wireguard_port = 4711,
					 .wireguard_public_key = (char *)key,
					 .next_public_key = (char *)next};
	struct km_errtext err = {""};

	assert_int_equal(peers_gateway(p, key ? NULL : &g, key ? &g : NULL, &err), 0);
	assert_int_equal(peers_settled(p, &err), 0);
}

static void a_gateway_is_a_peer(void **state)
{
	struct event_base *base = event_base_new();
	char dir[32] = "/tmp/km-peers-XXXXXX", text[KM_PREFIX_STRLEN];
	struct neighbours *ns;
	struct peers *p;

	(void)state;
	memset(device, 0, sizeof(device));
	assert_non_null(mkdtemp(dir));
	ns = neighbours_new(base, dir);
	p = peers_new(dir, ns);
	peers_net(p, (struct km_privnet *)device);
	gateway(p, OLD, NEW);
	assert_string_equal(owner(), OLD);
	assert_int_equal(device[of(OLD)].set.keepalive_s, NEIGHBOUR_KEEPALIVE_S);
	/* Its own addresses and no network. */
	assert_int_equal(n_routes, 2);
	assert_string_equal(km_prefix_str(&routes[0], text), "10.0.0.2/32");
	assert_string_equal(km_prefix_str(&routes[1], text), "10.0.1.2/32");
	assert_int_equal(device[of(OLD)].set.n_allowed, 2);
	assert_string_equal(km_prefix_str(&device[of(OLD)].set.allowed[0], text), "10.0.0.2/32");

	handshake(NEW); /* it has changed its key */
	peers_look(p, km_now_ms());
	assert_string_equal(owner(), NEW);
	gateway(p, NEW, NULL);
	assert_string_equal(owner(), NEW);

	gateway(p, NULL, NULL);
	assert_string_equal(owner(), "nobody");
	assert_int_equal(n_routes, 0);
	for (int i = 0; i < PEERS; i++)
		assert_false(device[i].there);
	ended(p, dir);
	neighbours_free(ns);
	event_base_free(base);
}

static void a_silent_gateway_is_tried_anew(void **state)
{
	struct event_base *base = event_base_new();
	char dir[32] = "/tmp/km-peers-XXXXXX";
	struct neighbours *ns;
	struct peers *p;
	int64_t now = km_now_ms();

	(void)state;
	memset(device, 0, sizeof(device));
	assert_non_null(mkdtemp(dir));
	ns = neighbours_new(base, dir);
	p = peers_new(dir, ns);
	peers_net(p, (struct km_privnet *)device);
	gateway(p, OLD, NULL);
	handshake(OLD);
	for (int i = 0; i < 10; i++) {
		device[0].status.rx_bytes += 32;
		peers_look(p, now += 10000);
		assert_int_equal(device[0].kicks, 0);
	}
	peers_look(p, now += 10000);
	assert_int_equal(device[0].kicks, 0);
	peers_look(p, now += 10000);
	assert_int_equal(device[0].kicks, 1);
	device[0].status.rx_bytes += 32;
	peers_look(p, now += 10000);
	peers_look(p, now += 10000);
	assert_int_equal(device[0].kicks, 1);
	ended(p, dir);
	neighbours_free(ns);
	event_base_free(base);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_next_key_becomes_the_present_one),
	    cmocka_unit_test(an_adopted_key_keeps_the_addresses),
	    cmocka_unit_test(a_key_that_is_given_up_gives_them_back),
	    cmocka_unit_test(a_gateway_is_a_peer),
	    cmocka_unit_test(a_silent_gateway_is_tried_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
