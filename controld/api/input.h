/* SPDX-License-Identifier: MIT */
/* Request bodies: from JSON to structs, with every mistake named. Sans-I/O. */
#ifndef CONTROLD_API_INPUT_H
#define CONTROLD_API_INPUT_H

#include "controld/api/domain.h"
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The `details` of an error: [{"field", "message"}]. */
struct details {
	json_t *list; /* NULL: none yet; the owner decrefs it */
};
void details_add(struct details *d, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Parses a body: a JSON object without duplicate keys. NULL with a sentence that gives line and
 * column. The caller owns the value. */
json_t *input_parse(const char *text, size_t n, struct km_errtext *err);
/* Whether a Content-Type header (NULL: absent) names JSON. */
bool input_is_json(const char *content_type);

/* What is wrong with an entry of publicIp, which is an address of a host or a host name in its
 * stored form; or NULL. */
const char *input_host_check(const char *s);

#define INPUT_IPS 8
/* Of agents, gateways and tokens. Strings are borrowed from the body. */
struct host_input {
	const char *name; /* NULL: absent */
	bool has_public_ip;
	size_t n_public_ip;
	const char *public_ip[INPUT_IPS];
	bool has_region;
	const char *region; /* NULL with has_region: cleared */
	bool has_expires_at;
	const char *expires_at; /* NULL with has_expires_at: never */
};

/* Each reads a body; create: required fields must be there (POST), else all are optional (PATCH).
 * Every mistake, unknown fields included, goes into d; KM_EINVAL when there was one. */
int input_agent(struct host_input *out, const json_t *body, bool create, struct details *d)
    __attribute__((warn_unused_result));
int input_gateway(struct host_input *out, const json_t *body, bool create, struct details *d)
    __attribute__((warn_unused_result));
/* now_ms: wall clock, for expiresAt. */
int input_token(struct host_input *out, const json_t *body, int64_t now_ms, struct details *d)
    __attribute__((warn_unused_result));
#define PAGE_DEFAULT 100
#define PAGE_MAX 1000
enum page_filter { PAGE_DOMAIN = 1, PAGE_GATEWAY = 2, PAGE_STATUS = 4 };
/* A page of a list from its query parameters limit (1 to PAGE_MAX) and cursor; of some lists also
 * domain, gateway (name or id) and status (of a certificate). */
struct page_input {
	long n;
	const char *cursor; /* NULL: the first page */
	unsigned filters; /* those that the list has */
	char domain[DOMAIN_STRLEN];   /* "": any */
	const char *gateway, *status; /* NULL: any */
};
/* Set n to PAGE_DEFAULT, and filters, first. One query parameter; unknown ones and malformed values go into d. */
void input_page_param(struct page_input *p, const char *key, const char *value, struct details *d);

#endif
