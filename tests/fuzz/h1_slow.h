/* SPDX-License-Identifier: MIT */
/* HTTP/1 as slowly as the grammar is written: one byte after the other, the whole message at once,
 * and nothing shared with the gateway's parser. */
#ifndef TESTS_FUZZ_H1_SLOW_H
#define TESTS_FUZZ_H1_SLOW_H

#include "gatewayd/edge/h1.h"
#include <string.h>

static bool slow_token(char c)
{
	return c > 0x20 && c < 0x7f && !strchr("\"(),/:;<=>?@[\\]{}", c);
}

static bool slow_value(char c)
{
	return c == '\t' || c < 0 || (c >= 0x20 && c != 0x7f);
}

/* As h1_scan of the whole. */
static inline int slow_scan(const char *p, size_t n, size_t max)
{
	size_t line = 0, lines = 0;
	if (n && !slow_token(p[0]))
		return -400;
	for (size_t i = 0; i < n; i++) {
		bool cr = i > 0 && p[i - 1] == '\r';
		if ((p[i] == '\n') != cr)
			return -400;
		if (p[i] != '\n')
			continue;
		if (i - line == 1 && i < max)
			return (int)i + 1;
		if (i - line == 1)
			break;
		line = i + 1;
		lines += line <= max;
	}
	return n < max ? 0 : lines ? -431 : -414;
}

/* The fields of a head as slow_scan found it: how many, or -1. */
static inline int slow_fields(const char *p, size_t n, struct http_field *f, int max)
{
	size_t i = 0;
	int k = 0;
	while (p[i] != '\n')
		i++;
	for (i++; p[i] != '\r'; k++) {
		size_t from = i, end;
		if (k == max)
			return -1;
		while (slow_token(p[i]))
			i++;
		if (i == from || p[i] != ':')
			return -1;
		f[k].name = (struct http_str){p + from, i - from};
		for (from = ++i; p[i] != '\r'; i++)
			if (!slow_value(p[i]))
				return -1;
		end = i;
		while (from < end && strchr(" \t", p[from]))
			from++;
		while (from < end && strchr(" \t", p[end - 1]))
			end--;
		f[k].value = (struct http_str){p + from, end - from};
		i += 2;
	}
	return i + 2 == n ? k : -1;
}

/* What stands at *i, taken off: 1; 0 where the bytes end in it; -1 where it is something else. */
static inline int slow_eat(const char *p, size_t n, size_t *i, const char *what)
{
	for (; *what; what++, (*i)++) {
		if (*i == n)
			return 0;
		if (p[*i] != *what)
			return -1;
	}
	return 1;
}

/* One chunk-ext behind its ';'; as slow_eat. */
static inline int slow_extension(const char *p, size_t n, size_t *i)
{
	size_t from = *i;
	while (*i < n && slow_token(p[*i]))
		(*i)++;
	if (*i == n || *i == from)
		return *i == n ? 0 : -1;
	if (p[*i] != '=')
		return 1;
	from = ++*i;
	while (*i < n && slow_token(p[*i]))
		(*i)++;
	if (*i == n || *i > from)
		return *i == n ? 0 : 1;
	if (p[(*i)++] != '"')
		return -1;
	for (; *i < n && p[*i] != '"'; (*i)++) {
		if (p[*i] == '\\' && ++*i == n)
			return 0;
		if (!slow_value(p[*i]))
			return -1;
	}
	if (*i == n)
		return 0;
	(*i)++;
	return 1;
}

/* A chunk's line; as slow_eat. */
static inline int slow_size(const char *p, size_t n, size_t *i, uint64_t *size)
{
	static const char digits[] = "00112233445566778899AaBbCcDdEeFf";
	size_t from = *i;
	const char *at;
	int rc;
	*size = 0;
	for (; *i < n && p[*i] && (at = strchr(digits, p[*i])); (*i)++) {
		if (*i - from == 16 || *size >> 59)
			return -1;
		*size = *size * 16 + (uint64_t)(at - digits) / 2;
	}
	if (*i == n || *i == from)
		return *i == n ? 0 : -1;
	from = *i;
	while (*i < n && p[*i] == ';') {
		++*i;
		rc = slow_extension(p, n, i);
		if (*i - from > H1_CHUNK_LINE_MAX + 1)
			return -1;
		if (rc != 1)
			return rc;
	}
	return *i - from > H1_CHUNK_LINE_MAX + 1 ? -1 : slow_eat(p, n, i, "\r\n");
}

/* A chunked body: 1 whole (used says how many bytes), 0 more is needed, -1 malformed. out has room
 * for n. */
static inline int slow_chunked(const char *p, size_t n, char *out, size_t *len, size_t *used)
{
	uint64_t size;
	size_t i = 0;
	int rc;
	*len = *used = 0;
	while ((rc = slow_size(p, n, &i, &size)) == 1 && size) {
		size_t k = size < n - i ? (size_t)size : n - i;
		memcpy(out + *len, p + i, k);
		*len += k;
		i += k;
		if (i == n)
			return 0;
		if ((rc = slow_eat(p, n, &i, "\r\n")) != 1)
			return rc;
	}
	while (rc == 1 && i < n && p[i] != '\r') {
		size_t from = i;
		while (i < n && slow_token(p[i]))
			i++;
		if (i < n && (i == from || p[i] != ':'))
			return -1;
		for (i += i < n; i < n && p[i] != '\r'; i++)
			if (!slow_value(p[i]))
				return -1;
		rc = slow_eat(p, n, &i, "\r\n");
	}
	if (rc == 1)
		rc = slow_eat(p, n, &i, "\r\n");
	*used = i;
	return rc;
}

#endif
