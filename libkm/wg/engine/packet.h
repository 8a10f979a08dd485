/* SPDX-License-Identifier: MIT */
/* Inner packets: whose they are, super-packets cut into segments for the wire, and segments merged
 * into super-packets for the kernel. Sans-I/O. The super-packets carry the header of virtio_net
 * (virtio 1.1, section 5.1.6), as a TUN with IFF_VNET_HDR reads and writes it. */
#ifndef KM_WG_ENGINE_PACKET_H
#define KM_WG_ENGINE_PACKET_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif
#define WG_VNET_LEN 10 /* without num_buffers */
#define WG_SUPER_MAX 65535

/* The ones' complement sum (RFC 1071) of n bytes and of sum, folded to 16 bits, as the words lie in
 * memory; not inverted. */
uint16_t wg_sum(const void *p, size_t n, uint64_t sum);

/* Addresses and length as an IP header says. */
struct wg_ip {
	const uint8_t *src, *dst;
	size_t naddr; /* 4 or 16 */
	size_t total; /* header and payload */
};
/* false: no IP packet, or one longer than n. */
bool wg_ip_parse(struct wg_ip *ip, const uint8_t *pkt, size_t n);

/* A packet from the TUN on its way into pieces. */
struct wg_cut {
	const uint8_t *pkt;
	size_t n, l4, payload; /* offsets of transport header and payload */
	size_t size;           /* payload bytes per piece; 0: the packet is one piece as it is */
	size_t at;             /* payload bytes cut already */
	unsigned pieces, piece;
	bool v6, udp, sum; /* sum: its checksum is to be finished */
	uint16_t sum_at;   /* offset of the checksum field */
};
/* Gives the number of pieces (at least 1) or KM_EINVAL. pkt stays in use and unchanged until the
 * last piece. */
int wg_cut_begin(struct wg_cut *c, const struct virtio_net_hdr *vh, const uint8_t *pkt, size_t n);
/* Makes the pieces smaller, so that none has more than max bytes: more segments of a TCP stream, also
 * where it was one. Before the first piece only. false: it cannot be done, all stays as it is. */
bool wg_cut_narrow(struct wg_cut *c, size_t max);
/* The length of every piece but the last, which may be shorter. */
size_t wg_cut_len(const struct wg_cut *c);
/* Writes the next piece, complete with its checksums, into out (room for wg_cut_len) and gives its
 * length; 0 after the last. */
size_t wg_cut_next(struct wg_cut *c, uint8_t *out);

/* One packet for the TUN, in the making from consecutive ones of a flow. */
#define WG_MERGE_MAX 128
struct wg_merge {
	bool udp_too; /* the kernel takes UDP super-packets */
	unsigned n;   /* packets in it; 0: empty */
	uint8_t *head;
	size_t head_len, l4, payload, size, total;
	uint32_t seq;
	bool mergeable, closed, v6, udp, push;
	struct virtio_net_hdr vh;
	struct iovec iov[WG_MERGE_MAX + 1]; /* vh, the first packet, the others' payload */
};
/* Takes a whole IP packet (exactly n bytes, as its header says; it must stay where it is until
 * wg_merge_end). false: it does not continue what is there: end that first, then it is taken. */
bool wg_merge_add(struct wg_merge *m, uint8_t *pkt, size_t n);
/* Completes the headers; gives the number of pieces in m->iov to be written at once (0: empty),
 * and begins anew with the next wg_merge_add. */
int wg_merge_end(struct wg_merge *m);

#endif
