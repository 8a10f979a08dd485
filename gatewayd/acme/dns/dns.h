/* SPDX-License-Identifier: MIT */
/* What ACME asks the DNS, and the records that dns-01 writes there. Asynchronous on the main loop;
 * every callback comes once, never before the function that began it has returned. */
#ifndef GATEWAYD_ACME_DNS_DNS_H
#define GATEWAYD_ACME_DNS_DNS_H

#include "gatewayd/settings.h"
#include "libkm/base/addr.h"
#include <event2/event.h>

/* ---- the resolver (c-ares) ---- */
struct dns;
/* servers: "address" or "address:port"; NULL or n = 0: the system's, read again when they change.
 * KM_EINVAL (a sentence that begins with dns_resolvers), KM_ENOMEM, KM_EIO. */
int dns_new(struct dns **out, struct event_base *base, const struct km_strlist *servers,
	    struct km_errtext *err) __attribute__((warn_unused_result));
/* After its asks, records and providers. Accepts NULL. */
void dns_free(struct dns *d);

/* ---- preflight: would an order for this name succeed? ---- */
enum dns_verdict {
	DNS_FINE,
	DNS_ELSEWHERE, /* the name leads somewhere else too, or nowhere */
	DNS_FORBIDDEN, /* a CAA record does not allow the CA (RFC 8659, RFC 8657) */
	DNS_UNKNOWN,   /* the DNS did not answer: not a reason to wait for ever */
};
struct dns_preflight_opts {
	const char *name;           /* without "*." */
	bool wildcard;              /* only CAA is looked at */
	const struct km_addr *ours; /* addresses by which strangers reach gateways; 0: unknown, any
				       address will do */
	size_t n_ours;
	const char *const
	    *caa_issuers;        /* the CA's domains, NULL-terminated; NULL: CAA is not looked at */
	const char *account_url; /* for accounturi; may be NULL */
	const char *const *methods; /* challenge types for validationmethods; NULL-terminated */
};
/* What is being asked; gone once done has been called. */
struct dns_ask;
/* text: a sentence for people, "" with DNS_FINE. Every address must be a gateway's, since the CA
 * may take any; of a family in which none of ours is known, addresses are let be if the other
 * family leads here. A name that is an IP address is not looked up. NULL: no memory. */
struct dns_ask *dns_preflight(struct dns *d, const struct dns_preflight_opts *o,
			      void (*done)(void *arg, enum dns_verdict v, const char *text),
			      void *arg);
/* done is not called any more. Accepts NULL. */
void dns_cancel(struct dns_ask *a);

/* ---- records for dns-01 ---- */
/* A provider: base struct first. change adds one value to those of a name (again: no error) or takes
 * one away (not there: no error); it calls done(arg, NULL) or with a sentence, once, never before
 * it returns. fqdn has no trailing dot; fqdn and value are borrowed during the call.
 */
struct dns_provider;
struct dns_provider_ops {
	const char *name;
	void (*change)(struct dns_provider *p, bool add, const char *fqdn, const char *value,
		       void (*done)(void *arg, const char *failed), void *arg);
	void (*free)(struct dns_provider *p); /* cancels what runs; nobody is told */
};
struct dns_provider {
	const struct dns_provider_ops *ops;
};
/* The provider that the settings name, with its file read and checked; *out is NULL for `none`.
 * KM_EINVAL, KM_EPERM (the file is not the owner's alone), KM_EIO, each with a sentence. Companies'
 * APIs are asked by a transport of the provider's own, since acme_ca_file is not for them. */
int dns_provider_new(struct dns_provider **out, struct event_base *base, struct dns *d,
		     const struct gw_settings *s, struct km_errtext *err)
    __attribute__((warn_unused_result));
/* After dns_record_remove of its records; what is being taken away then stays. Accepts NULL. Not
 * from a callback of its own. */
void dns_provider_free(struct dns_provider *p);

/* Follows CNAMEs from _acme-challenge.NAME, has the provider present the value there, and waits
 * until all of the zone's servers show it (at most timeout_ms); one that never answers is not
 * waited for when others do. done(arg, NULL) or with a sentence; the handle stays until
 * dns_record_remove, which done may call. NULL: no memory. */
struct dns_record;
struct dns_record *dns_record_present(struct dns *d, struct dns_provider *p, const char *name,
				      const char *value, int64_t timeout_ms,
				      void (*done)(void *arg, const char *failed), void *arg);
/* Takes it away (in the background, a failure is logged) and frees the handle; cancels done if it
 * has not come. Accepts NULL. */
void dns_record_remove(struct dns_record *r);
/* dns-persist-01: whether _validation-persist.NAME has a record that names this account at one of
 * the issuers (done(arg, NULL)), else a sentence with the record to publish. NULL: no memory, or no
 * issuer. */
struct dns_ask *dns_persist_check(struct dns *d, const char *name, bool wildcard,
				  const char *const *issuers, const char *account_url,
				  void (*done)(void *arg, const char *failed), void *arg);

#endif
