/* SPDX-License-Identifier: MIT */
/* How a gateway or an agent stands with control: the link (libkm/link), the configuration that
 * comes through it and its copy on disk (libkm/replica), authentication, heartbeats and
 * acknowledgements. Main loop only. It logs and counts by itself: kakuremichi_TYPE_link_up,
 * kakuremichi_TYPE_revision. */
#ifndef KM_UPLINK_UPLINK_H
#define KM_UPLINK_UPLINK_H

#include "libkm/base/conf.h"
#include "libkm/replica/replica.h"
#include "libkm/wg/wg.h"
#include <event2/event.h>

struct km_uplink;

struct km_uplink_opts {
	struct event_base *base;
	const char *type;                 /* "agent" or "gateway" */
	const char *state_dir;            /* of the replica */
	const struct km_strlist *control; /* URLs; none: only what is on disk is served */
	const char *pin, *api_key_file;   /* the file is read anew for each connection */
	const struct km_strlist
	    *ca_pin;               /* of the CAs of which one must have signed the first bundle */
	int64_t certificate_grace; /* ms */
	bool no_wireguard;         /* peers are not guarded by certificates */
	const uint8_t *public_key; /* WireGuard's; all zero: none is named */
	const struct km_replica_hooks *hooks;
	/* As in guard.h; may be NULL. */
	void (*gateway_revoked)(void *arg, const char *id);
	/* A message of control's that is neither configuration nor trust (data is borrowed). False:
	 * it is not known here either. May be NULL. */
	bool (*message)(void *arg, const char *type, const json_t *data);
	/* Adds to what auth says (a's members are borrowed until it returns); may be NULL. */
	void (*fill_auth)(void *arg, struct km_msg_auth *a);
	/* Control has let us in: what was reported on an earlier link must be told again. May be
	 * NULL. */
	void (*authenticated)(void *arg);
	/* Changing the WireGuard key, as in rotation.h; NULL: it is never changed. */
	int64_t key_rotation; /* ms; 0: never by itself */
	int (*key_next)(void *arg, uint8_t pub[static KM_WG_KEY_LEN], struct km_errtext *err);
	int (*key_switch)(void *arg, const uint8_t pub[static KM_WG_KEY_LEN],
			  struct km_errtext *err);
	void *arg; /* of the hooks too */
};

/* Gives the configuration on disk to the hooks, then connects to control when one is named. Strings
 * are borrowed and must outlive it. Errors carry a sentence: a damaged state folder, an API key
 * that cannot be read, a malformed URL or pin. */
int km_uplink_open(struct km_uplink **out, const struct km_uplink_opts *opts,
		   struct km_errtext *err) __attribute__((warn_unused_result));
/* The configuration; borrowed, and there until km_uplink_free. */
struct km_replica *km_uplink_replica(struct km_uplink *u);
bool km_uplink_authenticated(const struct km_uplink *u);
/* Sends a message; data's reference is always taken. KM_ECLOSED while not authenticated, else as
 * km_link_client_send. */
int km_uplink_send(struct km_uplink *u, const char *type, json_t *data);
/* The WireGuard key to name at the next connection (the private network has been made anew). */
void km_uplink_key(struct km_uplink *u, const uint8_t key[static KM_WG_KEY_LEN]);
/* Ends the link; the replica stays. */
void km_uplink_close_link(struct km_uplink *u);
/* Ends the link and closes the replica. Accepts NULL. */
void km_uplink_free(struct km_uplink *u);

#endif
