/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/heads.h"
#include "libkm/base/err.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define STEP 1024 /* bytes of room asked for at once */

/* Appends, and remembers the first failure. What has been put is the buffer's content when `ended`
 * has been called. */
struct out {
	struct km_buf *b;
	uint8_t *from, *at, *end;
	int rc;
};

static void settle(struct out *o)
{
	if (o->at)
		km_buf_commit(o->b, (size_t)(o->at - o->from));
	o->from = o->at = o->end = NULL;
}

static int ended(struct out *o)
{
	settle(o);
	return o->rc;
}

static bool room(struct out *o, size_t n)
{
	size_t want = n > STEP ? n : STEP;
	if (o->rc)
		return false;
	settle(o);
	if (want > o->b->max - o->b->len && n <= o->b->max - o->b->len)
		want = o->b->max - o->b->len;
	if ((o->rc = km_buf_reserve(o->b, want, &o->from)))
		return false;
	o->at = o->from;
	o->end = o->from + want;
	return true;
}

static inline void put(struct out *o, const char *p, size_t n)
{
	if (!n || ((size_t)(o->end - o->at) < n && !room(o, n)))
		return;
	memcpy(o->at, p, n);
	o->at += n;
}

static inline void put_text(struct out *o, const char *s)
{
	put(o, s, strlen(s));
}

static inline void put_str(struct out *o, struct http_str s)
{
	put(o, s.p, s.n);
}

static void put_field(struct out *o, struct http_str name, struct http_str value)
{
	put_str(o, name);
	put_text(o, ": ");
	put_str(o, value);
	put_text(o, "\r\n");
}

static void put_number(struct out *o, uint64_t n)
{
	char text[20], *at = text + sizeof(text);
	do
		*--at = (char)('0' + n % 10);
	while (n /= 10);
	put(o, at, (size_t)(text + sizeof(text) - at));
}

static void put_length(struct out *o, uint64_t n)
{
	put_text(o, "Content-Length: ");
	put_number(o, n);
	put_text(o, "\r\n");
}

static void put_addr(struct out *o, const struct km_addr *a)
{
	char text[KM_ADDR_STRLEN];
	if (a->family != AF_INET) {
		put_text(o, km_addr_str(a, text));
		return;
	}
	for (size_t i = 0; i < 4; i++) {
		put(o, ".", i > 0);
		put_number(o, a->ip[i]);
	}
}

void heads_date(char out[static HEADS_DATE + 1], int64_t second)
{
	static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
	time_t when = (time_t)second;
	struct tm t = {0};
	gmtime_r(&when, &t);
	snprintf(out, HEADS_DATE + 1, "%.3s, %02u %.3s %04u %02u:%02u:%02u GMT", days + 3 * t.tm_wday,
		 (unsigned)t.tm_mday % 100, months + 3 * t.tm_mon, (unsigned)(t.tm_year + 1900) % 10000,
		 (unsigned)t.tm_hour % 100, (unsigned)t.tm_min % 100, (unsigned)t.tm_sec % 100);
}

int heads_field(struct km_buf *out, struct http_str name, struct http_str value)
{
	uint8_t *p;
	size_t n = name.n + value.n + 4;
	int rc = km_buf_reserve(out, n, &p);
	if (rc)
		return rc;
	struct out o = {.b = out, .from = p, .at = p, .end = p + n};
	put_field(&o, name, value);
	return ended(&o);
}

/* ---- requests ---- */

/* RFC 7239 section 6: the client's address, quoted and in brackets where it has colons. */
static void put_client(struct out *o, const struct client *c)
{
	const char *proto = c->secure ? "https" : "http";
	bool v6 = c->addr.family == AF_INET6;
	put_text(o, "X-Forwarded-For: ");
	for (size_t i = 0; i < c->n_hops; i++) {
		put(o, ", ", i ? 2 : 0);
		put_addr(o, &c->hops[i]);
	}
	put_text(o, "\r\nX-Real-IP: ");
	put_addr(o, &c->addr);
	put_text(o, "\r\nX-Forwarded-Proto: ");
	put_text(o, proto);
	put_text(o, "\r\nX-Forwarded-Host: ");
	put_str(o, c->host);
	put_text(o, v6 ? "\r\nForwarded: for=\"[" : "\r\nForwarded: for=");
	put_addr(o, &c->addr);
	put_text(o, v6 ? "]\";proto=" : ";proto=");
	put_text(o, proto);
	put_text(o, ";host=\"");
	put_str(o, c->host);
	put_text(o, "\"\r\n");
}

int heads_request(struct km_buf *out, const struct http_request *r, const struct client *client)
{
	struct out o = {.b = out};
	bool chunked = r->body == HTTP_BODY_CHUNKED || r->body == HTTP_BODY_CLOSE;
	put_str(&o, r->method);
	put_text(&o, r->target_query || !r->target.n ? " /" : " ");
	put_str(&o, r->target);
	put_text(&o, " HTTP/1.1\r\nHost: ");
	put_str(&o, r->authority);
	put_text(&o, "\r\n");
	for (size_t i = 0; i < r->n_fields; i++) {
		const struct http_field *f = &r->fields[i];
		if (!f->hop && f->id != HTTP_HOST && f->id != HTTP_CONTENT_LENGTH &&
		    f->id != HTTP_EXPECT && (f->id != HTTP_TRAILER || chunked))
			put_field(&o, f->name, f->value);
	}
	put_client(&o, client);
	if (r->body == HTTP_BODY_LENGTH)
		put_length(&o, r->length);
	else if (chunked)
		put_text(&o, "Transfer-Encoding: chunked\r\n");
	if (r->expect_continue)
		put_text(&o, "Expect: 100-continue\r\n");
	if (r->te_trailers && !r->upgrade)
		put_text(&o, "Connection: TE\r\nTE: trailers\r\n");
	if (r->upgrade) {
		put_text(&o, "Connection: Upgrade\r\nUpgrade: ");
		put_str(&o, r->upgrade_to);
		put_text(&o, "\r\n");
	}
	put_text(&o, "\r\n");
	return ended(&o);
}

/* ---- responses ---- */

int heads_response(struct km_buf *out, const struct http_response *r,
		   const struct heads_response *how)
{
	struct out o = {.b = out};
	put_text(&o, "HTTP/1.1 ");
	put_number(&o, (unsigned)r->status);
	put_text(&o, " ");
	put_str(&o, r->reason);
	put_text(&o, "\r\n");
	for (size_t i = 0; i < r->n_fields; i++) {
		const struct http_field *f = &r->fields[i];
		if (!f->hop && f->id != HTTP_CONTENT_LENGTH &&
		    (f->id != HTTP_TRAILER || how->framing == HTTP_BODY_CHUNKED))
			put_field(&o, f->name, f->value);
	}
	if (how->framing == HTTP_BODY_CHUNKED)
		put_text(&o, "Transfer-Encoding: chunked\r\n");
	else if (r->has_length && how->framing != HTTP_BODY_CLOSE && r->status >= 200 &&
		 r->status != 204)
		put_length(&o, r->length);
	else if (how->framing == HTTP_BODY_LENGTH && !r->has_length)
		put_length(&o, 0);
	if (how->close)
		put_text(&o, "Connection: close\r\n");
	else if (how->keep_alive)
		put_text(&o, "Connection: keep-alive\r\n");
	if (how->upgrade) {
		put_text(&o, "Connection: Upgrade\r\nUpgrade: ");
		put_str(&o, r->upgrade_to);
		put_text(&o, "\r\n");
	}
	put_text(&o, "\r\n");
	return ended(&o);
}

/* ---- answers of our own ---- */

static const char *reason_of(int status)
{
	switch (status) {
	case 200:
		return "OK";
	case 301:
		return "Moved Permanently";
	case 302:
		return "Found";
	case 303:
		return "See Other";
	case 307:
		return "Temporary Redirect";
	case 308:
		return "Permanent Redirect";
	case 400:
		return "Bad Request";
	case 404:
		return "Not Found";
	case 405:
		return "Method Not Allowed";
	case 408:
		return "Request Timeout";
	case 414:
		return "URI Too Long";
	case 417:
		return "Expectation Failed";
	case 413:
		return "Content Too Large";
	case 421:
		return "Misdirected Request";
	case 429:
		return "Too Many Requests";
	case 431:
		return "Request Header Fields Too Large";
	case 501:
		return "Not Implemented";
	case 502:
		return "Bad Gateway";
	case 503:
		return "Service Unavailable";
	case 504:
		return "Gateway Timeout";
	case 505:
		return "HTTP Version Not Supported";
	case 508:
		return "Loop Detected";
	default:
		return "Internal Server Error";
	}
}

static void put_answer_fields(struct out *o, const struct heads_answer *a)
{
	char text[64];
	if (a->location) {
		put_text(o, "Location: ");
		put_text(o, a->location);
		put_text(o, "\r\n");
	}
	if (a->retry_after) {
		snprintf(text, sizeof(text), "Retry-After: %" PRId64 "\r\n", a->retry_after);
		put_text(o, text);
	}
	if (a->date.n)
		put_field(o, (struct http_str){"Date", 4}, a->date);
	if (a->hsts.n)
		put_field(o, (struct http_str){"Strict-Transport-Security", 25}, a->hsts);
	if (a->status == 405)
		put_text(o, "Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\n");
	if (a->close)
		put_text(o, "Connection: close\r\n");
	else if (a->keep_alive)
		put_text(o, "Connection: keep-alive\r\n");
}

int heads_answer(struct km_buf *out, const struct heads_answer *a)
{
	static const char html[] = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">"
				   "<title>%d %s</title>\n<h1>%s</h1>\n</html>\n";
	struct out o = {.b = out};
	const char *reason = reason_of(a->status), *what = a->what ? a->what : reason;
	char text[512], head[256];
	struct http_str body = a->page;
	if (!body.n) {
		int n = a->html
			    ? snprintf(text, sizeof(text), html, a->status, what, what)
			    : snprintf(text, sizeof(text), a->status == 200 ? "%s" : "%s\n", what);
		body = (struct http_str){text, (size_t)n};
	}
	snprintf(head, sizeof(head),
		 "HTTP/1.1 %d %s\r\nContent-Type: text/%s; charset=utf-8\r\n"
		 "Content-Length: %zu\r\nCache-Control: no-store\r\n",
		 a->status, reason, a->html ? "html" : "plain", body.n);
	put_text(&o, head);
	put_answer_fields(&o, a);
	put_text(&o, "\r\n");
	if (!a->head)
		put_str(&o, body);
	return ended(&o);
}
