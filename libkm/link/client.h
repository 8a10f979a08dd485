/* SPDX-License-Identifier: MIT */
/* The daemon's end of the link: a WebSocket to control that comes back by itself. libwebsockets
 * runs on a thread of its own; every callback below is called on the caller's libevent loop. */
#ifndef KM_LINK_CLIENT_H
#define KM_LINK_CLIENT_H

#include "libkm/base/err.h"
#include <event2/event.h>
#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct km_link_client;

struct km_link_client_opts {
	const char *const
	    *urls; /* "wss://host:3001" (plain "ws://" to loopback only), tried in turn */
	size_t n_urls;
	const char *type; /* "agent" or "gateway": goes into ?type= */
	const char *pin; /* "sha256//BASE64": SHA-256 of the SubjectPublicKeyInfo of control's root,
			    which must be in the chain that the server sends and have signed it.
			    Required for wss; NULL for ws. */
	int64_t reconnect_min_ms,
	    reconnect_max_ms; /* doubling, with full jitter; 0: 1 s and 10 s */
};
struct km_link_client_cbs {
	/* The WebSocket is up: send `auth` now. */
	void (*open)(void *arg, const char *url);
	/* One whole message (parts joined). data is borrowed (json_incref to keep). */
	void (*message)(void *arg, const char *type, json_t *data);
	/* It was open and is no longer, or an attempt failed (once per attempt); the next attempt
	 * follows by itself after wait_ms. */
	void (*closed)(void *arg, const char *why, int64_t wait_ms);
};

/* Starts the thread and the first attempt. Strings in opts are copied. KM_EINVAL (a malformed URL
 * or pin, or ws:// to elsewhere than loopback; err says which), KM_EIO, KM_ENOMEM. */
int km_link_client_start(struct km_link_client **out, struct event_base *base,
			 const struct km_link_client_opts *opts,
			 const struct km_link_client_cbs *cbs, void *arg, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Sends {"type": type, "data": data}; data's reference is always taken. KM_ECLOSED when the link is
 * down, KM_EINVAL (type), KM_ETOOBIG over 64 KiB, KM_EFULL when 1,024 messages wait. Main loop
 * only. */
int km_link_client_send(struct km_link_client *c, const char *type, json_t *data);
/* Drops the connection, if any, and connects again after the usual wait. */
void km_link_client_reconnect(struct km_link_client *c, const char *why);
/* The usual waits begin again at the shortest: call it when auth has succeeded. */
void km_link_client_settled(struct km_link_client *c);
/* Closes the link (status 1001, waiting 1 s at most for the answer) and joins the thread; no
 * callback follows. Not from within a callback. Accepts NULL. */
void km_link_client_free(struct km_link_client *c);

#endif
