/* SPDX-License-Identifier: MIT */
/* Up to five gateways in one process, on loopback addresses of their own instead of a private
 * network. */
#include "gatewayd/mesh/mesh.h"
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
/* after the standard headers */
#include <cmocka.h>

#define GATEWAYS 5
#define DEAD_MS 400
#define PATIENCE_MS 20000
#define PEM "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"

struct gw {
	struct mesh *m;
	uint8_t id[16];
	struct km_addr addr;
	int joined, changed;
	/* what it was told */
	struct challenge ch;
	int opened, closed, announced, failed;
	struct mesh_fact fact;
	uint8_t from[16];
	char why[512];
	/* what it answers */
	bool objects;
	const char *has; /* the domain whose certificate it has */
	int asked;
};

static struct event_base *base;
static struct km_privnet *net;
static struct gw gws[GATEWAYS];

/* ---- the gateways' hooks ---- */

static void on_challenge(void *arg, const struct challenge *ch, bool open)
{
	struct gw *g = arg;

	g->ch = *ch;
	g->opened += open;
	g->closed += !open;
}

static void on_announced(void *arg, const uint8_t gateway[static 16], const struct mesh_fact *f)
{
	struct gw *g = arg;

	g->announced++;
	g->fact = *f;
	memcpy(g->from, gateway, 16);
}

static char *on_give(void *arg, const uint8_t gateway[static 16], const char *domain, bool rsa)
{
	struct gw *g = arg;

	memcpy(g->from, gateway, 16);
	g->asked++;
	return g->has && !rsa && !strcmp(domain, g->has) ? km_xstrdup(PEM) : NULL;
}

static bool on_yields(void *arg, const char *domain)
{
	(void)domain;
	return !((struct gw *)arg)->objects;
}

static void on_failed(void *arg, const char *domain, const char *why, int64_t next_try_ms)
{
	struct gw *g = arg;

	assert_string_equal(domain, "a.test");
	assert_int_equal(next_try_ms, 12345);
	g->failed++;
	snprintf(g->why, sizeof(g->why), "%s", why);
}

static void on_changed(void *arg)
{
	((struct gw *)arg)->changed++;
}

static void on_joined(void *arg, const uint8_t gateway[static 16])
{
	struct gw *g = arg;

	memcpy(g->from, gateway, 16);
	g->joined++;
}

static const struct mesh_hooks hooks = {
    .challenge = on_challenge,
    .announced = on_announced,
    .give = on_give,
    .yields = on_yields,
    .failed = on_failed,
    .changed = on_changed,
    .joined = on_joined,
};

/* ---- the loop ---- */

static void until_(bool (*done)(void *arg), void *arg, int line)
{
	int64_t end = km_now_ms() + PATIENCE_MS;

	while (!done(arg)) {
		if (km_now_ms() > end)
			fail_msg("line %d: it never comes", line);
		event_base_loop(base, EVLOOP_ONCE);
	}
}
#define until(done, arg) until_(done, arg, __LINE__)

static bool is_set(void *arg)
{
	return *(int *)arg != 0;
}

static bool sees(struct gw *g, size_t n)
{
	return mesh_alive(g->m) == n;
}

static bool all_see_all(void *arg)
{
	size_t n = *(size_t *)arg;

	for (size_t i = 0; i < n; i++)
		if (!sees(&gws[i], n - 1))
			return false;
	return true;
}

static bool alone(void *arg)
{
	return sees(arg, 0);
}

static bool two(void *arg)
{
	return sees(arg, 1);
}

/* ---- fixture ---- */

/* 127.x.y.z of this process, so that tests beside one another do not meet. */
static struct km_addr address(size_t i)
{
	uint32_t pid = (uint32_t)getpid();
	struct km_addr a = {
	    .family = AF_INET,
	    .ip = {127, (uint8_t)(pid >> 16 | 0x40), (uint8_t)(pid >> 8), (uint8_t)pid}};

	a.ip[1] = (uint8_t)(a.ip[1] + 16 * i);
	return a;
}

static void gw_start(size_t i)
{
	const struct mesh_opts o = {
	    .base = base, .hooks = &hooks, .arg = &gws[i], .dead_after_ms = DEAD_MS};
	struct km_errtext err = {""};

	memset(&gws[i], 0, sizeof(gws[i]));
	/* The first byte decides who dials: not in the order of the array. */
	memset(gws[i].id, (int)(7 * i % 5) + 1, 16);
	gws[i].addr = address(i);
	gws[i].m = mesh_new(&o);
	assert_non_null(gws[i].m);
	assert_int_equal(mesh_net(gws[i].m, net, &err), 0);
	assert_int_equal(mesh_self(gws[i].m, gws[i].id, &gws[i].addr, &err), 0);
}

static void gw_meets(size_t i, size_t k)
{
	struct km_errtext err = {""};

	assert_int_equal(mesh_peer(gws[i].m, gws[k].id, &gws[k].addr, &err), 0);
}

static void gw_stop(size_t i)
{
	mesh_free(gws[i].m);
	gws[i].m = NULL;
}

static void start(size_t n)
{
	for (size_t i = 0; i < n; i++)
		gw_start(i);
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < n; k++)
			if (i != k)
				gw_meets(i, k);
	until(all_see_all, &n);
}

static int set_up(void **state)
{
	const struct km_privnet_opts o = {.wireguard = KM_WG_NONE};
	struct km_errtext err = {""};

	(void)state;
	base = event_base_new();
	return km_privnet_open(&net, &o, NULL, &err);
}

static int tear_down(void **state)
{
	(void)state;
	for (size_t i = 0; i < GATEWAYS; i++)
		gw_stop(i);
	km_privnet_close(net, true);
	event_base_free(base);
	return 0;
}

/* ---- tests ---- */

static void five_find_each_other(void **state)
{
	(void)state;
	start(5);
	for (size_t i = 0; i < 5; i++) {
		assert_int_equal(gws[i].joined, 4);
		assert_true(gws[i].changed >= 4);
	}
}

static void one_is_alone(void **state)
{
	(void)state;
	start(1);
	assert_int_equal(mesh_alive(gws[0].m), 0);
	assert_true(mesh_mine(gws[0].m, "a.test"));
}

static void on_done(void *arg)
{
	++*(int *)arg;
}

static struct challenge challenge(void)
{
	return (struct challenge){.type = CHALLENGE_ALPN_TLS,
				  .name = "a.test",
				  .token = "tok_en-1",
				  .key_auth = "tok_en-1.thumb"};
}

static void a_challenge_is_everywhere_before_done(void **state)
{
	struct challenge ch = challenge();
	int done = 0;

	(void)state;
	start(5);
	mesh_challenge(gws[0].m, &ch, true, on_done, &done);
	assert_int_equal(done, 0);
	until(is_set, &done);
	for (size_t i = 1; i < 5; i++) {
		assert_int_equal(gws[i].opened, 1);
		assert_int_equal(gws[i].ch.type, CHALLENGE_ALPN_TLS);
		assert_string_equal(gws[i].ch.name, "a.test");
		assert_string_equal(gws[i].ch.token, ch.token);
		assert_string_equal(gws[i].ch.key_auth, ch.key_auth);
	}
	done = 0;
	mesh_challenge(gws[0].m, &ch, false, on_done, &done);
	until(is_set, &done);
	assert_int_equal(gws[4].closed, 1);
	assert_string_equal(gws[4].ch.token, ch.token);
	assert_int_equal(gws[0].opened + gws[0].closed, 0);
	assert_int_equal(done, 1);
}

static void who_is_alone_is_done_at_once(void **state)
{
	struct challenge ch = challenge();
	int done = 0;

	(void)state;
	start(1);
	mesh_challenge(gws[0].m, &ch, true, on_done, &done);
	assert_int_equal(done, 0);
	event_base_loop(base, EVLOOP_ONCE);
	assert_int_equal(done, 1);
}

static void who_dies_is_not_waited_for(void **state)
{
	struct challenge ch = challenge();
	int done = 0;
	int64_t began;

	(void)state;
	start(2);
	mesh_challenge(gws[0].m, &ch, true, on_done, &done);
	gw_stop(1); /* before it has read it */
	began = km_now_ms();
	until(is_set, &done);
	assert_true(km_now_ms() - began < 1900); /* not the two seconds */
	until(alone, &gws[0]);
}

struct verdict {
	int done;
	bool granted;
};

static void on_claimed(void *arg, bool granted)
{
	struct verdict *v = arg;

	v->done++;
	v->granted = granted;
}

static void a_claim_can_be_objected_to(void **state)
{
	struct verdict v = {0};

	(void)state;
	start(3);
	mesh_claim(gws[0].m, "a.test", on_claimed, &v);
	assert_int_equal(v.done, 0);
	until(is_set, &v.done);
	assert_true(v.granted);
	gws[2].objects = true;
	v.done = 0;
	mesh_claim(gws[0].m, "a.test", on_claimed, &v);
	until(is_set, &v.done);
	assert_false(v.granted);
	assert_int_equal(v.done, 1);
}

struct got {
	int done;
	char pem[256];
};

static void on_fetched(void *arg, const char *pem)
{
	struct got *g = arg;

	g->done++;
	snprintf(g->pem, sizeof(g->pem), "%s", pem ? pem : "none");
}

static void a_certificate_is_fetched(void **state)
{
	static const uint8_t nobody[16];
	struct got got = {0};

	(void)state;
	start(2);
	gws[1].has = "a.test";
	mesh_fetch(gws[0].m, gws[1].id, "a.test", false, on_fetched, &got);
	assert_int_equal(got.done, 0);
	until(is_set, &got.done);
	assert_string_equal(got.pem, PEM);
	assert_memory_equal(gws[1].from, gws[0].id, 16); /* whoever gives knows to whom */

	got.done = 0;
	mesh_fetch(gws[0].m, gws[1].id, "b.test", false, on_fetched, &got);
	until(is_set, &got.done);
	assert_string_equal(got.pem, "none");
	assert_int_equal(gws[1].asked, 2);

	got.done = 0;
	mesh_fetch(gws[0].m, nobody, "a.test", false, on_fetched, &got);
	assert_int_equal(got.done, 0);
	until(is_set, &got.done);
	assert_string_equal(got.pem, "none");
}

static void facts_and_failures_are_told(void **state)
{
	struct mesh_fact f = {.domain = "*.a.test", .rsa = true, .not_after_ms = 1234567890123};

	(void)state;
	start(3);
	memset(f.fingerprint, 'a', 64);
	mesh_announce(gws[1].m, &f);
	until(is_set, &gws[0].announced);
	until(is_set, &gws[2].announced);
	assert_string_equal(gws[0].fact.domain, "*.a.test");
	assert_true(gws[0].fact.rsa);
	assert_string_equal(gws[0].fact.fingerprint, f.fingerprint);
	assert_int_equal(gws[0].fact.not_after_ms, f.not_after_ms);
	assert_memory_equal(gws[0].from, gws[1].id, 16);
	mesh_announce_to(gws[1].m, gws[0].id, &f);
	mesh_failed(gws[1].m, "a.test", "the CA\nsaid \xff no", 12345);
	until(is_set, &gws[2].failed);
	until(is_set, &gws[0].failed);
	assert_string_equal(gws[2].why, "the CAsaid  no");
	assert_int_equal(gws[0].announced, 2);
	assert_int_equal(gws[2].announced, 1);
}

static void who_is_gone_is_cut_off_at_once(void **state)
{
	struct got got = {0};

	(void)state;
	start(2);
	gws[1].has = "a.test";
	mesh_peer_gone(gws[1].m, gws[0].id);
	assert_int_equal(mesh_alive(gws[1].m), 0);
	mesh_fetch(gws[0].m, gws[1].id, "a.test", false, on_fetched, &got);
	until(is_set, &got.done);
	assert_string_equal(got.pem, "none");
	assert_int_equal(gws[1].asked, 0);
	gw_meets(1, 0); /* and may come back */
	until(two, &gws[1]);
}

/* A connection from an address of this host's that is no gateway's. */
static void a_stranger_is_refused(void **state)
{
	struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM, 0), closed = 0;
	char byte;

	(void)state;
	start(2);
	memcpy(&from.sin_addr, address(2).ip, 4);
	memcpy(&to.sin_addr, gws[0].addr.ip, 4);
	to.sin_port = htons(MESH_PORT);
	assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof(from)), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	while (!closed) {
		ssize_t n;

		event_base_loop(base, EVLOOP_NONBLOCK);
		n = recv(fd, &byte, 1, MSG_DONTWAIT);
		assert_true(n <= 0); /* it hears nothing */
		closed = n == 0 || errno != EAGAIN;
	}
	assert_int_equal(errno, ECONNRESET);
	close(fd);
	assert_int_equal(mesh_alive(gws[0].m), 1);
}

/* A socket at gateway 1's address, connected to gateway 0, for which it is to dial. */
static int played(void)
{
	struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	start(1);
	memset(&gws[1], 0, sizeof(gws[1])); /* the lowest id */
	gws[1].addr = address(1);
	gw_meets(0, 1);
	memcpy(&from.sin_addr, gws[1].addr.ip, 4);
	memcpy(&to.sin_addr, gws[0].addr.ip, 4);
	to.sin_port = htons(MESH_PORT);
	assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof(from)), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

static const uint8_t hello[32] = {0, 0, 0, 28, 1, 2, 0, 0, 0, 1, 1, 3, 0, 0, 0, 16};

static void says(int fd, const uint8_t *bytes, size_t n)
{
	assert_int_equal(send(fd, bytes, n, 0), n);
}

/* It keeps its connection and says nothing: dead after the bound. */
static void who_is_silent_is_dead(void **state)
{
	int fd = played();
	int64_t began = km_now_ms();

	(void)state;
	says(fd, hello, sizeof(hello));
	until(two, &gws[0]);
	until(alone, &gws[0]);
	assert_true(km_now_ms() - began >= DEAD_MS);
	close(fd);
}

/* Until gateway 0 ends the connection. */
static void hears_the_end(int fd)
{
	char bytes[256];
	ssize_t n;

	do {
		event_base_loop(base, EVLOOP_NONBLOCK);
		n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	} while (n > 0 || (n < 0 && errno == EAGAIN));
	assert_int_equal(mesh_alive(gws[0].m), 0);
	close(fd);
}

static void who_is_another_is_not_heard(void **state)
{
	uint8_t other[sizeof(hello)];
	int fd = played();

	(void)state;
	memcpy(other, hello, sizeof(other));
	other[31] = 1;
	says(fd, other, sizeof(other));
	hears_the_end(fd);
	assert_int_equal(gws[0].joined, 0);
}

static void hello_comes_first(void **state)
{
	static const uint8_t claim[] = {0, 0, 0, 16, 5,  1, 0, 0, 0, 4,
					0, 0, 0, 9,  10, 0, 0, 0, 1, 'a'};
	int fd = played();

	(void)state;
	says(fd, claim, sizeof(claim));
	hears_the_end(fd);
}

static void who_is_malformed_is_cut_off(void **state)
{
	static const uint8_t large[] = {0x7f, 0xff, 0xff, 0xff};
	int fd = played();

	(void)state;
	says(fd, hello, sizeof(hello));
	until(two, &gws[0]);
	says(fd, large, sizeof(large));
	hears_the_end(fd);
}

static void who_comes_back_is_found(void **state)
{
	(void)state;
	start(3);
	gw_stop(2);
	until(two, &gws[0]);
	until(two, &gws[1]);
	gw_start(2);
	gw_meets(2, 0);
	gw_meets(2, 1);
	until(all_see_all, &(size_t){3});
	assert_int_equal(gws[0].joined, 3);
}

static void a_network_made_anew(void **state)
{
	struct km_errtext err = {""};

	(void)state;
	start(3);
	assert_int_equal(mesh_net(gws[1].m, NULL, &err), 0);
	assert_int_equal(mesh_alive(gws[1].m), 0);
	until(two, &gws[0]);
	assert_int_equal(mesh_net(gws[1].m, net, &err), 0);
	until(all_see_all, &(size_t){3});
}

static void impossible_peers(void **state)
{
	struct km_errtext err = {""};
	uint8_t other[16] = {99};

	(void)state;
	start(2);
	assert_int_equal(mesh_peer(gws[0].m, gws[0].id, &gws[1].addr, &err), KM_EINVAL);
	assert_int_equal(mesh_peer(gws[0].m, other, &gws[0].addr, &err), KM_EINVAL);
	assert_int_equal(mesh_peer(gws[0].m, other, &gws[1].addr, &err), KM_EINVAL);
	for (int i = 1; i < MESH_PEERS_MAX; i++) {
		struct km_addr a = {.family = AF_INET,
				    .ip = {10, 9, (uint8_t)(i >> 8), (uint8_t)i}};

		other[1] = (uint8_t)i;
		assert_int_equal(mesh_peer(gws[0].m, other, &a, &err), 0);
	}
	other[2] = 1;
	assert_int_equal(mesh_peer(gws[0].m, other, &(struct km_addr){AF_INET, {10, 8}}, &err),
			 KM_EFULL);
}

/* All gateways agree, each has its share, and who goes takes nobody else's. */
static void who_orders(void **state)
{
	uint8_t ids[5][16];
	size_t share[5] = {0}, moved = 0, alone_[5] = {0};

	(void)state;
	for (size_t i = 0; i < 5; i++)
		memset(ids[i], (int)(31 * i + 7), 16);
	for (int i = 0; i < 10000; i++) {
		char name[32];

		snprintf(name, sizeof(name), "d%d.test", i);
		size_t all = mesh_winner((const uint8_t(*)[16])ids, 5, name);
		size_t four = mesh_winner((const uint8_t(*)[16])ids, 4, name);

		share[all]++;
		alone_[four]++;
		if (all == 4)
			moved++;
		else
			assert_int_equal(all, four);
	}
	for (size_t i = 0; i < 5; i++) {
		assert_in_range(share[i], 1800, 2200);
		if (i < 4)
			assert_in_range(alone_[i], 2250, 2750);
	}
	assert_int_equal(moved, share[4]);
	assert_int_equal(mesh_winner((const uint8_t(*)[16])ids, 1, "a"), 0);
}

static void exactly_one_orders(void **state)
{
	(void)state;
	start(5);
	for (int i = 0; i < 100; i++) {
		char name[32];
		int mine = 0;

		snprintf(name, sizeof(name), "d%d.test", i);
		for (size_t k = 0; k < 5; k++)
			mine += mesh_mine(gws[k].m, name);
		assert_int_equal(mine, 1);
	}
}

static bool awaits_none(void *arg)
{
	return mesh_awaits(((struct gw *)arg)->m) == 0;
}

/* Who has been named is awaited until it comes; who does not come, until it counts as dead. */
static void who_is_to_come_is_awaited(void **state)
{
	int64_t began = km_now_ms();

	(void)state;
	gw_start(0);
	assert_int_equal(mesh_awaits(gws[0].m), 0);
	gw_meets(0, 1);
	assert_in_range(mesh_awaits(gws[0].m), 1, DEAD_MS);
	until(awaits_none, &gws[0]);
	assert_true(km_now_ms() - began >= DEAD_MS);
	assert_int_equal(mesh_alive(gws[0].m), 0);

	gw_start(2);
	gw_meets(0, 2);
	gw_meets(2, 0);
	assert_true(mesh_awaits(gws[2].m) > 0);
	until(two, &gws[0]);
	until(two, &gws[2]);
	assert_int_equal(mesh_awaits(gws[0].m), 0);
	assert_int_equal(mesh_awaits(gws[2].m), 0);
	gw_stop(2);
	until(alone, &gws[0]);
	assert_int_equal(mesh_awaits(gws[0].m), 0); /* it was there: it is known to be dead */
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    T(one_is_alone),
	    T(five_find_each_other),
	    T(a_challenge_is_everywhere_before_done),
	    T(who_is_alone_is_done_at_once),
	    T(who_dies_is_not_waited_for),
	    T(a_claim_can_be_objected_to),
	    T(a_certificate_is_fetched),
	    T(facts_and_failures_are_told),
	    T(who_is_gone_is_cut_off_at_once),
	    T(a_stranger_is_refused),
	    T(who_is_silent_is_dead),
	    T(who_is_another_is_not_heard),
	    T(hello_comes_first),
	    T(who_is_malformed_is_cut_off),
	    T(who_comes_back_is_found),
	    T(a_network_made_anew),
	    T(impossible_peers),
	    T(exactly_one_orders),
	    T(who_is_to_come_is_awaited),
	    cmocka_unit_test(who_orders),
	};

	km_log_init("test", KM_LOG_ERROR, KM_LOG_TEXT);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
