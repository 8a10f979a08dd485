/* SPDX-License-Identifier: MIT */
#include "libkm/base/util.h"
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static int64_t clock_ms(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t km_now_ms(void)
{
	return clock_ms(CLOCK_MONOTONIC);
}

int64_t km_wall_ms(void)
{
	return clock_ms(CLOCK_REALTIME);
}

/* Writes v in n decimal digits. */
static char *put_digits(char *p, int v, int n)
{
	for (int i = n - 1; i >= 0; i--, v /= 10)
		p[i] = (char)('0' + v % 10);
	return p + n;
}

char *km_iso8601(int64_t wall_ms, char out[static KM_ISO8601_LEN])
{
	const int64_t last = 253402300799999; /* of the year 9999 */
	struct tm tm;
	time_t t;
	char *p = out;

	wall_ms = wall_ms < 0 ? 0 : wall_ms > last ? last : wall_ms;
	t = (time_t)(wall_ms / 1000);
	gmtime_r(&t, &tm);
	p = put_digits(p, tm.tm_year + 1900, 4);
	*p++ = '-';
	p = put_digits(p, tm.tm_mon + 1, 2);
	*p++ = '-';
	p = put_digits(p, tm.tm_mday, 2);
	*p++ = 'T';
	p = put_digits(p, tm.tm_hour, 2);
	*p++ = ':';
	p = put_digits(p, tm.tm_min, 2);
	*p++ = ':';
	p = put_digits(p, tm.tm_sec, 2);
	*p++ = '.';
	p = put_digits(p, (int)(wall_ms % 1000), 3);
	*p++ = 'Z';
	*p = '\0';
	return out;
}

/* Exactly n digits at *s, then the byte `end` (0: none); moves *s behind them. -1 when not so. */
static int get_digits(const char **s, int n, char end)
{
	int v = 0;

	for (; n; n--, (*s)++) {
		if (**s < '0' || **s > '9')
			return -1;
		v = v * 10 + (**s - '0');
	}
	if (end && *(*s)++ != end)
		return -1;
	return v;
}

static int month_days(int year, int month)
{
	static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;

	return days[month - 1] + (month == 2 && leap);
}

/* The fraction of a second, if any, in milliseconds; -1 for a point without digits. */
static int get_fraction(const char **s)
{
	int ms = 0, n = 0;

	if (**s != '.')
		return 0;
	for ((*s)++; **s >= '0' && **s <= '9'; (*s)++, n++)
		if (n < 3)
			ms = ms * 10 + (**s - '0');
	for (int i = n; i < 3; i++)
		ms *= 10;
	return n ? ms : -1;
}

/* "Z" or "+hh:mm" to seconds east of UTC. */
static int get_offset(int *seconds, const char **s)
{
	char sign = *(*s)++;
	int h, m;

	*seconds = 0;
	if (sign == 'Z' || sign == 'z')
		return 0;
	if (sign != '+' && sign != '-')
		return KM_EINVAL;
	h = get_digits(s, 2, ':');
	m = h < 0 ? -1 : get_digits(s, 2, 0);
	if (h < 0 || h > 23 || m < 0 || m > 59)
		return KM_EINVAL;
	*seconds = (h * 60 + m) * (sign == '-' ? -60 : 60);
	return 0;
}

int km_iso8601_parse(int64_t *wall_ms, const char *s)
{
	struct tm tm = {0};
	int ms, offset;

	if ((tm.tm_year = get_digits(&s, 4, '-')) < 0 || (tm.tm_mon = get_digits(&s, 2, '-')) < 0 ||
	    (tm.tm_mday = get_digits(&s, 2, 0)) < 0)
		return KM_EINVAL;
	if (*s != 'T' && *s != 't')
		return KM_EINVAL;
	s++;
	if ((tm.tm_hour = get_digits(&s, 2, ':')) < 0 || (tm.tm_min = get_digits(&s, 2, ':')) < 0 ||
	    (tm.tm_sec = get_digits(&s, 2, 0)) < 0)
		return KM_EINVAL;
	if (tm.tm_mon < 1 || tm.tm_mon > 12 || tm.tm_mday < 1 ||
	    tm.tm_mday > month_days(tm.tm_year, tm.tm_mon) || tm.tm_hour > 23 || tm.tm_min > 59 ||
	    tm.tm_sec > 59)
		return KM_EINVAL;
	ms = get_fraction(&s);
	if (ms < 0 || get_offset(&offset, &s) || *s)
		return KM_EINVAL;
	tm.tm_year -= 1900;
	tm.tm_mon--;
	*wall_ms = ((int64_t)timegm(&tm) - offset) * 1000 + ms;
	return 0;
}

void km_random(void *p, size_t n)
{
	uint8_t *to = p;

	while (n) {
		ssize_t got = getrandom(to, n, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			abort();
		to += got;
		n -= (size_t)got;
	}
}

uint32_t km_random_below(uint32_t n)
{
	uint32_t v, skip;

	if (n < 2)
		return 0;
	skip = -n % n; /* 2^32 mod n: the values below it would make small results likelier */
	do
		km_random(&v, sizeof(v));
	while (v < skip);
	return v % n;
}

static bool uuid_dash(size_t i)
{
	return i == 8 || i == 13 || i == 18 || i == 23;
}

char *km_uuid_str(const uint8_t id[static 16], char out[static KM_UUID_STRLEN])
{
	char hex[33];
	size_t from = 0;

	km_hex(id, 16, hex);
	for (size_t i = 0; i < KM_UUID_STRLEN - 1; i++)
		out[i] = uuid_dash(i) ? '-' : hex[from++];
	out[KM_UUID_STRLEN - 1] = '\0';
	return out;
}

char *km_uuid_new(char out[static KM_UUID_STRLEN])
{
	uint8_t id[16];

	km_random(id, sizeof(id));
	id[6] = (id[6] & 0x0f) | 0x40; /* RFC 9562 section 5.4 */
	id[8] = (id[8] & 0x3f) | 0x80;
	return km_uuid_str(id, out);
}

bool km_uuid_ok(const char *s)
{
	size_t i;

	for (i = 0; i < KM_UUID_STRLEN && s[i]; i++) {
		if (uuid_dash(i) ? s[i] != '-'
				 : !((s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f')))
			return false;
	}
	return i == KM_UUID_STRLEN - 1;
}

int km_uuid_parse(uint8_t out[static 16], const char *s)
{
	char hex[33];
	size_t to = 0;

	if (!km_uuid_ok(s))
		return KM_EINVAL;
	for (size_t i = 0; i < KM_UUID_STRLEN - 1; i++)
		if (!uuid_dash(i))
			hex[to++] = s[i];
	hex[32] = '\0';
	return km_unhex(out, 16, hex);
}

void km_sha256(uint8_t out[static 32], const void *p, size_t n)
{
	SHA256(p, n, out);
}

bool km_secret_eq(const void *a, const void *b, size_t n)
{
	return CRYPTO_memcmp(a, b, n) == 0;
}

void km_wipe(void *p, size_t n)
{
	if (p)
		OPENSSL_cleanse(p, n);
}

static void *or_abort(void *p)
{
	if (!p)
		abort();
	return p;
}

char *km_xstrdup(const char *s)
{
	return or_abort(strdup(s));
}

void *km_xcalloc(size_t n, size_t size)
{
	return or_abort(calloc(n ? n : 1, size ? size : 1));
}

char *km_xasprintf(const char *fmt, ...)
{
	char *s;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		abort();
	va_end(ap);
	return s;
}
