/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/h1.h"
#include "gatewayd/edge/http_bytes.h"
#include <limits.h>
#include <string.h>
#include <strings.h>

static struct http_str str(const char *p, size_t n)
{
	return (struct http_str){p, n};
}

/* Cuts s at the first c: what stands before is returned, s keeps what stands behind. Without a c
 * all of s is returned, s becomes empty, and *found says so. */
static struct http_str cut(struct http_str *s, char c, bool *found)
{
	const char *at = s->n ? memchr(s->p, c, s->n) : NULL;
	struct http_str before = *s;
	if (found)
		*found = at != NULL;
	if (!at) {
		*s = str(s->p + s->n, 0);
		return before;
	}
	before.n = (size_t)(at - s->p);
	*s = str(at + 1, s->n - before.n - 1);
	return before;
}

static struct http_str trim(struct http_str s)
{
	while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
		s = str(s.p + 1, s.n - 1);
	while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
		s.n--;
	return s;
}

/* The next line without its CRLF; empty when it does not end so. */
static struct http_str next_line(struct http_str *rest)
{
	struct http_str line = cut(rest, '\n', NULL);
	bool cr = line.n && line.p[line.n - 1] == '\r';
	line.n = cr ? line.n - 1 : 0;
	return line;
}

/* ---- fields ---- */

/* Takes a line `name: value` CRLF off *rest. */
static const char *field_take(struct http_str *rest, struct http_field *f)
{
	size_t n = http_span(rest->p, rest->n, HTTP_B_TOKEN);
	f->name = str(rest->p, n);
	if (n == rest->n || rest->p[n] != ':' || !n)
		return "malformed header name";
	const char *v = rest->p + n + 1, *end = rest->p + rest->n;
	size_t len = http_value_span(v, (size_t)(end - v));
	if (end - (v + len) < 2 || v[len] != '\r' || v[len + 1] != '\n')
		return "control byte in a header";
	f->value = trim(str(v, len));
	*rest = str(v + len + 2, (size_t)(end - (v + len + 2)));
	http_field_know(f);
	return NULL;
}

bool h1_field_next(struct http_str *rest, struct http_field *f)
{
	return rest->n && !field_take(rest, f);
}

/* What both kinds of heads say with their fields. */
struct said {
	struct http_str host, expect, upgrade, accept, content_length, transfer_encoding;
	size_t hosts, expects, upgrades, content_lengths, transfer_encodings;
	bool close, keep_alive, upgrade_named, te_trailers, trailers_told, dated, cdn_loop;
	bool others_named; /* in Connection: fields that may stand in trailers too */
	size_t n_named;
	struct http_str named[H1_CONNECTION_MAX]; /* not zeroed */
};

static void named_note(struct said *s, struct http_str name)
{
	struct http_field f = {.name = name};
	http_field_know(&f);
	s->named[s->n_named++] = name;
	s->others_named |= !f.head_only;
}

static const char *connection_read(struct said *s, struct http_str value)
{
	while (value.n) {
		struct http_str name = trim(cut(&value, ',', NULL));
		if (!name.n)
			continue;
		if (!http_all(name, HTTP_B_TOKEN))
			return "malformed Connection";
		if (http_str_is(name, "close"))
			s->close = true;
		else if (http_str_is(name, "keep-alive"))
			s->keep_alive = true;
		else if (http_str_is(name, "upgrade"))
			s->upgrade_named = true;
		else if (s->n_named == H1_CONNECTION_MAX)
			return "too many names in Connection";
		else
			named_note(s, name);
	}
	return NULL;
}

/* TE: trailers, perhaps among transfer codings (RFC 9110 section 10.1.4). */
static void te_read(struct said *s, struct http_str value)
{
	while (value.n)
		if (http_str_is(trim(cut(&value, ',', NULL)), "trailers"))
			s->te_trailers = true;
}

static const char *field_note(struct said *s, const struct http_field *f)
{
	switch (f->id) {
	case HTTP_HOST:
		s->hosts++;
		s->host = f->value;
		break;
	case HTTP_DATE:
		s->dated = true;
		break;
	case HTTP_CDN_LOOP:
		s->cdn_loop = true;
		break;
	case HTTP_EXPECT:
		s->expects++;
		s->expect = f->value;
		break;
	case HTTP_UPGRADE:
		s->upgrades++;
		s->upgrade = f->value;
		break;
	case HTTP_ACCEPT:
		if (!s->accept.n)
			s->accept = f->value;
		break;
	case HTTP_CONTENT_LENGTH:
		s->content_lengths++;
		s->content_length = f->value;
		break;
	case HTTP_TRANSFER_ENCODING:
		s->transfer_encodings++;
		s->transfer_encoding = f->value;
		break;
	case HTTP_TE:
		te_read(s, f->value);
		break;
	case HTTP_TRAILER:
		s->trailers_told |= f->value.n > 0;
		break;
	case HTTP_CONNECTION:
		return connection_read(s, f->value);
	default:
		break;
	}
	return NULL;
}

/* Fields named in Connection are for one hop; what the gateway writes itself is not touched. */
static void drop_named(struct http_field *fields, size_t n, const struct said *s)
{
	for (size_t i = 0; s->n_named && i < n; i++)
		for (size_t k = 0; k < s->n_named; k++)
			if (fields[i].name.n == s->named[k].n &&
			    !strncasecmp(fields[i].name.p, s->named[k].p, s->named[k].n))
				fields[i].hop = true;
}

static int fields_read(struct http_field *fields, size_t *n, struct said *s, struct http_str rest,
		       size_t max, const char **why)
{
	while (rest.n && rest.p[0] != '\r') {
		if (*n >= max) {
			*why = "too many header fields";
			return 431;
		}
		struct http_field *f = &fields[*n];
		if ((*why = field_take(&rest, f)) ||
		    (f->id != HTTP_OTHER && (*why = field_note(s, f))))
			return 400;
		(*n)++;
	}
	if (rest.n != 2 || rest.p[1] != '\n') {
		*why = "the head does not end where it should";
		return 400;
	}
	drop_named(fields, *n, s);
	return 0;
}

/* ---- framing, RFC 9112 section 6 ---- */

static bool digits_read(struct http_str s, uint64_t *out)
{
	uint64_t v = 0;
	if (!s.n || !http_all(s, HTTP_B_DIGIT))
		return false;
	for (size_t i = 0; i < s.n; i++) {
		unsigned d = (unsigned)(s.p[i] - '0');
		if (v > ((uint64_t)INT64_MAX - d) / 10)
			return false;
		v = v * 10 + d;
	}
	*out = v;
	return true;
}

static int framing_read(const struct said *s, uint8_t minor, enum http_body *body, uint64_t *length,
			const char **why)
{
	if (s->content_lengths > 1)
		*why = "Content-Length twice";
	else if (s->transfer_encodings > 1)
		*why = "Transfer-Encoding twice";
	else if (s->content_lengths && s->transfer_encodings)
		*why = "Content-Length with Transfer-Encoding";
	else if (s->transfer_encodings && minor == 0)
		*why = "Transfer-Encoding in HTTP/1.0";
	else if (s->content_lengths && !digits_read(s->content_length, length))
		*why = "malformed Content-Length";
	else if (s->transfer_encodings && !http_str_is(s->transfer_encoding, "chunked")) {
		*why = "Transfer-Encoding other than chunked";
		return http_all(s->transfer_encoding, HTTP_B_TOKEN) && s->transfer_encoding.n ? 501
											      : 400;
	} else {
		*body = s->transfer_encodings ? HTTP_BODY_CHUNKED
			: s->content_lengths  ? HTTP_BODY_LENGTH
					      : HTTP_BODY_NONE;
		return 0;
	}
	return 400;
}

/* ---- requests ---- */

static int version_read(struct http_str s, uint8_t *minor, const char **why)
{
	if (s.n != 8 || memcmp(s.p, "HTTP/", 5) || !(http_byte_is(s.p[5], HTTP_B_DIGIT)) ||
	    s.p[6] != '.' || !(http_byte_is(s.p[7], HTTP_B_DIGIT))) {
		*why = "malformed request line";
		return 400;
	}
	if (s.p[5] != '1' || s.p[7] > '1') {
		*why = "HTTP version";
		return 505;
	}
	*minor = (uint8_t)(s.p[7] - '0');
	return 0;
}

static bool method_is(const struct http_request *r, const char *name, size_t n)
{
	return r->method.n == n && !memcmp(r->method.p, name, n);
}

static void method_know(struct http_request *r)
{
	r->head = method_is(r, "HEAD", 4);
	r->safe = method_is(r, "GET", 3) || r->head || method_is(r, "OPTIONS", 7);
	r->idempotent = r->safe || method_is(r, "PUT", 3) || method_is(r, "DELETE", 6);
}

/* Servers differ about a path with a backslash (some take it for a slash), with a '%' that begins
 * no byte, or with a NUL; what is behind '?' is theirs alone. */
static bool path_ok(struct http_str t)
{
	for (size_t i = 0;; i += 3) {
		i += http_span(t.p + i, t.n - i, HTTP_B_PATH);
		if (i == t.n || t.p[i] == '?')
			return true;
		if (t.p[i] != '%' || t.n - i < 3 || !http_byte_is(t.p[i + 1], HTTP_B_HEX) ||
		    !http_byte_is(t.p[i + 2], HTTP_B_HEX) ||
		    (t.p[i + 1] == '0' && t.p[i + 2] == '0'))
			return false;
	}
}

/* "http://authority/path?query": gives authority and cuts target down. */
static const char *absolute_read(struct http_request *r, struct http_str *authority)
{
	struct http_str t = r->target;
	size_t skip = t.n > 8 && !strncasecmp(t.p, "https://", 8)  ? 8
		      : t.n > 7 && !strncasecmp(t.p, "http://", 7) ? 7
								   : 0;
	if (!skip)
		return "malformed request target";
	t = str(t.p + skip, t.n - skip);
	size_t n = 0;
	while (n < t.n && t.p[n] != '/' && t.p[n] != '?')
		n++;
	*authority = str(t.p, n);
	r->target = str(t.p + n, t.n - n);
	r->target_query = r->target.n && r->target.p[0] == '?';
	return NULL;
}

static int target_read(struct http_request *r, struct http_str *authority, const char **why)
{
	bool options = method_is(r, "OPTIONS", 7);
	*why = "malformed request target";
	if (!r->target.n || !http_all(r->target, HTTP_B_TARGET))
		return 400;
	if (method_is(r, "CONNECT", 7) || method_is(r, "TRACE", 5)) {
		*why = "method not offered";
		return 405;
	}
	if (options && r->target.n == 1 && r->target.p[0] == '*')
		return 0;
	if (r->target.p[0] != '/' && (*why = absolute_read(r, authority)))
		return 400;
	*why = "malformed path";
	if (!path_ok(r->target))
		return 400;
	if (options && !r->target.n)
		r->target = str("*", 1); /* RFC 9112 section 3.2.4 */
	return 0;
}

static int request_line_read(struct http_request *r, struct http_str line,
			     struct http_str *authority, const char **why)
{
	bool one, two;
	*why = "malformed request line";
	r->method = cut(&line, ' ', &one);
	r->target = cut(&line, ' ', &two);
	if (!one || !two || !r->method.n || !http_all(r->method, HTTP_B_METHOD))
		return 400;
	int status = version_read(line, &r->minor, why);
	if (status)
		return status;
	if (r->method.n > HTTP_METHOD_MAX) {
		*why = "method not known";
		return 501;
	}
	method_know(r);
	return target_read(r, authority, why);
}

static int host_read(struct http_request *r, const struct said *s, struct http_str absolute,
		     const char **why)
{
	char other[HTTP_HOST_MAX + 1];
	uint32_t port = 0, other_port = 0;
	if (s->hosts != 1)
		*why = s->hosts ? "Host twice" : "no Host";
	else if (!http_host_normal(s->host, r->host, &port))
		*why = "malformed Host";
	else if (absolute.p && (!http_host_normal(absolute, other, &other_port) ||
				strcmp(other, r->host) || port != other_port))
		*why = "Host differs from the request target";
	else {
		r->authority = s->host;
		return 0;
	}
	return 400;
}

static int expect_read(struct http_request *r, const struct said *s, const char **why)
{
	if (!s->expects || r->minor == 0)
		return 0;
	if (s->expects > 1 || !http_str_is(s->expect, "100-continue")) {
		*why = "unknown expectation";
		return 417;
	}
	r->expect_continue = r->body != HTTP_BODY_NONE;
	return 0;
}

/* Only one protocol, and never HTTP/2 over plain text, which would hide requests from us. */
static bool upgrade_ok(const struct said *s)
{
	return s->upgrade_named && s->upgrades == 1 && s->upgrade.n && s->upgrade.n <= 64 &&
	       !memchr(s->upgrade.p, ',', s->upgrade.n) &&
	       !memchr(s->upgrade.p, ' ', s->upgrade.n) && strncasecmp(s->upgrade.p, "h2", 2) &&
	       strncasecmp(s->upgrade.p, "http", 4) && strncasecmp(s->upgrade.p, "tls", 3);
}

/* Servers differ about white space around what frames a request: only spaces before it are taken.
 * (Targets may be careless: their answers are framed by what is meant.) */
static bool tight(struct http_str value)
{
	const char *before = value.p - 1;
	while (*before == ' ')
		before--;
	return *before == ':' && value.p[value.n] == '\r';
}

static bool framing_tight(const struct said *s)
{
	return (!s->content_length.n || tight(s->content_length)) &&
	       (!s->transfer_encoding.n || tight(s->transfer_encoding));
}

int h1_request_parse(struct http_request *r, const char *p, size_t n, const struct http_limits *lim,
		     const char **why)
{
	struct http_str rest = str(p, n), absolute = {0};
	struct said s;
	size_t max = lim->fields < HTTP_FIELDS_ROOM ? lim->fields : HTTP_FIELDS_ROOM;

	memset(r, 0, offsetof(struct http_request, fields));
	memset(&s, 0, offsetof(struct said, named));
	*why = NULL;
	int status = request_line_read(r, next_line(&rest), &absolute, why);
	if (!status)
		status = fields_read(r->fields, &r->n_fields, &s, rest, max, why);
	if (!status)
		status = host_read(r, &s, absolute, why);
	if (!status)
		status = framing_read(&s, r->minor, &r->body, &r->length, why);
	if (!status && !framing_tight(&s)) {
		status = 400;
		*why = "white space around Content-Length or Transfer-Encoding";
	}
	if (!status)
		status = expect_read(r, &s, why);
	if (status)
		return status;
	*why = NULL;
	if (r->body == HTTP_BODY_LENGTH && r->length == 0 && !r->safe) {
		/* kept as a length, so that the target sees Content-Length: 0 */
	} else if (r->body == HTTP_BODY_LENGTH && r->length == 0) {
		r->body = HTTP_BODY_NONE;
	}
	r->accept = s.accept;
	r->te_trailers = s.te_trailers && r->minor;
	r->cdn_loop = s.cdn_loop;
	r->trailers_ok = !s.others_named;
	r->keep_alive = r->minor ? !s.close : s.keep_alive && !s.close;
	r->upgrade = r->minor && r->body == HTTP_BODY_NONE && upgrade_ok(&s);
	r->upgrade_to = s.upgrade;
	return 0;
}

/* ---- responses ---- */

static const char *status_line_read(struct http_response *r, struct http_str line)
{
	if (line.n < 12 || memcmp(line.p, "HTTP/1.", 7) || line.p[8] != ' ' ||
	    (line.p[7] != '0' && line.p[7] != '1'))
		return "malformed status line";
	struct http_str code = str(line.p + 9, 3);
	struct http_str rest = str(line.p + 12, line.n - 12);
	if (!http_all(code, HTTP_B_DIGIT) || code.p[0] < '1' || code.p[0] > '5')
		return "malformed status code";
	if (rest.n && rest.p[0] != ' ')
		return "malformed status line";
	if (http_value_span(rest.p, rest.n) != rest.n)
		return "control byte in the status line";
	r->minor = (uint8_t)(line.p[7] - '0');
	r->status = (code.p[0] - '0') * 100 + (code.p[1] - '0') * 10 + (code.p[2] - '0');
	r->reason = rest.n ? str(rest.p + 1, rest.n - 1) : rest;
	return NULL;
}

/* Careless targets send the body all the same when they must not; it would be taken for the next
 * answer. So nothing is asked on a connection after an answer that stands for such a body. */
static bool body_tempting(const struct http_response *r, bool head)
{
	if (r->body == HTTP_BODY_LENGTH && !r->length)
		return false;
	return head || ((r->status == 204 || r->status == 304) && r->body != HTTP_BODY_CLOSE);
}

int h1_response_parse(struct http_response *r, const char *p, size_t n, bool head,
		      const struct http_limits *lim, const char **why)
{
	struct http_str rest = str(p, n);
	struct said s;
	size_t max = lim->fields < HTTP_FIELDS_ROOM ? lim->fields : HTTP_FIELDS_ROOM;

	memset(r, 0, offsetof(struct http_response, fields));
	memset(&s, 0, offsetof(struct said, named));
	*why = status_line_read(r, next_line(&rest));
	if (*why || fields_read(r->fields, &r->n_fields, &s, rest, max, why) ||
	    framing_read(&s, r->minor, &r->body, &r->length, why))
		return -1;
	r->has_length = r->body == HTTP_BODY_LENGTH;
	if (r->status < 200 && (r->body == HTTP_BODY_CHUNKED || r->length)) {
		*why = "an interim answer with a body";
		return -1;
	}
	*why = NULL;
	if (r->body == HTTP_BODY_NONE)
		r->body = HTTP_BODY_CLOSE;
	bool tempted = body_tempting(r, head);
	if (head || r->status < 200 || r->status == 204 || r->status == 304)
		r->body = HTTP_BODY_NONE;
	r->trailers_ok = !s.others_named;
	r->trailers_told = s.trailers_told;
	r->dated = s.dated;
	r->upgrade = r->status == 101 && s.upgrade_named && s.upgrades == 1;
	r->upgrade_to = s.upgrade;
	r->keep_alive =
	    r->body != HTTP_BODY_CLOSE && !tempted && !s.close && (r->minor || s.keep_alive);
	return 0;
}
