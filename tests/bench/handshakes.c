/* SPDX-License-Identifier: MIT */
/* How many handshakes a second one core answers: initiations of as many peers, made beforehand, go
 * through the mac1 check and the core, which answers each. By the thread's CPU time, so that
 * whatever else the machine does counts little. Prints that number. */
#include "libkm/base/util.h"
#include "tests/fuzz/wg_alone.h"
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PEERS 2000
#define ROUNDS 10

struct client {
	struct wg_self self;
	struct wg_remote server;
	struct wg_handshake handshake;
	uint8_t msg[WG_INITIATION_LEN];
};
struct bench {
	struct client *clients;
	uint8_t last[WG_RESPONSE_LEN];
	unsigned responses;
};

static void on_send(void *arg, const struct wg_endpoint *to, const uint8_t *msg, size_t n)
{
	struct bench *b = arg;

	(void)to;
	if (n != WG_RESPONSE_LEN)
		return;
	memcpy(b->last, msg, n);
	b->responses++;
}

static double cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void make(struct wg_core *server, struct client *cl, uint32_t i, int64_t unix_s)
{
	uint8_t eph[WG_KEY], stamp[WG_TIMESTAMP_LEN];

	wg_x25519_private(eph);
	wg_timestamp(stamp, unix_s, 0);
	wg_initiation_make(server->crypto, &cl->handshake, &cl->self, &cl->server, i, eph, stamp,
			   cl->msg);
	wg_macs(server->crypto, &cl->server, NULL, cl->msg, sizeof(cl->msg));
}

static void enrol(struct wg_core *server, struct client *cl)
{
	uint8_t key[WG_KEY];

	wg_x25519_private(key);
	wg_self_init(server->crypto, &cl->self, key);
	if (!wg_remote_init(server->crypto, &cl->server, &cl->self, server->self.pub, NULL) ||
	    wg_core_peer_new(server, cl->self.pub) == NULL)
		errx(1, "no memory");
}

/* One round; gives the CPU time of the responder. */
static double answer(struct wg_core *server, struct bench *b, const struct wg_clock *now)
{
	struct wg_endpoint from = {.ip = {[10] = 0xff, [11] = 0xff, 192, 0, 2, 1}};
	double begin = cpu_seconds();

	for (uint32_t i = 0; i < PEERS; i++) {
		const struct client *cl = &b->clients[i];

		from.port = (uint16_t)(i + 1);
		if (wg_mac1_ok(server->crypto, &server->self, cl->msg, sizeof(cl->msg)))
			wg_core_message(server, &from, cl->msg, sizeof(cl->msg), WG_CALM, now);
	}
	wg_core_reclaim(server);
	return cpu_seconds() - begin;
}

int main(void)
{
	struct bench b = {.clients = calloc(PEERS, sizeof(*b.clients))};
	const struct wg_core_io io = {.arg = &b,
				      ALONE(on_send)};
	struct wg_core *server = wg_core_new(&io);
	struct wg_clock now = {1000, 1700000000LL * 1000000000};
	struct wg_keys keys;
	uint8_t key[WG_KEY];
	double spent = 0;

	if (server == NULL || b.clients == NULL)
		errx(1, "no memory");
	wg_x25519_private(key);
	wg_core_set_key(server, key);
	for (uint32_t i = 0; i < PEERS; i++)
		enrol(server, &b.clients[i]);
	for (int round = 1; round <= ROUNDS; round++) {
		now.ms += 10000;
		for (uint32_t i = 0; i < PEERS; i++)
			make(server, &b.clients[i], i, 1700000000 + round);
		spent += answer(server, &b, &now);
	}
	if (b.responses != PEERS * ROUNDS ||
	    !wg_response_take(server->crypto, &b.clients[PEERS - 1].handshake,
			      &b.clients[PEERS - 1].self, &b.clients[PEERS - 1].server, b.last,
			      &keys))
		errx(1, "%u of %u answered", b.responses, PEERS * ROUNDS);
	printf("%.0f\n", b.responses / spent);
	wg_core_free(server);
	free(b.clients);
	return 0;
}
