/* SPDX-License-Identifier: MIT */
/* ICMP echo requests over a datagram socket that was made inside the private network (the kernel
 * fills in identifier and checksum and delivers only the replies to them). IPv4. */
#ifndef AGENTD_HEALTH_PINGER_H
#define AGENTD_HEALTH_PINGER_H

#include "libkm/base/addr.h"
#include <event2/event.h>

struct pinger;

#define PINGER_MOST 1500

/* Takes over the socket (AF_INET, SOCK_DGRAM, IPPROTO_ICMP, non-blocking), also with an error.
 * reply is called with the address that a reply came from and the length of the whole packet. NULL:
 * no memory. */
struct pinger *pinger_new(struct event_base *base, int fd,
			  void (*reply)(void *arg, const struct km_addr *from, size_t size),
			  void *arg);
void pinger_free(struct pinger *p); /* accepts NULL */
/* Sends one request, in a packet of this length (at most PINGER_MOST; 0: as short as may be) that
 * is not fragmented, whatever is known of the path. A failure is a miss like any other. */
void pinger_send(struct pinger *p, const struct km_addr *to, size_t size);

#endif
