/* SPDX-License-Identifier: MIT */
/* WireGuard devices: one interface, two backends (the kernel, and the engine in this process). Used
 * by the warden; daemons speak to the warden (libkm/privnet). */
#ifndef KM_WG_WG_H
#define KM_WG_WG_H

#include "libkm/base/addr.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#define KM_WG_KEY_LEN 32
#define KM_WG_KEY_STRLEN 45 /* base64 and NUL */
#define KM_WG_CODE_STRLEN 15
#define KM_WG_MAX_ALLOWED 8 /* allowed IPs per peer */
#define KM_WG_MTU 1420      /* of a device; what a path carries may be less */
#define KM_WG_MTU_MIN 576

enum km_wg_mode { KM_WG_AUTO, KM_WG_KERNEL, KM_WG_EMBEDDED, KM_WG_NONE };

/* What a peer should be. */
struct km_wg_peer {
	uint8_t key[KM_WG_KEY_LEN];
	bool has_endpoint; /* a configured one; else what was learned stays */
	struct sockaddr_storage endpoint;
	uint16_t keepalive_s; /* 0: off */
	/* Larger inner packets do not arrive, as a probe has found where nobody says so; 0: none is
	 * known to be too large. */
	uint16_t mtu;
	uint8_t n_allowed;
	struct km_prefix allowed[KM_WG_MAX_ALLOWED];
};
/* What a peer is. */
struct km_wg_peer_status {
	uint8_t key[KM_WG_KEY_LEN];
	bool has_endpoint;
	struct sockaddr_storage endpoint;
	int64_t last_handshake_ms; /* wall clock; 0: never */
	uint64_t rx_bytes, tx_bytes;
	uint16_t mtu; /* of inner packets to it; 0: as the device's */
	/* As configured; not told to daemons. */
	uint16_t keepalive_s;
	bool has_psk, more_allowed; /* a preshared key; more allowed IPs than there is room for */
	uint8_t n_allowed;
	struct km_prefix allowed[KM_WG_MAX_ALLOWED];
};
/* What is reached over a path that carries less than the device. */
struct km_wg_path {
	struct km_prefix net;
	uint32_t mtu;
};

struct km_wg_device;
struct km_wg_known;
struct km_wg_change;
struct km_wg_ops {
	const char *name; /* "kernel", "embedded" */
	/* For km_wg_peer_set and km_wg_peer_remove: one peer made or changed; or removed, where an
	 * absent one is no error. KM_EIO with errno, KM_EINVAL. */
	int (*change)(struct km_wg_device *d, const struct km_wg_change *c);
	int (*remove)(struct km_wg_device *d, const uint8_t key[static KM_WG_KEY_LEN]);
	/* Another private key: every session ends, and peers shake hands again. KM_EIO with errno.
	 */
	int (*set_key)(struct km_wg_device *d, const uint8_t private_key[static KM_WG_KEY_LEN]);
	/* All peers; *out is malloc'd. */
	int (*dump)(struct km_wg_device *d, struct km_wg_peer_status **out, size_t *n);
	/* The allowed IPs of all peers with a narrow path; *out is malloc'd. KM_ENOMEM. */
	int (*paths)(struct km_wg_device *d, struct km_wg_path **out, size_t *n);
	/* Gives a device whose control socket could not be made in /var/run/wireguard (that is
	 * root's) one at this path; does nothing where it could. NULL: such a device has none.
	 * KM_EIO. */
	int (*control_at)(struct km_wg_device *d, const char *path);
	/* Handshakes bear no time before this (Unix seconds); gives the time that the next would
	 * bear. NULL: they bear what the clock says, as the kernel's do. */
	int64_t (*stamp)(struct km_wg_device *d, int64_t not_before_s);
	void (*free)(struct km_wg_device *d);
};
struct km_wg_device {
	const struct km_wg_ops *ops;
	char ifname[16];
	/* Borrowed; -1: none. Readable when the device was deleted under its engine. */
	int gone_fd;
	/* Likewise. Readable when paths may give something else than before; reading it silences
	 * it. */
	int paths_fd;
	struct km_wg_known *known; /* what its peers were brought to last */
};

/* One peer added or brought to this state: its learned endpoint survives when has_endpoint is
 * false; an unchanged allowed-IP list is not touched. Errors of the backend. */
int km_wg_peer_set(struct km_wg_device *d, const struct km_wg_peer *p)
    __attribute__((warn_unused_result));
int km_wg_peer_remove(struct km_wg_device *d, const uint8_t key[static KM_WG_KEY_LEN])
    __attribute__((warn_unused_result));
/* Removes every peer that was set and is not among these keys, which it sorts. */
int km_wg_peers_keep(struct km_wg_device *d, uint8_t (*keys)[KM_WG_KEY_LEN], size_t n)
    __attribute__((warn_unused_result));

/* What somebody else (`wg set`) has changed on the device is brought back to what was set here
 * last. list is a fresh dump of all peers. Unknown peers are removed; missing ones come back, with
 * the endpoint that they had at the last call; allowed IPs, keepalive and preshared key (there is
 * none) are put right. Endpoints are not touched: the device learns them. mended is told of each,
 * with "unknown", "missing" or "changed". Goes on after an error and gives the first. */
typedef void km_wg_mended_fn(void *arg, const uint8_t key[static KM_WG_KEY_LEN], const char *what);
int km_wg_mend(struct km_wg_device *d, const struct km_wg_peer_status *list, size_t n,
	       km_wg_mended_fn *mended, void *arg) __attribute__((warn_unused_result));

/* Makes a device on the host side with this key and UDP port (0: any), ready to be moved into the
 * network namespace netns_fd (-1: stays on the host), moves it there and leaves it down. KM_WG_AUTO
 * tries the kernel first; *why gets one sentence about the choice. KM_EUNSUPPORTED, KM_EPERM,
 * KM_EIO with a sentence in err. */
int km_wg_open(struct km_wg_device **out, enum km_wg_mode mode, int netns_fd,
	       const uint8_t private_key[static KM_WG_KEY_LEN], uint16_t port,
	       struct km_errtext *why, struct km_errtext *err) __attribute__((warn_unused_result));

/* The embedded device over a TUN device that another process has made inside (wg_tun_open: its
 * name, and whether it takes UDP super-packets); the UDP socket is made here. Takes tun over, also
 * when it fails. Errors as km_wg_open. */
int km_wg_open_over(struct km_wg_device **out, int tun, bool uso, const char *ifname,
		    const uint8_t private_key[static KM_WG_KEY_LEN], uint16_t port,
		    struct km_errtext *err) __attribute__((warn_unused_result));
/* Writes an interface name that no other warden uses: "km" and eight random hex digits. */
void km_wg_name_new(char name[static 16]);

/* A new private key; its public half; text forms (base64). KM_EINVAL for malformed text. */
void km_wg_private_new(uint8_t key[static KM_WG_KEY_LEN]);
int km_wg_public(uint8_t pub[static KM_WG_KEY_LEN], const uint8_t priv[static KM_WG_KEY_LEN]);
char *km_wg_key_str(const uint8_t key[static KM_WG_KEY_LEN], char out[static KM_WG_KEY_STRLEN]);
int km_wg_key_parse(uint8_t key[static KM_WG_KEY_LEN], const char *s)
    __attribute__((warn_unused_result));
/* A short form of a public key for two people to compare: the first 60 bits of its SHA-256 in
 * Crockford's base32, as XXXX-XXXX-XXXX. */
char *km_wg_key_code(const uint8_t pub[static KM_WG_KEY_LEN], char out[static KM_WG_CODE_STRLEN]);

#endif
