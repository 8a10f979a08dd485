/* SPDX-License-Identifier: MIT */
/* Handshake messages from strangers, at rest and under load, and once with a right mac1. */
#include "libkm/base/util.h"
#include "tests/fuzz/wg_alone.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const struct wg_core_io io = {ALONE(alone_send)};
	static const uint8_t key[WG_KEY] = {8, 1, [31] = 64}, other[WG_KEY] = {9, 2, [31] = 64};
	static const struct wg_endpoint from = {.ip = {[10] = 0xff, [11] = 0xff, 1}, .port = 9};
	struct wg_clock now = {1000, 1700000000LL * 1000000000};
	struct wg_core *c = wg_core_new(&io);
	struct wg_peer *peer;
	struct wg_remote us;
	uint8_t pub[WG_KEY], msg[256];

	if (c == NULL || n < 2 * WG_MAC || n > sizeof(msg))
		goto out;
	wg_core_set_key(c, key);
	wg_x25519_public(pub, other);
	peer = wg_core_peer_new(c, pub);
	wg_peer_set_endpoint(peer, &from);
	(void)wg_path_sender(peer, now.ms);
	wg_core_attend(c, &now);
	wg_core_message(c, &from, p, n, WG_CALM, &now);
	memcpy(msg, p, n);
	if (!wg_remote_init(c->crypto, &us, &c->self, c->self.pub, NULL))
		abort();
	wg_macs(c->crypto, &us, NULL, msg, n);
	wg_core_message(c, &from, msg, n, WG_CALM, &now);
	wg_core_message(c, &from, msg, n, WG_LOADED, &now);
	now.ms += 6000;
	wg_core_tick(c, &now);
out:
	wg_core_free(c);
	return 0;
}
