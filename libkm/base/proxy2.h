/* SPDX-License-Identifier: MIT */
/* The PROXY protocol, version 2 (the specification of 2.3 and later: haproxy's
 * doc/proxy-protocol.txt, section 2.2), as it stands at the beginning of every connection from a
 * gateway to an agent. Two TLVs of the range for own use name the tunnel and the target. Sans-I/O:
 * bytes come in, bytes and a verdict go out. */
#ifndef KM_BASE_PROXY2_H
#define KM_BASE_PROXY2_H

#include "libkm/base/addr.h"

#define KM_PROXY2_TLV_TUNNEL 0xE0 /* 16 bytes: the tunnel's UUID */
#define KM_PROXY2_TLV_TARGET 0xE1 /* 16 bytes: the target's UUID */
#define KM_PROXY2_WRITE_MAX 90    /* what km_proxy2_write makes, at most */
#define KM_PROXY2_PARSE_MAX 4096  /* what km_proxy2_parse takes, at most */

struct km_proxy2 {
	bool proxied;   /* command PROXY: for a client; else LOCAL: the gateway's own connection */
	bool datagram;  /* the addresses are UDP's; else TCP's */
	bool has_addrs; /* src and dst are known (of one family) */
	struct km_addr src, dst;
	uint16_t src_port, dst_port;
	bool has_tunnel, has_target;
	uint8_t tunnel[16], target[16];
};

/* Writes the header and returns its length. Addresses go out only with proxied and has_addrs (and
 * two addresses of one family); LOCAL and unknown addresses are written as AF_UNSPEC. */
size_t km_proxy2_write(uint8_t out[static KM_PROXY2_WRITE_MAX], const struct km_proxy2 *h);

/* Reads a header at the start of these n bytes. 0: *h is filled and *used bytes belong to it (what
 * follows is the connection's). KM_ETRUNC: all bytes so far are right, more are needed; *used tells
 * how long the header is in all as far as is known (16 before the length has come). KM_EPROTO: this
 * is no such header, or one with an unknown version, command or (with PROXY) family, with addresses or a
 * TLV that pass its end, with a TLV of ours or a CRC32C twice or of another length, or with a CRC32C that
 * is not the header's; seen as early as possible, the first wrong byte of the signature suffices.
 * KM_ETOOBIG: over KM_PROXY2_PARSE_MAX. Other TLVs are skipped, and so are the addresses of a LOCAL
 * header (all of it where its family is unknown) and of Unix sockets. */
int km_proxy2_parse(struct km_proxy2 *h, const void *p, size_t n, size_t *used)
    __attribute__((warn_unused_result));

#endif
