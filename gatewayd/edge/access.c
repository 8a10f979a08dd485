/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/access.h"
#include "libkm/base/err.h"
#include "libkm/base/util.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* No room is checked while writing: every value has a bound, and all of them, each byte as \u00XX,
 * fit. */
#define WORST(n) (6 * ((n) + 3))
_Static_assert(WORST(ACCESS_PATH_MAX) + WORST(ACCESS_AGENT_MAX) + WORST(ACCESS_REFERER_MAX) +
		       WORST(HTTP_HOST_MAX) + WORST(HTTP_METHOD_MAX) + WORST(ACCESS_ERROR_MAX) +
		       2048 <=
		   ACCESS_LINE_MAX,
	       "an entry fits");

static char *put_ms(char *p, int64_t ms)
{
	return km_put_u64(p, ms < 0 ? 0 : (uint64_t)ms);
}

static char *put_addr(char *p, const struct km_addr *a)
{
	char text[KM_ADDR_STRLEN];
	if (a->family != AF_INET)
		return stpcpy(p, a->family ? km_addr_str(a, text) : "-");
	for (int i = 0; i < 4; i++) {
		p = km_put_u64(p, a->ip[i]);
		*p++ = '.';
	}
	return p - 1;
}

/* ---- what a stranger has sent ---- */

static const char hex[] = "0123456789abcdef";

/* Printable ASCII but '"' and '\' as it is, all else as \xHH: combined's way. */
static char *put_ascii(char *p, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)s[i];
		if (c == '"' || c == '\\') {
			*p++ = '\\';
			*p++ = (char)c;
		} else if (c >= 0x20 && c < 0x7f) {
			*p++ = (char)c;
		} else {
			*p++ = '\\';
			*p++ = 'x';
			*p++ = hex[c >> 4];
			*p++ = hex[c & 15];
		}
	}
	return p;
}

/* A character of more than one byte at s, where n bytes are left; 0: there is none. */
static size_t utf8_len(const char *s, size_t n)
{
	char c[5] = {0};
	memcpy(c, s, n < 4 ? n : 4);
	size_t len = km_utf8_len(c);
	return len > n ? 0 : len;
}

/* UTF-8 stays; a byte that is none becomes U+FFFD, and so does NUL, which many readers do not take.
 */
static char *put_utf8(char *p, const char *s, size_t n)
{
	for (size_t i = 0; i < n;) {
		unsigned char c = (unsigned char)s[i];
		if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
			*p++ = (char)c;
			i++;
			continue;
		}
		size_t len = c < 0x80 ? c != 0 : utf8_len(s + i, n - i);
		bool control = c < 0x20 || c == 0x7f;
		if (len == 2 && c == 0xc2 && (unsigned char)s[i + 1] < 0xa0) { /* C1 */
			control = true;
			c = (unsigned char)s[i + 1];
		}
		if (c == '"' || c == '\\')
			*p++ = '\\';
		if (!len) {
			p = stpcpy(p, "\\ufffd");
		} else if (control) {
			p = stpcpy(p, "\\u00");
			*p++ = hex[c >> 4];
			*p++ = hex[c & 15];
		} else {
			memcpy(p, s + i, len);
			p += len;
		}
		i += len ? len : 1;
	}
	return p;
}

static char *put_foreign(char *p, enum access_format how, struct http_str s, size_t max)
{
	size_t n = s.n > max ? max : s.n;
	p = how == ACCESS_JSON ? put_utf8(p, s.p, n) : put_ascii(p, s.p, n);
	return s.n > max ? stpcpy(p, "...") : p;
}

/* ---- time ---- */

static void clock_set(struct access_clock *c, int64_t second)
{
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	char iso[KM_ISO8601_LEN];
	km_iso8601(second * 1000, iso);
	c->second = second;
	memcpy(c->iso, iso, 19); /* "2026-11-21T07:02:13" */
	c->iso[19] = 0;
	const char *month = months + 3 * (size_t)(((iso[5] - '0') * 10 + iso[6] - '0' - 1) % 12);
	snprintf(c->clf, sizeof(c->clf), "%.2s/%.3s/%.4s:%.8s +0000", iso + 8, month, iso,
		 iso + 11);
}

static char *put_iso(char *p, int64_t wall_ms, const struct access_clock *c)
{
	p = stpcpy(p, c->iso);
	unsigned ms = wall_ms < 0 ? 0 : (unsigned)(wall_ms % 1000);
	*p++ = '.';
	*p++ = (char)('0' + ms / 100);
	*p++ = (char)('0' + ms / 10 % 10);
	*p++ = (char)('0' + ms % 10);
	*p++ = 'Z';
	return p;
}

/* ---- the three formats ---- */

static char *put_version(char *p, const struct access_entry *e)
{
	p = stpcpy(p, "HTTP/");
	p = km_put_u64(p, e->major);
	if (e->major > 1)
		return p;
	*p++ = '.';
	return km_put_u64(p, e->minor);
}

static char *put_uuid(char *p, const uint8_t *id)
{
	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = hex[id[i] >> 4];
		*p++ = hex[id[i] & 15];
	}
	return p;
}

static const char *upstream_name(enum access_upstream u)
{
	return u == ACCESS_UP_REUSED ? "reused" : "new";
}

static char *put_request_line(char *p, enum access_format how, const struct access_entry *e)
{
	if (!e->method.n)
		return stpcpy(p, "-");
	p = put_foreign(p, how, e->method, HTTP_METHOD_MAX);
	*p++ = ' ';
	p = e->path.n ? put_foreign(p, how, e->path, ACCESS_PATH_MAX) : stpcpy(p, "/");
	*p++ = ' ';
	return put_version(p, e);
}

/* "value", or "-" for none. */
static char *put_quoted(char *p, struct http_str s, size_t max)
{
	*p++ = '"';
	p = s.n ? put_foreign(p, ACCESS_TEXT, s, max) : stpcpy(p, "-");
	*p++ = '"';
	return p;
}

static char *text(char *p, const struct access_entry *e, const struct access_clock *c)
{
	p = put_addr(p, &e->client);
	p = stpcpy(p, " - - [");
	p = stpcpy(p, c->clf);
	p = stpcpy(p, "] \"");
	p = put_request_line(p, ACCESS_TEXT, e);
	p = stpcpy(p, "\" ");
	p = km_put_u64(p, (uint64_t)e->status);
	*p++ = ' ';
	p = km_put_u64(p, e->bytes_out);
	*p++ = ' ';
	p = put_quoted(p, e->referer, ACCESS_REFERER_MAX);
	*p++ = ' ';
	p = put_quoted(p, e->agent, ACCESS_AGENT_MAX);
	p = stpcpy(p, " time=");
	p = put_iso(p, e->wall_ms, c);
	p = stpcpy(p, " host=");
	p = e->host.n ? put_quoted(p, e->host, HTTP_HOST_MAX) : stpcpy(p, "-");
	p = stpcpy(p, " in=");
	p = km_put_u64(p, e->bytes_in);
	p = stpcpy(p, " ms=");
	p = put_ms(p, e->duration_ms);
	p = stpcpy(p, " first_ms=");
	p = e->first_byte_ms < 0 ? stpcpy(p, "-") : put_ms(p, e->first_byte_ms);
	p = stpcpy(p, " tunnel=");
	p = e->tunnel ? put_uuid(p, e->tunnel) : stpcpy(p, "-");
	p = stpcpy(p, " upstream=");
	p = stpcpy(p, e->upstream ? upstream_name(e->upstream) : "-");
	p = stpcpy(p, " tls=");
	p = stpcpy(p, e->tls ? e->tls : "-");
	p = stpcpy(p, " error=");
	p = e->error
		? put_quoted(p, (struct http_str){e->error, strlen(e->error)}, ACCESS_ERROR_MAX)
		: stpcpy(p, "-");
	*p++ = '\n';
	return p;
}

/* The head of a member or field: `,"name":` or `KM_NAME=`. */
static char *key(char *p, enum access_format how, const char *name)
{
	if (how == ACCESS_JSON) {
		p = stpcpy(p, ",\"");
		p = stpcpy(p, name);
		return stpcpy(p, "\":");
	}
	p = stpcpy(p, "KM_");
	for (; *name; name++)
		*p++ = *name >= 'a' && *name <= 'z' ? (char)(*name - 'a' + 'A') : *name;
	*p++ = '=';
	return p;
}

static char *string_begin(char *p, enum access_format how, const char *name)
{
	p = key(p, how, name);
	if (how == ACCESS_JSON)
		*p++ = '"';
	return p;
}

static char *end(char *p, enum access_format how, bool string)
{
	if (how == ACCESS_JOURNAL)
		*p++ = '\n';
	else if (string)
		*p++ = '"';
	return p;
}

static char *number(char *p, enum access_format how, const char *name, uint64_t n)
{
	return end(km_put_u64(key(p, how, name), n), how, false);
}

static char *word(char *p, enum access_format how, const char *name, const char *s)
{
	return s ? end(stpcpy(string_begin(p, how, name), s), how, true) : p;
}

static char *foreign(char *p, enum access_format how, const char *name, struct http_str s,
		     size_t max)
{
	return s.n ? end(put_foreign(string_begin(p, how, name), how, s, max), how, true) : p;
}

/* All but the time, as members or fields. */
static char *members(char *p, enum access_format how, const struct access_entry *e)
{
	p = end(put_addr(string_begin(p, how, "client"), &e->client), how, true);
	if (e->major)
		p = end(put_version(string_begin(p, how, "version"), e), how, true);
	p = foreign(p, how, "method", e->method, HTTP_METHOD_MAX);
	p = foreign(p, how, "host", e->host, HTTP_HOST_MAX);
	p = foreign(p, how, "path", e->path, ACCESS_PATH_MAX);
	p = number(p, how, "status", (uint64_t)e->status);
	p = number(p, how, "bytes_in", e->bytes_in);
	p = number(p, how, "bytes_out", e->bytes_out);
	p = number(p, how, "duration_ms", e->duration_ms < 0 ? 0 : (uint64_t)e->duration_ms);
	if (e->first_byte_ms >= 0)
		p = number(p, how, "first_byte_ms", (uint64_t)e->first_byte_ms);
	if (e->tunnel)
		p = end(put_uuid(string_begin(p, how, "tunnel"), e->tunnel), how, true);
	p = word(p, how, "upstream", e->upstream ? upstream_name(e->upstream) : NULL);
	p = foreign(p, how, "user_agent", e->agent, ACCESS_AGENT_MAX);
	p = foreign(p, how, "referer", e->referer, ACCESS_REFERER_MAX);
	p = word(p, how, "tls", e->tls);
	struct http_str error = {e->error, e->error ? strlen(e->error) : 0};
	return foreign(p, how, "error", error, ACCESS_ERROR_MAX);
}

static char *json(char *p, const struct access_entry *e, const struct access_clock *c)
{
	p = stpcpy(p, "{\"time\":\"");
	p = put_iso(p, e->wall_ms, c);
	*p++ = '"';
	p = members(p, ACCESS_JSON, e);
	return stpcpy(p, "}\n");
}

static char *journal(char *p, const struct access_entry *e, const struct access_clock *c)
{
	p = stpcpy(p, "PRIORITY=6\nSYSLOG_IDENTIFIER=gatewayd-access\nMESSAGE=");
	p = put_addr(p, &e->client);
	*p++ = ' ';
	if (!e->method.n && e->host.n) { /* passed through */
		p = stpcpy(stpcpy(p, e->tls ? e->tls : "-"), " ");
		p = put_foreign(p, ACCESS_JOURNAL, e->host, HTTP_HOST_MAX);
	} else {
		p = put_request_line(p, ACCESS_JOURNAL, e);
	}
	*p++ = ' ';
	p = km_put_u64(p, (uint64_t)e->status);
	p = stpcpy(p, "\nKM_TIME=");
	p = put_iso(p, e->wall_ms, c);
	*p++ = '\n';
	p = members(p, ACCESS_JOURNAL, e);
	*p++ = '\n';
	return p;
}

size_t access_format(char out[static ACCESS_LINE_MAX], enum access_format how,
		     const struct access_entry *e, struct access_clock *clock)
{
	int64_t second = e->wall_ms / 1000;
	if (second != clock->second || !clock->iso[0])
		clock_set(clock, second);
	char *p = how == ACCESS_JSON   ? json(out, e, clock)
		  : how == ACCESS_TEXT ? text(out, e, clock)
				       : journal(out, e, clock);
	return (size_t)(p - out);
}

int access_sample_parse(uint64_t *of_2_32, const char *s)
{
	char *rest;
	double share;
	if (s[0] < '0' || s[0] > '9')
		return KM_EINVAL;
	errno = 0;
	if (s[0] == '1' && s[1] == '/') {
		unsigned long n = s[2] >= '0' && s[2] <= '9' ? strtoul(s + 2, &rest, 10) : 0;
		if (errno || n < 1 || n > 1000000000 || *rest)
			return KM_EINVAL;
		share = 1.0 / (double)n;
	} else {
		share = strtod(s, &rest) / 100;
		if (errno || strcmp(rest, "%") != 0 || !(share > 0 && share <= 1))
			return KM_EINVAL;
	}
	*of_2_32 = (uint64_t)(share * 4294967296.0);
	if (!*of_2_32)
		*of_2_32 = 1;
	return 0;
}
