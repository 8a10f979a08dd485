/* SPDX-License-Identifier: MIT */
#include "gatewayd/route/path.h"
#include <string.h>

static bool unreserved(unsigned char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '.' || c == '_' || c == '~';
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that p[0..2] stands for ("%2F"), or -1. */
static int escaped(const char *p, size_t n)
{
	if (n < 3 || p[0] != '%' || hex(p[1]) < 0 || hex(p[2]) < 0)
		return -1;
	return hex(p[1]) * 16 + hex(p[2]);
}

/* ---- a tunnel's path ---- */

/* How many bytes one character of a segment takes; 0: it may not stand there. */
static size_t segment_char(const char *p, size_t n)
{
	if (*p != '%')
		return unreserved((unsigned char)*p) || strchr("!$&'()*+,=:@", *p) ? 1 : 0;
	int c = escaped(p, n);
	bool lower = c >= 0 && (p[1] >= 'a' || p[2] >= 'a');
	return c <= 0 || lower || c == '/' || c == '\\' || unreserved((unsigned char)c) ? 0 : 3;
}

static bool segment_ok(const char *p, size_t n)
{
	if (!n || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
		return false;
	for (size_t i = 0, k; i < n; i += k)
		if (!(k = segment_char(p + i, n - i)))
			return false;
	return true;
}

bool route_path_ok(const char *s)
{
	size_t n = strlen(s);
	if (s[0] != '/' || n > ROUTE_PATH_MAX)
		return false;
	if (n == 1)
		return true;
	while (*s) {
		size_t len = strcspn(s + 1, "/");
		if (!segment_ok(s + 1, len))
			return false;
		s += 1 + len;
	}
	return true;
}

/* ---- a request's path ---- */

bool route_path_under(const char *p, size_t n, const char *prefix, size_t len)
{
	return n >= len && !memcmp(p, prefix, len) && (n == len || p[len] == '/');
}

size_t route_path_len(const char *target, size_t n)
{
	const char *query = n ? memchr(target, '?', n) : NULL;
	return query ? (size_t)(query - target) : n;
}

unsigned route_path_views(const char *p, size_t n)
{
	unsigned views = 0;
	for (size_t i = 0; i < n; i++) {
		bool first = i && p[i - 1] == '/';
		int c = p[i] == '%' ? escaped(p + i, n - i) : 0;
		if (p[i] == '\\' || c == '\\' || c == '/')
			views |= ROUTE_VIEW_SLASH | ROUTE_VIEW_MERGE;
		else if (p[i] == '/' && first)
			views |= ROUTE_VIEW_MERGE;
		else if (p[i] == ';')
			views |= ROUTE_VIEW_PARAMS | ROUTE_VIEW_MERGE;
		else if (p[i] == '%' || (p[i] == '.' && first))
			views |= ROUTE_VIEW_PLAIN;
	}
	return views;
}

/* A reading being made: out[0..len) of which the last segment, from `seg` on, is under way. `deep`
 * whole segments behind it found no room. */
struct reading {
	char *out;
	size_t len, seg, deep;
	bool over; /* the segment under way is longer than what is kept */
};

static void put(struct reading *r, char c)
{
	if (r->len < ROUTE_PATH_VIEW)
		r->out[r->len++] = c;
	else
		r->over = true;
}

static void drop_last(struct reading *r)
{
	r->len = r->seg;
	if (r->deep) {
		r->deep--;
		return;
	}
	if (r->len > 1)
		r->len--;
	while (r->out[r->len - 1] != '/')
		r->len--;
	r->seg = r->len;
}

/* The segment under way has ended, with a '/' unless it was the last. */
static void segment_end(struct reading *r, unsigned view, bool slash)
{
	const char *s = r->out + r->seg;
	size_t n = r->len - r->seg;
	bool over = r->over;
	r->over = false;
	if (n == 2 && s[0] == '.' && s[1] == '.') {
		drop_last(r);
	} else if ((n == 1 && s[0] == '.') || (!n && (view & ROUTE_VIEW_MERGE)) || (!n && !slash)) {
		r->len = r->seg;
	} else if (over || r->deep || r->len > ROUTE_PATH_MAX) {
		r->len = r->seg;
		r->deep++;
	} else {
		if (slash)
			r->out[r->len++] = '/';
		r->seg = r->len;
	}
}

static bool ends_segment(const char *p, size_t n, unsigned view)
{
	int c = escaped(p, n);
	return *p == '/' || ((view & ROUTE_VIEW_SLASH) && (*p == '\\' || c == '/' || c == '\\'));
}

/* Adds the character at p and returns how many bytes it takes. */
static size_t take(struct reading *r, const char *p, size_t n, unsigned view)
{
	static const char digits[] = "0123456789ABCDEF";
	int c = escaped(p, n);
	if (ends_segment(p, n, view)) {
		segment_end(r, view, true);
	} else if (c < 0) {
		put(r, *p);
	} else if (unreserved((unsigned char)c)) {
		put(r, (char)c);
	} else {
		put(r, '%');
		put(r, digits[c >> 4]);
		put(r, digits[c & 15]);
	}
	return c < 0 ? 1 : 3;
}

size_t route_path_view(char out[static ROUTE_PATH_VIEW], const char *p, size_t n, unsigned view)
{
	struct reading r = {.out = out, .len = 1, .seg = 1};
	out[0] = '/';
	size_t i = n && p[0] == '/';
	while (i < n) {
		if (p[i] == ';' && (view & ROUTE_VIEW_PARAMS))
			while (i < n && !ends_segment(p + i, n - i, view))
				i++;
		else
			i += take(&r, p + i, n - i, view);
	}
	segment_end(&r, view, false);
	return r.len;
}
