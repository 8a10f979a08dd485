/* SPDX-License-Identifier: MIT */
/* Inside dns/: a request to a company's HTTP API, tried again when it was too busy or could not be
 * reached. */
#ifndef GATEWAYD_ACME_DNS_API_H
#define GATEWAYD_ACME_DNS_API_H

#include "gatewayd/acme/http.h"

#define DNS_API_TRIES 4
#define DNS_API_SIGNED 4

struct dns_api;
struct dns_api_opts {
	struct event_base *base;
	struct acme_http *http;
	const char *method;
	const char *url;            /* copied, as are the texts below */
	const char *const *headers; /* NULL-terminated; wiped when done */
	const char *body;           /* NULL: none */
	/* Headers for each try, such as a signature with the time, at the end of `headers` (room
	 * for DNS_API_SIGNED, from malloc, to be freed by the caller of `sign`). 0 or an error. May
	 * be NULL. */
	int (*sign)(void *arg, char *headers[static DNS_API_SIGNED]);
	/* Whether this answer, too, says "try again". 429 and 5xx do anyway. May be NULL. */
	bool (*busy)(const struct acme_answer *a);
	void *arg;
	void (*done)(void *arg, const struct acme_answer *a);
};
/* At most DNS_API_TRIES tries, 1, 2 and 4 s between them or what Retry-After says (at most a
 * minute). done comes once, never before this returns, with the last answer; the handle is gone
 * then. NULL: no memory. */
struct dns_api *dns_api_send(const struct dns_api_opts *o);
/* done is not called any more. Accepts NULL. */
void dns_api_cancel(struct dns_api *a);
/* How long to wait before the next try: Retry-After in seconds, bounded, else 1, 2, 4 s for try 0,
 * 1, 2. */
int64_t dns_api_pause_ms(const char *retry_after, unsigned tries);

#endif
