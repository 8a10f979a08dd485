/* SPDX-License-Identifier: MIT */
/* TLS 1.3 with our own record layer on a socket. For io.c only; the functions are those of io.h for
 * such a connection. */
#ifndef GATEWAYD_EDGE_IO_OWN_H
#define GATEWAYD_EDGE_IO_OWN_H

#include "gatewayd/edge/io.h"
#include <sys/types.h>

#define IO_RAW_MOST (68 << 10) /* four full records and a little */

/* io.c: recv and send, with what io.h remembers about them. */
ssize_t io_socket_read(struct io *io, void *p, size_t want);
ssize_t io_socket_write(struct io *io, const void *p, size_t n);
bool io_would_block(ssize_t n);

enum io_got io_own_read(struct io *io, uint8_t *p, size_t want, size_t *n);
/* b is not consumed; *n counts what has gone of it. What has been sealed of it stays at its head.
 */
enum io_got io_own_write(struct io *io, const struct km_buf *b, size_t *n);
/* The last alert, as far as it goes at once. */
void io_own_goodbye(struct io *io);

#endif
