/* SPDX-License-Identifier: MIT */
/* DNS messages (RFC 1035 section 4): questions out, bounded reading of what comes. Sans-I/O. */
#ifndef GATEWAYD_ACME_DNS_MESSAGE_H
#define GATEWAYD_ACME_DNS_MESSAGE_H

#include "libkm/base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	DNS_TYPE_A = 1,
	DNS_TYPE_NS = 2,
	DNS_TYPE_CNAME = 5,
	DNS_TYPE_SOA = 6,
	DNS_TYPE_TXT = 16,
	DNS_TYPE_AAAA = 28,
	DNS_TYPE_OPT = 41,
	DNS_TYPE_CAA = 257,
};
enum { DNS_RCODE_OK = 0, DNS_RCODE_SERVFAIL = 2, DNS_RCODE_NXDOMAIN = 3 };

#define DNS_NAME_STRLEN 254 /* the longest name as text, without a final dot, and NUL */
#define DNS_MESSAGE_MAX 65535
#define DNS_QUERY_MAX 300

/* A message in place: header and question have been read. */
struct dns_msg {
	const uint8_t *p;
	size_t n;
	uint16_t id, flags;
	uint16_t count[3];           /* records: answer, authority, additional */
	char qname[DNS_NAME_STRLEN]; /* lower case; "" when there is no question (or it is the root)
				      */
	uint16_t qtype;
	size_t records; /* where they begin */
};
/* KM_EPROTO when header or question (at most one) cannot be read. m points into p. */
int dns_msg_parse(struct dns_msg *m, const void *p, size_t n) __attribute__((warn_unused_result));
bool dns_msg_is_answer(const struct dns_msg *m);
bool dns_msg_truncated(const struct dns_msg *m);
int dns_msg_rcode(const struct dns_msg *m);
/* "SERVFAIL", "NOTAUTH" …; "an unknown error" for others. Static storage. */
const char *dns_rcode_str(int rcode);

/* A resource record; data points into the message and has n bytes. */
struct dns_rr {
	char name[DNS_NAME_STRLEN];
	uint16_t type, klass;
	uint32_t ttl;
	const uint8_t *data;
	uint16_t n;
	int section; /* 0 answer, 1 authority, 2 additional */
};
struct dns_rrs {
	const struct dns_msg *m;
	size_t at;
	uint16_t left[3];
};
struct dns_rrs dns_msg_rrs(const struct dns_msg *m);
/* The next record; false at the end, or where the message cannot be read any further. */
bool dns_rr_next(struct dns_rrs *it, struct dns_rr *rr);
/* The name that a CNAME, NS or SOA record's data begin with. KM_EPROTO. */
int dns_rr_name(const struct dns_msg *m, const struct dns_rr *rr, char out[static DNS_NAME_STRLEN])
    __attribute__((warn_unused_result));
/* Where the CNAME of this name in the answer section leads; false: there is none. */
bool dns_msg_cname(const struct dns_msg *m, const char *name, char to[static DNS_NAME_STRLEN]);
/* Whether a TXT record's strings together are exactly this text. */
bool dns_rr_txt_is(const struct dns_rr *rr, const char *text);
/* The strings of a TXT record together, cut at size - 1 bytes, other bytes than printable ASCII as
 * '?'. */
void dns_rr_txt(const struct dns_rr *rr, char *out, size_t size);

/* A question for one name and type, with EDNS (1232 bytes); recurse: RD. KM_EINVAL: not a name. */
int dns_query_make(uint8_t out[static DNS_QUERY_MAX], size_t *n, uint16_t id, const char *name,
		   uint16_t type, bool recurse) __attribute__((warn_unused_result));
/* Equal but for the case of letters. */
bool dns_name_eq(const char *a, const char *b);
/* The name above: "b.c" of "a.b.c"; "" of "c" and of "". */
const char *dns_name_parent(const char *name);
/* Whether name is parent or lies below it; "" is above all. */
bool dns_name_below(const char *name, const char *parent);

#endif
