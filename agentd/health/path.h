/* SPDX-License-Identifier: MIT */
/* Whether the path to a gateway works, judged by echo requests inside the private network.
 * Sans-I/O: the caller sends, brings replies and time, and does what the verdicts say. */
#ifndef AGENTD_HEALTH_PATH_H
#define AGENTD_HEALTH_PATH_H

#include <stdbool.h>
#include <stdint.h>

#define PATH_REPLY_MS 1000 /* a reply that takes longer is a miss */
#define PATH_MISSES 2      /* so many in a row, and the path is down */
#define PATH_KICK_MS 5000  /* between kicks, and up to PATH_KICK_JITTER_MS more */
#define PATH_KICK_JITTER_MS 1000

struct path {
	int64_t interval_ms;
	int64_t due_ms; /* when path_tick wants to be called */
	int64_t sent_ms, kick_ms;
	unsigned misses, kicks; /* in a row */
	bool waiting, up, known;
};

enum path_act {
	PATH_NOTHING,
	PATH_SEND, /* an echo request */
	PATH_KICK, /* the handshake is to be started anew; then an echo request */
};

/* The first request is due at once. */
void path_init(struct path *p, int64_t interval_ms, int64_t now_ms);
/* What is to be done now. *went_down: the path was up, or unknown, and is now down. jitter: random,
 * below PATH_KICK_JITTER_MS. */
enum path_act path_tick(struct path *p, int64_t now_ms, uint32_t jitter, bool *went_down);
/* A reply has come (to whichever request). True when the path was down or unknown and is up. */
bool path_reply(struct path *p, int64_t now_ms);
/* A kick was not needed after all: the verdict may come again after the next miss. */
void path_spare(struct path *p, int64_t now_ms);

#endif
