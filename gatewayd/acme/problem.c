/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/problem.h"
#include "libkm/base/util.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define URN "urn:ietf:params:acme:error:"
#define SUBPROBLEMS_MAX 4 /* told */
#define RETRY_MAX_S (30 * 86400)

const char *acme_cause_str(enum acme_cause c)
{
	static const char *const names[] = {
	    [ACME_OK] = "ok",
	    [ACME_NETWORK] = "network",
	    [ACME_RATE_LIMITED] = "rate_limited",
	    [ACME_ACCOUNT] = "account",
	    [ACME_VALIDATION] = "validation",
	    [ACME_REJECTED] = "rejected",
	    [ACME_UNSUPPORTED] = "unsupported",
	    [ACME_PROTOCOL] = "protocol",
	    [ACME_LOCAL] = "local",
	};

	return (unsigned)c < KM_ARRAY_LEN(names) ? names[c] : "unknown";
}

/* ---- text ---- */

/* Whether a character of n bytes would do more than stand in a line. */
static bool unwelcome(const unsigned char *s, size_t n)
{
	if (n == 1)
		return s[0] < 0x20 || s[0] == 0x7f;
	if (n == 2) /* U+0080 to U+009F, U+061C */
		return (s[0] == 0xc2 && s[1] < 0xa0) || (s[0] == 0xd8 && s[1] == 0x9c);
	if (n == 3 && s[0] == 0xe2) /* U+200E, U+200F, U+2028 to U+202E, U+2066 to U+2069 */
		return (s[1] == 0x80 &&
			(s[2] == 0x8e || s[2] == 0x8f || (s[2] >= 0xa8 && s[2] <= 0xae))) ||
		       (s[1] == 0x81 && s[2] >= 0xa6 && s[2] <= 0xa9);
	return false;
}

void problem_clean(char *out, size_t size, const char *text)
{
	size_t at = 0;

	while (*text) {
		size_t n = km_utf8_len(text), take = n ? n : 1;
		bool blank = !n || unwelcome((const unsigned char *)text, n);

		if (at + (blank ? 1 : take) >= size)
			break;
		if (blank)
			out[at++] = ' ';
		else
			memcpy(out + at, text, take), at += take;
		text += take;
	}
	out[at] = '\0';
}

void problem_set(struct acme_problem *p, enum acme_cause cause, const char *fmt, ...)
{
	char text[2 * sizeof(p->text)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	p->cause = cause;
	p->type[0] = '\0';
	problem_clean(p->text, sizeof(p->text), text);
}

void problem_about(struct acme_problem *p, const char *what)
{
	char text[2 * sizeof(p->text)];

	snprintf(text, sizeof(text), "%.390s: %s", what, p->text);
	problem_clean(p->text, sizeof(p->text), text);
}

#define HIDDEN "[token]"

void problem_hide(struct acme_problem *p, const char *token)
{
	static const char chars[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	size_t n = strlen(token), len = sizeof(HIDDEN) - 1;

	if (n <= len)
		return;
	for (char *at = p->text; *at; at++) {
		size_t left = strlen(at), gone = left < n ? left : n; /* cut off at the text's end? */

		if (gone <= len || strncmp(at, token, gone) != 0)
			continue;
		if (at[gone] == '.')
			gone += 1 + strspn(at + gone + 1, chars);
		memcpy(at, HIDDEN, len);
		memmove(at + len, at + gone, left - gone + 1);
		at += len - 1;
	}
}

/* ---- Retry-After ---- */

int64_t problem_retry_after(const char *value, int64_t wall_ms)
{
	static const char *const dates[] = {"%a, %d %b %Y %H:%M:%S GMT",
					    "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"};
	size_t digits = value ? strspn(value, "0123456789") : 0;
	int64_t s = 0;

	if (!value)
		return -1;
	if (digits && !value[digits]) {
		for (size_t i = 0; i < digits && s <= RETRY_MAX_S; i++)
			s = s * 10 + (value[i] - '0');
		return (s < RETRY_MAX_S ? s : RETRY_MAX_S) * 1000;
	}
	for (size_t i = 0; i < KM_ARRAY_LEN(dates); i++) {
		struct tm tm = {0};
		const char *end = strptime(value, dates[i], &tm);

		if (!end || *end)
			continue;
		s = (int64_t)timegm(&tm) - wall_ms / 1000;
		return (s < 0 ? 0 : s < RETRY_MAX_S ? s : RETRY_MAX_S) * 1000;
	}
	return -1;
}

/* ---- documents ---- */

static const struct {
	const char *type;
	enum acme_cause cause;
} causes[] = {
    {"accountDoesNotExist", ACME_ACCOUNT},
    {"agreementRequired", ACME_ACCOUNT}, /* of a draft; pebble's */
    {"alreadyReplaced", ACME_PROTOCOL},
    {"alreadyRevoked", ACME_PROTOCOL},
    {"badCSR", ACME_LOCAL},
    {"badNonce", ACME_NETWORK},
    {"badPublicKey", ACME_LOCAL},
    {"badRevocationReason", ACME_PROTOCOL},
    {"badSignatureAlgorithm", ACME_PROTOCOL},
    {"caa", ACME_VALIDATION},
    {"connection", ACME_VALIDATION},
    {"dns", ACME_VALIDATION},
    {"dnssec", ACME_VALIDATION},
    {"externalAccountRequired", ACME_ACCOUNT},
    {"incorrectResponse", ACME_VALIDATION},
    {"invalidContact", ACME_ACCOUNT},
    {"invalidProfile", ACME_ACCOUNT},
    {"malformed", ACME_PROTOCOL},
    {"orderNotReady", ACME_PROTOCOL},
    {"rateLimited", ACME_RATE_LIMITED},
    {"rejectedIdentifier", ACME_REJECTED},
    {"serverInternal", ACME_NETWORK},
    {"tls", ACME_VALIDATION},
    {"unauthorized", ACME_VALIDATION},
    {"unsupportedContact", ACME_ACCOUNT},
    {"unsupportedIdentifier", ACME_REJECTED},
    {"userActionRequired", ACME_ACCOUNT},
};

static enum acme_cause cause_of(const char *type)
{
	for (size_t i = 0; i < KM_ARRAY_LEN(causes); i++)
		if (!strcmp(causes[i].type, type))
			return causes[i].cause;
	return ACME_OK; /* nothing known */
}

bool problem_is(const struct acme_problem *p, const char *type)
{
	return !strcmp(p->type, type);
}

static const char *said(const json_t *doc, const char *key)
{
	const char *s = json_string_value(json_object_get(doc, key));

	return s ? s : "";
}

static void read_type(char *out, size_t size, const json_t *doc)
{
	const char *type = said(doc, "type");

	problem_clean(out, size, strncmp(type, URN, strlen(URN)) ? type : type + strlen(URN));
}

/* Adds what the CA says of one name; its cause counts when the whole has none of its own
 * ("compound", "malformed"). */
static void read_subproblem(struct acme_problem *p, const json_t *doc)
{
	char type[sizeof(p->type)], text[2 * sizeof(p->text)];
	const char *name = said(json_object_get(doc, "identifier"), "value");
	enum acme_cause cause;

	read_type(type, sizeof(type), doc);
	cause = cause_of(type);
	if (cause && (!p->cause || p->cause == ACME_PROTOCOL)) {
		p->cause = cause;
		memcpy(p->type, type, sizeof(type));
	}
	snprintf(text, sizeof(text), "%s; %.100s%s%.200s", p->text, name, *name ? ": " : "",
		 said(doc, "detail"));
	problem_clean(p->text, sizeof(p->text), text);
}

void problem_read(struct acme_problem *p, const json_t *doc)
{
	const json_t *subs = json_object_get(doc, "subproblems");
	const char *detail = said(doc, "detail");

	read_type(p->type, sizeof(p->type), doc);
	p->cause = cause_of(p->type);
	if (!*detail)
		detail = said(doc, "title");
	problem_clean(p->text, sizeof(p->text), *detail ? detail : "no reason given");
	for (size_t i = 0; i < json_array_size(subs) && i < SUBPROBLEMS_MAX; i++)
		read_subproblem(p, json_array_get(subs, i));
	if (*p->type && strlen(p->text) + strlen(p->type) + 4 < sizeof(p->text)) {
		strcat(p->text, " (");
		strcat(strcat(p->text, p->type), ")");
	}
}

/* The status decides where the document names no type that we know. */
static enum acme_cause by_status(int status)
{
	if (status == 429)
		return ACME_RATE_LIMITED;
	if (status == 0 || status >= 500 || status == 408)
		return ACME_NETWORK;
	return ACME_PROTOCOL;
}

void problem_answer(struct acme_problem *p, const struct acme_answer *a, int64_t wall_ms)
{
	json_t *doc = a->status ? json_loadb(a->body ? a->body : "", a->n, 0, NULL) : NULL;
	int64_t after = problem_retry_after(a->retry_after, wall_ms);
	char what[40];

	*p = (struct acme_problem){0};
	if (!a->status) {
		problem_set(p, ACME_NETWORK, "%s", a->failed ? a->failed : "no answer");
		return;
	}
	if (json_is_object(doc)) {
		problem_read(p, doc);
	} else {
		snprintf(what, sizeof(what), "HTTP status %d", a->status);
		problem_set(p, ACME_OK, "%s without a reason", what);
	}
	if (!p->cause || (p->cause == ACME_PROTOCOL && by_status(a->status) != ACME_PROTOCOL))
		p->cause = by_status(a->status);
	if (a->status == 503 && after >= 0) /* how load balancers say it */
		p->cause = ACME_RATE_LIMITED;
	if (after >= 0)
		p->retry_at_ms = wall_ms + after;
	json_decref(doc);
}
