/* SPDX-License-Identifier: MIT */
#include "agentd/forward/allow.h"
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define UNIX_PREFIX "unix:"

enum kind { KIND_PREFIX, KIND_NAME, KIND_UNIX };
struct entry {
	enum kind kind;
	uint16_t lo, hi; /* ports */
	struct km_prefix prefix;
	char *text; /* name or path */
};
struct allow {
	size_t n;
	struct entry entries[];
};

struct km_addr allow_unmapped(const struct km_addr *a)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	struct km_addr v4 = {.family = AF_INET};

	if (a->family != AF_INET6 || memcmp(a->ip, mapped, sizeof(mapped)) != 0)
		return *a;
	memcpy(v4.ip, a->ip + 12, 4);
	return v4;
}

/* Digits up to `end`, 1 to 65535; 0 when it is something else. */
static uint16_t parse_port(const char *s, const char *end)
{
	uint32_t v = 0;

	if (s == end || end - s > 5)
		return 0;
	for (; s < end; s++) {
		if (*s < '0' || *s > '9')
			return 0;
		v = v * 10 + (uint32_t)(*s - '0');
	}
	return v <= UINT16_MAX ? (uint16_t)v : 0;
}

static const char *parse_ports(struct entry *e, const char *s)
{
	const char *end = s + strlen(s), *dash = strchr(s, '-');

	if (strcmp(s, "*") == 0) {
		e->lo = 1;
		e->hi = UINT16_MAX;
		return NULL;
	}
	e->lo = parse_port(s, dash ? dash : end);
	e->hi = dash ? parse_port(dash + 1, end) : e->lo;
	if (!e->lo || !e->hi)
		return "ports are *, one number, or two with a dash (1 to 65535)";
	return e->lo <= e->hi ? NULL : "the range of ports runs backwards";
}

static bool name_ok(const char *s)
{
	size_t n = strlen(s);

	return n > 0 && n <= 253 &&
	       strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == n;
}

/* "[v6]" or "[v6]/bits", changed in place into what km_prefix_parse reads. */
static const char *parse_v6(struct entry *e, char *host)
{
	char *close = strchr(host, ']');

	if (!close || (close[1] != '\0' && close[1] != '/'))
		return "write IPv6 as [address]:ports or [address]/bits:ports";
	memmove(close, close + 1, strlen(close));
	e->kind = KIND_PREFIX;
	if (km_prefix_parse(&e->prefix, host + 1) || e->prefix.addr.family != AF_INET6)
		return "no IPv6 address stands between the brackets";
	return NULL;
}

static const char *parse_host(struct entry *e, char *host)
{
	if (host[0] == '[')
		return parse_v6(e, host);
	if (strchr(host, ':'))
		return "write IPv6 in brackets";
	if (km_prefix_parse(&e->prefix, host) == 0) {
		e->kind = KIND_PREFIX;
		return NULL;
	}
	/* What looks like an address but is none must not become a name. */
	if (!name_ok(host) || strspn(host, "0123456789.") == strlen(host))
		return "no address, prefix or host name stands before the ports";
	e->kind = KIND_NAME;
	e->text = strdup(host);
	return e->text ? NULL : "no memory";
}

/* Fills *e, which then owns its text. NULL or what is wrong. */
static const char *parse_entry(struct entry *e, const char *s)
{
	const char *wrong, *colon = strrchr(s, ':');
	char host[300];

	*e = (struct entry){0};
	if (strncmp(s, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0) {
		const char *path = s + strlen(UNIX_PREFIX);

		if (path[0] != '/' || strlen(path) > 107)
			return "a Unix socket is an absolute path of at most 107 bytes";
		e->kind = KIND_UNIX;
		e->text = strdup(path);
		return e->text ? NULL : "no memory";
	}
	if (!colon || strchr(colon, ']'))
		return "the ports are missing (:* allows all)";
	if ((size_t)(colon - s) >= sizeof(host))
		return "too long";
	memcpy(host, s, (size_t)(colon - s));
	host[colon - s] = '\0';
	wrong = parse_ports(e, colon + 1);
	return wrong ? wrong : parse_host(e, host);
}

const char *allow_check(const char *entry)
{
	struct entry e;
	const char *wrong = parse_entry(&e, entry);

	free(e.text);
	return wrong;
}

int allow_new(struct allow **out, const char *const *entries, size_t n, struct km_errtext *err)
{
	struct allow *a = calloc(1, sizeof(*a) + n * sizeof(a->entries[0]));

	*out = NULL;
	if (!a)
		return km_errtext_set(err, KM_ENOMEM, "no memory for the list of targets");
	for (; a->n < n; a->n++) {
		const char *wrong = parse_entry(&a->entries[a->n], entries[a->n]);

		if (wrong) {
			km_errtext_set(err, KM_EINVAL, "\"%s\": %s", entries[a->n], wrong);
			free(a->entries[a->n].text);
			allow_free(a);
			return KM_EINVAL;
		}
	}
	*out = a;
	return 0;
}

void allow_free(struct allow *a)
{
	if (!a)
		return;
	for (size_t i = 0; i < a->n; i++)
		free(a->entries[i].text);
	free(a);
}

static bool entry_has(const struct entry *e, const char *host, const struct km_addr *addr)
{
	switch (e->kind) {
	case KIND_PREFIX:
		return km_prefix_has(&e->prefix, addr);
	case KIND_NAME:
		if (strcasecmp(e->text, "localhost") == 0)
			return km_addr_is_loopback(addr);
		return host && strcasecmp(e->text, host) == 0;
	case KIND_UNIX:
		break;
	}
	return false;
}

bool allow_addr(const struct allow *a, const char *host, const struct km_addr *addr, uint16_t port)
{
	struct km_addr plain = allow_unmapped(addr);

	for (size_t i = 0; i < a->n; i++) {
		const struct entry *e = &a->entries[i];

		if (e->kind != KIND_UNIX && port >= e->lo && port <= e->hi &&
		    entry_has(e, host, &plain))
			return true;
	}
	return false;
}

bool allow_unix(const struct allow *a, const char *path)
{
	for (size_t i = 0; i < a->n; i++) {
		if (a->entries[i].kind == KIND_UNIX && strcmp(a->entries[i].text, path) == 0)
			return true;
	}
	return false;
}

static enum allow_verdict judge_localhost(const struct allow *a, uint16_t port)
{
	static const struct km_addr v4 = {AF_INET, {127, 0, 0, 1}}, v6 = {AF_INET6, {[15] = 1}};

	if (allow_addr(a, "localhost", &v4, port) || allow_addr(a, "localhost", &v6, port))
		return ALLOW_YES;
	return ALLOW_NO;
}

enum allow_verdict allow_target(const struct allow *a, const struct km_target *t)
{
	if (t->is_unix)
		return allow_unix(a, t->path) ? ALLOW_YES : ALLOW_NO;
	if (t->hp.is_addr)
		return allow_addr(a, NULL, &t->hp.addr, t->hp.port) ? ALLOW_YES : ALLOW_NO;
	if (strcasecmp(t->hp.host, "localhost") == 0)
		return judge_localhost(a, t->hp.port);
	for (size_t i = 0; i < a->n; i++) {
		const struct entry *e = &a->entries[i];

		if (e->kind != KIND_UNIX && t->hp.port >= e->lo && t->hp.port <= e->hi)
			return ALLOW_WHEN_RESOLVED;
	}
	return ALLOW_NO;
}
