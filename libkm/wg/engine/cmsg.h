/* SPDX-License-Identifier: MIT */
/* What travels beside a datagram: the length of its segments, the type of service (with ECN), and
 * the local address. */
#ifndef KM_WG_ENGINE_CMSG_H
#define KM_WG_ENGINE_CMSG_H

#include "libkm/wg/engine/endpoint.h"
#include <stddef.h>
#include <sys/socket.h>

#define WG_CMSG_ROOM 128

union wg_cmsg {
	char room[WG_CMSG_ROOM];
	struct cmsghdr align;
};
/* A socket that tells what wg_cmsg_get reads; v6: its family. */
void wg_cmsg_enable(int fd, bool v6);
/* Gives h what is not ordinary: segment (0: the whole is one), tos (0), and the local address of
 * to. v6: the socket's family. */
void wg_cmsg_put(struct msghdr *h, union wg_cmsg *c, bool v6, const struct wg_endpoint *to,
		 uint16_t segment, uint8_t tos);
/* Fills *segment (0: none) and *tos, and the local address of from. */
void wg_cmsg_get(struct msghdr *h, struct wg_endpoint *from, size_t *segment, uint8_t *tos);

#endif
