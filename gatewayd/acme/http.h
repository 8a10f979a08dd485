/* SPDX-License-Identifier: MIT */
/* The transport of ACME: HTTPS by libcurl's multi interface on the main loop. Also used by DNS
 * providers and the alert webhook (any method, headers and body). */
#ifndef GATEWAYD_ACME_HTTP_H
#define GATEWAYD_ACME_HTTP_H

#include "gatewayd/acme/client.h"
#include <event2/event.h>

struct acme_http;
struct acme_http_call;

/* ca_file: PEM of the CAs that servers are checked by; NULL: the system's. */
int acme_http_new(struct acme_http **out, struct event_base *base, const char *ca_file,
		  struct km_errtext *err) __attribute__((warn_unused_result));
/* Cancels what runs (nobody is told). Accepts NULL. Not from within a done. */
void acme_http_free(struct acme_http *h);
/* Calls done once, never before this returns; redirects are not followed. Connect and total timeout 30
 * s. The answer is borrowed during the call, in which other calls may be begun and cancelled. A proxy that
 * the environment names (https_proxy) is used. NULL: no memory. */
struct acme_http_call *acme_http_send(struct acme_http *h, const struct acme_request *r,
				      void (*done)(void *arg, const struct acme_answer *a), void *arg);
/* A request of another kind. headers: "Name: value" lines, NULL-terminated; may be NULL. http:// is
 * taken too. */
struct acme_http_call *acme_http_custom(struct acme_http *h, const char *method, const char *url,
					const char *const *headers, const char *body,
					void (*done)(void *arg, const struct acme_answer *a), void *arg);
/* done is not called any more. */
void acme_http_cancel(struct acme_http_call *c);

#endif
