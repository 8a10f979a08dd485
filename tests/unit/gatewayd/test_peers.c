/* SPDX-License-Identifier: MIT */
/* Which key has an agent's addresses while the key changes, on a device that is played here. */
#include "gatewayd/peers.h"
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
	bool there, has_address;
} device[PEERS];

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
	(void)p, (void)prefixes, (void)n, (void)err;
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

static void handshake(const char *key)
{
	uint8_t k[KM_WG_KEY_LEN];
	static int64_t ms = 1000;

	assert_int_equal(km_wg_key_parse(k, key), 0);
	assert_true(at(k) >= 0);
	device[at(k)].status.last_handshake_ms = ms += 1000;
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
	p = peers_new(dir);
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
	char *file;

	peers_free(p);
	assert_true(asprintf(&file, "%s/endpoints.json", dir) > 0);
	remove(file);
	free(file);
	assert_int_equal(remove(dir), 0);
}

/* ---- tests ---- */

static void the_next_key_becomes_the_present_one(void **state)
{
	char dir[32];
	struct peers *p = begun(dir);
	uint8_t old[KM_WG_KEY_LEN];

	(void)state;
	agent(p, "home", NEW, NULL);
	assert_string_equal(owner(), NEW);
	assert_int_equal(km_wg_key_parse(old, OLD), 0);
	assert_int_equal(at(old), -1);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_next_key_becomes_the_present_one),
	    cmocka_unit_test(an_adopted_key_keeps_the_addresses),
	    cmocka_unit_test(a_key_that_is_given_up_gives_them_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
