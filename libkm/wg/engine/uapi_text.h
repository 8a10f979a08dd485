/* SPDX-License-Identifier: MIT */
/* The device's side of the cross-platform control protocol (wireguard.com/xplatform): what `wg
 * show` and `wg set` say to a device in user space. Only text here. */
#ifndef KM_WG_ENGINE_UAPI_TEXT_H
#define KM_WG_ENGINE_UAPI_TEXT_H

#include "libkm/base/buf.h"
#include "libkm/wg/engine/engine.h"

/* The length of the first whole request in text, with the empty line that ends it; 0: not all
 * there. */
size_t wg_uapi_request_len(const char *text, size_t n);
/* Does what a whole request asks for and appends the reply. false: an operation that there is not;
 * the connection ends. Lines of a `set` before a wrong one have had their effect. */
bool wg_uapi_answer(struct wg_engine *e, const char *request, size_t n, struct km_buf *reply);

#endif
