/* SPDX-License-Identifier: MIT */
/* The chunked coding, RFC 9112 section 7.1. Extensions are checked and skipped, trailers given out.
 */
#include "gatewayd/edge/h1.h"
#include "gatewayd/edge/http_bytes.h"

enum {
	SIZE,        /* hex digits */
	EXT_NAME,    /* behind ';' */
	EXT_NAME_ON, /* its second byte and later */
	EXT_VALUE,   /* behind '=' */
	EXT_TOKEN,
	EXT_QUOTED,
	EXT_QUOTED_PAIR, /* behind '\\' */
	EXT_QUOTED_END,  /* behind the closing '"' */
	SIZE_LF,         /* the LF of the chunk's line */
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
	return http_byte_is(c, HTTP_B_TOKEN);
}

static bool text(char c)
{
	return http_byte_is(c, HTTP_B_VALUE);
}

/* What may end an extension, or the size: another extension, or the line's end. */
static bool ext_ends(struct h1_chunked *c, char b)
{
	if (b != ';' && b != '\r')
		return false;
	c->state = b == ';' ? EXT_NAME : SIZE_LF;
	return true;
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
	c->line = 0;
	return c->digits && ext_ends(c, b);
}

/* chunk-ext of RFC 9112 section 7.1.1, without the white space that a sender must not send. */
static bool ext_byte(struct h1_chunked *c, char b)
{
	if (b != '\r' && ++c->line > H1_CHUNK_LINE_MAX)
		return false;
	switch (c->state) {
	case EXT_NAME:
		c->state = EXT_NAME_ON;
		return token(b);
	case EXT_NAME_ON:
		if (b == '=')
			c->state = EXT_VALUE;
		return b == '=' || token(b) || ext_ends(c, b);
	case EXT_VALUE:
		c->state = b == '"' ? EXT_QUOTED : EXT_TOKEN;
		return b == '"' || token(b);
	case EXT_TOKEN:
		return token(b) || ext_ends(c, b);
	case EXT_QUOTED:
		if (b == '"' || b == '\\')
			c->state = b == '"' ? EXT_QUOTED_END : EXT_QUOTED_PAIR;
		return text(b);
	case EXT_QUOTED_PAIR:
		c->state = EXT_QUOTED;
		return text(b);
	default:
		return ext_ends(c, b);
	}
}

/* The line of a chunk is whole. What extensions cost beyond what the body's bytes make good is
 * bounded. */
static bool size_end(struct h1_chunked *c)
{
	uint64_t credit = c->left < H1_CHUNK_EXCESS_MAX ? 16 + 2 * c->left : H1_CHUNK_EXCESS_MAX;
	c->excess += c->line;
	c->excess = c->excess > credit ? (uint32_t)(c->excess - credit) : 0;
	c->line = 0;
	c->state = c->left ? DATA : TRAILER;
	return c->excess <= H1_CHUNK_EXCESS_MAX;
}

/* One byte of the framing; false: malformed. */
static bool framing_byte(struct h1_chunked *c, char b)
{
	if (c->state >= EXT_NAME && c->state <= EXT_QUOTED_END)
		return ext_byte(c, b);
	switch (c->state) {
	case SIZE:
		return size_byte(c, b);
	case SIZE_LF:
		return b == '\n' && size_end(c);
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
