/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/h2_head.h"
#include "gatewayd/edge/h1.h"
#include "gatewayd/edge/heads.h"
#include <stddef.h>
#include <string.h>

#define FIELD_COST 32   /* RFC 9113 section 6.5.2 */
#define BOMB_FACTOR 4   /* times the limit */
#define HEAD_EXTRA 1024 /* what the gateway's own lines need */

void h2_head_begin(struct h2_head *h, const struct http_limits *limits)
{
	struct km_buf *bufs[] = {&h->first, &h->text, &h->cookies};
	struct h2_head clean = {.limits = *limits};
	clean.first = h->first;
	clean.text = h->text;
	clean.cookies = h->cookies;
	*h = clean;
	for (size_t i = 0; i < sizeof(bufs) / sizeof(bufs[0]); i++) {
		km_buf_clear(bufs[i]);
		bufs[i]->max = 2 * limits->head + HEAD_EXTRA;
	}
}

void h2_head_free(struct h2_head *h)
{
	km_buf_free(&h->first);
	km_buf_free(&h->text);
	km_buf_free(&h->cookies);
}

static void wrong(struct h2_head *h, int status, const char *why)
{
	if (h->status)
		return;
	h->status = status;
	h->why = why;
}

static void put(struct h2_head *h, struct km_buf *b, const char *p, size_t n)
{
	if (km_buf_add(b, p, n))
		wrong(h, 500, "no memory");
}

static void field_write(struct h2_head *h, struct http_str name, struct http_str value)
{
	if (heads_field(&h->text, name, value)) {
		wrong(h, 500, "no memory");
		return;
	}
	h->fields++;
}

static bool is(struct http_str s, const char *what, size_t n)
{
	return s.n == n && !memcmp(s.p, what, n);
}
#define IS(s, what) is(s, what, sizeof(what) - 1)

static struct http_str pseudo(const struct h2_head *h, enum h2_pseudo id)
{
	const char *p = (const char *)km_buf_head(&h->first);
	return p ? (struct http_str){p + h->pseudo[id].at, h->pseudo[id].n} : (struct http_str){"", 0};
}

/* ---- what HTTP/1 cannot see ---- */

/* Neither what ends a line of HTTP/1 nor white space at an end (RFC 9113 section 8.2.1). */
static bool value_ok(struct http_str v)
{
	if (!v.n)
		return true;
	if (memchr(v.p, '\n', v.n) || memchr(v.p, '\r', v.n) || memchr(v.p, '\0', v.n))
		return false;
	char first = v.p[0], last = v.p[v.n - 1];
	return first != ' ' && first != '\t' && last != ' ' && last != '\t';
}

/* Nothing that would be read otherwise before the colon; the parser looks at the rest. */
static bool name_ok(struct http_str name)
{
	bool bad = !name.n;
	for (size_t i = 0; i < name.n; i++) {
		unsigned char c = (unsigned char)name.p[i];
		bad |= c <= ' ' || c == ':' || (unsigned char)(c - 'A') < 26;
	}
	return !bad;
}

bool h2_field_ok(struct http_str name, struct http_str value)
{
	return name_ok(name) && value_ok(value);
}

/* Fields that speak of one connection (RFC 9113 section 8.2.2). */
static bool connection_specific(struct http_str name, struct http_str value)
{
	switch (name.n) {
	case 2:
		return IS(name, "te") && !http_str_is(value, "trailers");
	case 7:
		return IS(name, "upgrade");
	case 10:
		return IS(name, "connection") || IS(name, "keep-alive");
	case 16:
		return IS(name, "proxy-connection");
	case 17:
		return IS(name, "transfer-encoding");
	default:
		return false;
	}
}

/* ---- pseudo-header fields ---- */

static void pseudo_take(struct h2_head *h, struct http_str name, struct http_str value)
{
	static const struct {
		const char *name;
		size_t n;
	} names[H2_PSEUDOS] = {[H2_METHOD] = {":method", 7},
			       [H2_SCHEME] = {":scheme", 7},
			       [H2_AUTHORITY] = {":authority", 10},
			       [H2_PATH] = {":path", 5},
			       [H2_PROTOCOL] = {":protocol", 9}};
	size_t id = 0;
	while (id < H2_PSEUDOS && !is(name, names[id].name, names[id].n))
		id++;
	if (id == H2_PSEUDOS)
		wrong(h, 400, "unknown pseudo-header field");
	else if (h->pseudo[id].given)
		wrong(h, 400, "pseudo-header field twice");
	else if (h->fields_on)
		wrong(h, 400, "pseudo-header field behind others");
	else {
		h->pseudo[id].given = true;
		h->pseudo[id].at = h->first.len;
		h->pseudo[id].n = value.n;
		put(h, &h->first, value.p, value.n);
	}
}

static const char *pseudos_wrong(const struct h2_head *h, bool connect)
{
	struct http_str scheme = pseudo(h, H2_SCHEME), path = pseudo(h, H2_PATH);
	if (!h->pseudo[H2_SCHEME].given || !h->pseudo[H2_PATH].given)
		return "no :scheme or no :path";
	if (!http_str_is(scheme, "https") && !http_str_is(scheme, "http"))
		return ":scheme is not http";
	if (h->pseudo[H2_AUTHORITY].given && !h->pseudo[H2_AUTHORITY].n)
		return "empty :authority";
	/* HTTP/1 has an absolute form, HTTP/2 has not. */
	if (path.n && path.p[0] != '/' && !(path.n == 1 && path.p[0] == '*' && !connect))
		return "malformed :path";
	if (memchr(path.p, ' ', path.n))
		return "space in :path";
	return NULL;
}

/* The request line, and Host from :authority; everything else comes behind them. */
static void line_write(struct h2_head *h)
{
	struct http_str method = pseudo(h, H2_METHOD), path = pseudo(h, H2_PATH),
			authority = pseudo(h, H2_AUTHORITY);
	bool connect = IS(method, "CONNECT"), extended = h->pseudo[H2_PROTOCOL].given;
	h->fields_on = true;
	if (h->status)
		return;
	if (!method.n || memchr(method.p, ' ', method.n))
		wrong(h, 400, "no :method, or a malformed one");
	else if (connect && !extended)
		wrong(h, 405, "method not offered");
	else if (extended && !connect)
		wrong(h, 400, ":protocol without CONNECT");
	else if (extended && !http_str_is(pseudo(h, H2_PROTOCOL), "websocket"))
		wrong(h, 501, "unknown :protocol");
	else if ((h->why = pseudos_wrong(h, connect)))
		h->status = 400;
	if (h->status)
		return;
	if (connect)
		put(h, &h->text, "GET", 3);
	else
		put(h, &h->text, method.p, method.n);
	put(h, &h->text, " ", 1);
	put(h, &h->text, path.p, path.n);
	put(h, &h->text, " HTTP/1.1\r\n", 11);
	if (!h->pseudo[H2_AUTHORITY].given)
		return;
	field_write(h, (struct http_str){"host", 4}, authority);
}

/* ---- fields ---- */

/* RFC 9113 section 8.3.1: Host says the same as :authority, or the request is malformed. True: it
 * is not to be written again. */
static bool host_take(struct h2_head *h, struct http_str value)
{
	char host[HTTP_HOST_MAX + 1], other[HTTP_HOST_MAX + 1];
	uint32_t port, other_port;
	if (h->host_given)
		wrong(h, 400, "Host twice");
	h->host_given = true;
	if (!h->pseudo[H2_AUTHORITY].given)
		return false;
	if (!http_host_normal(value, host, &port) ||
	    !http_host_normal(pseudo(h, H2_AUTHORITY), other, &other_port) || strcmp(host, other) ||
	    port != other_port)
		wrong(h, 400, "Host differs from :authority");
	return true;
}

static void cookie_take(struct h2_head *h, struct http_str value)
{
	if (h->crumbs++)
		put(h, &h->cookies, "; ", 2);
	put(h, &h->cookies, value.p, value.n);
}

static void field_take(struct h2_head *h, struct http_str name, struct http_str value)
{
	bool extended = h->pseudo[H2_PROTOCOL].given;
	if (!h->fields_on)
		line_write(h);
	if (!name_ok(name))
		wrong(h, 400, "malformed header name");
	else if (connection_specific(name, value))
		wrong(h, 400, "field that HTTP/2 does not have");
	if (h->status || (IS(name, "host") && host_take(h, value)))
		return;
	if (IS(name, "cookie"))
		cookie_take(h, value);
	else if (!extended || !IS(name, "sec-websocket-key")) /* RFC 8441 section 5.1 */
		field_write(h, name, value);
	h->length_given |= IS(name, "content-length");
	if (h->fields > h->limits.fields)
		wrong(h, 431, "too many header fields");
}

void h2_head_field(struct h2_head *h, struct http_str name, struct http_str value)
{
	h->size += name.n + value.n + FIELD_COST;
	if (h->size > h->limits.head)
		wrong(h, 431, "too large head");
	if (h->status)
		return;
	if (!value_ok(value))
		wrong(h, 400, "malformed header value");
	else if (name.n && name.p[0] == ':')
		pseudo_take(h, name, value);
	else
		field_take(h, name, value);
}

bool h2_head_bomb(const struct h2_head *h)
{
	return h->size > BOMB_FACTOR * h->limits.head;
}

/* ---- the end ---- */

static void extras_write(struct h2_head *h, bool body, const char *ws_key)
{
	static const struct http_str cookie = {"cookie", 6}, coding = {"transfer-encoding", 17},
				     chunked = {"chunked", 7}, connection = {"connection", 10},
				     upgrade = {"upgrade", 7}, websocket = {"websocket", 9},
				     key = {"sec-websocket-key", 17};
	if (h->crumbs)
		field_write(
		    h, cookie,
		    (struct http_str){(const char *)km_buf_head(&h->cookies), h->cookies.len});
	if (h->pseudo[H2_PROTOCOL].given) {
		field_write(h, connection, upgrade);
		field_write(h, upgrade, websocket);
		field_write(h, key, (struct http_str){ws_key, H2_WS_KEY});
	} else if (body && !h->length_given) {
		/* The body lasts until END_STREAM. */
		field_write(h, coding, chunked);
	}
	put(h, &h->text, "\r\n", 2);
}

static int text_read(struct h2_head *h, bool body, struct http_request *r)
{
	bool extended = h->pseudo[H2_PROTOCOL].given;
	const struct http_limits lim = {h->text.max, HTTP_FIELDS_MAX};
	int status =
	    h1_request_parse(r, (const char *)km_buf_head(&h->text), h->text.len, &lim, &h->why);
	if (status)
		return status;
	if (r->n_fields != h->fields)
		h->why = "malformed header value"; /* it has become a line of its own */
	else if (!body && (extended || (r->body == HTTP_BODY_LENGTH && r->length)))
		h->why = "ended before its body";
	else if (extended && !r->upgrade)
		h->why = "malformed extended CONNECT";
	if (r->body == HTTP_BODY_CHUNKED)
		r->body = HTTP_BODY_CLOSE;
	r->major = 2;
	r->minor = 0;
	r->keep_alive = true;
	return h->why ? 400 : 0;
}

int h2_head_end(struct h2_head *h, bool body, const char ws_key[static H2_WS_KEY],
		struct http_request *r, const char **why)
{
	memset(r, 0, offsetof(struct http_request, fields));
	if (!h->fields_on)
		line_write(h);
	extras_write(h, body, ws_key);
	if (!h->status)
		h->status = text_read(h, body, r);
	if (h->status && !r->method.n) {
		r->method = pseudo(h, H2_METHOD);
		r->head = IS(r->method, "HEAD");
	}
	*why = h->why;
	return h->status;
}
