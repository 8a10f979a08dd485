/* SPDX-License-Identifier: MIT */
/* Public host names, as people write them and as they are stored. Sans-I/O. */
#ifndef CONTROLD_API_DOMAIN_H
#define CONTROLD_API_DOMAIN_H

#include "libkm/base/err.h"

#define DOMAIN_STRLEN 254

/* Writes the stored form of a domain: lower case, IDNA 2008 A-labels (UTS #46, non-transitional),
 * without the dot at the end, a leading "*." kept; at most 253 bytes, two or more labels (not
 * counting the "*") of 1 to 63 letters, digits and hyphens; not an IP address. KM_EINVAL with what
 * is wrong, fit to stand after the field's name. */
int domain_normalize(char out[static DOMAIN_STRLEN], const char *in, struct km_errtext *err)
    __attribute__((warn_unused_result));

#endif
