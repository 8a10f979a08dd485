/* SPDX-License-Identifier: MIT */
/* AWS Signature Version 4 for a request with few headers. Sans-I/O. */
#ifndef GATEWAYD_ACME_DNS_SIGV4_H
#define GATEWAYD_ACME_DNS_SIGV4_H

#include "libkm/base/err.h"
#include <stddef.h>
#include <stdint.h>

struct sigv4_key {
	const char *id, *secret;
	const char *region, *service;
};
struct sigv4_request {
	const char *method,
	    *host; /* host as the Host header has it, lower case, with a port if not the scheme's */
	const char *path;         /* absolute, encoded as it is sent */
	const char *query;        /* without '?', encoded, parameters in order of their names; "" */
	const char *content_type; /* signed when not NULL */
	const char *body;         /* "" */
};
#define SIGV4_DATE_STRLEN 17 /* "20150830T123600Z" */
/* Signs host, x-amz-date (which gets `date`) and, where given, content-type.
 * authorization gets the header's value, at most size - 1 bytes. KM_ETOOBIG, KM_EINVAL (a time that
 * is none), KM_ENOMEM. */
int sigv4_sign(const struct sigv4_key *k, const struct sigv4_request *r, int64_t wall_ms,
	       char date[static SIGV4_DATE_STRLEN], char *authorization, size_t size)
    __attribute__((warn_unused_result));

#endif
