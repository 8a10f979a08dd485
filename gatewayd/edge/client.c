/* SPDX-License-Identifier: MIT */
#include "gatewayd/edge/client.h"
#include <stdlib.h>
#include <string.h>

int client_trust_parse(struct client_trust *t, char *const *texts, size_t n)
{
	*t = (struct client_trust){0};
	if (!n)
		return 0;
	if (!(t->proxies = calloc(n, sizeof(*t->proxies))))
		return KM_ENOMEM;
	for (t->n = 0; t->n < n; t->n++) {
		if (!km_prefix_parse(&t->proxies[t->n], texts[t->n]))
			continue;
		free(t->proxies);
		*t = (struct client_trust){0};
		return KM_EINVAL;
	}
	return 0;
}

bool client_trusted(const struct client_trust *t, const struct km_addr *a)
{
	for (size_t i = 0; i < t->n; i++)
		if (km_prefix_has(&t->proxies[i], a))
			return true;
	return false;
}

/* ---- lists, from the right ---- */

static struct http_str trim(struct http_str s)
{
	while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
		s = (struct http_str){s.p + 1, s.n - 1};
	while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
		s.n--;
	return s;
}

/* The elements of all fields of one name, the last first. */
struct list {
	const struct http_request *r;
	const char *name;
	size_t field;         /* fields before this one are still to be read */
	struct http_str rest; /* of the field at hand */
	bool in;
	bool quotes; /* Forwarded has quoted strings; X-Forwarded-For has not, and a '"' that a
			stranger puts there must not swallow what a proxy has put behind it */
};

static struct list list_of(const struct http_request *r, const char *name, bool quotes)
{
	return (struct list){.r = r, .name = name, .field = r->n_fields, .quotes = quotes};
}

static bool list_field(struct list *l)
{
	while (l->field) {
		const struct http_field *f = &l->r->fields[--l->field];
		if (f->id != HTTP_FORWARDED || !http_str_is(f->name, l->name))
			continue;
		l->rest = f->value;
		l->in = true;
		return true;
	}
	return false;
}

/* Cuts off what stands behind the last comma that is not within quotes (where there are some); s keeps
 * the rest, *more: whether there was one. */
static struct http_str cut_last(struct http_str *s, bool quotes, bool *more)
{
	size_t from = 0;
	bool quoted = false;
	*more = false;
	for (size_t i = 0; i < s->n; i++) {
		if (s->p[i] == '\\' && quoted) {
			i++;
		} else if (s->p[i] == '"') {
			quoted = quotes && !quoted;
		} else if (s->p[i] == ',' && !quoted) {
			from = i + 1;
			*more = true;
		}
	}
	struct http_str last = {s->p + from, s->n - from};
	s->n = *more ? from - 1 : 0;
	return trim(last);
}

static bool list_last(struct list *l, struct http_str *out)
{
	if (!l->in && !list_field(l))
		return false;
	*out = cut_last(&l->rest, l->quotes, &l->in);
	return true;
}

/* ---- addresses ---- */

/* The end of the address in s, and whether what follows is nothing or a port (obfuscated ones too).
 */
static bool port_or_end(struct http_str s, size_t at)
{
	if (at == s.n)
		return true;
	if (s.p[at] != ':' || s.n - at < 2 || s.n - at > 32)
		return false;
	for (size_t i = at + 1; i < s.n; i++) {
		char c = s.p[i];
		bool digit = c >= '0' && c <= '9', letter = (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
		if (!digit && !(s.p[at + 1] == '_' && (letter || strchr("._-", c))))
			return false;
	}
	return true;
}

/* "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:80". */
static bool addr_read(struct km_addr *out, struct http_str s)
{
	char text[KM_ADDR_STRLEN];
	size_t from = 0, len = s.n, colons = 0;
	for (size_t i = 0; i < s.n; i++)
		colons += s.p[i] == ':';
	if (s.n && s.p[0] == '[') {
		const char *close = memchr(s.p, ']', s.n);
		from = 1;
		len = close ? (size_t)(close - s.p) - 1 : 0;
		if (!close || !port_or_end(s, len + 2))
			return false;
	} else if (colons == 1) {
		len = (size_t)((const char *)memchr(s.p, ':', s.n) - s.p);
		if (!port_or_end(s, len))
			return false;
	}
	if (!len || len >= sizeof(text) || memchr(s.p + from, '\0', len))
		return false;
	memcpy(text, s.p + from, len);
	text[len] = '\0';
	if (km_addr_parse(out, text) || (from && out->family != AF_INET6))
		return false;
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	if (out->family == AF_INET6 && !memcmp(out->ip, mapped, sizeof(mapped))) {
		out->family = AF_INET;
		memmove(out->ip, out->ip + 12, 4);
		memset(out->ip + 4, 0, 12);
	}
	return true;
}

/* ---- Forwarded ---- */

/* Cuts the next pair of an element ("for=x;proto=y") off *rest. */
static bool pair_next(struct http_str *rest, struct http_str *name, struct http_str *value)
{
	size_t end = 0;
	bool quoted = false;
	for (; end < rest->n && (quoted || rest->p[end] != ';'); end++) {
		if (rest->p[end] == '\\' && quoted)
			end += end + 1 < rest->n;
		else if (rest->p[end] == '"')
			quoted = !quoted;
	}
	if (!rest->n)
		return false;
	struct http_str pair = trim((struct http_str){rest->p, end});
	size_t skip = end < rest->n ? end + 1 : end;
	*rest = (struct http_str){rest->p + skip, rest->n - skip};
	const char *eq = pair.n ? memchr(pair.p, '=', pair.n) : NULL;
	*name =
	    eq ? (struct http_str){pair.p, (size_t)(eq - pair.p)} : (struct http_str){pair.p, 0};
	*value = eq ? (struct http_str){eq + 1, pair.n - name->n - 1} : pair;
	if (value->n >= 2 && value->p[0] == '"' && value->p[value->n - 1] == '"')
		*value = (struct http_str){value->p + 1, value->n - 2};
	return true;
}

/* The value of one parameter; false: it is not there, or twice. An escaped byte stays escaped, and
 * so makes no address. */
static bool pair_find(struct http_str element, const char *what, struct http_str *out)
{
	struct http_str name, value;
	size_t found = 0;
	while (pair_next(&element, &name, &value)) {
		if (!http_str_is(name, what))
			continue;
		*out = value;
		found++;
	}
	return found == 1;
}

/* ---- the client ---- */

/* Goes from hop to hop; *last: the element that named the client, if one did. */
static void walk(struct client *c, const struct client_trust *t, const struct km_addr *peer,
		 struct list list, struct http_str *last)
{
	struct http_str element, text;
	struct km_addr a;
	c->n_hops = 1;
	c->hops[0] = *peer;
	while (c->n_hops < CLIENT_HOPS_MAX && client_trusted(t, &c->hops[c->n_hops - 1]) &&
	       list_last(&list, &element)) {
		text = element;
		if ((list.quotes && !pair_find(element, "for", &text)) || !addr_read(&a, text))
			break;
		c->hops[c->n_hops++] = a;
		*last = element;
	}
}

static bool same_hops(const struct client *a, const struct client *b)
{
	if (a->n_hops != b->n_hops)
		return false;
	for (size_t i = 0; i < a->n_hops; i++)
		if (!km_addr_eq(&a->hops[i], &b->hops[i]))
			return false;
	return true;
}

/* The only field of this name; n 0: none, or several. */
static struct http_str only(const struct http_request *r, const char *name)
{
	struct http_str out = {"", 0};
	size_t found = 0;
	for (size_t i = 0; i < r->n_fields; i++) {
		const struct http_field *f = &r->fields[i];
		if (f->id != HTTP_FORWARDED || !http_str_is(f->name, name))
			continue;
		out = f->value;
		found++;
	}
	return found == 1 ? out : (struct http_str){"", 0};
}

static void secure_of(struct client *c, struct http_str proto)
{
	if (http_str_is(proto, "https"))
		c->secure = true;
	else if (http_str_is(proto, "http"))
		c->secure = false;
}

static void host_of(struct client *c, struct http_str host)
{
	char normal[HTTP_HOST_MAX + 1];
	uint32_t port;
	if (http_host_normal(host, normal, &port))
		c->host = host;
}

static bool is_there(const struct http_request *r, const char *name)
{
	struct list l = list_of(r, name, false);
	return list_field(&l);
}

static void turn_round(struct client *c)
{
	for (size_t i = 0, j = c->n_hops - 1; i < j; i++, j--) {
		struct km_addr a = c->hops[i];
		c->hops[i] = c->hops[j];
		c->hops[j] = a;
	}
	c->addr = c->hops[0];
}

void client_find(struct client *out, const struct client_trust *t, const struct km_addr *peer,
		 bool secure, const struct http_request *r)
{
	struct http_str unused = {"", 0}, element = {"", 0}, text;
	out->addr = out->hops[0] = *peer;
	out->n_hops = 1;
	out->secure = secure;
	out->host = r->authority;
	if (!client_trusted(t, peer))
		return;
	struct client forwarded = *out;
	bool both = is_there(r, "X-Forwarded-For") && is_there(r, "Forwarded");
	walk(out, t, peer, list_of(r, "X-Forwarded-For", false), &unused);
	walk(&forwarded, t, peer, list_of(r, "Forwarded", true), &element);
	if (both && !same_hops(out, &forwarded)) {
		out->n_hops = 1;
		return;
	}
	if (!both && forwarded.n_hops > 1)
		memcpy(out->hops, forwarded.hops, sizeof(out->hops)),
		    out->n_hops = forwarded.n_hops;
	turn_round(out);
	if (pair_find(element, "proto", &text))
		secure_of(out, text);
	if (pair_find(element, "host", &text))
		host_of(out, text);
	secure_of(out, only(r, "X-Forwarded-Proto"));
	host_of(out, only(r, "X-Forwarded-Host"));
}
