/* SPDX-License-Identifier: MIT */
/* The process of wireguard-go: started in the foreground, tied to its parent, ended and reaped. */
#ifndef KM_WG_PROCESS_H
#define KM_WG_PROCESS_H

#include "libkm/base/err.h"
#include "libkm/wg/wg.h"
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct km_wg_process {
	pid_t pid;   /* 0: none */
	int gone_fd; /* readable when it has ended; -1: none */
	int output;  /* what it says, non-blocking; -1: none */
	char buf[1024];
	size_t used;
};

/* No process. */
void km_wg_process_init(struct km_wg_process *p);
/* Starts it for this interface name; it dies with the calling thread. KM_EUNSUPPORTED: it is not
 * installed; KM_EIO. */
int km_wg_process_start(struct km_wg_process *p, const char *ifname, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* The next whole line that it has said, without its prefix and cut at the end; false: none now. */
bool km_wg_process_line(struct km_wg_process *p, char line[static KM_WG_LINE_LEN]);
/* Ends it (politely first), waits until it has ended and frees what there is; does nothing without
 * a process. */
void km_wg_process_stop(struct km_wg_process *p);

#endif
