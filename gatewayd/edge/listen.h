/* SPDX-License-Identifier: MIT */
/* Listening sockets that all workers share. */
#ifndef GATEWAYD_EDGE_LISTEN_H
#define GATEWAYD_EDGE_LISTEN_H

#include "libkm/base/err.h"
#include <stdint.h>

/* A non-blocking TCP listener on "addr:port" ("[::]:443" serves IPv4 too; where the host has no
 * IPv6 it becomes 0.0.0.0). *port gets the port that was asked for. Accepted sockets have
 * TCP_NODELAY and keepalive. KM_EINVAL, KM_EIO, both with a sentence. */
int listen_open(int *fd, uint16_t *port, const char *where, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* From now on the kernel ignores new connections (their SYNs are dropped, so that they come again
 * later, elsewhere), while handshakes that have begun still end. Best effort. */
void listen_refuse(int fd);

#endif
