/* SPDX-License-Identifier: MIT */
/* The time that handshakes bear, kept over restarts in DIR/wireguard.clock. The other ends refuse what
 * is older than what they have seen (that is WireGuard's guard against replays), so a clock that was
 * put back while nothing ran would cut this host off until it has caught up. */
#include "libkm/base/log.h"
#include "libkm/base/util.h"
#include "warden/warden.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_NAME "wireguard.clock"
#define SAVE_MS 3600000
#define ENDED "ended "     /* the last time that any handshake can have borne */
#define RUNNING "running " /* they have gone on after it, for SAVE_MS at most */

static char *path_of(const struct warden *w)
{
	return km_xasprintf("%s/" FILE_NAME, w->settings.state_dir);
}

/* 0: nothing is known. */
static int64_t kept(const struct warden *w)
{
	char *path = path_of(w), *text = NULL;
	int64_t at = 0;
	size_t n;

	if (km_file_read(path, 64, &text, &n) == 0) {
		if (!strncmp(text, ENDED, strlen(ENDED)))
			at = strtoll(text + strlen(ENDED), NULL, 10);
		else if (!strncmp(text, RUNNING, strlen(RUNNING)))
			at = strtoll(text + strlen(RUNNING), NULL, 10) + SAVE_MS / 1000;
	}
	free(text);
	free(path);
	return at > 0 && at < INT64_MAX / 2000000000 ? at : 0;
}

static void keep(struct warden *w, const char *how, int64_t at)
{
	char *path = path_of(w), *line = km_xasprintf("%s%" PRId64 "\n", how, at);

	if (km_file_write(path, line, strlen(line), 0600))
		km_warn("time of handshakes not kept", km_ks("file", path),
			km_ks("why", strerror(errno)));
	w->stamped_ms = km_now_ms();
	free(line);
	free(path);
}

void warden_stamp_open(struct warden *w)
{
	int64_t floor = kept(w), wall = km_wall_ms() / 1000;

	if (!w->dev->ops->stamp)
		return;
	if (floor > wall)
		km_warn("the clock stands before the time of earlier handshakes: they go on from that",
			km_ki("behind_s", floor - wall));
	keep(w, RUNNING, w->dev->ops->stamp(w->dev, floor ? floor + 1 : 0));
}

int warden_stamp_due_ms(const struct warden *w)
{
	int64_t left;

	if (!w->dev->ops->stamp)
		return -1;
	left = w->stamped_ms + SAVE_MS - km_now_ms();
	return left < 0 ? 0 : (int)left;
}

void warden_stamp_keep(struct warden *w, bool ended)
{
	if (w->dev && w->dev->ops->stamp && w->stamped_ms)
		keep(w, ended ? ENDED : RUNNING, w->dev->ops->stamp(w->dev, 0));
}
