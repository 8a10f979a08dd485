/* SPDX-License-Identifier: MIT */
#include "gatewayd/acme/dns/xml.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *find(const struct xml *x, const char *what)
{
	return memmem(x->p, x->n, what, strlen(what));
}

static struct xml from(const struct xml *x, const char *at)
{
	return (struct xml){at, x->n - (size_t)(at - x->p)};
}

bool xml_next(struct xml *in, const char *tag, struct xml *inside)
{
	char open[64], close[64];
	struct xml left = *in;
	const char *at, *end;

	snprintf(open, sizeof(open), "<%s", tag);
	snprintf(close, sizeof(close), "</%s>", tag);
	while ((at = find(&left, open))) {
		left = from(&left, at + strlen(open));
		if (!left.n ||
		    (*left.p != '>' && !isspace((unsigned char)*left.p) && *left.p != '/'))
			continue; /* a longer name */
		const char *gt = memchr(left.p, '>', left.n);
		if (!gt)
			return false;
		left = from(&left, gt + 1);
		if (gt[-1] == '/') {
			*inside = (struct xml){gt + 1, 0};
			*in = left;
			return true;
		}
		end = find(&left, close);
		if (!end)
			return false;
		*inside = (struct xml){left.p, (size_t)(end - left.p)};
		*in = from(&left, end + strlen(close));
		return true;
	}
	return false;
}

/* The entity at p (which begins with '&'), its length in *len; -1: none that we know. */
static int entity(const char *p, size_t n, size_t *len)
{
	static const struct {
		const char *name;
		char c;
	} known[] = {
	    {"&lt;", '<'}, {"&gt;", '>'}, {"&amp;", '&'}, {"&quot;", '"'}, {"&apos;", '\''}};
	const char *end = memchr(p, ';', n < 8 ? n : 8);

	if (!end)
		return -1;
	*len = (size_t)(end - p) + 1;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (*len == strlen(known[i].name) && !memcmp(p, known[i].name, *len))
			return known[i].c;
	if (*len < 4 || p[1] != '#')
		return -1;
	char *stop;
	bool hex = p[2] == 'x';
	long c = strtol(p + (hex ? 3 : 2), &stop, hex ? 16 : 10);
	return stop == end && c > 0 && c < 128 ? (int)c : -1;
}

bool xml_plain(struct xml x, char *out, size_t size)
{
	size_t len = 0, skip;

	for (; x.n; x.p += skip, x.n -= skip) {
		int c = (unsigned char)*x.p;
		skip = 1;
		if (c == '&')
			c = entity(x.p, x.n, &skip);
		if (c <= 0 || (c == '<' && skip == 1) || len + 1 >= size)
			return false;
		out[len++] = (char)c;
	}
	out[len] = '\0';
	return true;
}

bool xml_text(struct xml x, const char *tag, char *out, size_t size)
{
	struct xml inside;

	return xml_next(&x, tag, &inside) && xml_plain(inside, out, size);
}

bool xml_escape(const char *text, char *out, size_t size)
{
	size_t len = 0;

	for (; *text; text++) {
		const char *as = *text == '<'    ? "&lt;"
				 : *text == '>'  ? "&gt;"
				 : *text == '&'  ? "&amp;"
				 : *text == '"'  ? "&quot;"
				 : *text == '\'' ? "&apos;"
						 : NULL;
		int n = as ? snprintf(out + len, size - len, "%s", as)
			   : snprintf(out + len, size - len, "%c", *text);
		if (n < 0 || len + (size_t)n >= size)
			return false;
		len += (size_t)n;
	}
	if (!size)
		return false;
	out[len] = '\0';
	return true;
}
