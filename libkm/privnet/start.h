/* SPDX-License-Identifier: MIT */
/* How a handle gets its connection: attach to a living warden, or start one. Internal. */
#ifndef KM_PRIVNET_START_H
#define KM_PRIVNET_START_H

#include "libkm/privnet/wire.h"
#include <sys/types.h>

/* Connects to the socket at path. KM_ENOTFOUND: nobody serves it (absent or stale). KM_EPERM,
 * KM_EIO. */
int km_start_connect(const char *path, int *fd, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Starts the program with one end of a socket pair as its descriptor 3 and gives the other end. The
 * warden is nobody's child afterwards and outlives the caller. KM_EIO. When the program cannot be
 * executed, the first reply says so. */
int km_start_spawn(const char *program, int *fd, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* The program to start: `given`, else km-warden beside this executable, else in
 * ../lib/kakuremichi from there (wherever `make install` has put both), else in KM_LIBEXEC.
 * KM_ENOTFOUND with a sentence. */
int km_start_find(const char *given, char out[static KM_WIRE_PATH_MAX], struct km_errtext *err)
    __attribute__((warn_unused_result));
/* How long a send or receive on fd may block. */
int km_start_timeout(int fd, int ms) __attribute__((warn_unused_result));
/* Waits until the other end of the connection is closed; if that takes longer than
 * KM_PRIVNET_TIMEOUT_MS, kills the process there. pid: its number when it is known (of a warden
 * that was spawned), else 0. */
void km_start_wait_end(int fd, pid_t pid);
/* Kills the process at the other end and waits until it has ended. */
void km_start_kill(int fd, pid_t pid);

#endif
