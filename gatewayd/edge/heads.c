/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/heads.h"
#include "libkm/base/err.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Appends, and remembers the first failure. */
struct out {
	struct km_buf *b;
	int rc;
};

static void put(struct out *o, const char *p, size_t n)
{
	if (!o->rc)
		o->rc = km_buf_add(o->b, p, n);
}

static void put_text(struct out *o, const char *s)
{
	put(o, s, strlen(s));
}

static void put_str(struct out *o, struct http_str s)
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

static void put_length(struct out *o, uint64_t n)
{
	char text[48];
	snprintf(text, sizeof(text), "Content-Length: %" PRIu64 "\r\n", n);
	put_text(o, text);
}

/* ---- requests ---- */

static void put_client(struct out *o, const struct http_request *r, const struct km_addr *client,
		       bool secure)
{
	char ip[KM_ADDR_STRLEN], text[256];
	const char *proto = secure ? "https" : "http";
	bool v6 = client->family == AF_INET6;
	km_addr_str(client, ip);
	snprintf(text, sizeof(text),
		 "X-Forwarded-For: %s\r\nX-Real-IP: %s\r\nX-Forwarded-Proto: %s\r\n"
		 "X-Forwarded-Host: ",
		 ip, ip, proto);
	put_text(o, text);
	put_str(o, r->authority);
	snprintf(text, sizeof(text), "\r\nForwarded: for=%s%s%s;proto=%s;host=\"", v6 ? "\"[" : "",
		 ip, v6 ? "]\"" : "", proto);
	put_text(o, text);
	put_str(o, r->authority);
	put_text(o, "\"\r\n");
}

int heads_request(struct km_buf *out, const struct http_request *r, const struct km_addr *client,
		  bool secure)
{
	struct out o = {out, 0};
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
	put_client(&o, r, client, secure);
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
	return o.rc;
}

/* ---- responses ---- */

int heads_response(struct km_buf *out, const struct http_response *r,
		   const struct heads_response *how)
{
	struct out o = {out, 0};
	char line[24];
	snprintf(line, sizeof(line), "HTTP/1.1 %d ", r->status);
	put_text(&o, line);
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
	return o.rc;
}

/* ---- answers of our own ---- */

static const char *reason_of(int status)
{
	switch (status) {
	case 200:
		return "OK";
	case 301:
		return "Moved Permanently";
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
	case 421:
		return "Misdirected Request";
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
	default:
		return "Internal Server Error";
	}
}

int heads_answer(struct km_buf *out, const struct heads_answer *a)
{
	static const char html[] = "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">"
				   "<title>%d %s</title>\n<h1>%s</h1>\n</html>\n";
	struct out o = {out, 0};
	const char *reason = reason_of(a->status), *what = a->what ? a->what : reason;
	char body[512], text[256];
	int n = a->html ? snprintf(body, sizeof(body), html, a->status, what, what)
			: snprintf(body, sizeof(body), a->status == 200 ? "%s" : "%s\n", what);
	snprintf(text, sizeof(text),
		 "HTTP/1.1 %d %s\r\nContent-Type: text/%s; charset=utf-8\r\nContent-Length: %d\r\n"
		 "Cache-Control: no-store\r\n",
		 a->status, reason, a->html ? "html" : "plain", n);
	put_text(&o, text);
	if (a->location) {
		put_text(&o, "Location: ");
		put_text(&o, a->location);
		put_text(&o, "\r\n");
	}
	if (a->status == 405)
		put_text(&o, "Allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\n");
	if (a->close)
		put_text(&o, "Connection: close\r\n");
	else if (a->keep_alive)
		put_text(&o, "Connection: keep-alive\r\n");
	put_text(&o, "\r\n");
	if (!a->head)
		put(&o, body, (size_t)n);
	return o.rc;
}
