/* SPDX-License-Identifier: MIT */
/* The smaller grammars of http.h: authorities and Accept. */
#include "gatewayd/edge/http_bytes.h"
#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

bool http_str_is(struct http_str s, const char *what)
{
	return s.n == strlen(what) && strncasecmp(s.p, what, s.n) == 0;
}

static bool digit(char c)
{
	return http_byte_is(c, HTTP_B_DIGIT);
}

/* "", or ":" and up to five digits. *port: 0 when there is none. */
static bool port_read(const char *p, size_t n, uint32_t *port)
{
	*port = 0;
	if (!n)
		return true;
	if (p[0] != ':' || n > 6)
		return false;
	for (size_t i = 1; i < n; i++) {
		if (!digit(p[i]))
			return false;
		*port = *port * 10 + (uint32_t)(p[i] - '0');
	}
	return n == 1 || (*port > 0 && *port < 65536);
}

static bool v6_host(struct http_str a, size_t end, char *out)
{
	struct in6_addr in;
	if (end < 3 || end > 47)
		return false;
	memcpy(out, a.p, end + 1);
	out[end] = '\0';
	bool ok = inet_pton(AF_INET6, out + 1, &in) == 1;
	out[end] = ']';
	out[end + 1] = '\0';
	return ok;
}

bool http_host_normal(struct http_str a, char out[static HTTP_HOST_MAX + 1], uint32_t *port)
{
	size_t n = 0;
	out[0] = '\0';
	*port = 0;
	if (a.n && a.p[0] == '[') {
		const char *close = memchr(a.p, ']', a.n);
		size_t end = close ? (size_t)(close - a.p) : 0;
		return close && v6_host(a, end, out) &&
		       port_read(a.p + end + 1, a.n - end - 1, port);
	}
	for (char last = '.'; n < a.n && a.p[n] != ':'; n++) {
		char c = a.p[n];
		if (!http_byte_is(c, HTTP_B_HOST) || (c == '.' && last == '.'))
			return false;
		last = c;
		if (c >= 'A' && c <= 'Z')
			c = (char)(c | 0x20);
		if (n < HTTP_HOST_MAX)
			out[n] = c;
		else if (c != '.' || n > HTTP_HOST_MAX)
			return false;
	}
	size_t len = n > HTTP_HOST_MAX ? HTTP_HOST_MAX : n;
	if (n == len && len && out[len - 1] == '.')
		len--;
	out[len] = '\0';
	return len && port_read(a.p + n, a.n - n, port);
}

/* ---- Accept ---- */

/* ";q=0.8" among the parameters, in thousandths; 1000 without one, 0 when it makes no sense. */
static int quality(const char *p, size_t n)
{
	size_t i = 0;
	while (i < n) {
		while (i < n && (p[i] == ';' || p[i] == ' ' || p[i] == '\t'))
			i++;
		if (i + 2 < n && (p[i] | 0x20) == 'q' && p[i + 1] == '=') {
			int q = p[i + 2] == '1' ? 1000 : 0, unit = 100;
			i += 3;
			if (q == 0 && i < n && p[i] == '.')
				for (i++; i < n && digit(p[i]) && unit; i++, unit /= 10)
					q += (p[i] - '0') * unit;
			return q;
		}
		while (i < n && p[i] != ';')
			i++;
	}
	return 1000;
}

bool http_prefers_html(struct http_str accept)
{
	int html = -1, plain = -1, text = -1, any = -1;
	size_t i = 0;
	while (i < accept.n) {
		size_t from = i;
		while (i < accept.n && accept.p[i] != ',')
			i++;
		size_t end = i++;
		while (from < end && (accept.p[from] == ' ' || accept.p[from] == '\t'))
			from++;
		size_t type = from;
		while (type < end && accept.p[type] != ';' && accept.p[type] != ' ')
			type++;
		struct http_str t = {accept.p + from, type - from};
		int q = quality(accept.p + type, end - type);
		if (http_str_is(t, "text/html"))
			html = q;
		else if (http_str_is(t, "text/plain"))
			plain = q;
		else if (http_str_is(t, "text/*"))
			text = q;
		else if (http_str_is(t, "*/*"))
			any = q;
	}
	text = text >= 0 ? text : any;
	html = html >= 0 ? html : text;
	plain = plain >= 0 ? plain : text;
	return html > 0 && html > plain;
}
