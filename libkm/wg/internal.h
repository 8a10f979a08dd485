/* SPDX-License-Identifier: MIT */
/* What the backends of libkm/wg share: the table of configured peers and the differences to it. */
#ifndef KM_WG_INTERNAL_H
#define KM_WG_INTERNAL_H

#include "libkm/wg/wg.h"

/* What has to be told to a device so that one peer becomes as wanted. */
struct km_wg_change {
	uint8_t key[KM_WG_KEY_LEN];
	bool set_endpoint, set_keepalive, set_mtu, clear_psk;
	bool replace_allowed; /* the list stands for all, else it is added to what is there */
	struct sockaddr_storage endpoint;
	uint16_t keepalive_s, mtu;
	uint8_t n_allowed;
	struct km_prefix allowed[KM_WG_MAX_ALLOWED];
};

/* The peers as they were configured last. An allowed IP that was given to another peer is gone from
 * the first one, as in the device itself. Endpoints that a device learns are not seen here. */
struct km_wg_known *km_wg_known_new(void);
void km_wg_known_free(struct km_wg_known *k);
/* Computes what changes when p is wanted; false: nothing. */
bool km_wg_known_change(const struct km_wg_known *k, const struct km_wg_peer *p,
			struct km_wg_change *c);
/* The device has taken p, or has removed the peer. */
void km_wg_known_set(struct km_wg_known *k, const struct km_wg_peer *p);
void km_wg_known_remove(struct km_wg_known *k, const uint8_t key[static KM_WG_KEY_LEN]);

/* As km_wg_ops.paths, by the peers' mtu. */
int km_wg_known_paths(const struct km_wg_known *k, struct km_wg_path **out, size_t *n);
/* The mtu that the peer was given. */
uint16_t km_wg_known_mtu(const struct km_wg_known *k, const uint8_t key[static KM_WG_KEY_LEN]);

bool km_wg_known_has(const struct km_wg_known *k, const uint8_t key[static KM_WG_KEY_LEN]);
/* Every key; *out is malloc'd. Gives their number. */
size_t km_wg_known_keys(const struct km_wg_known *k, uint8_t (**out)[KM_WG_KEY_LEN]);
/* A look at the device begins. Then for each of its peers: whether it differs from what was
 * configured, and what puts it right (false for an unknown one). Then, one per call, those that it
 * lacks; false: no more. */
void km_wg_known_look(struct km_wg_known *k);
bool km_wg_known_differs(struct km_wg_known *k, const struct km_wg_peer_status *s,
			 struct km_wg_change *c);
bool km_wg_known_missing(struct km_wg_known *k, struct km_wg_change *c);

/* The prefix with its host bits cleared. */
struct km_prefix km_wg_network(const struct km_prefix *p);

/* The backends; as km_wg_open. */
int km_wg_kernel_open(struct km_wg_device **out, int netns_fd,
		      const uint8_t private_key[static KM_WG_KEY_LEN], uint16_t port,
		      struct km_errtext *err) __attribute__((warn_unused_result));
int km_wg_embedded_open(struct km_wg_device **out, int netns_fd,
			const uint8_t private_key[static KM_WG_KEY_LEN], uint16_t port,
			struct km_errtext *err) __attribute__((warn_unused_result));

#endif
