/* SPDX-License-Identifier: MIT */
/* Changing a host's WireGuard key while traffic runs: the warden makes the next key, control certifies it
 * and tells the peers, and when they know it (key_ready) the device is switched over. What is broken
 * off goes on where it was: the next key waits in its file. Main loop only; it logs, and counts
 * kakuremichi_TYPE_wireguard_key_age_seconds and _key_rotations_total. */
#ifndef KM_UPLINK_ROTATION_H
#define KM_UPLINK_ROTATION_H

#include "libkm/base/err.h"
#include "libkm/wg/wg.h"
#include <event2/event.h>
#include <jansson.h>

struct km_rotation;

struct km_rotation_opts {
	struct event_base *base;
	const char *type;
	const char *state_dir; /* of wireguard.key, whose time tells its age */
	int64_t every_ms;      /* 0: never by itself */
	/* The warden's part: km_privnet_key_next and km_privnet_key_switch. After the second one the
	 * daemon starts handshakes with its peers. KM_ECLOSED: no private network now. */
	int (*next)(void *arg, uint8_t pub[static KM_WG_KEY_LEN], struct km_errtext *err);
	int (*switch_to)(void *arg, const uint8_t pub[static KM_WG_KEY_LEN], struct km_errtext *err);
	void *arg;
	/* Sends a message to control; takes data. */
	int (*send)(void *send_arg, const char *type, json_t *data);
	void *send_arg;
};

/* NULL: no memory. */
struct km_rotation *km_rotation_new(const struct km_rotation_opts *opts);
/* Accepts NULL. */
void km_rotation_free(struct km_rotation *r);
/* Control has let us in: a rotation that was begun goes on. */
void km_rotation_authenticated(struct km_rotation *r);
/* The message key_ready. true: pub is the device's key now. */
bool km_rotation_ready(struct km_rotation *r, const json_t *data, uint8_t pub[static KM_WG_KEY_LEN]);

#endif
