/* SPDX-License-Identifier: MIT */
#include "gatewayd/route/route.h"
#include <string.h>
#include <strings.h>

static bool label_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

bool route_domain_ok(const char *s)
{
	size_t n = strlen(s), label = 0;
	if (n > ROUTE_DOMAIN_MAX)
		return false;
	if (s[0] == '*' && s[1] == '.')
		s += 2;
	for (; *s; s++) {
		if (*s == '.' ? label == 0 : !label_char(*s))
			return false;
		label = *s == '.' ? 0 : label + 1;
		if (label > 63)
			return false;
	}
	return label > 0;
}

bool route_domain_allowed(const char *domain, char *const *patterns, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		const char *p = patterns[i];
		if (!strcasecmp(p, domain))
			return true;
		if (p[0] != '*' || p[1] != '.')
			continue;
		size_t tail = strlen(p + 1), len = strlen(domain);
		if (len > tail && !strcasecmp(domain + len - tail, p + 1))
			return true;
	}
	return false;
}
