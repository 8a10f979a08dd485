/* SPDX-License-Identifier: MIT */
/* Certificates for people and programs, in the forms of nebula-cert 1.6: a block of text, or a line
 * of JSON. Times are in UTC. Version 2, which that program does not know, has the names of later
 * ones: "networks" and "unsafeNetworks" in place of "ips" and "subnets", "version", "curve". */
#ifndef KM_CERT_PRINT_H
#define KM_CERT_PRINT_H

#include "libkm/cert/cert.h"

/* Appends the text form, with a newline at the end. KM_ETOOBIG, KM_ENOMEM. */
int km_cert_print(struct km_buf *out, const struct km_cert *c) __attribute__((warn_unused_result));
/* Appends one line of JSON. */
int km_cert_print_json(struct km_buf *out, const struct km_cert *c)
    __attribute__((warn_unused_result));

#endif
