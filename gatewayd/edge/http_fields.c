/* SPDX-License-Identifier: MIT */
/* The names of fields that mean something to the gateway. */
#include "gatewayd/edge/http_bytes.h"
#include <string.h>

enum { HOP = 1, HEAD_ONLY = 2 };

static const struct {
	const char *name;
	enum http_name id;
	unsigned flags;
} known[] = {
    {"te", HTTP_TE, HOP},
    {"age", HTTP_OTHER, HEAD_ONLY},
    {"date", HTTP_DATE, HEAD_ONLY},
    {"host", HTTP_HOST, HEAD_ONLY},
    {"vary", HTTP_OTHER, HEAD_ONLY},
    {"proxy", HTTP_HOP, HOP}, /* CGI makes HTTP_PROXY of it, which is a setting of many programs */
    {"range", HTTP_OTHER, HEAD_ONLY},
    {"accept", HTTP_ACCEPT, HEAD_ONLY},
    {"cookie", HTTP_OTHER, HEAD_ONLY},
    {"expect", HTTP_EXPECT, HEAD_ONLY},
    {"pragma", HTTP_OTHER, HEAD_ONLY},
    {"expires", HTTP_OTHER, HEAD_ONLY},
    {"trailer", HTTP_TRAILER, HEAD_ONLY},
    {"upgrade", HTTP_UPGRADE, HOP},
    {"warning", HTTP_OTHER, HEAD_ONLY},
    {"cdn-loop", HTTP_CDN_LOOP, HEAD_ONLY},
    {"if-match", HTTP_OTHER, HEAD_ONLY},
    {"if-range", HTTP_OTHER, HEAD_ONLY},
    {"location", HTTP_OTHER, HEAD_ONLY},
    {"forwarded", HTTP_FORWARDED, HOP},
    {"x-real-ip", HTTP_FORWARDED, HOP},
    {"connection", HTTP_CONNECTION, HOP},
    {"keep-alive", HTTP_HOP, HOP},
    {"set-cookie", HTTP_OTHER, HEAD_ONLY},
    {"retry-after", HTTP_OTHER, HEAD_ONLY},
    {"content-type", HTTP_OTHER, HEAD_ONLY},
    {"max-forwards", HTTP_OTHER, HEAD_ONLY},
    {"authorization", HTTP_OTHER, HEAD_ONLY},
    {"cache-control", HTTP_OTHER, HEAD_ONLY},
    {"content-range", HTTP_OTHER, HEAD_ONLY},
    {"if-none-match", HTTP_OTHER, HEAD_ONLY},
    {"content-length", HTTP_CONTENT_LENGTH, HEAD_ONLY},
    {"http2-settings", HTTP_HOP, HOP},
    {"x-forwarded-for", HTTP_FORWARDED, HOP},
    {"x-forwarded-ssl", HTTP_FORWARDED, HOP},
    {"content-encoding", HTTP_OTHER, HEAD_ONLY},
    {"proxy-connection", HTTP_HOP, HOP},
    {"www-authenticate", HTTP_OTHER, HEAD_ONLY},
    {"x-forwarded-host", HTTP_FORWARDED, HOP},
    {"x-forwarded-port", HTTP_FORWARDED, HOP},
    {"if-modified-since", HTTP_OTHER, HEAD_ONLY},
    {"transfer-encoding", HTTP_TRANSFER_ENCODING, HOP},
    {"x-forwarded-proto", HTTP_FORWARDED, HOP},
    {"proxy-authenticate", HTTP_OTHER, HEAD_ONLY},
    {"x-forwarded-prefix", HTTP_FORWARDED, HOP},
    {"x-forwarded-scheme", HTTP_FORWARDED, HOP},
    {"x-forwarded-server", HTTP_FORWARDED, HOP},
    {"if-unmodified-since", HTTP_OTHER, HEAD_ONLY},
    {"proxy-authorization", HTTP_OTHER, HEAD_ONLY},
};

/* Lower case, and '-' for every mark that a name may have. */
static unsigned char folded[256];

static inline unsigned char fold(char c)
{
	return folded[(unsigned char)c];
}

static void fold_fill(void)
{
	for (int c = 0; c < 256; c++) {
		bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z'), capital = c >= 'A' && c <= 'Z';
		bool mark = !alnum && !capital && http_byte_is((char)c, HTTP_B_TOKEN);
		folded[c] = (unsigned char)(mark ? '-' : capital ? c | 0x20 : c);
	}
}

/* No two known names have the same (a unit test says so: one would not be found). */
static inline unsigned char hash(const char *p, size_t n)
{
	return (unsigned char)(n + 27 * fold(p[0]) + fold(p[n / 2]) + 2 * fold(p[n - 2]));
}

static struct {
	unsigned char index, n; /* n 0: nobody's */
} slots[256];

__attribute__((constructor)) static void slots_fill(void)
{
	fold_fill();
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		size_t n = strlen(known[i].name);
		unsigned char h = hash(known[i].name, n);
		slots[h].index = (unsigned char)i;
		slots[h].n = (unsigned char)n;
	}
}

bool http_name_same(struct http_str a, struct http_str b)
{
	unsigned char differ = a.n != b.n;
	for (size_t i = 0; i < a.n && !differ; i++)
		differ = fold(a.p[i]) ^ fold(b.p[i]);
	return !differ;
}

/* *masked: it is the name but for other marks in the place of '-'. */
static bool same_name(struct http_str s, const char *name, bool *masked)
{
	unsigned char differ = 0, other = 0;
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = fold(s.p[i]);
		differ |= c ^ (unsigned char)name[i];
		other |= c == '-' && s.p[i] != '-';
	}
	*masked = other;
	return !differ;
}

void http_field_know(struct http_field *f)
{
	bool masked;
	f->id = HTTP_OTHER;
	f->hop = f->head_only = false;
	if (f->name.n < 2)
		return;
	unsigned char h = hash(f->name.p, f->name.n);
	if (slots[h].n != f->name.n)
		return;
	size_t i = slots[h].index;
	if (!same_name(f->name, known[i].name, &masked))
		return;
	f->id = masked ? HTTP_OTHER : known[i].id;
	f->hop = (masked && known[i].id != HTTP_OTHER) || (known[i].flags & HOP);
	f->head_only = true;
}
