/* SPDX-License-Identifier: MIT */
/* The PROXY header with which a load balancer in front of the gateway says whose connection it passes on:
 * version 1 (a line of text) or 2 (haproxy's doc/proxy-protocol.txt). Sans-I/O. */
#ifndef GATEWAYD_EDGE_PROXY_IN_H
#define GATEWAYD_EDGE_PROXY_IN_H

#include "libkm/base/addr.h"
#include "libkm/base/proxy2.h"

#define PROXY_IN_MAX KM_PROXY2_PARSE_MAX /* bytes of a header */
#define PROXY_IN_V1_MAX 107              /* of a line, with its CRLF */

struct proxy_in {
	bool known; /* the client's addresses are; else it is the sender's own connection (LOCAL), or it
		     * does not know, or not by TCP/IP (UNKNOWN, UNSPEC, Unix sockets) */
	struct km_addr src, dst; /* v4-mapped IPv6 is given as IPv4 */
	uint16_t src_port, dst_port;
};

/* Reads a header at the start of these n bytes. 0: *h is filled, and *used bytes belong to the header.
 * KM_ETRUNC: what has come is right so far. KM_EPROTO: it is no header, or one that is not exactly right
 * (v1: single spaces, canonical ports, addresses of the stated family, CRLF; v2: as km_proxy2_parse, and
 * not of a datagram). KM_ETOOBIG: longer than a header may be. */
int proxy_in_parse(struct proxy_in *h, const void *p, size_t n, size_t *used)
    __attribute__((warn_unused_result));

#endif
