/* SPDX-License-Identifier: MIT */
/* A daemon's handle on its private network, which its warden keeps: the WireGuard device, addresses
 * and routes in a network namespace of its own, and sockets made inside it. The warden answers over
 * a Unix SEQPACKET socket; calls block for some tens of microseconds (at most KM_PRIVNET_TIMEOUT_MS
 * when the warden hangs). A handle is for one thread; km_privnet_attach makes another. */
#ifndef KM_PRIVNET_PRIVNET_H
#define KM_PRIVNET_PRIVNET_H

#include "libkm/base/log.h"
#include "libkm/wg/wg.h"

#define KM_PRIVNET_TIMEOUT_MS 5000
#define KM_PRIVNET_SOCKETS_MAX 64 /* per call */

struct km_privnet;

struct km_privnet_opts {
	/* the program; NULL: km-warden beside this executable, else where it is installed */
	const char *warden;
	const char *runtime_dir; /* warden.sock is made here, 0600 */
	const char *state_dir;   /* wireguard.key is kept here, 0600 */
	enum km_wg_mode wireguard;
	bool host_network;             /* network = host: no namespace of its own */
	uint16_t listen_port;          /* 0: any */
	int64_t linger_ms;             /* the warden outlives a vanished daemon so long; 0: 60 s */
	enum km_log_format log_format; /* of the warden's log; its level is that of the caller */
};

/* Attaches to the warden that serves runtime_dir when one lives with the same settings, else starts
 * one. Who does not answer within KM_PRIVNET_TIMEOUT_MS hangs and is killed; a warden that may
 * still be starting is given 25 s from its beginning, which is more than any start takes. With
 * KM_WG_NONE no warden exists: sockets are the host's own, peers are ignored. *reused (may be NULL)
 * tells whether a warden was found. Errors carry a sentence. */
int km_privnet_open(struct km_privnet **out, const struct km_privnet_opts *opts, bool *reused,
		    struct km_errtext *err) __attribute__((warn_unused_result));
/* A second handle on the same warden, for another thread. */
int km_privnet_attach(struct km_privnet **out, const struct km_privnet *of, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Frees a handle. stop: tells the warden to end (and waits until it has); else it lives on for
 * linger_ms after its last handle is gone. Accepts NULL. */
void km_privnet_close(struct km_privnet *p, bool stop);

/* Becomes readable when the warden is gone (-1 with KM_WG_NONE): close the handle and every socket
 * that was made inside, open anew. Such sockets lead nowhere any more, and as long as one is open,
 * a kernel device of a killed warden stays and keeps its UDP port. */
int km_privnet_fd(const struct km_privnet *p);
/* The device's public key; all zero with KM_WG_NONE. */
const uint8_t *km_privnet_public_key(const struct km_privnet *p);
/* "kernel", "embedded", "none", and the sentence that says why it was chosen. */
const char *km_privnet_backend(const struct km_privnet *p);
const char *km_privnet_backend_why(const struct km_privnet *p);

/* Converging calls: the whole wanted set is given, only differences are applied. Addresses bring
 * the device up; routes are prefixes that lead into the device. At most 256 addresses, 4,096
 * routes. */
int km_privnet_addresses(struct km_privnet *p, const struct km_prefix *a, size_t n,
			 struct km_errtext *err) __attribute__((warn_unused_result));
int km_privnet_routes(struct km_privnet *p, const struct km_prefix *r, size_t n,
		      struct km_errtext *err) __attribute__((warn_unused_result));
/* One peer brought to this state, or removed (an absent one is no error). peers_keep removes every
 * peer whose key is not among these n. */
int km_privnet_peer_set(struct km_privnet *p, const struct km_wg_peer *peer, struct km_errtext *err)
    __attribute__((warn_unused_result));
int km_privnet_peer_remove(struct km_privnet *p, const uint8_t key[static KM_WG_KEY_LEN],
			   struct km_errtext *err) __attribute__((warn_unused_result));
int km_privnet_peers_keep(struct km_privnet *p, const uint8_t (*keys)[KM_WG_KEY_LEN], size_t n,
			  struct km_errtext *err) __attribute__((warn_unused_result));
/* Drops the peer's sessions and starts a new handshake at once (peer removed and set again). */
int km_privnet_peer_kick(struct km_privnet *p, const struct km_wg_peer *peer,
			 struct km_errtext *err) __attribute__((warn_unused_result));
/* All peers as they are; *out is malloc'd, the caller frees. Whatever somebody else (`wg set`) has
 * changed on them since they were set here is put right, logged by the warden, and counted as
 * kakuremichi_wireguard_peers_mended_total; so it is by peers_keep. */
int km_privnet_peers(struct km_privnet *p, struct km_wg_peer_status **out, size_t *n,
		     struct km_errtext *err) __attribute__((warn_unused_result));

/* The key to come of a rotation: made when there is none yet (STATE/wireguard.key.next, 0600), and its
 * public half told. KM_EUNSUPPORTED with KM_WG_NONE. */
int km_privnet_key_next(struct km_privnet *p, uint8_t pub[static KM_WG_KEY_LEN],
			struct km_errtext *err) __attribute__((warn_unused_result));
/* Makes it the device's, and STATE/wireguard.key: every session ends, so kick the peers. pub must be
 * what km_privnet_key_next told: KM_EINVAL. km_privnet_public_key tells it afterwards. */
int km_privnet_key_switch(struct km_privnet *p, const uint8_t pub[static KM_WG_KEY_LEN],
			  struct km_errtext *err) __attribute__((warn_unused_result));

/* n (at most KM_PRIVNET_SOCKETS_MAX) fresh sockets made inside, non-blocking, close-on-exec; the
 * caller owns them. ICMP sockets: AF_INET, SOCK_DGRAM, IPPROTO_ICMP. */
int km_privnet_sockets(struct km_privnet *p, int family, int type, int protocol, int *fds, size_t n,
		       struct km_errtext *err) __attribute__((warn_unused_result));
/* A TCP listener inside, bound to addr:port (IP_FREEBIND, SO_REUSEADDR; ports under 1024 work). */
int km_privnet_listen(struct km_privnet *p, const struct km_addr *addr, uint16_t port, int backlog,
		      int *fd, struct km_errtext *err) __attribute__((warn_unused_result));

#endif
