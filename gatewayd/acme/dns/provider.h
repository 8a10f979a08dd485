/* SPDX-License-Identifier: MIT */
/* Inside dns/: what providers share. Each has a _new, called by dns_provider_new. */
#ifndef GATEWAYD_ACME_DNS_PROVIDER_H
#define GATEWAYD_ACME_DNS_PROVIDER_H

#include "gatewayd/acme/dns/dns.h"

struct dns_provider_opts {
	struct event_base *base;
	struct dns *d;
	const char *file; /* dns_provider_file; NULL: not set */
	const char *hook; /* dns_hook; NULL: not set */
	int64_t timeout_ms;
};
int dns_hook_new(struct dns_provider **out, const struct dns_provider_opts *o,
		 struct km_errtext *err) __attribute__((warn_unused_result));
int dns_rfc2136_new(struct dns_provider **out, const struct dns_provider_opts *o,
		    struct km_errtext *err) __attribute__((warn_unused_result));
int dns_cloudflare_new(struct dns_provider **out, const struct dns_provider_opts *o,
		       struct km_errtext *err) __attribute__((warn_unused_result));
int dns_route53_new(struct dns_provider **out, const struct dns_provider_opts *o,
		    struct km_errtext *err) __attribute__((warn_unused_result));

/* Reads dns_provider_file into the zeroed `out`; the file must be the owner's alone. Every mistake
 * is named. After an error `out` is to be freed as usual (km_conf_free). Secrets in it:
 * dns_secret_free before that. */
int dns_provider_load(const struct km_conf_spec *spec, const char *file, void *out,
		      struct km_errtext *err) __attribute__((warn_unused_result));
/* The check of an API's address: https://, or http:// to a loopback address (for tests). */
const char *dns_api_url_check(const char *v);
/* Whether a credential may stand in a header: printable ASCII without blanks, at most 4096 bytes.
 */
bool dns_header_ok(const char *v);
/* Wipes and frees a text; *s is NULL then. */
void dns_secret_free(char **s);

#endif
