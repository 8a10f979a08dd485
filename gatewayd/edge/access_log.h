/* SPDX-License-Identifier: MIT */
/* Where the access log's lines go. Each worker fills a buffer of its own (a lane) and hands it over
 * to a thread that writes, to a file or to journald: a disk or a journal that is full, slow or
 * stuck loses lines, which are counted, and delays no request. */
#ifndef GATEWAYD_EDGE_ACCESS_LOG_H
#define GATEWAYD_EDGE_ACCESS_LOG_H

#include "gatewayd/edge/access.h"
#include "libkm/base/err.h"

#define ACCESS_LANE_MAX                                                                            \
	(256 * 1024) /* bytes of a worker that wait, twice: filling, and being written */
#define ACCESS_LANE_LARGE (64 * 1024) /* so much is handed over at once */

struct access_log;
struct access_lane;

struct access_log_opts {
	enum access_format format;
	const char *path; /* of the file; with ACCESS_JOURNAL of the journal's socket */
	uint64_t of_2_32; /* so many of 2^32 entries are written; those of status 5xx always */
	bool query;       /* whether paths and referers keep their queries */
	size_t lanes;
};
#define ACCESS_JOURNAL_SOCKET "/run/systemd/journal/socket"

/* Starts the thread. A file that cannot be opened is no error here: it is warned of, and tried
 * again once a second while there is something to write. KM_ENOMEM. */
int access_log_start(struct access_log **out, const struct access_log_opts *o)
    __attribute__((warn_unused_result));
/* The file is opened anew before the next line goes there. Without it a file that was moved away is
 * noticed within a second or so of writing. Accepts NULL; any thread. */
void access_log_reopen(struct access_log *log);
/* Writes what there is and ends the thread. No lane may be in use. Accepts NULL. */
void access_log_free(struct access_log *log);

/* Worker i's lane. It belongs to the log; only one thread may use it. */
struct access_lane *access_log_lane(struct access_log *log, size_t i);
/* One entry, unless sampling leaves it out. Its path and referer are cut at their queries where
 * those are not logged. */
void access_put(struct access_lane *l, struct access_entry *e);
/* Hands over what there is, if the thread has written what it got before. To be called ten times a
 * second or so. Accepts NULL. */
void access_flush(struct access_lane *l);

#endif
