/* SPDX-License-Identifier: MIT */
/* An encoder of its own for the tests: certificates written down as text, so that every deviation
 * from the canonical form can be. Hex digits are bytes; 'x' is text; ( … ) is its content behind
 * its length, a varint or DER's shortest; $P, $I, $S, $D are what the caller sets; blanks do not
 * count. Signatures are libsodium's, not those of the code under test. */
#ifndef TESTS_UNIT_CERT_ASSEMBLE_H
#define TESTS_UNIT_CERT_ASSEMBLE_H

#include "tests/unit/cert/fixture.h"
#include <sodium.h>

#define BYTES_MAX 70000

struct bytes {
	uint8_t b[BYTES_MAX];
	size_t n;
};

struct assembler {
	bool der;
	struct bytes var[128]; /* by letter; only a few are used */
};

static inline void put_bytes(struct bytes *to, const void *p, size_t n)
{
	assert_true(n <= BYTES_MAX - to->n);
	if (n)
		memcpy(to->b + to->n, p, n);
	to->n += n;
}

static inline void put_byte(struct bytes *to, size_t v)
{
	uint8_t b = (uint8_t)v;

	put_bytes(to, &b, 1);
}

static inline void put_length(struct bytes *to, size_t n, bool der)
{
	if (n < 128) {
		put_byte(to, n);
	} else if (!der) {
		for (; n > 127; n >>= 7)
			put_byte(to, (n & 127) | 128);
		put_byte(to, n);
	} else if (n < 256) {
		put_byte(to, 0x81);
		put_byte(to, n);
	} else {
		put_byte(to, 0x82);
		put_byte(to, n >> 8);
		put_byte(to, n);
	}
}

static inline unsigned hex_of(char c)
{
	assert_non_null(strchr("0123456789abcdef", c));
	return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* Up to the closing parenthesis or the end. */
static inline const char *assemble(struct assembler *a, struct bytes *to, const char *s)
{
	while (*s && *s != ')') {
		if (*s == ' ') {
			s++;
		} else if (*s == '\'') {
			const char *end = strchr(s + 1, '\'');

			assert_non_null(end);
			put_bytes(to, s + 1, (size_t)(end - s - 1));
			s = end + 1;
		} else if (*s == '$') {
			put_bytes(to, a->var[(int)s[1]].b, a->var[(int)s[1]].n);
			s += 2;
		} else if (*s == '(') {
			struct bytes *inner = calloc(1, sizeof(*inner));

			assert_non_null(inner);
			s = assemble(a, inner, s + 1);
			assert_int_equal(*s, ')');
			put_length(to, inner->n, a->der);
			put_bytes(to, inner->b, inner->n);
			free(inner);
			s++;
		} else {
			put_byte(to, hex_of(s[0]) << 4 | hex_of(s[1]));
			s += 2;
		}
	}
	return s;
}

static inline struct bytes *assembled(struct assembler *a, const char *text)
{
	struct bytes *b = calloc(1, sizeof(*b));

	assert_non_null(b);
	assert_int_equal(*assemble(a, b, text), '\0');
	return b;
}

/* Sets $D from its text, $S to its signature by sk, and gives the whole. */
static inline struct bytes *signed_by(struct assembler *a, const char *details, const char *outer,
				      const uint8_t *sk)
{
	struct bytes *d = assembled(a, details), *over = calloc(1, sizeof(*over));

	assert_non_null(over);
	put_bytes(over, d->b, d->n);
	if (a->der) {
		put_byte(over, 0); /* the curve */
		put_bytes(over, a->var['P'].b, a->var['P'].n);
	}
	a->var['D'] = *d;
	a->var['S'].n = crypto_sign_BYTES;
	crypto_sign_detached(a->var['S'].b, NULL, over->b, over->n, sk);
	free(d);
	free(over);
	return assembled(a, outer);
}

#endif
