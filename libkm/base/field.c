/* SPDX-License-Identifier: MIT */
#include "libkm/base/field.h"
#include <string.h>
#include <strings.h>

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

		if (r[n - 1] == '-' ? !strncasecmp(name, r, n) : !strcasecmp(name, r))
			return reserved[i].why;
	}
	return NULL;
}
