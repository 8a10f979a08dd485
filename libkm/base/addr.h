/* SPDX-License-Identifier: MIT */
/* IP addresses, prefixes, endpoints and targets: parse, print, compare. No name resolution. */
#ifndef KM_BASE_ADDR_H
#define KM_BASE_ADDR_H

#include "libkm/base/err.h"
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* family AF_INET (first 4 bytes of ip used) or AF_INET6; network byte order. */
struct km_addr {
	uint8_t family;
	uint8_t ip[16];
};
struct km_prefix {
	struct km_addr addr; /* host bits kept */
	uint8_t bits;
};

#define KM_ADDR_STRLEN 46     /* longest address and NUL */
#define KM_PREFIX_STRLEN 50   /* "/128" more */
#define KM_ENDPOINT_STRLEN 56 /* "[addr]:65535" and NUL */

/* "10.1.0.100", "2001:db8::1" (no zone, no brackets). KM_EINVAL. */
int km_addr_parse(struct km_addr *a, const char *s) __attribute__((warn_unused_result));
/* Writes the canonical text and returns out. */
char *km_addr_str(const struct km_addr *a, char out[static KM_ADDR_STRLEN]);
bool km_addr_eq(const struct km_addr *a, const struct km_addr *b);
bool km_addr_is_loopback(const struct km_addr *a);
/* The address of a sockaddr (v4-mapped v6 becomes v4) and its port in host order; port may be
 * NULL. KM_EUNSUPPORTED for other families. */
int km_addr_from_sa(struct km_addr *a, uint16_t *port, const struct sockaddr *sa)
    __attribute__((warn_unused_result));
/* Fills ss for connect/bind; returns its length. */
socklen_t km_addr_to_sa(struct sockaddr_storage *ss, const struct km_addr *a, uint16_t port);
/* "addr:port", IPv6 in brackets. */
char *km_endpoint_str(const struct km_addr *a, uint16_t port, char out[static KM_ENDPOINT_STRLEN]);

/* "10.1.0.0/24"; a bare address is /32 or /128. KM_EINVAL. */
int km_prefix_parse(struct km_prefix *p, const char *s) __attribute__((warn_unused_result));
char *km_prefix_str(const struct km_prefix *p, char out[static KM_PREFIX_STRLEN]);
/* The prefix that holds a alone: /32 or /128. */
struct km_prefix km_prefix_of(const struct km_addr *a);
/* Whether a lies in p; families must agree. */
bool km_prefix_has(const struct km_prefix *p, const struct km_addr *a);
bool km_prefix_eq(const struct km_prefix *a, const struct km_prefix *b);

/* "host:port", "[v6]:port", ":port" or "port": host is "" in the last two. Port 1 to 65535, host at
 * most 253 bytes of letters, digits, '-', '.', '_' or an address. KM_EINVAL. */
struct km_hostport {
	char host[254];
	uint16_t port;
	bool is_addr; /* host is an IP literal, parsed in addr */
	struct km_addr addr;
};
int km_hostport_parse(struct km_hostport *hp, const char *s, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* A target: "host:port" or "unix:/absolute/path" (at most 107 bytes). KM_EINVAL with a sentence. */
struct km_target {
	bool is_unix;
	char path[108];
	struct km_hostport hp;
};
int km_target_parse(struct km_target *t, const char *s, struct km_errtext *err)
    __attribute__((warn_unused_result));

/* An entry of a gateway's public_ip: an address to which another host can send, or a host name
 * (lower case, two or more labels, the last not all digits). NULL, or what is wrong with it; fit as
 * the check of a setting. */
const char *km_public_host_check(const char *value);

#endif
