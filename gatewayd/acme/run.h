/* SPDX-License-Identifier: MIT */
/* Programs of the operator's (DNS hook, alert), run beside the main loop. */
#ifndef GATEWAYD_ACME_RUN_H
#define GATEWAYD_ACME_RUN_H

#include "libkm/base/err.h"
#include <event2/event.h>
#include <stdint.h>

/* Whether path can be run: absolute, a file, executable, and not to be changed by group or others.
 * KM_EINVAL with a sentence that begins with `setting`. */
int run_check(const char *setting, const char *path, struct km_errtext *err)
    __attribute__((warn_unused_result));

struct run;
/* Starts argv[0] (a path; no shell, no search) in a process group of its own, standard input and
 * output /dev/null, other descriptors closed, the environment as ours. done comes once, never
 * before this returns, and the handle is gone then: NULL after exit status 0; else a sentence with
 * the exit status or signal and the last line of its standard error, "…/hook ended with status 3:
 * no such zone". After timeout_ms it is killed with its group. NULL: no memory. Children are found
 * by pidfd: no signal handler is needed or disturbed. */
struct run *run_start(struct event_base *base, const char *const *argv, int64_t timeout_ms,
		      void (*done)(void *arg, const char *failed), void *arg);
/* Kills it with its group; nobody is told. Accepts NULL. */
void run_kill(struct run *r);

#endif
