/* SPDX-License-Identifier: MIT */
/* What a CA says when it refuses: problem documents (RFC 7807, RFC 8555 section 6.7), and when it
 * wants to be asked again. */
#ifndef GATEWAYD_ACME_PROBLEM_H
#define GATEWAYD_ACME_PROBLEM_H

#include "gatewayd/acme/client.h"
#include <time.h>

/* Copies foreign text: control characters, what turns the direction of writing and broken UTF-8
 * become blanks; cut at a whole character. */
void problem_clean(char *out, size_t size, const char *text);

/* Sets cause and a sentence; type becomes "". */
void problem_set(struct acme_problem *p, enum acme_cause cause, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Puts "what: " before the text. */
void problem_about(struct acme_problem *p, const char *what);

/* Takes a challenge's token out of the text, and the key authorization that begins with it: CAs quote
 * what they expected, and the text goes to logs and to control. One of less than 8 bytes stays. */
void problem_hide(struct acme_problem *p, const char *token);

/* Retry-After (RFC 9110 section 10.2.3), seconds or a date, as milliseconds from now, at most 30
 * days; -1: there is none, or it is malformed. */
int64_t problem_retry_after(const char *value, int64_t wall_ms);

/* A problem document (any JSON; NULL too) into cause, type and text. */
void problem_read(struct acme_problem *p, const json_t *doc);
/* An answer that is no success (status 0, or not 2xx). */
void problem_answer(struct acme_problem *p, const struct acme_answer *a, int64_t wall_ms);
/* Whether p is of this type ("badNonce"). */
bool problem_is(const struct acme_problem *p, const char *type);

#endif
