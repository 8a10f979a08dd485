/* SPDX-License-Identifier: MIT */
/* What a tunnel wants beyond its place: how its target is spoken to, and what is done to requests
 * and answers on the way. Compiled once from what control sends and never changed afterwards, so
 * that workers read it without locks; reference-counted, since requests outlive the table's
 * entries. What is not wished for costs a test of a number. */
#ifndef GATEWAYD_ROUTE_RULES_H
#define GATEWAYD_ROUTE_RULES_H

#include "gatewayd/edge/http.h"
#include "libkm/base/addr.h"
#include "libkm/base/field.h"
#include "libkm/msg/msg.h"
#include <openssl/types.h>
#include <stdatomic.h>

#define RULES_FIELDS_BYTES KM_FIELD_RULES_BYTES /* of all header rules of one direction */

/* How the target is spoken to. */
enum route_proto {
	ROUTE_PROTO_HTTP,  /* HTTP/1.1 */
	ROUTE_PROTO_H2C,   /* HTTP/2 without TLS, by prior knowledge */
	ROUTE_PROTO_HTTPS, /* HTTP/2 or HTTP/1.1 in TLS, from gateway to target */
};

/* So many requests in a time, as a token bucket: a token every interval_ns, `burst` in a full
 * bucket. interval_ns 0: no bound. */
struct route_rate {
	int64_t interval_ns, burst;
};
/* `requests` in per_ms, at most `burst` at once; all above 0. A full bucket is never worth more than a year,
 * so that times fit into 64 bits. */
struct route_rate route_rate_of(int64_t requests, int64_t per_ms, int64_t burst);

/* A field to set; with set false, one to take away. */
struct rules_field {
	struct http_field field;
	bool set;
};

struct rules_redirect {
	struct http_str from, to; /* without their "*" */
	bool from_rest;           /* every path that begins with `from` */
	bool to_rest;             /* what follows `from` is put behind `to` */
	bool keep_query;          /* `to` has no query of its own: the request's is kept */
	int status;
};

struct route_rules {
	_Atomic uint32_t refs;
	struct rules_part *parts; /* what the strings below lie in */

	/* The target. */
	enum route_proto proto;
	bool tls_verify;      /* the target's certificate must be good */
	const char *tls_name; /* what it must be for, and the SNI unless it is an address; NULL
				 without HTTPS only */
	bool tls_name_is_addr;
	X509_STORE *tls_store;     /* the CAs to check it by; NULL: the system's */
	uint8_t target_digest[32]; /* of all of the above: connections made under another one are
				      not to be used */
	int64_t max_connections;   /* to the target, of this gateway; 0: the gateway's setting */

	/* The request. */
	bool strip_path;                      /* the tunnel's path is cut off */
	struct http_str host;                 /* the Host that the target gets; n 0: the client's */
	int64_t max_body;                     /* bytes; -1: the gateway's setting */
	struct route_rate rate, address_rate; /* interval 0: the gateway's settings */
	const struct rules_field *request, *response;
	size_t n_request, n_response;
	const struct rules_redirect *redirects;
	size_t n_redirects;

	/* The answer. */
	struct http_str hsts; /* the value of Strict-Transport-Security; n 0: none */
	bool maintenance;     /* no request reaches the target: 503 with one of these pages */
	struct http_str page_html, page_text;
	int64_t retry_after; /* seconds; 0: none */
};

/* Checks the tunnel's options and compiles them; *out gets the caller's reference, or NULL when
 * there is nothing to compile. Control has checked the same, and is not believed: what would split
 * a message or lead a client elsewhere than it says is refused. KM_EINVAL with a sentence,
 * KM_ENOMEM. */
int route_rules_compile(const struct route_rules **out, const struct km_msg_tunnel *t,
			struct km_errtext *err) __attribute__((warn_unused_result));
const struct route_rules *route_rules_ref(const struct route_rules *r);
/* Gives a reference back; the last one frees. Accepts NULL. Any thread. */
void route_rules_put(const struct route_rules *r);

#endif
