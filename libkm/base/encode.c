/* SPDX-License-Identifier: MIT */
#include "libkm/base/util.h"
#include <string.h>

static const char b64_std[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char b64_url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

char *km_hex(const void *p, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *from = p;

	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digits[from[i] >> 4];
		out[2 * i + 1] = digits[from[i] & 15];
	}
	out[2 * n] = '\0';
	return out;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int km_unhex(void *out, size_t n, const char *s)
{
	uint8_t *to = out;

	if (strlen(s) != 2 * n)
		return KM_EINVAL;
	for (size_t i = 0; i < n; i++) {
		int hi = hex_digit(s[2 * i]), lo = hex_digit(s[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return KM_EINVAL;
		to[i] = (uint8_t)(hi << 4 | lo);
	}
	return 0;
}

/* Encodes without padding; returns the end. */
static char *b64_encode(const uint8_t *p, size_t n, char *out, const char *alphabet)
{
	uint32_t acc = 0;
	unsigned bits = 0;

	for (size_t i = 0; i < n; i++) {
		acc = acc << 8 | p[i];
		for (bits += 8; bits >= 6; bits -= 6)
			*out++ = alphabet[acc >> (bits - 6) & 63];
	}
	if (bits)
		*out++ = alphabet[acc << (6 - bits) & 63];
	return out;
}

char *km_b64(const void *p, size_t n, char *out)
{
	char *end = b64_encode(p, n, out, b64_std);

	while ((end - out) % 4)
		*end++ = '=';
	*end = '\0';
	return out;
}

char *km_b64url(const void *p, size_t n, char *out)
{
	*b64_encode(p, n, out, b64_url) = '\0';
	return out;
}

static int b64_digit(char c)
{
	const char *at = c ? strchr(b64_std, c) : NULL;

	return at ? (int)(at - b64_std) : -1;
}

int km_unb64(void *out, size_t n, const char *s)
{
	size_t digits = (n * 8 + 5) / 6, len = strlen(s);
	uint32_t acc = 0;
	unsigned bits = 0;
	uint8_t *to = out;

	if (len != (n + 2) / 3 * 4)
		return KM_EINVAL;
	for (size_t i = 0; i < len; i++) {
		int v = i < digits ? b64_digit(s[i]) : 0;

		if (v < 0 || (i >= digits && s[i] != '='))
			return KM_EINVAL;
		if (i >= digits)
			continue;
		acc = acc << 6 | (uint32_t)v;
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			*to++ = (uint8_t)(acc >> bits);
		}
	}
	/* Canonical text leaves no bits set behind the last byte. */
	return acc & ((1U << bits) - 1) ? KM_EINVAL : 0;
}

size_t km_utf8_len(const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;

	if (s[0] > 0xf4)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

char *km_put_u64(char *p, uint64_t n)
{
	char digits[20], *d = digits + sizeof(digits);

	do
		*--d = (char)('0' + n % 10);
	while (n /= 10);
	return mempcpy(p, d, (size_t)(digits + sizeof(digits) - d));
}
