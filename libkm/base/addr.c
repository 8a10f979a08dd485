/* SPDX-License-Identifier: MIT */
#include "libkm/base/addr.h"
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static const uint8_t v4_mapped[12] = {[10] = 0xff, [11] = 0xff};

static size_t ip_len(const struct km_addr *a)
{
	return a->family == AF_INET ? 4 : 16;
}

int km_addr_parse(struct km_addr *a, const char *s)
{
	struct km_addr r = {0};

	r.family = strchr(s, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(r.family, s, r.ip) != 1)
		return KM_EINVAL;
	*a = r;
	return 0;
}

char *km_addr_str(const struct km_addr *a, char out[static KM_ADDR_STRLEN])
{
	if (!inet_ntop(a->family, a->ip, out, KM_ADDR_STRLEN))
		memcpy(out, "-", 2);
	return out;
}

bool km_addr_eq(const struct km_addr *a, const struct km_addr *b)
{
	return a->family == b->family && !memcmp(a->ip, b->ip, ip_len(a));
}

bool km_addr_is_loopback(const struct km_addr *a)
{
	static const uint8_t one[16] = {[15] = 1};

	if (a->family == AF_INET)
		return a->ip[0] == 127;
	if (a->family != AF_INET6)
		return false;
	return !memcmp(a->ip, one, 16) || (!memcmp(a->ip, v4_mapped, 12) && a->ip[12] == 127);
}

int km_addr_from_sa(struct km_addr *a, uint16_t *port, const struct sockaddr *sa)
{
	struct sockaddr_in6 in6;
	struct sockaddr_in in;
	uint16_t p;

	*a = (struct km_addr){0};
	if (sa->sa_family == AF_INET) {
		memcpy(&in, sa, sizeof(in));
		a->family = AF_INET;
		memcpy(a->ip, &in.sin_addr, 4);
		p = ntohs(in.sin_port);
	} else if (sa->sa_family == AF_INET6) {
		memcpy(&in6, sa, sizeof(in6));
		if (!memcmp(&in6.sin6_addr, v4_mapped, 12)) {
			a->family = AF_INET;
			memcpy(a->ip, in6.sin6_addr.s6_addr + 12, 4);
		} else {
			a->family = AF_INET6;
			memcpy(a->ip, &in6.sin6_addr, 16);
		}
		p = ntohs(in6.sin6_port);
	} else {
		return KM_EUNSUPPORTED;
	}
	if (port)
		*port = p;
	return 0;
}

socklen_t km_addr_to_sa(struct sockaddr_storage *ss, const struct km_addr *a, uint16_t port)
{
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};

	memset(ss, 0, sizeof(*ss));
	if (a->family == AF_INET) {
		memcpy(&in.sin_addr, a->ip, 4);
		memcpy(ss, &in, sizeof(in));
		return sizeof(in);
	}
	memcpy(&in6.sin6_addr, a->ip, 16);
	memcpy(ss, &in6, sizeof(in6));
	return sizeof(in6);
}

char *km_endpoint_str(const struct km_addr *a, uint16_t port, char out[static KM_ENDPOINT_STRLEN])
{
	char ip[KM_ADDR_STRLEN];

	km_addr_str(a, ip);
	snprintf(out, KM_ENDPOINT_STRLEN, a->family == AF_INET6 ? "[%s]:%u" : "%s:%u", ip, port);
	return out;
}

/* A decimal number without sign, blanks or leading zeros, at most max. */
static int number(unsigned *out, const char *s, unsigned max)
{
	unsigned n = 0;

	if (!*s || (s[0] == '0' && s[1]))
		return KM_EINVAL;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return KM_EINVAL;
		n = n * 10 + (unsigned)(*s - '0');
		if (n > max)
			return KM_EINVAL;
	}
	*out = n;
	return 0;
}

int km_prefix_parse(struct km_prefix *p, const char *s)
{
	const char *slash = strchr(s, '/');
	size_t n = slash ? (size_t)(slash - s) : strlen(s);
	char ip[KM_ADDR_STRLEN];
	struct km_prefix r;
	unsigned bits;

	if (n >= sizeof(ip))
		return KM_EINVAL;
	memcpy(ip, s, n);
	ip[n] = '\0';
	if (km_addr_parse(&r.addr, ip))
		return KM_EINVAL;
	bits = (unsigned)ip_len(&r.addr) * 8;
	if (slash && number(&bits, slash + 1, bits))
		return KM_EINVAL;
	r.bits = (uint8_t)bits;
	*p = r;
	return 0;
}

char *km_prefix_str(const struct km_prefix *p, char out[static KM_PREFIX_STRLEN])
{
	char ip[KM_ADDR_STRLEN];

	snprintf(out, KM_PREFIX_STRLEN, "%s/%u", km_addr_str(&p->addr, ip), p->bits);
	return out;
}

struct km_prefix km_prefix_of(const struct km_addr *a)
{
	return (struct km_prefix){*a, (uint8_t)(ip_len(a) * 8)};
}

bool km_prefix_has(const struct km_prefix *p, const struct km_addr *a)
{
	size_t bytes = p->bits / 8;
	unsigned rest = p->bits % 8;

	if (p->addr.family != a->family || p->bits > ip_len(a) * 8)
		return false;
	if (memcmp(p->addr.ip, a->ip, bytes) != 0)
		return false;
	return !rest || !((p->addr.ip[bytes] ^ a->ip[bytes]) >> (8 - rest));
}

bool km_prefix_eq(const struct km_prefix *a, const struct km_prefix *b)
{
	return a->bits == b->bits && km_addr_eq(&a->addr, &b->addr);
}

static bool host_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '.' || c == '_';
}

/* Whether s[0..n) can be a name: no empty labels, no leading '-', and not a broken IPv4 address. */
static bool host_ok(const char *s, size_t n)
{
	bool name = false;

	if (!n || s[0] == '.' || s[0] == '-')
		return false;
	for (size_t i = 0; i < n; i++) {
		if (!host_char(s[i]) || (i && s[i] == '.' && s[i - 1] == '.'))
			return false;
		if (s[i] != '.' && (s[i] < '0' || s[i] > '9'))
			name = true;
	}
	return name;
}

int km_hostport_parse(struct km_hostport *hp, const char *s, struct km_errtext *err)
{
	const char *host = s, *port = s, *colon = strrchr(s, ':');
	struct km_hostport r = {0};
	size_t n = 0;
	bool bracket;
	unsigned p;

	if (colon) {
		n = (size_t)(colon - s);
		port = colon + 1;
	}
	if (number(&p, port, 65535) || !p)
		return km_errtext_set(err, KM_EINVAL, "\"%.300s\" has no port from 1 to 65535", s);
	r.port = (uint16_t)p;
	bracket = n >= 2 && host[0] == '[' && host[n - 1] == ']';
	if (bracket) {
		host++;
		n -= 2;
	}
	if (n >= sizeof(r.host))
		return km_errtext_set(err, KM_EINVAL, "the host in \"%.300s\" is longer than 253",
				      s);
	memcpy(r.host, host, n);
	if (n || bracket) {
		r.is_addr = !km_addr_parse(&r.addr, r.host);
		if (!bracket && memchr(host, ':', n))
			return km_errtext_set(err, KM_EINVAL,
					      "an IPv6 address needs brackets, as in [::1]:80: "
					      "\"%.300s\"",
					      s);
		if (bracket ? !r.is_addr || r.addr.family != AF_INET6
			    : !r.is_addr && !host_ok(host, n))
			return km_errtext_set(err, KM_EINVAL,
					      "\"%s\" is neither a host name nor an address",
					      r.host);
	}
	*hp = r;
	return 0;
}

static int unix_parse(struct km_target *t, const char *path, struct km_errtext *err)
{
	size_t n = strlen(path);

	if (path[0] != '/')
		return km_errtext_set(err, KM_EINVAL,
				      "the path of a Unix socket must begin with '/': \"%.300s\"",
				      path);
	if (n >= sizeof(t->path))
		return km_errtext_set(err, KM_EINVAL,
				      "the path of a Unix socket is longer than 107 bytes: "
				      "\"%.300s\"",
				      path);
	for (size_t i = 0; i < n; i++) {
		if ((unsigned char)path[i] < 0x20 || path[i] == 0x7f)
			return km_errtext_set(err, KM_EINVAL,
					      "the path of a Unix socket has a control character");
	}
	*t = (struct km_target){.is_unix = true};
	memcpy(t->path, path, n + 1);
	return 0;
}

int km_target_parse(struct km_target *t, const char *s, struct km_errtext *err)
{
	struct km_target r = {0};
	int e;

	if (!strncmp(s, "unix:", 5))
		return unix_parse(t, s + 5, err);
	e = km_hostport_parse(&r.hp, s, err);
	if (e)
		return e;
	if (!r.hp.host[0])
		return km_errtext_set(err, KM_EINVAL,
				      "a target needs a host, as in localhost:8080: \"%.300s\"", s);
	*t = r;
	return 0;
}

/* ---- what others are told ---- */

static const char *no_host_has(const struct km_addr *a)
{
	static const uint8_t zero[16], broadcast[4] = {255, 255, 255, 255};
	const size_t n = a->family == AF_INET ? 4 : 16;

	if (!memcmp(a->ip, zero, n))
		return "the unspecified address is no host's";
	if (n == 4 ? (a->ip[0] & 0xf0) == 0xe0 || !memcmp(a->ip, broadcast, 4) : a->ip[0] == 0xff)
		return "a multicast or broadcast address is no host's";
	if (n == 16 && a->ip[0] == 0xfe && (a->ip[1] & 0xc0) == 0x80)
		return "a link-local address means nothing on another link";
	return NULL;
}

/* One label, which ends at a dot or at the end; gives its length, or 0. */
static size_t label_len(const char *s, bool *digits)
{
	size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789-");

	*digits = strspn(s, "0123456789") == n;
	if (n < 1 || n > 63 || s[0] == '-' || s[n - 1] == '-' || (s[n] && s[n] != '.'))
		return 0;
	return n;
}

const char *km_public_host_check(const char *value)
{
	static const char bad[] = "neither an IPv4 or IPv6 address nor a lower-case host name";
	struct km_addr a;
	size_t labels = 0, n;
	bool digits = true;

	if (!km_addr_parse(&a, value))
		return no_host_has(&a);
	if (strlen(value) > 253)
		return "longer than a host name can be";
	for (;; value++) {
		n = label_len(value, &digits);
		if (!n)
			return bad;
		labels++;
		value += n;
		if (!*value)
			break;
	}
	return labels < 2 || digits ? bad : NULL;
}
