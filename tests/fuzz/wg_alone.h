/* SPDX-License-Identifier: MIT */
/* A WireGuard core with nothing around it: what it asks for is heard by nobody. For struct wg_core_io. */
#ifndef TESTS_FUZZ_WG_ALONE_H
#define TESTS_FUZZ_WG_ALONE_H

#include "libkm/wg/engine/core.h"
#include <stdlib.h>

/* What goes to strangers is a handshake's message, and no longer than the first of them. */
static inline void alone_send(void *arg, const struct wg_endpoint *to, const uint8_t *msg, size_t n)
{
	(void)arg, (void)to;
	if (n > WG_INITIATION_LEN || msg[0] == 0 || msg[0] > 3)
		abort();
}

static inline void alone_flush(void *arg, struct wg_peer *p, enum wg_flush what)
{
	(void)arg, (void)p, (void)what;
}

static inline void alone_wake(void *arg)
{
	(void)arg;
}

static inline void alone_forget(void *arg, struct wg_peer *p)
{
	(void)arg, (void)p;
}

#define ALONE(on_send)                                                                             \
	.send = (on_send), .flush = alone_flush, .wake = alone_wake, .quiesce = alone_wake,        \
	.forget = alone_forget

#endif
