/* SPDX-License-Identifier: MIT */
/* PEM (RFC 7468, without headers): text between "-----BEGIN X-----" and "-----END X-----". */
#ifndef KM_CERT_PEM_H
#define KM_CERT_PEM_H

#include "libkm/base/buf.h"
#include "libkm/base/err.h"
#include <stddef.h>
#include <stdint.h>

#define KM_PEM_BANNER_MAX 63

/* The banners of Nebula's files. */
#define KM_PEM_CERT_V1 "NEBULA CERTIFICATE"
#define KM_PEM_CERT_V2 "NEBULA CERTIFICATE V2"

struct km_pem {
	char banner[KM_PEM_BANNER_MAX + 1];
	uint8_t *body;
	size_t len;
};

/* Reads the next block and moves *text and *left behind it. Text before it is skipped as a comment;
 * between its lines it may hold base64 (RFC 4648 section 4, padded, no bits left over), line ends
 * and blanks, nothing else. KM_ENOTFOUND: there is no further block; KM_EINVAL: a malformed one;
 * KM_ETOOBIG: a body over max bytes; KM_ENOMEM. The caller ends with km_pem_free. */
int km_pem_next(struct km_pem *out, const char **text, size_t *left, size_t max,
		struct km_errtext *err) __attribute__((warn_unused_result));

/* Appends a block with lines of 64 columns. KM_ETOOBIG, KM_ENOMEM. */
int km_pem_write(struct km_buf *out, const char *banner, const void *p, size_t n)
    __attribute__((warn_unused_result));

/* Overwrites and frees the body. */
void km_pem_free(struct km_pem *p);

#endif
