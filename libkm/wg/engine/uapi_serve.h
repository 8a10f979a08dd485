/* SPDX-License-Identifier: MIT */
/* The control socket of an engine, /var/run/wireguard/NAME.sock or another path, served by a thread of
 * its own. */
#ifndef KM_WG_ENGINE_UAPI_SERVE_H
#define KM_WG_ENGINE_UAPI_SERVE_H

#include "libkm/wg/engine/engine.h"

struct wg_uapi;
/* Makes the socket (mode 0600, its folder too if missing) and serves it until wg_uapi_stop, which
 * is to come before wg_engine_stop. KM_EEXIST: somebody serves one of this name; KM_EIO with errno.
 */
int wg_uapi_start(struct wg_uapi **out, struct wg_engine *e, const char *name);
/* The same at this path, whose folder exists. */
int wg_uapi_start_at(struct wg_uapi **out, struct wg_engine *e, const char *path);
void wg_uapi_stop(struct wg_uapi *u);
/* Removes sockets of wardens' devices (km and eight hex digits) that nobody serves: whoever made
 * them was killed. */
void wg_uapi_remove_stale(void);

#endif
