/* SPDX-License-Identifier: MIT */
/* What a daemon and its warden say to one another: one request, one reply, over SEQPACKET. Every
 * message is a fixed struct (same host, same build of both ends, checked by version and size);
 * lists travel in a sealed memory file, and sockets as descriptors (SCM_RIGHTS). Internal to
 * libkm/privnet and the warden. */
#ifndef KM_PRIVNET_WIRE_H
#define KM_PRIVNET_WIRE_H

#include "libkm/privnet/privnet.h"

#define KM_WIRE_MAGIC 0x6b6d7764u /* "kmwd" */
#define KM_WIRE_VERSION 1
#define KM_WIRE_SOCKET "warden.sock"
#define KM_WIRE_PATH_MAX 1024
#define KM_WIRE_PEERS_MAX 65536 /* in one list */
#define KM_WIRE_ADDRESSES_MAX 256
#define KM_WIRE_ROUTES_MAX 4096

/* Numbers are never used again. STOP is the same in every version, so that a newer daemon can end
 * an older warden; so are the head of a request and of a reply. */
enum km_wire_op {
	KM_WIRE_STOP = 1, /* no body, no reply: the connection ends when the warden has ended */
	KM_WIRE_OPEN = 2, /* km_wire_open; first on every connection */
	KM_WIRE_ADDRESSES = 3,   /* list of km_wire_prefix */
	KM_WIRE_ROUTES = 4,      /* list of km_wire_prefix */
	KM_WIRE_PEER_SET = 5,    /* km_wire_peer */
	KM_WIRE_PEER_KICK = 6,   /* km_wire_peer */
	KM_WIRE_PEER_REMOVE = 7, /* key */
	KM_WIRE_PEERS_KEEP = 8,  /* list of keys */
	KM_WIRE_PEERS = 9,       /* no body; the reply has a list of km_wire_status */
	KM_WIRE_SOCKETS = 10,    /* km_wire_socket with count; the reply has descriptors */
	KM_WIRE_LISTEN = 11,     /* km_wire_socket; the reply has a descriptor */
	KM_WIRE_KEY_NEXT = 12,   /* no body; the reply is km_wire_hello with the next key's public half */
	KM_WIRE_KEY_SWITCH = 13, /* key: the public half of the next one */
};

struct km_wire_head {
	uint32_t magic;
	uint16_t version;
	uint16_t op;    /* replies repeat it */
	uint32_t seq;   /* and this */
	int32_t err;    /* in replies: 0 or enum km_err */
	uint32_t count; /* of a list's items or of descriptors */
	uint32_t mended; /* in replies to PEERS: how many peers somebody else had changed, since the
			    last */
};

struct km_wire_open {
	uint8_t mode, host_network, log_level, log_format;
	uint16_t port;
	uint8_t pad[2];
	int64_t linger_ms;
	uint64_t host_netns; /* inode of the daemon's network namespace */
	char runtime_dir[KM_WIRE_PATH_MAX], state_dir[KM_WIRE_PATH_MAX];
};
struct km_wire_prefix {
	uint8_t family, bits, ip[16];
};
struct km_wire_endpoint {
	uint8_t family; /* 0: none */
	uint8_t ip[16];
	uint8_t port[2];
};
struct km_wire_peer {
	uint8_t key[KM_WG_KEY_LEN];
	struct km_wire_endpoint endpoint;
	uint8_t n_allowed;
	uint16_t keepalive_s, mtu;
	struct km_wire_prefix allowed[KM_WG_MAX_ALLOWED];
};
struct km_wire_status {
	uint8_t key[KM_WG_KEY_LEN];
	struct km_wire_endpoint endpoint;
	uint8_t pad[3];
	uint16_t mtu;
	int64_t last_handshake_ms;
	uint64_t rx_bytes, tx_bytes;
};
struct km_wire_socket {
	int32_t family, type, protocol;
	uint32_t count;
	struct km_wire_prefix addr;
	uint16_t port;
	int32_t backlog;
};
struct km_wire_hello {
	uint8_t public_key[KM_WG_KEY_LEN];
	int32_t pid;
	char backend[24];
	char why[512];
};

struct km_wire_request {
	struct km_wire_head head;
	union {
		struct km_wire_open open;
		struct km_wire_peer peer;
		uint8_t key[KM_WG_KEY_LEN];
		struct km_wire_socket socket;
	} u;
};
struct km_wire_reply {
	struct km_wire_head head;
	union {
		struct km_wire_hello hello;
		struct km_errtext error; /* with head.err */
	} u;
};
_Static_assert(offsetof(struct km_wire_request, u) == sizeof(struct km_wire_head), "no hole");
_Static_assert(offsetof(struct km_wire_reply, u) == sizeof(struct km_wire_head), "no hole");

/* The exact length of a request or of a reply (err: the one in its head); 0 for an unknown op. */
size_t km_wire_request_len(uint16_t op);
size_t km_wire_reply_len(uint16_t op, int32_t err);

/* To and from the structs of the interface; reading checks every value: KM_EINVAL. */
void km_wire_put_prefix(struct km_wire_prefix *w, const struct km_prefix *p);
int km_wire_get_prefix(struct km_prefix *p, const struct km_wire_prefix *w)
    __attribute__((warn_unused_result));
int km_wire_put_peer(struct km_wire_peer *w, const struct km_wg_peer *p)
    __attribute__((warn_unused_result));
int km_wire_get_peer(struct km_wg_peer *p, const struct km_wire_peer *w)
    __attribute__((warn_unused_result));
void km_wire_put_status(struct km_wire_status *w, const struct km_wg_peer_status *s);
int km_wire_get_status(struct km_wg_peer_status *s, const struct km_wire_status *w)
    __attribute__((warn_unused_result));

/* A list as a sealed memory file. KM_EIO. */
int km_wire_list_make(const void *items, size_t bytes, int *fd) __attribute__((warn_unused_result));
/* Reads exactly bytes from such a file (refusing every other kind of file: KM_EPROTO) into *out,
 * malloc'd, NULL for 0 bytes. KM_ENOMEM, KM_EIO. */
int km_wire_list_read(int fd, size_t bytes, void **out) __attribute__((warn_unused_result));

/* Sends one message with n_fds descriptors; flags as for sendmsg. 0, KM_EAGAIN (with MSG_DONTWAIT,
 * or after SO_SNDTIMEO), KM_ECLOSED, KM_EIO. */
int km_wire_send(int sock, const void *msg, size_t len, const int *fds, size_t n_fds, int flags)
    __attribute__((warn_unused_result));
/* Receives one message of at most cap bytes and at most KM_PRIVNET_SOCKETS_MAX descriptors, which
 * the caller then owns. KM_EAGAIN as above, KM_ECLOSED, KM_ETOOBIG (message cut), KM_EFULL
 * (descriptors cut: this process has no room for them), KM_EIO; nothing is owned then. */
int km_wire_recv(int sock, void *msg, size_t cap, size_t *len,
		 int fds[static KM_PRIVNET_SOCKETS_MAX], size_t *n_fds, int flags)
    __attribute__((warn_unused_result));

/* A socket of one of the kinds that a private network gives (TCP, UDP, ICMP datagram; IPv4, IPv6):
 * non-blocking, close-on-exec. KM_EINVAL for another kind, KM_EIO. */
int km_wire_socket_new(int family, int type, int protocol, int *fd)
    __attribute__((warn_unused_result));
/* A TCP listener, as km_privnet_listen. KM_EEXIST when the port is taken, KM_EIO. */
int km_wire_listener_new(const struct km_addr *addr, uint16_t port, int backlog, int *fd)
    __attribute__((warn_unused_result));

#endif
