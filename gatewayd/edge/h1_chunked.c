/* SPDX-License-Identifier: MIT */
/* The chunked coding, RFC 9112 section 7.1. Extensions are checked and skipped, trailers given out.
 */
#include "gatewayd/edge/h1.h"
#include <string.h>

enum {
	SIZE,      /* hex digits */
	EXTENSION, /* behind ';' up to CR */
	SIZE_LF,   /* the LF of the chunk's line */
	DATA,
	DATA_CR,
	DATA_LF,
	TRAILER,       /* begin of a line: empty, or a field */
	TRAILER_NAME,  /* up to ':' */
	TRAILER_VALUE, /* up to CR */
	TRAILER_LF,
	END_LF,
	END,
};

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool token(char c)
{
	return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') ||
	       (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool text(char c)
{
	unsigned char u = (unsigned char)c;
	return u == '\t' || (u >= 0x20 && u != 0x7f);
}

static bool size_byte(struct h1_chunked *c, char b)
{
	int d = hex(b);
	if (d >= 0) {
		if (c->digits == 16 || c->left > ((uint64_t)INT64_MAX - (unsigned)d) / 16)
			return false;
		c->digits++;
		c->left = c->left * 16 + (unsigned)d;
		return true;
	}
	if (!c->digits || (b != ';' && b != '\r'))
		return false;
	c->line = 0;
	c->state = b == ';' ? EXTENSION : SIZE_LF;
	return true;
}

/* One byte of the framing; false: malformed. */
static bool framing_byte(struct h1_chunked *c, char b)
{
	switch (c->state) {
	case SIZE:
		return size_byte(c, b);
	case EXTENSION:
		if (b == '\r')
			c->state = SIZE_LF;
		return b == '\r' || (text(b) && ++c->line <= H1_CHUNK_LINE_MAX);
	case SIZE_LF:
		c->line = 0;
		c->state = c->left ? DATA : TRAILER;
		return b == '\n';
	case DATA_CR:
		c->state = DATA_LF;
		return b == '\r';
	case DATA_LF:
		c->state = SIZE;
		c->digits = 0;
		return b == '\n';
	case TRAILER:
		c->state = b == '\r' ? END_LF : TRAILER_NAME;
		return b == '\r' || (token(b) && ++c->line <= H1_TRAILER_MAX);
	case TRAILER_NAME:
		if (b == ':')
			c->state = TRAILER_VALUE;
		return (b == ':' || token(b)) && ++c->line <= H1_TRAILER_MAX;
	case TRAILER_VALUE:
		if (b == '\r')
			c->state = TRAILER_LF;
		return (b == '\r' || text(b)) && ++c->line <= H1_TRAILER_MAX;
	case TRAILER_LF:
		c->state = TRAILER;
		return b == '\n' && ++c->line <= H1_TRAILER_MAX;
	case END_LF:
		c->state = END;
		return b == '\n';
	default:
		return false;
	}
}

/* Whether b belongs to a line of the trailer section (and not to the empty one behind it). */
static bool trailer_byte(const struct h1_chunked *c, char b)
{
	return c->state >= TRAILER && c->state <= TRAILER_LF && (c->state != TRAILER || b != '\r');
}

enum h1_chunk h1_chunked_next(struct h1_chunked *c, const char *p, size_t n, size_t *used,
			      const char **data, size_t *data_len)
{
	size_t i = 0;
	*used = 0;
	*data = NULL;
	*data_len = 0;
	while (c->state != END) {
		if (i == n) {
			*used = n;
			return H1_CHUNK_MORE;
		}
		if (c->state == DATA) {
			size_t take = c->left < n - i ? (size_t)c->left : n - i;
			*data = p + i;
			*data_len = take;
			*used = i + take;
			c->left -= take;
			if (!c->left)
				c->state = DATA_CR;
			return H1_CHUNK_DATA;
		}
		size_t from = i;
		while (i < n && trailer_byte(c, p[i]))
			if (!framing_byte(c, p[i++]))
				return H1_CHUNK_BAD;
		if (i > from) {
			*data = p + from;
			*data_len = i - from;
			*used = i;
			return H1_CHUNK_TRAILER;
		}
		if (i < n && !framing_byte(c, p[i++]))
			return H1_CHUNK_BAD;
	}
	*used = i;
	return H1_CHUNK_END;
}
