/* SPDX-License-Identifier: MIT */
/* The text of the cross-platform WireGuard control protocol (wireguard.com/xplatform): requests are
 * made and replies are read here; no socket is touched. */
#ifndef KM_WG_UAPI_H
#define KM_WG_UAPI_H

#include "libkm/base/buf.h"
#include "libkm/wg/internal.h"

/* Whole `set` requests into an empty buffer: key and port (0: any) of the device; one peer's
 * change; a peer's removal. KM_ETOOBIG, KM_ENOMEM. */
int km_uapi_set_device(struct km_buf *b, const uint8_t private_key[static KM_WG_KEY_LEN],
		       uint16_t port) __attribute__((warn_unused_result));
int km_uapi_set_peer(struct km_buf *b, const struct km_wg_change *c)
    __attribute__((warn_unused_result));
int km_uapi_remove_peer(struct km_buf *b, const uint8_t key[static KM_WG_KEY_LEN])
    __attribute__((warn_unused_result));

/* Whether text holds a whole reply (it ends with an empty line). */
bool km_uapi_complete(const char *text, size_t n);
/* The errno of a whole reply as a positive number, 0 for success; KM_EPROTO when there is none. */
int km_uapi_errno(const char *text, size_t n) __attribute__((warn_unused_result));
/* The peers in a whole reply to `get=1`; unknown lines are skipped. *out is malloc'd (NULL when
 * there are none), the caller frees. KM_EPROTO, KM_ENOMEM. */
int km_uapi_peers(const char *text, size_t n, struct km_wg_peer_status **out, size_t *n_out)
    __attribute__((warn_unused_result));

#endif
