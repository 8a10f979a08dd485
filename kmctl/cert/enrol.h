/* SPDX-License-Identifier: MIT */
/* kmctl cert sign without a name: the requests that wait at control. */
#ifndef KMCTL_CERT_ENROL_H
#define KMCTL_CERT_ENROL_H

#include "kmctl/cert/cert.h"

/* Shows each request, asks, signs it here and gives control the certificate. 0 also when the
 * operator has said no; 1 when one failed, after the others, or CERT_USAGE, with a sentence. */
int cert_enrolments(struct cert_mode *m, struct km_errtext *err);

#endif
