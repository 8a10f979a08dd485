/* SPDX-License-Identifier: MIT */
/* Whether a set of CAA records lets a CA issue: RFC 8659 section 4, with accounturi and
 * validationmethods of RFC 8657. Sans-I/O. */
#ifndef GATEWAYD_ACME_DNS_CAA_H
#define GATEWAYD_ACME_DNS_CAA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct caa_record { /* the record's data as on the wire */
	const uint8_t *data;
	size_t n;
};
struct caa_question {
	bool wildcard;
	const char *const *issuers; /* the CA's domains, NULL-terminated */
	const char *account_url;    /* NULL: not known, accounturi is not judged */
	const char *const *methods; /* NULL-terminated; NULL: validationmethods is not judged */
};
/* True: nothing is against it. False: a sentence's end in `why` ("allows only other.example",
 * "wants the account …"), to be put behind "the CAA record of NAME"; printable ASCII only. */
bool caa_allows(const struct caa_record *set, size_t n, const struct caa_question *q, char *why,
		size_t size);

/* The record of dns-persist-01, whose text has the syntax of an issue value: whether it lets this
 * account at one of the issuers prove NAME (and with wildcard *.NAME too). */
struct persist_question {
	bool wildcard;
	const char *const *issuers; /* NULL-terminated */
	const char *account_url;
	int64_t now; /* seconds since 1970, for persistUntil */
};
bool persist_allows(const char *text, size_t n, const struct persist_question *q);

#endif
