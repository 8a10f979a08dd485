/* SPDX-License-Identifier: MIT */
#include "libkm/base/field.h"
#include <ctype.h>
#include <stddef.h>
#include <string.h>

bool km_field_name_ok(const char *s)
{
	static const char token[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
				    "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

	return *s && !s[strspn(s, token)];
}

bool km_field_value_ok(const char *s)
{
	size_t n = strlen(s);

	if (n && (strchr(" \t", s[0]) || strchr(" \t", s[n - 1])))
		return false;
	for (; *s; s++)
		if ((*s < 0x20 && *s != '\t') || *s == 0x7f || (unsigned char)*s >= 0x80)
			return false;
	return true;
}

#define FRAMING "frames the message"
#define HOP "belongs to one connection"
#define WHO "says who the stranger is, for which the gateway answers"

/* Whether name begins with these n bytes for all who may read it: CGI and its like take every mark for
 * the same. */
static bool begins(const char *name, const char *what, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		bool mark = what[i] == '-';

		if (!name[i] || (mark ? isalnum((unsigned char)name[i]) != 0
				      : tolower((unsigned char)name[i]) != tolower((unsigned char)what[i])))
			return false;
	}
	return true;
}

const char *km_field_reserved(const char *name)
{
	/* With a last "-" every name that begins so. */
	static const struct {
		const char *name, *why;
	} reserved[] = {
	    {"Content-Length", FRAMING},
	    {"Transfer-Encoding", FRAMING},
	    {"Trailer", FRAMING},
	    {"Connection", HOP},
	    {"Keep-Alive", HOP},
	    {"Upgrade", HOP},
	    {"TE", HOP},
	    {"HTTP2-Settings", HOP},
	    {"Expect", HOP},
	    {"Proxy", HOP},
	    {"Proxy-", HOP},
	    {"Sec-WebSocket-", HOP},
	    {"Forwarded", WHO},
	    {"X-Forwarded-", WHO},
	    {"X-Real-IP", WHO},
	    {"CDN-Loop", "keeps requests from going round in circles"},
	    {"Host", "is set by the option hostHeader"},
	};

	for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
		const char *r = reserved[i].name;
		size_t n = strlen(r);

		if (begins(name, r, n) && (r[n - 1] == '-' || !name[n]))
			return reserved[i].why;
	}
	return NULL;
}
