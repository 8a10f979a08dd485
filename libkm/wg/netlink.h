/* SPDX-License-Identifier: MIT */
/* Links, addresses and routes by rtnetlink. A handle works in the network namespace in which it was
 * opened, whoever uses it. Calls block for the kernel's answer; errors are KM_EIO with errno set, where nothing
 * else is said. */
#ifndef KM_WG_NETLINK_H
#define KM_WG_NETLINK_H

#include "libkm/base/addr.h"
#include <stdint.h>

struct km_nl;

int km_nl_open(struct km_nl **out) __attribute__((warn_unused_result));
void km_nl_close(struct km_nl *nl);
/* Its descriptor, borrowed; and a handle over one from another process, which it takes over, also
 * when it fails. */
int km_nl_fd(const struct km_nl *nl);
int km_nl_from(struct km_nl **out, int fd) __attribute__((warn_unused_result));

/* The index of an interface. KM_ENOTFOUND. */
int km_nl_link(struct km_nl *nl, const char *name, int *ifindex)
    __attribute__((warn_unused_result));
/* Moves an interface into another network namespace (an open descriptor of it); it is down then. */
int km_nl_link_move(struct km_nl *nl, int ifindex, int netns_fd)
    __attribute__((warn_unused_result));
/* Brings an interface up, with this MTU (0: as it is). */
int km_nl_link_up(struct km_nl *nl, int ifindex, uint32_t mtu) __attribute__((warn_unused_result));

/* The addresses of an interface, or the unicast routes of the main table that were set by
 * km_nl_route and lead into it. *out is malloc'd (NULL when there are none), the caller frees. */
int km_nl_addrs(struct km_nl *nl, int ifindex, struct km_prefix **out, size_t *n)
    __attribute__((warn_unused_result));
int km_nl_routes(struct km_nl *nl, int ifindex, struct km_prefix **out, size_t *n)
    __attribute__((warn_unused_result));
/* Adds (one that is there already is no error) or removes (an absent one is no error) one address
 * or route. A route's host bits are ignored. */
int km_nl_addr(struct km_nl *nl, int ifindex, const struct km_prefix *a, bool add)
    __attribute__((warn_unused_result));
int km_nl_route(struct km_nl *nl, int ifindex, const struct km_prefix *r, bool add)
    __attribute__((warn_unused_result));
/* Gives a route this MTU (0: the interface's), whether it is there already or not. */
int km_nl_route_mtu(struct km_nl *nl, int ifindex, const struct km_prefix *r, uint32_t mtu)
    __attribute__((warn_unused_result));

#endif
