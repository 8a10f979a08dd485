/* SPDX-License-Identifier: MIT */
/* The parts of km-warden: space.c makes the private network (inside.c for a user without
 * privilege), sockets.c makes sockets, converge.c brings addresses, routes
 * and peers to the wanted state, serve.c answers daemons, main.c is the process. One thread. */
#ifndef WARDEN_WARDEN_H
#define WARDEN_WARDEN_H

#include "libkm/privnet/wire.h"
#include "libkm/wg/netlink.h"
#include <sys/types.h>

#define WARDEN_CONNS_MAX 256
#define WARDEN_CONTROL "wireguard.sock" /* in the runtime directory: the engine's control socket */

struct warden_conn;

struct warden {
	struct km_wire_open settings;
	struct km_wire_hello hello;

	/* space.c */
	struct km_wg_device *dev;
	struct km_nl *nl;
	int ifindex;

	/* inside.c; -1 and 0 where the warden is inside itself */
	int inside_fd;
	pid_t inside_pid;

	/* converge.c: the routes that were asked for, since the kernel drops routes with addresses
	 */
	struct km_prefix *routes;
	size_t n_routes;
	struct km_wg_path *paths; /* narrow ones, each with a route of its own */
	size_t n_paths;
	uint32_t mended; /* peers since this was last told */

	int64_t stamped_ms; /* stamp.c: when the time of handshakes was written down last */

	/* serve.c */
	int epoll_fd, listen_fd, lock_fd;
	char socket_path[KM_WIRE_PATH_MAX];
	dev_t socket_dev;
	ino_t socket_ino;
	struct warden_conn *conns;
	size_t n_conns;
	int64_t alone_since_ms; /* when the last connection went; meaningful with n_conns == 0 */
	bool stop;
};

/* Makes namespace (unless host_network), key and device as the settings say, and brings the device
 * up. With privilege it enters the namespace for good; without, another process is inside. An error with a sentence; warden_space_close cleans up what
 * there is in both cases. */
int warden_space_open(struct warden *w, struct km_errtext *err) __attribute__((warn_unused_result));
void warden_space_close(struct warden *w);
/* stamp.c: handshakes of an embedded device go on from the time that those of earlier runs bore;
 * when that is due to be written down again (-1: never); and that. ended: no other will follow. */
void warden_stamp_open(struct warden *w);
int warden_stamp_due_ms(const struct warden *w);
void warden_stamp_keep(struct warden *w, bool ended);
/* Makes DIR/wireguard.key when there is none, and prints its public half. Gives the exit status. */
int warden_key(const char *dir);
/* The key to come of a rotation (DIR/wireguard.key.next), made when there is none: its public half. */
int warden_key_next(const struct warden *w, uint8_t pub[static KM_WG_KEY_LEN],
		    struct km_errtext *err) __attribute__((warn_unused_result));
/* Makes it the present one, in the folder and then in the device. KM_EINVAL: pub is another one's. */
int warden_key_switch(struct warden *w, const uint8_t pub[static KM_WG_KEY_LEN],
		      struct km_errtext *err) __attribute__((warn_unused_result));

/* Kernel settings and loopback of the network namespace in which we are. KM_EIO. */
int warden_settle_inside(bool rootless) __attribute__((warn_unused_result));

/* Whether this process may make namespaces and devices on the host. */
bool warden_privileged(void);

/* inside.c: the private network where warden_privileged is false. Starts the process inside (to be
 * called before there is any thread) and opens w->nl; *tun, whose name is the wanted one, gets the TUN
 * device, which the caller owns. An error with a sentence that names the ways out;
 * warden_inside_stop cleans up what there is in both cases. */
struct warden_tun {
	int fd;
	bool uso;
	char ifname[16];
};
int warden_inside_start(struct warden *w, struct warden_tun *tun, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* As warden_sockets, by that process. */
int warden_inside_sockets(struct warden *w, const struct km_wire_request *msg,
			  int fds[static KM_PRIVNET_SOCKETS_MAX], size_t *n,
			  struct km_errtext *err) __attribute__((warn_unused_result));
void warden_inside_stop(struct warden *w);

/* forbidden.c: the sentence about a step that failed with this errno. */
enum warden_stage {
	WARDEN_STAGE_READY,
	WARDEN_STAGE_NAMESPACE,
	WARDEN_STAGE_LOOPBACK,
	WARDEN_STAGE_TUN,
	WARDEN_STAGE_NETLINK,
	WARDEN_STAGE_DROP,
};
int warden_forbidden(enum warden_stage stage, int error, struct km_errtext *err);

/* Each brings the network to the wanted state and touches only what differs. */
int warden_addresses(struct warden *w, const struct km_prefix *want, size_t n,
		     struct km_errtext *err) __attribute__((warn_unused_result));
/* Takes over routes (malloc'd), also when it fails: they are tried again with the next change. */
int warden_routes(struct warden *w, struct km_prefix *want, size_t n, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* What paths carry has changed, or may have: the routes follow. Takes long news off the device. */
int warden_paths(struct warden *w, struct km_errtext *err) __attribute__((warn_unused_result));
int warden_peer_kick(struct warden *w, const struct km_wg_peer *peer, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Sorts keys. */
int warden_peers_keep(struct warden *w, uint8_t (*keys)[KM_WG_KEY_LEN], size_t n,
		      struct km_errtext *err) __attribute__((warn_unused_result));
/* All peers of the device as they are, malloc'd. Whatever somebody else has changed is mended. */
int warden_peers(struct warden *w, struct km_wg_peer_status **list, size_t *n,
		 struct km_errtext *err) __attribute__((warn_unused_result));
/* A sentence about a call to the device that failed with rc. */
int warden_device_error(const struct warden *w, int rc, const char *what, struct km_errtext *err);

/* device.c: one device by itself, until it is deleted or a signal ends it. Not in the foreground, the
 * call returns in the parent as soon as the device is there. Gives the exit status. */
int warden_device(const char *name, bool foreground);

/* show.c: what `wg show` would say about the engine's device of the warden that serves this runtime
 * directory, or of the control socket with this path. Gives the exit status. */
int warden_show(const char *path);

/* sockets.c: what KM_WIRE_SOCKETS or KM_WIRE_LISTEN asks for, made in the network namespace of the
 * calling process. The caller owns the *n descriptors, also when it fails. */
int warden_sockets(const struct km_wire_request *msg, int fds[static KM_PRIVNET_SOCKETS_MAX],
		   size_t *n, struct km_errtext *err) __attribute__((warn_unused_result));

/* Makes RUNTIME/warden.sock and listens there. KM_EEXIST: another warden serves it. */
int warden_listen(struct warden *w, struct km_errtext *err) __attribute__((warn_unused_result));
/* Serves a connection that is there already (the one over which the settings came). */
int warden_adopt(struct warden *w, int fd) __attribute__((warn_unused_result));
/* The listening socket, or a connection (ptr as in its epoll event), is ready. */
void warden_accept(struct warden *w);
void warden_serve(struct warden *w, struct warden_conn *c);
/* Whether settings ask for the network that this warden keeps. */
bool warden_same_settings(const struct km_wire_open *a, const struct km_wire_open *b);
/* Removes the socket file (if it is still ours); then lets go of the lock and closes every
 * connection. */
void warden_unlisten(struct warden *w);
void warden_serve_close(struct warden *w);

#endif
