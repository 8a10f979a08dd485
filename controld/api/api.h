/* SPDX-License-Identifier: MIT */
/* The REST interface: HTTPS on the main loop (libevent's evhttp), JSON under /api, and /healthz,
 * /readyz, /metrics. */
#ifndef CONTROLD_API_API_H
#define CONTROLD_API_API_H

#include "libkm/base/err.h"
#include <event2/event.h>
#include <stdint.h>

struct api;
struct store;
struct vault;
struct authority;
struct km_strlist;

struct api_opts {
	const char *listen;   /* "[::]:3000"; port 0 takes a free one */
	const char *cert_pem; /* server certificate followed by the root; copied */
	const char *key_pem;
	struct store *store; /* outlives the api, as vault does */
	const struct vault *vault;
	struct authority *authority;
	/* What join tokens say: where the link is, and control's pin. Borrowed. */
	const struct km_strlist *link_urls;
	const char *pin;
};

/* Listens and serves. KM_EINVAL (a malformed listen address, certificate or key), KM_EIO (cannot
 * listen), KM_ENOMEM; err says which. Requests are answered 503 while the store has no database. */
int api_start(struct api **out, struct event_base *base, const struct api_opts *opts,
	      struct km_errtext *err) __attribute__((warn_unused_result));
/* The port it listens on. */
uint16_t api_port(const struct api *api);
/* Swaps the server certificate for connections to come; living ones are not touched. KM_EINVAL with
 * a sentence: the old one then stays. */
int api_set_certificate(struct api *api, const char *cert_pem, const char *key_pem,
			struct km_errtext *err) __attribute__((warn_unused_result));
/* Closes every connection, answered or not. Statements under way in the store still end, without an
 * answer. Accepts NULL. */
void api_free(struct api *api);

#endif
