/* SPDX-License-Identifier: MIT */
/* Certificates for people and programs, as nebula-cert prints them. */
#ifndef KM_CERT_PRINT_H
#define KM_CERT_PRINT_H

#include "libkm/cert/cert.h"

/* How times are shown: nebula-cert uses the local zone; the offset comes from the caller, who may
 * look at the clock's settings (localtime_r). NULL: UTC. */
typedef int (*km_cert_zone_cb)(int64_t unix_s); /* seconds east of UTC */

/* Appends the text form, with a newline at the end. KM_ETOOBIG, KM_ENOMEM. */
int km_cert_print(struct km_buf *out, const struct km_cert *c, km_cert_zone_cb zone)
    __attribute__((warn_unused_result));
/* Appends one line of JSON. */
int km_cert_print_json(struct km_buf *out, const struct km_cert *c, km_cert_zone_cb zone)
    __attribute__((warn_unused_result));

#endif
