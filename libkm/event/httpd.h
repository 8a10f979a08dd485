/* SPDX-License-Identifier: MIT */
/* A small HTTP listener (libevent's evhttp) for GET /metrics, /healthz and /readyz of a daemon. */
#ifndef KM_EVENT_HTTPD_H
#define KM_EVENT_HTTPD_H

#include "libkm/base/err.h"
#include <event2/event.h>

struct km_httpd;

/* Listens on "addr:port" (plain HTTP; meant for loopback); NULL or "": nowhere, then *out is NULL.
 * ready (may be NULL) returns NULL when the daemon serves, else what is missing, which /readyz
 * answers with 503. KM_EINVAL, KM_EIO, each with a sentence. */
int km_httpd_start(struct km_httpd **out, struct event_base *base, const char *listen,
		   const char *(*ready)(void *arg), void *arg, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* Closes the listener and its connections. Accepts NULL. */
void km_httpd_free(struct km_httpd *h);

#endif
