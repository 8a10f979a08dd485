/* SPDX-License-Identifier: MIT */
/* Requests that come round again: a tunnel whose target leads, perhaps over others, back to a
 * gateway would have each of them go round until the connections are used up. CDN-Loop (RFC 8586)
 * tells: every tunnel writes itself there, and whoever passes the request on leaves it. Via (RFC
 * 9110 section 7.6.3) is for that, too, but many servers send less to who has it (nginx does not
 * compress), so it is written only where the settings want it. Sans-I/O. */
#ifndef GATEWAYD_EDGE_LOOPS_H
#define GATEWAYD_EDGE_LOOPS_H

#include "gatewayd/edge/http.h"

#define LOOPS_NAME "kakuremichi"
/* So often one tunnel may have one request: a target that asks another path of its own domain by
 * its public name makes no loop. */
#define LOOPS_MAX 3

/* A tunnel's entry: the half of its id is as good as all of it, and shorter. */
#define LOOPS_MARK (sizeof(LOOPS_NAME "; t=") - 1 + 16)

/* The entry of the tunnel with this id. */
void loops_mark(char mark[static LOOPS_MARK], const uint8_t tunnel[static 16]);

/* Adds the fields to r that say that it has passed the tunnel with this mark (to be kept as long as
 * r): CDN-Loop, and with `via` Via. False: the request has passed it LOOPS_MAX times already. */
bool loops_pass(struct http_request *r, const char mark[static LOOPS_MARK], bool via);

#endif
