/* SPDX-License-Identifier: MIT */
/* The process itself as metrics, by the names that all of Prometheus's clients give them. */
#ifndef KM_BASE_PROCESS_H
#define KM_BASE_PROCESS_H

#include "libkm/base/buf.h"

/* Appends process_cpu_seconds_total, process_start_time_seconds, process_resident_memory_bytes,
 * process_virtual_memory_bytes, process_open_fds, process_max_fds (what /proc does not
 * say is left out) and kakuremichi_build_info{program,version}, to what km_metrics_print has
 * appended. KM_ENOMEM, KM_ETOOBIG. */
int km_process_print(struct km_buf *out) __attribute__((warn_unused_result));

#endif
