/* SPDX-License-Identifier: MIT */
/* Control's end of the link: a WebSocket server on a thread of its own (libwebsockets with its
 * libuv plugin); every callback is called on the caller's libevent loop. Connections that its
 * bounds refuse are counted in kakuremichi_link_refused_total. */
#ifndef KM_LINK_SERVER_H
#define KM_LINK_SERVER_H

#include "libkm/base/addr.h"
#include <event2/event.h>
#include <jansson.h>
#include <stdint.h>

struct km_link_server;

struct km_link_server_opts {
	const char *listen;   /* "[::]:3001", "0.0.0.0:3001", "127.0.0.1:0" */
	const char *cert_pem; /* server certificate followed by the root; NULL: plain ws */
	const char *key_pem;
	size_t max_connections;     /* 0: 10,000 */
	size_t max_unauthenticated; /* 0: 256; more are refused */
	/* 0: 16; those of one address (of one /64 in IPv6), so that it cannot hold all the others'
	 * places. A host that is refused tries again, and an authentication takes milliseconds. */
	size_t max_unauthenticated_per_address;
	int64_t auth_timeout_ms; /* closed when not authenticated by then; 0: 10 s */
};
/* id: never reused within a process; it stays valid to name after the connection is gone. */
struct km_link_server_cbs {
	/* A WebSocket came up at /ws?type=agent|gateway. */
	void (*open)(void *arg, uint64_t id, const char *type, const struct km_addr *peer);
	/* One whole message. An invalid one (not JSON, no type, over 64 KiB, broken UTF-8) has been
	 * answered by the server with `error`/INVALID_MESSAGE and does not come here; over-long
	 * ones close the connection (status 1009). data is borrowed and may be JSON null. */
	void (*message)(void *arg, uint64_t id, const char *type, json_t *data);
	/* The connection is gone (not called for one that km_link_server_close ended with
	 * quiet = 1). */
	void (*closed)(void *arg, uint64_t id, const char *why);
};

/* KM_EIO (cannot listen; err says why), KM_EINVAL, KM_ENOMEM. */
int km_link_server_start(struct km_link_server **out, struct event_base *base,
			 const struct km_link_server_opts *opts,
			 const struct km_link_server_cbs *cbs, void *arg, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* The port it listens on (for listen with port 0). */
uint16_t km_link_server_port(const struct km_link_server *s);
/* Takes data's reference; a message over 1 MiB goes in parts. KM_ECLOSED for an id that is gone or
 * closing, KM_EINVAL (type), KM_ETOOBIG over 256 MiB, KM_EFULL when 16 MiB wait for this slow
 * client, which is then closed; of messages that are longer than that alone, one may wait besides.
 * Main loop only. */
int km_link_server_send(struct km_link_server *s, uint64_t id, const char *type, json_t *data);
/* The connection has proven who it is: the auth timeout and bound no longer apply. */
void km_link_server_authenticated(struct km_link_server *s, uint64_t id);
/* Closes (status 1008 with why) after what was sent has gone out, at most 2 s later. No message
 * comes from it any more; id is gone at once with quiet, else with `closed`. */
void km_link_server_close(struct km_link_server *s, uint64_t id, const char *why, int quiet);
/* Swaps the server certificate for connections to come. */
int km_link_server_set_certificate(struct km_link_server *s, const char *cert_pem,
				   const char *key_pem, struct km_errtext *err);
/* Closes all (status 1001, waiting 1 s at most for answers), joins the thread; no callback follows.
 * Not from within a callback. Accepts NULL. */
void km_link_server_free(struct km_link_server *s);

#endif
